"""Stage `judge_fit`: fit the probes or the reward model on the judge split, measure them on held-out prompts."""

from tr_align.runtime import prepare_process

prepare_process()

import json  # noqa: E402
from pathlib import Path  # noqa: E402

from tr_align import gpus  # noqa: E402
from tr_align.config import load_params  # noqa: E402
from tr_align.data.schema import read_pairs  # noqa: E402
from tr_align.progress import run_stage  # noqa: E402


def main() -> None:
    params = load_params()
    gpus.claim()
    folder, report = Path("models/judge"), Path("models/judge/accuracy.json")
    folder.mkdir(parents=True, exist_ok=True)
    if params.judge.name == "openai":
        # Nothing to fit; the endpoint was checked by `prepare`.
        (folder / "judge.json").write_text(json.dumps({"judge": params.judge.name}), encoding="utf-8")
        report.write_text(json.dumps({}) + "\n", encoding="utf-8")
        return
    from tr_align.judges import probe

    pairs = read_pairs("data/prepared/judge.jsonl")
    if params.judge.name == "reward":
        from tr_align.judges import reward

        accuracy = reward.fit(pairs, params.judge.reward, folder)
    else:
        settings = params.judge.probe
        features = probe.base_features(settings.model, settings)
        probes, accuracy = probe.fit(pairs, features, settings)
        probe.save(folder, features, probes)
    # No seed of the run in it: runs of several seeds that share their data find one judge in DVC's cache.
    numbers = probe.summary(accuracy, params.score.bootstrap, seed=0)
    report.write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
    for axis, row in numbers.items():
        low, high = row["ci"]
        print(f"  {axis:<13} held-out pairs right: {row['accuracy']:.0%} [{low:.0%}, {high:.0%}], n = {row['n']}")


run_stage(main)
