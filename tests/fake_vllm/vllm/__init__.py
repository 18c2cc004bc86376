"""As much of vLLM's offline engine as is called, on a CPU, with the signatures of vLLM 0.32 (vllm/entrypoints/llm.py,
vllm/sampling_params.py): what these do not know is refused. It samples token by token from whole forward passes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

_ENGINE_ARGS = {"max_model_len", "generation_config", "max_num_seqs", "enable_prefix_caching", "disable_log_stats"}


@dataclass(kw_only=True)
class SamplingParams:
    n: int = 1
    repetition_penalty: float = 1.0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    max_tokens: int | None = 16
    min_tokens: int = 0
    detokenize: bool = True
    skip_special_tokens: bool = True
    include_stop_str_in_output: bool = False

    def __post_init__(self) -> None:
        assert 0 <= self.temperature <= 2 and 0 < self.top_p <= 1
        assert self.seed is None or -(2**63) <= self.seed < 2**63


@dataclass
class CompletionOutput:
    index: int
    text: str
    token_ids: Sequence[int]
    finish_reason: str | None = None
    stop_reason: int | str | None = None


@dataclass
class RequestOutput:
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput] = field(default_factory=list)


class LLM:
    def __init__(
        self,
        model: str,
        *,
        tokenizer: str | None = None,
        skip_tokenizer_init: bool = False,
        trust_remote_code: bool = False,
        tensor_parallel_size: int = 1,
        dtype: str = "auto",
        seed: int = 0,
        gpu_memory_utilization: float = 0.92,
        enforce_eager: bool = False,
        **kwargs: Any,
    ) -> None:
        if unknown := kwargs.keys() - _ENGINE_ARGS:
            raise TypeError(f"EngineArgs.__init__() got an unexpected keyword argument {unknown}")
        assert not trust_remote_code
        self.model: Any = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype)).eval()
        configured = GenerationConfig.from_pretrained(model).eos_token_id
        self.ends = {AutoTokenizer.from_pretrained(model).eos_token_id}
        self.ends |= set(configured if isinstance(configured, list) else [configured])
        self.longest = kwargs.get("max_model_len", self.model.config.max_position_embeddings)
        _log(
            engine={"model": model, "tensor_parallel_size": tensor_parallel_size, "dtype": dtype, "seed": seed} | kwargs
        )

    def generate(
        self,
        prompts: Sequence[dict[str, Any]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool = True,
        priority: int | Sequence[int] | None = None,
    ) -> list[RequestOutput]:
        assert isinstance(sampling_params, list) and len(sampling_params) == len(prompts)
        _log(asked=len(prompts), stops=sampling_params[0].stop_token_ids)
        return [self._one(prompt, params) for prompt, params in zip(prompts, sampling_params, strict=True)]

    @torch.no_grad()
    def _one(self, prompt: dict[str, Any], params: SamplingParams) -> RequestOutput:
        assert prompt.keys() == {"prompt_token_ids"}
        assert params.seed is not None and params.max_tokens is not None
        ids, generator = list(prompt["prompt_token_ids"]), torch.Generator().manual_seed(params.seed)
        stops = set(params.stop_token_ids or ()) | self.ends
        tokens: list[int] = []
        while not tokens or tokens[-1] not in stops:
            if len(tokens) == params.max_tokens or len(ids) + len(tokens) == self.longest:
                return RequestOutput(ids, [CompletionOutput(0, "", tokens, "length")])
            logits = self.model(input_ids=torch.tensor([ids + tokens])).logits[0, -1].float() / params.temperature
            chances, order = logits.softmax(-1).sort(descending=True)
            chances[chances.cumsum(0) - chances >= params.top_p] = 0
            tokens.append(int(order[torch.multinomial(chances, 1, generator=generator)]))
        return RequestOutput(ids, [CompletionOutput(0, "", tokens, "stop", tokens[-1])])


def _log(**entry: Any) -> None:
    with open(os.environ["FAKE_VLLM_LOG"], "a", encoding="utf-8") as file:
        file.write(json.dumps(entry | {"pid": os.getpid()}) + "\n")
