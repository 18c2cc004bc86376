"""Stage `ood@METHOD` (and `ood_sft`): the log-probability of fixed texts under the policies of a method."""

from tr_align.runtime import prepare_process

prepare_process()

import sys  # noqa: E402
from pathlib import Path  # noqa: E402

import torch  # noqa: E402

from tr_align import gpus, models, scratch  # noqa: E402
from tr_align.config import load_params  # noqa: E402
from tr_align.data import foreign  # noqa: E402
from tr_align.data.schema import read_pairs  # noqa: E402
from tr_align.metrics.ood import fixed_texts, likelihoods  # noqa: E402
from tr_align.progress import run_stage  # noqa: E402
from tr_align.runtime import device, has_bf16  # noqa: E402

DATA, SFT = Path("data/prepared/evaluation.jsonl"), Path("models/sft")


def main() -> None:
    name = sys.argv[1]
    params = load_params()
    gpus.claim()
    texts = foreign.read(params.ood.texts)
    # Each prompt has a foreign text of its own: no more prompts than texts.
    pairs = read_pairs(DATA)[: min(params.ood_prompts, len(texts))]
    sampled = {row["prompt_id"]: row for row in scratch.read_rows("generations/sft.jsonl")}
    longest = params.data.max_reply_tokens
    examples = fixed_texts(models.load_tokenizer(str(SFT)), pairs, sampled, texts, longest)
    points = [(0, SFT)]
    if name != "sft":
        points = [(int(path.name.removeprefix("step-")), path) for path in sorted(Path("models", name).glob("step-*"))]
    rows = []
    for step, folder in points:
        model = models.load_model(str(folder), torch.bfloat16 if has_bf16() else torch.float32).to(device()).eval()
        ids = [pair.prompt_id for pair in pairs]
        rows += likelihoods(model, examples, ids, step, params.align.max_tokens, f"{name}, step {step}")
    out = Path(f"likelihoods/{name}.jsonl")
    out.parent.mkdir(exist_ok=True)
    scratch.write_rows(out, rows)


run_stage(main)
