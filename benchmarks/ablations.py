"""What each saving of the alignment core gives: a step without it, beside the step with all of them.

    PYTHONPATH=src python benchmarks/ablations.py --data FOLDER_WITH_HH

Forward, backward and the reference's scores of eight real Anthropic-HH pairs with SmolLM2-135M; each variant runs in a
process of its own, for its peak memory, three rounds through all of them. Prints a table and, last, JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

VARIANTS = {
    "all savings": "",
    "reference scored pass by pass, by a model of its own": "loop",
    "each prompt twice": "apart",
    "each prompt twice, one pass padded to the longest": "apart padded",
    "output layer on every position, in float32 backwards (TRL's on a CPU)": "head",
    "everything in one pass": "whole",
    "activations recomputed": "checkpoint",
    "freed memory given back to the system": "malloc",
}
STEPS = 3


def measure(words: list[str], data: Path, max_tokens: int) -> dict[str, float]:
    """Median seconds of a step and peak bytes of this process."""
    from tr_align.runtime import has_bf16, prepare_process

    if "malloc" not in words:
        prepare_process()
    import torch
    import torch.nn.functional as F
    from align_step import pairs_of

    from tr_align import models
    from tr_align.align import logps
    from tr_align.align.batches import collate, split_passes
    from tr_align.align.tokens import encode_pairs

    tokenizer = models.load_tokenizer(models.PACKAGED)
    examples, _ = encode_pairs(tokenizer, pairs_of(data, 8, 512), 100_000, 0.0)
    model = models.load_model(models.PACKAGED).train()
    shared = logps.share_prompts(model) and "apart" not in words
    reference = models.load_model(models.PACKAGED).eval() if "loop" in words else model
    if "loop" in words:
        logps.share_prompts(reference)
    if "checkpoint" in words:
        model.activation_checkpointing_enable({"use_reentrant": False})

    def scores(of: Any, part: list[int]) -> Any:
        batch = collate([examples[i] for i in part], shared)
        with torch.autocast("cpu", torch.bfloat16) if has_bf16() else nullcontext():
            if "head" in words:
                return _everywhere(of, batch)
            return logps.reply_logps(of, batch)

    costs = [e.cost if shared else sum(len(e.prompt) + len(r) - 1 for r in e.replies) for e in examples]
    one = "whole" in words or "padded" in words
    passes = split_passes(costs, 10**6 if one else max_tokens)
    scoring = passes if "loop" in words else split_passes(costs, 10**6 if one else 4 * max_tokens)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)
    seconds = []
    for _ in range(STEPS):
        start = time.perf_counter()
        known: dict[int, Any] = {}
        reference.eval()
        with torch.no_grad():
            for part in scoring:
                known |= dict(zip(part, scores(reference, part), strict=True))
        model.train()
        for part in passes:
            policy, before = scores(model, part), torch.stack([known[i] for i in part])
            h = (policy - before)[:, 0] - (policy - before)[:, 1]
            (-F.logsigmoid(0.05 * h).sum() / 8).backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": statistics.median(seconds[1:]), "peak": peak}


def _everywhere(model: Any, batch: Any) -> Any:
    """Log-probabilities at every position by TRL's head, those of replies summed."""
    import torch
    from trl.kernels.chunked_logprob import ChunkedLogProbFunction

    mask = batch.input_ids.new_zeros(1, 1, 1, 1)
    states = model.base_model(
        input_ids=batch.input_ids,
        position_ids=batch.position_ids,
        attention_mask=mask,
        segments=batch.segments,
        use_cache=False,
    ).last_hidden_state.flatten(0, 1)
    # (A prompt's last position predicts two replies' first tokens; here, where only time counts, the last of them.)
    labels = torch.zeros(len(states), dtype=torch.long)
    labels[batch.predictors] = batch.labels
    weight = model.get_output_embeddings().weight
    outputs = ("entropy", "mean_logits", "is_top1") if torch.is_grad_enabled() else ()
    every = ChunkedLogProbFunction.apply(states, weight, None, labels, 1.0, 32768, None, 1.0, outputs)[0]
    sums = every.new_zeros(batch.shape[0] * batch.shape[1]).index_add(0, batch.owners, every[batch.predictors])
    return sums.view(batch.shape)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder or file of Anthropic-HH rows (*.jsonl.gz)")
    parser.add_argument("--max-tokens", type=int, default=1536, help="align.max_tokens")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--variant", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.variant is not None:
        print(json.dumps(measure(arguments.variant.split(), arguments.data, arguments.max_tokens)))
        return
    found: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS}
    for _ in range(arguments.rounds):
        for name, words in VARIANTS.items():
            command = [sys.executable, __file__, *sys.argv[1:], "--variant", words]
            printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            found[name].append(json.loads(printed.splitlines()[-1]))
    medians = {
        name: {key: statistics.median(run[key] for run in runs) for key in ("seconds", "peak")}
        for name, runs in found.items()
    }
    base = medians["all savings"]
    print("| without it | seconds | against all | peak GB | against all |\n|---|---|---|---|---|")
    for name, row in medians.items():
        print(
            f"| {name} | {row['seconds']:.2f} | {row['seconds'] / base['seconds']:.2f} | "
            f"{row['peak'] / 1e9:.2f} | {row['peak'] / base['peak']:.2f} |"
        )
    print(json.dumps(medians))


if __name__ == "__main__":
    main()
