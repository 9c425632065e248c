"""A narrow network's manifest, and pictures of noise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vgg_deploy.network.manifest import Manifest
from vgg_deploy.network.spec import NetworkSpec


@pytest.fixture
def manifest(narrow_spec: Callable[..., NetworkSpec], manifest_for: Callable[..., Manifest]) -> Manifest:
    return manifest_for(narrow_spec("A"))


@pytest.fixture
def pictures(tmp_path: Path) -> Callable[..., list[Path]]:
    """`pictures(size, size, ...)` writes noise of those heights and widths; None writes a file that is no image."""

    def write(*sizes: tuple[int, int] | None) -> list[Path]:
        random = np.random.default_rng(len(sizes))
        paths = []
        for number, size in enumerate(sizes):
            path = tmp_path / f"{number:04}.png"
            if size is None:
                path.write_bytes(b"not an image")
            else:
                # Brightness differs from image to image and from side to side.
                brightness = random.uniform(0.2, 1) * np.linspace(1, 0.3, size[1])[:, None]
                pixels = random.integers(0, 256, (*size, 3)) * brightness
                Image.fromarray(pixels.astype(np.uint8)).save(path, compress_level=1)
            paths.append(path)
        return paths

    return write
