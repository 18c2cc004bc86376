"""What would only fail hours later is found before anything is trained."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from tr_align import calibration, labelled, launch, models
from tr_align.config import Params
from tr_align.data import foreign
from tr_align.data.schema import Pair
from tr_align.errors import UserError
from tr_align.planning.cost import judge_calls


def check_settings(params: Params) -> None:
    """The model is there, the machine can hold its training, foreign texts can be read, the judge answers; what the
    judge costs is printed.

    Raises:
        UserError: it names the key and the way out.
    """
    from tr_align.vllm_engine import check_engine

    models.check(params.model.name, params.model.revision)
    for key in ("train", "generate"):
        launch.read(getattr(params.launch, key), f"launch.{key}")
    check_engine(params.generate, params.launch.generate)
    check_machine(params)
    _check_foreign_texts(params)
    if params.judge.name == "reward":
        from tr_align.judges import reward

        reward.check(params.judge.reward)
    if params.judge.name == "openai":
        from tr_align.judges.cache import default_path
        from tr_align.judges.openai import OpenAIJudge

        judge = OpenAIJudge(params.judge.openai, default_path(), params.judge.max_usd)
        judge.check()
        ratings, comparisons = judge_calls(params)
        longest = params.data.max_prompt_tokens, params.generate.max_new_tokens
        print(judge.forecast(ratings, comparisons, *longest), file=sys.stderr)


def _check_foreign_texts(params: Params) -> None:
    texts = len(foreign.read(params.ood.texts))
    asked = min(params.ood_prompts, params.data.splits.evaluation)
    if texts < asked:
        print(
            f"warning: ood.texts: {params.ood.texts} has {texts} texts, and {asked} prompts are asked for "
            f"(ood.prompts, or generate.curve_prompts): fixed texts are measured on the first {texts}, for each takes "
            "a text",
            file=sys.stderr,
        )


def check_machine(params: Params) -> None:
    """There are as many GPUs as a launch command starts processes, and the training fits their memory.

    What a training holds whatever the data is has to fit. With passes over the longest pairs that `data` allows it may
    not: that is a warning, for real pairs may be shorter; on a CPU it is all a warning. Without a GPU here nothing is
    said of processes: the stages may run elsewhere.

    Raises:
        UserError: there are too few GPUs, or one is too small.
    """
    import psutil
    import torch

    from tr_align.runtime import has_bf16

    launched = launch.read(params.launch.train, "launch.train")
    if not torch.cuda.is_available():
        if launched.processes == 1:
            _check_memory(params, launched, psutil.virtual_memory().available, None, has_bf16())
        return
    for key in ("train", "generate"):
        started = launch.read(getattr(params.launch, key), f"launch.{key}")
        here = started.processes // started.machines
        if here > torch.cuda.device_count():
            raise UserError(
                f"launch.{key}: starts {here} processes a machine, and this one has {torch.cuda.device_count()} GPUs; "
                "set num_processes in accelerate's file, or give --num_processes"
            )
    _check_memory(params, launched, torch.cuda.mem_get_info()[1], torch.cuda.get_device_name(), has_bf16())


def _check_memory(params: Params, launched: launch.Launched, size: float, gpu: str | None, bf16: bool) -> None:
    from tr_align.planning import architectures
    from tr_align.planning.memory import Estimator
    from tr_align.planning.plan import remedies_for, training

    try:
        config = architectures.config_of(params.model.name, params.model.revision)
        estimator = Estimator(config, params, gpu is not None, bf16)
        stages = training(estimator, launched.sharding, launched.processes)
    except UserError as error:  # no reason to refuse what may well run
        print(f"warning: the memory it takes is not known: {error}", file=sys.stderr)
        return
    for stage, memory in stages.items():
        if memory.total <= size:
            continue
        where = f"this {gpu} has {size / 1e9:.1f} GB" if gpu else f"{size / 1e9:.1f} GB of memory are free here"
        held = memory.total - memory.passes
        if gpu and held > size:
            remedies = "; or ".join(remedies_for(estimator, stage, launched, size, gpu))
            raise UserError(
                f"launch.train: {stage} holds {held / 1e9:.1f} GB on a GPU beside its passes, and {where}; it would "
                f"fit with {remedies}. `tr-align plan` shows it all"
            )
        print(
            f"warning: {stage} takes up to {memory.total / 1e9:.1f} GB with the longest replies that data allows, and "
            f"{where}; `tr-align plan` shows what would take less",
            file=sys.stderr,
        )


def check_splits(params: Params, splits: Mapping[str, list[Pair]]) -> None:
    """Every split holds at least what an optimizer step takes, and there are pairs to measure the judge with.

    Raises:
        UserError: it names the split, its size and what to change.
    """
    processes = launch.read(params.launch.train, "launch.train").processes
    for split, section, taken in (("sft", params.sft, 0), ("preferences", params.align, params.align.held_out)):
        key = "sft" if split == "sft" else "align"
        rows = section.batch_size * section.gradient_accumulation * processes
        if section.steps and len(splits[split]) - taken < rows:
            started = f" of {processes} processes" if processes > 1 else ""
            held = f", {taken} of them held out" if taken else ""
            raise UserError(
                f"{key}.batch_size: an optimizer step{started} takes {rows} rows, but the {split} split has only "
                f"{len(splits[split])}{held}; lower it (or {key}.gradient_accumulation) or raise data.splits.{split}"
            )
    if Path(params.calibrate.path) == labelled.JUDGE_SPLIT:
        prompts = {pair.prompt_id for pair in labelled.unseen(splits["judge"], params.judge)}
        if len(prompts) < calibration.FEWEST_PROMPTS:
            raise UserError(
                f"data.splits.judge: is {params.data.splits.judge}, which leaves {len(prompts)} prompts to measure the "
                "judge with; raise it, or name labelled pairs of your own in calibrate.path"
            )
