"""Figures as files, without a browser."""

from __future__ import annotations

import csv
import io
import json
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path

import vl_convert
from PIL import Image

from tr_align.reports.figure import Figure
from tr_align.reports.figures.frame import OWN_LEGENDS
from tr_align.reports.results import Row
from tr_align.reports.theme import VEGA_LITE, WARNING, Spec

SUFFIXES = (".png", ".svg", "-print.pdf", "-print.svg", ".csv", ".vl.json")
"""Of the files of a figure."""
RESOURCES = re.compile(rb"(?:^ +/[a-z]+\d+ \d+ 0 R\n)+", re.MULTILINE)
"""Lines of a PDF that name what a page uses."""
CAPTION_WIDTH = 150
"""Letters in a line under the title."""
TOPICS = {"models": "", "toy": "Toy MDP: "}
"""What a title begins with where no section of the page says it."""
WHOLE = ("$schema", "background", "padding", "data", "usermeta", "config")
"""What stays at the top of a spec that is put into another."""


def render(figure: Figure, folder: str | Path) -> list[Path]:
    """Write a figure's files; the same figure gives the same bytes.

    `<name>.png` (twice the size, for sharp screens), `<name>.svg` and `<name>.vl.json` are the wide form with title
    and caption; `<name>-print.pdf` and `<name>-print.svg` the one for a paper, which has its own; `<name>.csv` the
    rows. All but the last carry the warning about the judge, if there is one.

    Returns: their paths, in the order of :data:`SUFFIXES`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    wide, printed = titled(figure), warned(figure.print)
    content: dict[str, bytes] = {
        ".png": _small(vl_convert.vegalite_to_png(wide, vl_version=VEGA_LITE, scale=2)),
        ".svg": vl_convert.vegalite_to_svg(wide, vl_version=VEGA_LITE).encode(),
        "-print.pdf": _sorted(vl_convert.vegalite_to_pdf(printed, vl_version=VEGA_LITE)),
        "-print.svg": vl_convert.vegalite_to_svg(printed, vl_version=VEGA_LITE).encode(),
        ".csv": as_csv(figure.rows).encode(),
        ".vl.json": (json.dumps(wide, ensure_ascii=False) + "\n").encode(),
    }
    paths = []
    for suffix in SUFFIXES:
        path = folder / f"{figure.name}{suffix}"
        path.write_bytes(content[suffix])
        paths.append(path)
    return paths


def _small(png: bytes) -> bytes:
    """The same picture with 256 colours, which is all it needs, and an eighth of the size."""
    out = io.BytesIO()
    picture = Image.open(io.BytesIO(png)).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    picture.save(out, "PNG", optimize=True)
    return out.getvalue()


def _sorted(pdf: bytes) -> bytes:
    """The same document with its resources in order; their order is drawn anew each time, their length is not."""
    return RESOURCES.sub(lambda found: b"".join(sorted(found[0].splitlines(keepends=True))), pdf)


def titled(figure: Figure) -> Spec:
    """The wide form with title, caption and warning: it can stand alone."""
    subtitle = textwrap.wrap(figure.caption, CAPTION_WIDTH)
    title = f"{TOPICS[figure.about]}{figure.title}"
    return _headed(figure.wide, {"text": title, "subtitle": subtitle, "fontSize": 17, "offset": 12})


def warned(spec: Spec) -> Spec:
    """A form with the warning about its judge, if there is one."""
    return _headed(spec, None)


def _headed(spec: Spec, title: Spec | None) -> Spec:
    """Under a title, and under that the warning.

    A title has one colour, so that the figure becomes a row of one, whose own title is the warning.
    """
    warning = spec.get("usermeta", {}).get("warning")
    size = spec["config"]["axis"]["labelFontSize"]
    if warning:
        lines = textwrap.wrap(warning, int(spec["usermeta"]["width"] / (0.58 * size)))
        small: Spec = {"text": lines, "color": WARNING, "fontSize": size, "lineHeight": 1.4 * size, "offset": size}
        outer = {key: spec[key] for key in WHOLE if key in spec}
        inner = {key: value for key, value in spec.items() if key not in WHOLE}
        # legends of its own, or they would stand between the two titles
        spec = outer | {"vconcat": [inner | {"title": small}], "resolve": OWN_LEGENDS}
    return spec | ({"title": title} if title else {})


def as_csv(rows: Sequence[Row]) -> str:
    """Rows with a header; a list is its members with spaces between them, and nothing stands for None."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: " ".join(map(str, v)) if isinstance(v, list) else v for k, v in row.items()})
    return out.getvalue()
