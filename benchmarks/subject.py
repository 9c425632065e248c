"""What is measured on: a VGG-16 and photographs, real where there are some."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from train.checkpoint import Checkpoint, Facts, read
from train.model import VGG
from vgg_deploy.classes import numbered_classes
from vgg_deploy.files import Source
from vgg_deploy.images import find_images
from vgg_deploy.manifest import PAPER_NORMALIZATION, Manifest, TrainScale
from vgg_deploy.spec import NetworkSpec

PICTURES = 90  # generated where there are no photographs


@dataclass(frozen=True, slots=True)
class Subject:
    """A network and images.

    Attributes:
        checkpoint: reads or makes the weights anew: an export consumes them.
        images: files.
        network, pictures: what they are, in words.
    """

    checkpoint: Callable[[], Checkpoint]
    images: list[Path]
    network: str
    pictures: str


def subject(folder: Path, weights: Path | None = None, images: Path | None = None) -> Subject:
    """By default the VGG-16 and the photos of the folder that VGG_DEPLOY_TEST_DATA names; without it a VGG-16 of random weights
    and generated pictures, which cost the same.

    Args:
        folder: where pictures are generated.
    """
    data = os.environ.get("VGG_DEPLOY_TEST_DATA")
    weights = weights or (Path(data) / "vgg16_imagenette_fp16.safetensors" if data else None)
    images = images or (Path(data) / "photos" if data else None)
    paths = generated_pictures(folder / "pictures") if images is None else list(find_images([str(images)]))
    pictures = "generated pictures" if images is None else f"photographs of {images.name}/"
    if weights is not None:
        facts, path = Facts(normalization=PAPER_NORMALIZATION), weights
        return Subject(lambda: read(path, facts), paths, path.name, pictures)
    spec = NetworkSpec("D")
    manifest = Manifest(numbered_classes(1000), spec, PAPER_NORMALIZATION, TrainScale(256, 256))
    return Subject(lambda: random_checkpoint(spec, manifest), paths, "VGG-16 of random weights", pictures)


def random_checkpoint(spec: NetworkSpec, manifest: Manifest) -> Checkpoint:
    """Glorot's weights."""
    network = VGG(spec)
    network.initialise("glorot", torch.Generator().manual_seed(0))
    return Checkpoint(dict(network.state_dict()), manifest, Source("random", "0" * 64))


def generated_pictures(folder: Path) -> list[Path]:
    """Smooth noise of the sizes of photographs, as JPEG."""
    generator = np.random.default_rng(0)
    folder.mkdir()
    for index in range(PICTURES):
        size = [(500, 375), (375, 500), (500, 333), (400, 400)][index % 4]
        noise = generator.integers(0, 256, (24, 32, 3), dtype=np.uint8)
        Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).save(folder / f"{index:03d}.jpg", quality=90)
    return sorted(folder.iterdir())
