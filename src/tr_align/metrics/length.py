"""What longer replies are rated by for being longer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tr_align.stats import Array


def within_slope(x: Array, y: Array, groups: Sequence[object]) -> float:
    """The slope of y on x by least squares with a level of its own for each group (a fixed-effects regression).

    The same as the slope through the origin of both, each less its mean in the group (Frisch & Waugh 1933).

    Args: `x` and `y` of shape (n,); a row where one of them is NaN does not count. groups: what each row belongs to.
    Returns: in units of y per unit of x; 0 where x does not differ within any group, so that no slope is needed to
        hold it fixed.
    """
    known = ~(np.isnan(x) | np.isnan(y))
    numbered: dict[object, int] = {}
    of_row = np.array([numbered.setdefault(group, len(numbered)) for group in groups], dtype=np.int64)[known]
    n = np.maximum(np.bincount(of_row), 1)
    x, y = (values[known] - (np.bincount(of_row, weights=values[known]) / n)[of_row] for values in (x, y))
    spread = float(x @ x)
    return float(x @ y) / spread if spread > 0 else 0.0
