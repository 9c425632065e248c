"""The folder of real photographs, labelled images and weights, for benchmarks and tests."""

from __future__ import annotations

import os
from pathlib import Path

DATA_VARIABLE = "VGG_DEPLOY_TEST_DATA"
BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data"


def data_folder() -> Path | None:
    """The folder in $VGG_DEPLOY_TEST_DATA (empty: none). If it is not set, ../shared/data beside the project."""
    named = os.environ.get(DATA_VARIABLE)
    if named is not None:
        return Path(named) if named else None
    return BESIDE if BESIDE.is_dir() else None
