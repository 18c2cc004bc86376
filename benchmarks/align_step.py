"""An alignment step of tr-align beside one of stock TRL: seconds, peak memory, losses.

    PYTHONPATH=src python benchmarks/align_step.py --data FOLDER_WITH_HH [--cases default | all | NAME ...]

Two processes train the same model on the same pairs in the same order and dtype, taking turns step by step, so that
whatever else the machine does meets both alike. TRL runs as its documentation has it: explicit reference,
`sync_ref_model=True`. Our scoring of a window is spread over the steps of the window. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Case:
    """`interval` steps between updates (0: none); checkpointing: activations recomputed, on both sides."""

    loss: str
    alpha: float
    interval: int
    steps: int
    checkpointing: bool = False
    sft_rewards: bool = False
    allocator: bool = False  # TRL, too, with glibc told to keep freed memory (see tr_align/runtime.py)


CASES = {
    "default": Case("dpo", 1.0, 10, 10),
    "default, TRL with our allocator settings": Case("dpo", 1.0, 10, 10, allocator=True),
    "default, rewards against SFT logged": Case("dpo", 1.0, 10, 10, sft_rewards=True),
    "default, activation checkpointing": Case("dpo", 1.0, 10, 10, checkpointing=True),
    "soft, every 16 steps": Case("dpo", 0.6, 16, 16),
    "soft, every step": Case("dpo", 0.6, 1, 6),
    "IPO, hard": Case("ipo", 1.0, 10, 10),
    "KTO, hard": Case("kto", 1.0, 10, 10),
    "no updates": Case("dpo", 1.0, 0, 8),
}


def pairs_of(path: Path, count: int, limit: int) -> list[Any]:
    """The first real pairs whose sequences have at most `limit` tokens, in a shuffled order."""
    from tr_align import models
    from tr_align.align.tokens import encode_pairs
    from tr_align.data import anthropic_hh

    pairs = [pair for _, pair in anthropic_hh.load(path, "").pairs]
    random.Random(0).shuffle(pairs)
    tokenizer = models.load_tokenizer(models.PACKAGED)
    kept: list[Any] = []
    seen: set[str] = set()
    for pair in pairs:
        examples, _ = encode_pairs(tokenizer, [pair], 100_000, 1.0)
        lengths = [len(example.prompt) + len(reply) for example in examples for reply in example.replies]
        if lengths and max(lengths) <= limit and pair.prompt_id not in seen:
            kept.append(pair)
            seen.add(pair.prompt_id)
        if len(kept) == count:
            return kept
    raise SystemExit(f"{path}: has only {len(kept)} pairs of at most {limit} tokens, {count} are needed")


def make_params(case: Case, arguments: argparse.Namespace) -> Any:
    """The embedded preset with the case's settings; a run is never shorter than its interval."""
    from tr_align.config import load_params

    params = load_params(ROOT / "presets" / "embedded.yaml")
    align = {
        "steps": case.steps,
        "batch_size": arguments.pairs,
        "gradient_accumulation": 1,
        "max_tokens": arguments.max_tokens,
        "learning_rate": 1e-6,
        "gradient_checkpointing": case.checkpointing,
        "sft_rewards": case.sft_rewards,
        "evaluate_at": [1.0],
        "held_out": 0,
    }
    rule = {"alpha": case.alpha, "every": max(1, case.interval), "tau": max(1, case.interval)}
    return params.model_copy(
        update={
            "align": params.align.model_copy(update=align),
            "ref_update": params.ref_update.model_copy(update=rule),
            "data": params.data.model_copy(update={"max_prompt_tokens": 4096, "max_reply_tokens": 4096}),
            "ipo": params.ipo.model_copy(update={"length_average": True}),  # the form TRL has
        }
    )


def method_of(case: Case) -> str:
    if not case.interval:
        return case.loss
    return f"tr_{case.loss}_{'hard' if case.alpha == 1 else 'soft'}"


