"""What is on a rendered figure, read from its SVG."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import vl_convert

from tr_align.reports.theme import VEGA_LITE


@dataclass(frozen=True)
class Drawn:
    svg: str

    @property
    def width(self) -> float:
        found = re.search(r'width="([\d.]+)"', self.svg)
        assert found
        return float(found[1])

    @property
    def words(self) -> list[str]:
        return re.findall(r"<text[^>]*>([^<]*)</text>", self.svg)

    def marks(self, role: str) -> list[str]:
        """The elements of a kind of mark: "point", "rule", "line", "area", "bar", "tick"."""
        return re.findall(rf'<(?:path|line)[^>]*aria-roledescription="{role}(?: mark)?"[^>]*>', self.svg)

    def strokes(self, colour: str, dash: str | None = None) -> list[str]:
        """Lines of a colour, those without data included, which have no description."""
        lines = [line for line in re.findall(r"<line[^>]*>", self.svg) if f'stroke="{colour}"' in line]
        return [line for line in lines if dash is None or f'stroke-dasharray="{dash}"' in line]

    def visible(self, role: str) -> list[str]:
        return [mark for mark in self.marks(role) if 'opacity="0"' not in mark]


def draw(spec: dict[str, Any], version: str = VEGA_LITE) -> Drawn:
    """Fails on a spec that does not compile or on a number that is none."""
    svg = vl_convert.vegalite_to_svg(spec, vl_version=version)
    assert "NaN" not in svg
    return Drawn(svg)
