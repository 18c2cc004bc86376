"""Replies sampled by vLLM, in a process of its own: its GPU memory is free again when that ends.

Called as in the sources of vLLM 0.32 (vllm/entrypoints/llm.py, vllm/sampling_params.py): the `token_ids` of an output
hold the token that ended it, and penalties are off unless they are asked for.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tr_align.errors import UserError
from tr_align.scratch import append_rows, read_rows, write_atomically, write_rows
from tr_align.settings import Generate

if TYPE_CHECKING:
    import torch

CHUNK = 1024
"""Prompts handed to the engine at a time, which batches them itself; a killed run loses at most so many replies."""

COLDEST, HOTTEST = 0.01, 2.0
"""Temperatures vLLM takes as they are: colder ones it raises, hotter ones it refuses (its `SamplingParams`)."""


def installed() -> bool:
    """Whether vLLM can be imported; it is not imported for that, which takes many seconds."""
    return importlib.util.find_spec("vllm") is not None


def check_engine(settings: Generate, launch: str) -> None:
    """Whether `generate.engine` can work here, found before anything is trained.

    Args: `launch` is the setting `launch.generate`.
    Raises:
        UserError: it is "vllm" and cannot: it is not installed, is started several times, has too few GPUs, or would
            sample at another temperature.
    """
    if settings.engine != "vllm":
        return
    if not installed():
        raise UserError(
            "generate.engine: is vllm, which is not installed; `pip install vllm` (an environment of its own is best: "
            "it pins torch and transformers), or set generate.engine: transformers"
        )
    if not _one_process(launch):
        raise UserError(
            f"launch.generate: is {launch!r}, but vLLM takes the GPUs by itself; set launch.generate: python and "
            "generate.tensor_parallel to the number of GPUs that share the model, or generate.engine: transformers"
        )
    if not COLDEST <= settings.temperature <= HOTTEST:
        raise UserError(
            f"generate.temperature: is {settings.temperature}, but vLLM samples between {COLDEST} and {HOTTEST}; "
            "change it, or set generate.engine: transformers"
        )
    gpus = _gpus()
    if gpus and settings.tensor_parallel > gpus:  # none here: a head node, or vLLM's build for CPUs
        raise UserError(
            f"generate.tensor_parallel: is {settings.tensor_parallel}, but this machine has {gpus} GPUs; lower it"
        )


def choose(settings: Generate, launch: str) -> Generate:
    """The same settings with the engine that is used: "auto" is vLLM where it is installed and has a GPU.

    Raises:
        UserError: as :func:`check_engine`.
    """
    if settings.engine == "auto":
        able = installed() and _gpus() >= settings.tensor_parallel and _one_process(launch)
        warm = COLDEST <= settings.temperature <= HOTTEST
        settings = settings.model_copy(update={"engine": "vllm" if able and warm else "transformers"})
        print(f"generate.engine: auto, which is {settings.engine} here", file=sys.stderr)
    check_engine(settings, launch)
    return settings


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _one_process(launch: str) -> bool:
    from tr_align.launch import read

    return read(launch, "launch.generate").processes == 1


def request_seed(seed: int, prompt: str) -> int:
    """The seed of one prompt's reply, in [0, 2^63), from that of the run and the prompt's id."""
    [state] = np.random.SeedSequence([seed, int(prompt, 16)]).generate_state(1, np.uint64)
    return int(state) >> 1


def sample(
    model: Path,
    prompts: Mapping[str, Sequence[int]],
    stops: Sequence[int],
    settings: Generate,
    seed: int,
    dtype: torch.dtype,
    done: Path,
) -> dict[str, list[int]]:
    """A reply of one model to each prompt, as token ids, the stop token included where the reply ended by itself.

    A reply depends on the seed and the prompt; what else is in the engine's batch may change the last bits of the
    probabilities and so, rarely, a token.

    Args:
        model: its folder. prompts: token ids by prompt id. stops: tokens that end a reply.
        dtype: what is computed in. done: JSON Lines file of the replies so far; a chunk that is not whole is redone.
    Raises:
        UserError: the engine failed; what it said stands above the message.
    """
    known = {row["prompt_id"]: row["tokens"] for row in read_rows(done)}
    ids = list(prompts)
    chunks = [ids[start : start + CHUNK] for start in range(0, len(ids), CHUNK)]
    left = [chunk for chunk in chunks if not known.keys() >= set(chunk)]
    if left:
        kept = {name: known[name] for chunk in chunks if chunk not in left for name in chunk}
        write_rows(done, ({"prompt_id": name, "tokens": tokens} for name, tokens in kept.items()))
        job = {
            "engine": {
                "model": str(model),
                "tensor_parallel_size": settings.tensor_parallel,
                "dtype": str(dtype).removeprefix("torch."),
                "seed": seed,
                # A long context would reserve memory that no reply here needs.
                "max_model_len": max(map(len, prompts.values())) + settings.max_new_tokens,
                # Not the model's own repetition_penalty and the like: its KL is that of the policy without them.
                "generation_config": "vllm",
            },
            "sampling": {
                "temperature": settings.temperature,
                "top_p": settings.top_p,
                "max_tokens": settings.max_new_tokens,
                "stop_token_ids": list(stops),
                "detokenize": False,
            },
            "chunks": [
                [{"prompt_id": name, "ids": list(prompts[name]), "seed": request_seed(seed, name)} for name in chunk]
                for chunk in left
            ],
            "done": str(done),
        }
        path = done.with_suffix(".job.json")
        write_atomically(path, json.dumps(job))
        status = subprocess.call([sys.executable, "-m", "tr_align.vllm_engine", str(path)])
        if status != 0:
            raise UserError(
                f"generate.engine: vLLM ended with status {status} (its reason is above); "
                "generate.engine: transformers samples without it"
            )
    return {row["prompt_id"]: row["tokens"] for row in read_rows(done)}


def run(job: Mapping[str, Any]) -> None:
    """What the engine's process does: answer the job's chunks, one after the other, into the job's file."""
    from vllm import LLM, SamplingParams  # type: ignore[import-not-found]

    engine = LLM(**job["engine"])
    for chunk in job["chunks"]:
        outputs = engine.generate(
            [{"prompt_token_ids": prompt["ids"]} for prompt in chunk],
            [SamplingParams(seed=prompt["seed"], **job["sampling"]) for prompt in chunk],
        )
        append_rows(
            job["done"],
            (
                {"prompt_id": prompt["prompt_id"], "tokens": list(output.outputs[0].token_ids)}
                for prompt, output in zip(chunk, outputs, strict=True)
            ),
        )


if __name__ == "__main__":  # vLLM starts processes that import this module again
    run(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
