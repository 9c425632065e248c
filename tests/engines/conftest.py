"""Fixtures for tests of engines: the tiny network of tests/data, and images for it. They need no torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vgg_deploy.network.tensors import Images


@pytest.fixture(scope="session")
def tiny_model() -> Path:
    """tests/data/tiny.onnx: configuration A, crop 32, five classes, free axes, all outputs; from make_tiny.py."""
    return Path(__file__).parent.parent / "data" / "tiny.onnx"


@pytest.fixture(scope="session")
def images() -> Images:
    """uint8 [8, 45, 70, 3]: noise; the two sides of each image differ in brightness."""
    chance = np.random.default_rng(0)
    noise = chance.integers(0, 128, (8, 45, 70, 3))
    noise[:, :, 35:] += chance.integers(0, 128, (8, 1, 1, 3))
    return noise.astype(np.uint8)