class Turns:
    """Waits for its turn before each step; reports each step's seconds, the scoring in it, and the loss."""

    def __init__(self) -> None:
        from transformers import TrainerCallback

        outer = self

        class Callback(TrainerCallback):
            def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
                print("ready", flush=True)
                sys.stdin.readline()
                outer.started = time.perf_counter()

            def on_step_end(self, *args: Any, **kwargs: Any) -> None:
                outer.seconds.append(time.perf_counter() - outer.started)

            def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
                if "loss" in logs:
                    outer.losses.append(float(logs["loss"]))

        self.started = 0.0
        self.seconds: list[float] = []
        self.scoring: list[float] = []
        self.losses: list[float] = []
        self.callback = Callback()


def worker(side: str, case: Case, arguments: argparse.Namespace, folder: Path) -> None:
    """One side's training; prints a JSON line at the end."""
    from tr_align.runtime import prepare_process

    if side == "ours" or case.allocator:
        prepare_process()
    import torch
    from accelerate.utils import gather

    from tr_align import models
    from tr_align.align.train import make_task, training_arguments
    from tr_align.align.trainer import AlignTrainer
    from tr_align.data.schema import read_pairs

    params = make_params(case, arguments)
    turns = Turns()
    sft = folder / "sft"
    task = make_task(method_of(case), params, models.load_tokenizer(str(sft)), read_pairs(folder / "pairs"), 1, gather)
    model = models.load_model(str(sft))
    trainer: Any
    if side == "ours":

        class Timed(AlignTrainer):
            def _open_window(self, *args: Any, **kwargs: Any) -> None:
                start = time.perf_counter()
                super()._open_window(*args, **kwargs)
                turns.scoring.append(time.perf_counter() - start)

        args = training_arguments(params, method_of(case), folder / "ours")
        if case.checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        trainer = Timed(model=model, args=args, task=task, callbacks=[turns.callback])
    else:
        trainer = stock_trainer(case, params, task, sft, read_pairs(folder / "pairs"), folder / "trl", turns)
    trainer.train()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated()
    print(json.dumps({"seconds": turns.seconds, "scoring": turns.scoring, "losses": turns.losses, "peak": peak}))


