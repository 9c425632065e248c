"""A narrow network that has every part that can be damaged: LRN, a std, a folded fc6; and pictures in colour."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from tests.conftest import make_manifest, make_spec, make_weights
from vgg_deploy.network.manifest import TORCHVISION_NORMALIZATION

if TYPE_CHECKING:
    from tests.mutants.artifacts import Network


@pytest.fixture(scope="session")
def network(tmp_path_factory: pytest.TempPathFactory) -> Network:
    """Configuration A-LRN with random weights, and two pictures."""
    pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    from tests.mutants.artifacts import Network
    from train.network.checkpoint import save

    folder = tmp_path_factory.mktemp("network")
    spec = make_spec("A-LRN")
    manifest = make_manifest(spec, normalization=TORCHVISION_NORMALIZATION, training={"epoch": {"number": 3}})
    weights = make_weights(spec)
    weights["conv1_1.weight"] *= 58  # the std divides pixels by as much
    weights["conv3_2.weight"][0, 0, 0, 0] = 0.0
    save(folder / "narrow.safetensors", weights, manifest)
    images = []
    for number in range(2):
        coarse = np.random.default_rng(number).integers(0, 256, (5, 6, 3), dtype=np.uint8)
        images.append(folder / f"{number}.png")
        Image.fromarray(coarse).resize((90, 70), Image.Resampling.BILINEAR).save(images[-1])
    return Network(folder / "narrow.safetensors", tuple(images))
