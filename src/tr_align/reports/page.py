"""The results as one HTML page that needs no network: figures, claims, table, judge, training, replies."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from html import escape
from typing import Any

import vl_convert

from tr_align.config import METHODS
from tr_align.reports import card, html, table
from tr_align.reports.common import Context, Curve, Metrics, Training, in_order, label, seeds_text, share_with_interval
from tr_align.reports.figures import kl_vs_hc, win_rates
from tr_align.reports.style import STYLE
from tr_align.reports.theme import VEGA_LITE
from tr_align.reports.training import training_curves

Samples = Sequence[Mapping[str, Any]]
"""`prompt`, and `replies` by method; "sft" is the SFT model."""

WEAK_JUDGE = 0.7
NARROW = 640
OPEN_SAMPLES = 2

HOW_TO_READ = (
    "Each panel is one loss. A curve starts at the SFT model (diamond) and follows a method through training: to the "
    "right it moves away from SFT, upwards the judge rates its replies higher. A trust-region method helps where its "
    "curve runs above that of its base at the same KL. The large points are the trained models."
)

# The narrow spec is chosen once: a chart that re-renders while a phone turns would lose its tooltip.
PLOT_SCRIPT = """
for (const [id, specs] of Object.entries(SPECS)) {
  const spec = window.innerWidth < NARROW && specs.narrow ? specs.narrow : specs.wide;
  vegaEmbed('#' + id, spec, {renderer: 'svg', actions: false});
}
addEventListener('beforeprint', () => document.querySelectorAll('details').forEach((item) => { item.open = true; }));
"""


def page(metrics: Metrics, curve: Curve, context: Context, samples: Samples, training: Training) -> str:
    """The whole page as a string. Every text that comes from data is escaped."""
    specs = {
        "kl-hc": {"wide": kl_vs_hc(curve, context), "narrow": kl_vs_hc(curve, context, stacked=True)},
        "wins": {"wide": win_rates(metrics, context), "narrow": win_rates(metrics, context, stacked=True)},
    }
    if any(training.values()):
        specs["training"] = {"wide": training_curves(training, context)}
    captions = {name: specs[name]["wide"]["title"]["subtitle"][1:] for name in ("kl-hc", "wins")}
    for by_width in specs.values():
        for spec in by_width.values():
            # a title inside the drawing does not wrap; the page has it as text
            spec.pop("title", None)
    sections = [
        "<h1>Trust-region alignment: quality against distance from SFT</h1>",
        f'<p class="meta">{escape(_run_line(context))}</p>',
        f'<p class="lead">{escape(HOW_TO_READ)}</p>',
        f"<p>{escape(_what_it_shows(context))}</p>",
        _figure("kl-hc", captions["kl-hc"], "Quality against KL, one panel a loss"),
        _claims(context),
        "<h2>Win rates</h2>",
        _figure("wins", captions["wins"], "Win rates with intervals"),
        _results(metrics, context),
        _judge(context),
        card.section(context["calibration"]) if context.get("calibration") else "",
        _training(training),
        _samples(samples),
        _settings(context),
    ]
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>Trust-region alignment: {escape(str(context["model"]))}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
{chr(10).join(section for section in sections if section)}
</main>
<script>{_vega()}</script>
<script>const NARROW = {NARROW}; const SPECS = {_script_json(specs)};{PLOT_SCRIPT}</script>
</body>
</html>
"""


@cache
def _vega() -> str:
    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=VEGA_LITE)
    return bundle.replace("</script", "<\\/script")


def _script_json(value: Any) -> str:
    """JSON that may stand in a script element: no `<` that could end it."""
    return json.dumps(value).replace("<", "\\u003c")


def _run_line(context: Context) -> str:
    return f"{context['model']} · {context['data']} · {context['judge']} · {seeds_text(context)} · {context['date']}"


def _what_it_shows(context: Context) -> str:
    sentences = []
    verdicts = Counter(claim["verdict"] for claim in context["claims"])
    if verdicts:
        found = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.items())
        sentences.append(f"Claims tested on this run: {found}.")
    if len(context["seeds"]) == 1:
        sentences.append(
            "Intervals cover the choice of prompts; with one training seed they say nothing about another training run."
        )
    return " ".join(sentences)


def _figure(name: str, caption: Sequence[str], alternative: str, kind: str = "") -> str:
    text = escape(". ".join(caption))
    return (
        f'<figure><div class="plot {kind}" id="{name}" role="img" aria-label="{escape(alternative)}"></div>'
        f"<figcaption>{text}.</figcaption></figure>"
    )


def _claims(context: Context) -> str:
    if not context["claims"]:
        return ""
    marks = {"supported": "✓", "not supported": "○", "contradicted": "✕"}
    items = []
    for claim in context["claims"]:
        verdict = str(claim["verdict"])
        kind = verdict if verdict in ("supported", "contradicted") else "open"
        items.append(
            f'<li><span class="verdict {kind}">{marks.get(verdict, "○")} {escape(verdict)}</span>'
            f'<p>{escape(claim["claim"])}</p><p class="evidence">{escape(claim["evidence"])}</p></li>'
        )
    return f'<h2>What was tested</h2>\n<ul class="claims">{"".join(items)}</ul>'