def stock_trainer(case: Case, params: Any, task: Any, sft: Path, pairs: list[Any], folder: Path, turns: Turns) -> Any:
    """TRL's own trainer on the same rows in the same order."""
    import torch
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

    from tr_align import models
    from tr_align.runtime import has_bf16

    cpu = not torch.cuda.is_available()
    options: dict[str, Any] = {
        "output_dir": str(folder),
        "max_steps": case.steps,
        "per_device_train_batch_size": task.plan.batch,
        "learning_rate": params.align.learning_rate,
        "warmup_steps": params.align.warmup_steps,
        "max_grad_norm": params.align.max_grad_norm,
        "activation_checkpointing": case.checkpointing,
        "beta": task.beta,
        "max_length": 100_000,
        "bf16": has_bf16(),
        "use_cpu": cpu,
        "dataloader_pin_memory": not cpu,
        "train_sampling_strategy": "sequential",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    if case.interval:
        options |= {"sync_ref_model": True, "ref_model_mixup_alpha": case.alpha, "ref_model_sync_steps": case.interval}
    by_id = {pair.prompt_id: pair for pair in pairs}
    rows: list[dict[str, Any]] = []
    for row in task.plan.order:
        pair = by_id[task.names[row]]
        prompt = [message.model_dump() for message in pair.prompt]
        if case.loss == "kto":
            good = bool(task.objective.desirable[row])
            reply = [{"role": "assistant", "content": pair.chosen if good else pair.rejected}]
            rows.append({"prompt": prompt, "completion": reply, "label": good})
        else:
            sides = {side: [{"role": "assistant", "content": getattr(pair, side)}] for side in ("chosen", "rejected")}
            rows.append({"prompt": prompt, **sides})
    shared: dict[str, Any] = {
        "model": models.load_model(str(sft)),
        "ref_model": models.load_model(str(sft)),
        "train_dataset": Dataset.from_list(rows),
        "processing_class": models.load_tokenizer(str(sft)),
        "callbacks": [turns.callback],
    }
    if case.loss == "kto":
        return KTOTrainer(args=KTOConfig(**options), **shared)
    return DPOTrainer(args=DPOConfig(loss_type=["sigmoid" if case.loss == "dpo" else "ipo"], **options), **shared)


def compare(name: str, arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Both sides of a case, taking turns."""
    running = {}
    for side in ("ours", "trl"):
        command = [sys.executable, __file__, *sys.argv[1:], "--worker", side, "--cases", name, "--folder", str(folder)]
        running[side] = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    results: dict[str, Any] = {}
    waiting = list(running)
    for side in waiting:
        _until_ready(running[side])
    while waiting:
        for side in list(waiting):
            process = running[side]
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
            last = _until_ready(process)
            if last is not None:
                results[side] = last
                waiting.remove(side)
    return _summary(name, results)


def _until_ready(process: Any) -> dict[str, Any] | None:
    """Wait until a side has made its step; its results if that was the last."""
    for line in process.stdout:
        if line.strip() == "ready":
            return None
        if line.startswith('{"seconds"'):
            result: dict[str, Any] = json.loads(line)
            return result
    raise SystemExit(f"a side ended with status {process.wait()} before its results (its messages are above)")


def _summary(name: str, results: dict[str, Any]) -> dict[str, Any]:
    ours, trl = results["ours"], results["trl"]
    # The first two steps warm up. A window's scoring is paid at its first step and belongs to all of them.
    plain = [total - scored for total, scored in zip(ours["seconds"], ours["scoring"], strict=True)]
    step, scoring = statistics.median(plain[2:]), sum(ours["scoring"]) / len(plain)
    stock = statistics.median(trl["seconds"][2:])
    return {
        "case": name,
        "trl_seconds": round(stock, 2),
        "seconds": round(step + scoring, 2),
        "of_which_scoring": round(scoring, 2),
        "speedup": round(stock / (step + scoring), 2),
        "trl_peak_gb": round(trl["peak"] / 1e9, 2),
        "peak_gb": round(ours["peak"] / 1e9, 2),
        "peak_memory_ratio": round(ours["peak"] / trl["peak"], 3),
        "largest_loss_difference": round(
            max(abs(a - b) for a, b in zip(ours["losses"], trl["losses"], strict=True)) / max(trl["losses"]), 5
        ),
        "steps": len(plain),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder or file of Anthropic-HH rows (*.jsonl.gz)")
    parser.add_argument("--cases", nargs="+", default=["default"], help="names, or all: " + "; ".join(CASES))
    parser.add_argument("--pairs", type=int, default=8, help="pairs a step")
    parser.add_argument("--longest", type=int, default=384, help="tokens; longer sequences are left out")
    parser.add_argument("--max-tokens", type=int, default=1536, help="align.max_tokens")
    parser.add_argument("--steps", type=int, help="fewer or more steps than the case's")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    names = list(CASES) if arguments.cases == ["all"] else arguments.cases
    if arguments.worker == "prepare":
        prepare(arguments, names, arguments.folder)
        return
    if arguments.worker:
        case = CASES[arguments.cases[0]]
        worker(arguments.worker, replace(case, steps=arguments.steps or case.steps), arguments, arguments.folder)
        return
    with tempfile.TemporaryDirectory() as folder:
        # In a process of its own: TRL's side alone may need most of the memory.
        command = [sys.executable, __file__, *sys.argv[1:], "--worker", "prepare", "--folder", folder]
        subprocess.run(command, check=True)
        rows = [compare(name, arguments, Path(folder)) for name in names]
    print("| " + " | ".join(rows[0]) + " |\n|" + "---|" * len(rows[0]))
    for row in rows:
        print("| " + " | ".join(map(str, row.values())) + " |")
    print(json.dumps(rows[0]))


def prepare(arguments: argparse.Namespace, names: list[str], folder: Path) -> None:
    """The model as a folder of float32 weights, the pairs as a file: the same for both sides."""
    from tr_align import models
    from tr_align.data.schema import write_pairs

    models.save(models.load_model(models.PACKAGED), models.load_tokenizer(models.PACKAGED), folder / "sft")
    steps = max(arguments.steps or CASES[name].steps for name in names)
    write_pairs(folder / "pairs", pairs_of(arguments.data, steps * arguments.pairs, arguments.longest))


if __name__ == "__main__":
    main()
