"""The memory that `tr-align plan` predicts beside what a training takes, on the CPU.

    PYTHONPATH=src python benchmarks/memory.py [--models 10M 50M 135M] [--cases NAME ...]

Each case is a process of its own. It trains a small model first, so that libraries are loaded and warm; from there on
the most resident memory of the real training (`train_method`, `fine_tune`) of three optimizer steps is measured. Every
pair has the same length, so that the passes are those predicted. glibc is told to hand back what is freed, which makes
it slow. The last line is JSON.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
VOCABULARY = {"10M": 8192, "50M": 32768, "135M": 49152}
SHAPES = {"10M": (256, 1024, 6), "50M": (512, 1536, 9), "135M": (576, 1536, 30)}
"""Width, width of the MLP, layers; 135M is SmolLM2-135M's."""


@dataclass(frozen=True)
class Case:
    """A stage or method; prompt and reply tokens; pairs a step; align.max_tokens."""

    method: str
    prompt: int = 128
    reply: int = 96
    pairs: int = 4
    max_tokens: int = 640
    checkpointing: bool = False
    accumulation: int = 1


CASES = {
    "sft": Case("sft"),
    "sft, accumulated": Case("sft", accumulation=2, pairs=2),
    "dpo": Case("dpo"),
    "dpo, one pass": Case("dpo", max_tokens=4096),
    "dpo, recomputed": Case("dpo", checkpointing=True),
    "dpo, recomputed, one pass": Case("dpo", checkpointing=True, max_tokens=4096),
    "hard": Case("tr_dpo_hard"),
    "soft": Case("tr_dpo_soft"),
    "soft, one pass, long": Case("tr_dpo_soft", prompt=256, reply=256, pairs=2, max_tokens=4096),
    "kto": Case("kto", pairs=2),
    "kto soft, recomputed": Case("tr_kto_soft", pairs=2, checkpointing=True),
}


def params_for(case: Case, model: str) -> Any:
    """The smoke preset with the case's settings."""
    from tr_align.config import METHODS, load_params

    params = load_params(ROOT / "presets" / "smoke.yaml")
    change = lambda section, **values: getattr(params, section).model_copy(update=values)  # noqa: E731
    return params.model_copy(
        update={
            "data": change("data", max_prompt_tokens=case.prompt - 8, max_reply_tokens=case.reply),
            "model": change("model", name=model),
            "sft": change("sft", steps=3, batch_size=case.pairs, gradient_accumulation=case.accumulation,
                          gradient_checkpointing=case.checkpointing),
            "align": change("align", steps=3, batch_size=case.pairs, gradient_accumulation=case.accumulation,
                            gradient_checkpointing=case.checkpointing, max_tokens=case.max_tokens, held_out=0,
                            warmup_steps=0, evaluate_at=[1.0]),
            "ref_update": change("ref_update", every=2, tau=2),
            "methods": METHODS,
        }
    )  # fmt: skip


def pairs_for(case: Case, count: int) -> list[Any]:
    """Pairs of exactly the case's lengths in bytes, which are the tokens of the tokenizer."""
    from tr_align import models
    from tr_align.align.tokens import encode_pairs
    from tr_align.data.schema import Message, Pair

    def pair(number: int, prompt: int, reply: int) -> Pair:
        text = f"{number:04d}" + "x" * (prompt - 4)
        return Pair(prompt=[Message(role="user", content=text)], chosen="a" * reply, rejected="b" * reply)

    tokenizer = models.load_tokenizer(models.RANDOM)
    (example,), _ = encode_pairs(tokenizer, [pair(0, 50, 50)], 10_000, 1.0)
    prompt, reply = case.prompt - (len(example.prompt) - 50), case.reply - (len(example.replies[0]) - 50)
    pairs = [pair(number, prompt, reply) for number in range(count)]
    examples, _ = encode_pairs(tokenizer, pairs, 10_000, 1.0)
    assert {(len(e.prompt), *map(len, e.replies)) for e in examples} == {(case.prompt, case.reply, case.reply)}
    return pairs


def train(case: Case, model: str, folder: Path) -> None:
    """The stage itself."""
    params, pairs = params_for(case, model), pairs_for(case, 16)
    if case.method == "sft":
        from tr_align.data.schema import Demonstration, Message
        from tr_align.sft import fine_tune

        reply = lambda pair: [Message(role="assistant", content=pair.chosen)]  # noqa: E731
        rows = [Demonstration(prompt=pair.prompt, completion=reply(pair)) for pair in pairs]
        fine_tune(params, rows, folder / "sft-out", folder / "sft.jsonl", folder / "scratch")
    else:
        from tr_align.align.train import train_method

        train_method(case.method, params, model, pairs, folder / case.method)


def predict(case: Case, config: Any) -> Any:
    """The plan's estimate for the CPU."""
    from tr_align.planning.memory import Estimator
    from tr_align.runtime import has_bf16

    params = params_for(case, "model")
    estimator = Estimator(config, params, gpu=False, bf16=has_bf16())
    if case.method == "sft":
        return estimator.sft("none", 1)
    return estimator.align(params.methods[case.method], "none", 1)


def make_model(size: str, folder: Path) -> Any:
    """A random Llama of a size, saved with the tokenizer of bytes; its configuration."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from tr_align import models

    width, mlp, layers = SHAPES[size]
    heads = 9 if size == "135M" else 8
    config = LlamaConfig(
        vocab_size=VOCABULARY[size], hidden_size=width, intermediate_size=mlp, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=heads // 3 if size == "135M" else 4, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=0, pad_token_id=1,
    )  # fmt: skip
    tokenizer = models.load_tokenizer(models.RANDOM)
    config.eos_token_id, config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    models.save(LlamaForCausalLM(config), tokenizer, folder)
    return config


def status(key: str) -> int:
    """A line of /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"this system does not tell {key}; the benchmark needs Linux")


def worker(name: str, folder: Path) -> None:
    """Warm up on a model of two layers, then measure; prints a JSON line."""
    from tr_align import models

    case = CASES[name]
    with tempfile.TemporaryDirectory() as small:
        models.save(models.load_model(models.RANDOM), models.load_tokenizer(models.RANDOM), Path(small) / "model")
        train(Case(case.method, 24, 16, 2, 64, case.checkpointing), str(Path(small) / "model"), Path(small))
    gc.collect()
    baseline = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # VmHWM starts again
    with tempfile.TemporaryDirectory() as out:
        train(case, str(folder), Path(out))
    print(json.dumps({"measured": status("VmHWM") - baseline}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(SHAPES), choices=SHAPES)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.worker[0], Path(options.worker[1]))
        return
    rows: list[dict[str, Any]] = []
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    print("| model | case | predicted, MB | measured, MB | predicted / measured |\n|---|---|---|---|---|")
    for size in options.models:
        with tempfile.TemporaryDirectory() as folder:
            config = make_model(size, Path(folder))
            for name in options.cases:
                command = [sys.executable, __file__, "--worker", name, folder]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
                measured = json.loads(done.stdout.splitlines()[-1])["measured"]
                predicted = predict(CASES[name], config).total
                rows.append({"model": size, "case": name, "predicted": predicted, "measured": measured})
                print(
                    f"| {size} | {name} | {predicted / 1e6:.0f} | {measured / 1e6:.0f} | {predicted / measured:.2f} |",
                    flush=True,
                )
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