def _results(metrics: Metrics, context: Context) -> str:
    names, cells = table.rows(metrics)
    body, family = [], ""
    for method, line in zip(in_order(metrics), cells, strict=True):
        first = ' class="family"' if family and METHODS[method].loss != family else ""
        family = METHODS[method].loss
        body.append(f'<tr{first}><th scope="row">{escape(line[0])}</th>{"".join(map(html.cell, line[1:]))}</tr>')
    return (
        "<h2>All numbers</h2>\n"
        f'<div class="scroll results">{html.table(names, body)}</div>\n'
        f'<p class="note">{escape(table.footnote(metrics, context))}</p>'
    )


def _judge(context: Context) -> str:
    accuracy = context["judge_accuracy"]
    heading = "<h2>How far the judge can be trusted</h2>"
    if not accuracy and context.get("calibration"):
        return heading
    if not accuracy:
        judge = escape(str(context["judge"]))
        return f"{heading}\n<p>The accuracy of this judge ({judge}) was not measured in this run.</p>"
    lines = []
    for axis, row in accuracy.items():
        lines.append(
            f'<tr><th scope="row">{escape(axis)}</th>{html.cell(share_with_interval(row["accuracy"], row["ci"]))}'
            f"<td>{int(row['n'])}</td><td>{html.bar(row['accuracy'], *row['ci'])}</td></tr>"
        )
    meaning = (
        "<p>The share of held-out examples, never used to fit it, on which the judge agrees with the known answer. "
        "The dashed line is guessing, 50 %.</p>"
    )
    body = f'<div class="scroll accuracy">{html.table(("axis", "accuracy [95 %]", "n", "0 to 100 %"), lines)}</div>'
    return "\n".join([heading, meaning, body, _judge_warning(accuracy)])


def _judge_warning(accuracy: Mapping[str, Any]) -> str:
    weak = [axis for axis, row in accuracy.items() if row["accuracy"] < WEAK_JUDGE]
    if not weak:
        return ""
    guessing = [axis for axis in weak if accuracy[axis]["ci"][0] <= 0.5]
    text = f"Weak on {_listed(weak)}: the accuracy is under 70 %, so it is wrong there in at least three of ten cases. "
    if guessing:
        text += f"On {_listed(guessing)} it cannot be told from guessing. "
    text += "Read differences on such an axis with care; they are part of the HC mean as well."
    return f'<p class="warning" role="note">{escape(text)}</p>'


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _training(training: Training) -> str:
    if not any(training.values()):
        return ""
    distances = (
        "The lower rows are Euclidean distances between parameters: how far the reference has left SFT, and how far "
        "the policy is ahead of its reference (it falls at every update of the reference)"
    )
    caption = ["Loss and margin are on each loss's own scale and compare only within a panel", distances]
    return "<h2>Training</h2>\n" + _figure("training", caption, "Training curves of every method", kind="wide")


def _samples(samples: Samples) -> str:
    if not samples:
        return ""
    blocks = []
    for position, sample in enumerate(samples):
        replies = "".join(_reply(method, sample["replies"][method]) for method in in_order(sample["replies"]))
        is_open = " open" if position < OPEN_SAMPLES else ""
        summary = f"<summary>{escape(str(sample['prompt']))}</summary>"
        blocks.append(f'<details{is_open}>{summary}<div class="replies">{replies}</div></details>')
    note = '<p class="note">Sampled replies, as generated; a few examples show a style, not an average.</p>'
    return "\n".join(["<h2>Replies side by side</h2>", note, *blocks])


def _reply(method: str, text: str) -> str:
    kind = "sft" if method == "sft" else METHODS[method].update
    body = escape(text) if text.strip() else '<span class="empty">empty reply</span>'
    return f'<article class="reply {kind}"><h3>{escape(label(method))}</h3><div>{body}</div></article>'


def _settings(context: Context) -> str:
    settings = {
        "Model": context["model"],
        "Data": context["data"],
        "Judge": context["judge"],
        "Soft update": f"α = {context['alpha']:g}, every {context['every']} steps",
        "Hard update": f"every τ = {context['tau']:g} steps",
        "β": ", ".join(f"{loss.upper()} {value:g}" for loss, value in context["beta"].items()),
        "Optimizer steps": context["steps"],
        "Seeds": ", ".join(str(seed) for seed in context["seeds"]),
        "HC unit": context["hc_unit"],
        "Date": context["date"],
    }
    items = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(str(value))}</dd></div>" for name, value in settings.items()
    )
    return (
        f"<footer><h2>Settings</h2><dl>{items}</dl>"
        '<p class="note">Method: “Learn Your Reference Model for Real Good Alignment”, arXiv 2404.09656.</p></footer>'
    )
