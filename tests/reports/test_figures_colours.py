"""The colours: only the theme's, visible in light and dark, and apart for colour-blind eyes."""

from __future__ import annotations

import itertools
import json
import re

import numpy as np
import pytest
from numpy.typing import NDArray

from reports.made_up import report, toy
from tr_align.reports.dvc_plots import templates
from tr_align.reports.figures import all_figures
from tr_align.reports.theme import DARK, DARK_PAPER, DASHES, GRID, INK, LOSE, MUTED, PAPER, SHAPES, TIE, TONES, WARNING

Array = NDArray[np.float64]
TEXT = (INK, MUTED, WARNING)
BACKGROUND = (PAPER, GRID, TIE)
MARKS = [tone for tones in TONES.values() for tone in tones.values()] + [LOSE]

# Machado, Oliveira & Fernandes (2009), severity 1, on linear RGB
BLIND = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "grey print": np.tile([0.2126, 0.7152, 0.0722], (3, 1)),
}


def linear(colour: str) -> Array:
    parts = np.array([int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)])
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def luminance(colour: str) -> float:
    return float(linear(colour) @ [0.2126, 0.7152, 0.0722])


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def lab(rgb: Array) -> Array:
    """CIE L*a*b* under D65."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = np.cbrt(np.clip(to_xyz @ np.clip(rgb, 0, 1) / [0.9505, 1.0, 1.089], 0.008856, None))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def colours_in(spec: object) -> set[str]:
    return set(re.findall(r'"(#[0-9a-fA-F]{3,8})"', json.dumps(spec)))


def test_contrast_by_hand() -> None:
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.01)


def test_specs_hold_no_colour_that_dark_mode_does_not_know() -> None:
    context = report().context
    figures = all_figures(report(context={**context, "judge_warning": "The judge is weak."}, toy=toy()))
    specs = [spec for figure in figures for spec in (figure.wide, figure.narrow, figure.print)]
    for spec in [*specs, *templates().values()]:
        assert colours_in(spec) <= set(DARK)
        assert not re.search(r'"(white|black|gr[ae]y|red|blue|green|orange|steelblue)"', json.dumps(spec))
        assert not re.search(r'"(rgb|hsl)a?\(', json.dumps(spec))


def test_dark_mode_knows_no_colour_twice() -> None:
    assert len(set(DARK.values())) == len(DARK)
    assert DARK[PAPER] == DARK_PAPER
    assert not set(DARK.values()) & set(DARK), "a colour would be replaced twice"


@pytest.mark.parametrize("dark", [False, True])
def test_marks_and_text_stand_out(dark: bool) -> None:
    def seen(colour: str) -> str:
        return DARK[colour] if dark else colour

    for colour in DARK:
        if colour not in BACKGROUND:
            needed = 4.5 if colour in TEXT else 3.0
            assert contrast(seen(colour), seen(PAPER)) >= needed, colour
    # the intervals lie on the bars, with a halo of the background
    for bar in [TONES[loss]["soft"] for loss in TONES] + [TIE, LOSE]:
        assert contrast(seen(INK), seen(PAPER)) >= 10 or contrast(seen(INK), seen(bar)) >= 3


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("eyes", BLIND)
def test_marks_of_a_panel_are_apart(eyes: str, dark: bool) -> None:
    """20 is about ten times what can just be seen; grey print keeps only the lightness."""
    for tones in TONES.values():
        seen = [lab(BLIND[eyes] @ linear(DARK[tone] if dark else tone)) for tone in tones.values()]
        for one, other in itertools.combinations(seen, 2):
            assert np.linalg.norm(one - other) > 15


@pytest.mark.parametrize("eyes", ["normal", "protanopia", "deuteranopia"])
@pytest.mark.parametrize("dark", [False, True])
def test_losses_are_apart(eyes: str, dark: bool) -> None:
    """The bars of the duels, which stand under each other."""
    bars = [TONES[loss]["soft"] for loss in TONES]
    seen = [lab(BLIND[eyes] @ linear(DARK[tone] if dark else tone)) for tone in bars]
    for one, other in itertools.combinations(seen, 2):
        assert np.linalg.norm(one - other) > 15


def test_won_tied_and_lost_are_apart_in_grey() -> None:
    for loss in TONES:
        for seen in (lambda colour: colour, lambda colour: DARK[colour]):
            won, tied, lost = (lab(BLIND["grey print"] @ linear(seen(c)))[0] for c in (TONES[loss]["soft"], TIE, LOSE))
            assert min(abs(won - tied), abs(tied - lost)) > 15


def test_updates_differ_by_shape_and_dash_too() -> None:
    shapes = [shape for kinds in SHAPES.values() for shape in kinds]
    assert len(set(shapes)) == len(shapes)
    dashes = [tuple(dash) for kinds in DASHES.values() for dash in kinds]
    assert len(set(dashes)) == len(dashes)
