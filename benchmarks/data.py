"""Where real photographs, labelled images and weights are, for benchmarks and tests."""

from __future__ import annotations

import os
from pathlib import Path

DATA_VARIABLE = "VGG_DEPLOY_TEST_DATA"
BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data"


def data_folder() -> Path | None:
    """The folder that $VGG_DEPLOY_TEST_DATA names, where that is set (to nothing: none); else ../shared/data of the project's root."""
    named = os.environ.get(DATA_VARIABLE)
    if named is not None:
        return Path(named) if named else None
    return BESIDE if BESIDE.is_dir() else None
