"""What tests of several files look at: one whole report on disk, which takes a quarter of a minute to draw."""

from __future__ import annotations

from pathlib import Path

import pytest

from reports.made_up import report
from tr_align.reports.build import build


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the made-up report; read it only."""
    folder = tmp_path_factory.mktemp("run") / "reports"
    build(report(), folder)
    return folder
