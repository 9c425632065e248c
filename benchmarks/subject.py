"""The network and the images of a benchmark: a VGG-16 and photographs, or random weights and generated pictures."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np
from PIL import Image

from benchmarks.data import BESIDE, DATA_VARIABLE, data_folder
from vgg_deploy.files import Source
from vgg_deploy.network.classes import numbered_classes
from vgg_deploy.network.manifest import PAPER_NORMALIZATION, Manifest, TrainScale
from vgg_deploy.network.spec import NetworkSpec
from vgg_deploy.network.weight_facts import WeightFacts
from vgg_deploy.views.search import find_images

if TYPE_CHECKING:  # not every process that imports this loads torch
    from train.network.checkpoint import Checkpoint

PICTURES = 90  # generated if there are no photographs
SIZES = ((500, 375), (375, 500), (500, 333), (400, 400))  # width and height of common photographs


@dataclass(frozen=True, slots=True)
class Setup:
    """The values of the options of all benchmarks; see `benchmarks.options`.

    Attributes:
        weights: a checkpoint; None: the one in the data folder, or random weights.
        images: a folder; None: the photos in the data folder, or generated pictures.
        width_divisor: above 1: a narrower network with random weights, to try the benchmarks.
        quick: few images and repetitions; the figures mean nothing.
        out: folder for the results; None: they are not written.
    """

    weights: Path | None = None
    images: Path | None = None
    width_divisor: int = 1
    quick: bool = False
    out: Path | None = None

    @property
    def data(self) -> Path | None:
        """The folder of real data; None: there is none. See `benchmarks.data`."""
        folder = data_folder()
        if folder is not None and not folder.is_dir():
            raise click.UsageError(f"{DATA_VARIABLE} names {folder}, which is not a folder")
        return folder


@dataclass(frozen=True, slots=True)
class MeasuredNetwork:
    """A network.

    Attributes:
        checkpoint: reads or makes the weights. Call it once for each export, which consumes them.
        name: what it is, as text.
        labelled: images in folders named after its classes; None: there are none.
    """

    checkpoint: Callable[[], Checkpoint]
    name: str
    labelled: Path | None = None


def measured_network(setup: Setup) -> MeasuredNetwork:
    """The requested checkpoint, the VGG-16 of the data folder, or one with random weights, which costs the same."""
    data = setup.data
    if setup.width_divisor == 1 and setup.weights is not None:
        path = setup.weights
        return MeasuredNetwork(lambda: _read(path, None), path.name)
    if setup.width_divisor == 1 and data is not None:
        path, labels = data / "vgg16_imagenette_fp16.safetensors", data / "imagenette_labels.txt"
        return MeasuredNetwork(lambda: _read(path, labels), path.name, data / "imagenette" / "val")
    spec = NetworkSpec("D", width_divisor=setup.width_divisor, fc_width=4096 // setup.width_divisor)
    width = "" if setup.width_divisor == 1 else f", width / {setup.width_divisor}"
    return MeasuredNetwork(lambda: random_checkpoint(spec), f"VGG-16 with random weights{width}")


def _read(path: Path, labels: Path | None) -> Checkpoint:
    from train.network.checkpoint import read

    if labels is None:
        return read(path)
    return read(path, WeightFacts(normalization=PAPER_NORMALIZATION, labels=labels.read_text(encoding="utf-8")))


def random_checkpoint(spec: NetworkSpec) -> Checkpoint:
    """Glorot's weights. S is the paper's 256, in proportion to the crop."""
    import torch

    from train.network.checkpoint import Checkpoint
    from train.network.model import VGG

    module = VGG(spec)
    module.initialise("glorot", torch.Generator().manual_seed(0))
    scale = spec.crop * 8 // 7
    manifest = Manifest(numbered_classes(spec.classes), spec, PAPER_NORMALIZATION, TrainScale(scale, scale))
    return Checkpoint(dict(module.state_dict()), manifest, Source("random", "0" * 64))


@dataclass(frozen=True, slots=True)
class ImageCollection:
    """Image files, and what they are in the plural, such as "photographs of photos/"."""

    paths: list[Path]
    kind: str

    def spread(self, count: int) -> list[Path]:
        """`count` of them at equal distances, or fewer if there are not as many."""
        step = max(1, len(self.paths) // count)
        return self.paths[::step][:count]

    def of_different_sizes(self, count: int) -> list[Path]:
        """`count` of them, of different sizes where possible, but at most half."""
        by_size: dict[tuple[int, int], list[Path]] = {}
        for path in self.paths:
            with Image.open(path) as image:
                by_size.setdefault(image.size, []).append(path)
        in_turn = (path for row in zip_longest(*by_size.values()) for path in row if path is not None)
        return sorted(islice(in_turn, min(count, max(1, len(self.paths) // 2))))

    def draw(self, count: int, also: Collection[Path] = ()) -> Drawn:
        """`count` of them to measure on, at most half, and the others for calibration.

        Args:
            also: further images to measure or compare on, which are kept out of the calibration.
        """
        measured = self.spread(min(count, max(1, len(self.paths) // 2)))
        reserved = {path.resolve() for path in (*measured, *also)}
        others = [path for path in self.paths if path.resolve() not in reserved]
        return Drawn(measured, others or self.paths, self.described(len(measured), calibrated=not others))

    def described(self, count: int, calibrated: bool = False) -> str:
        """ "5 photographs of photos/"; `calibrated`: INT8 was calibrated on them too."""
        kind = (
            self.kind.replace("photographs", "photograph").replace("pictures", "picture") if count == 1 else self.kind
        )
        return f"{count} {kind}" + (
            " (INT8 was calibrated on the same images, since there are no others)" if calibrated else ""
        )


@dataclass(frozen=True, slots=True)
class Drawn:
    """Images for one benchmark.

    Attributes:
        measured: images that are timed.
        calibration: images that give INT8 its ranges.
        name: the timed images, as text.
    """

    measured: list[Path]
    calibration: list[Path]
    name: str


def pictures(setup: Setup, folder: Path) -> ImageCollection:
    """The requested images, the photos of the data folder, or, with a message, pictures generated in `folder`."""
    images = setup.images or (setup.data and setup.data / "photos")
    if images is not None:
        return ImageCollection(list(find_images([str(images)])), f"photographs of {images.resolve().name}/")
    click.echo(
        f"no {BESIDE.parent.name}/{BESIDE.name}, no {DATA_VARIABLE} and no --images: measuring on generated pictures",
        err=True,
    )
    return ImageCollection(generated_pictures(folder / "pictures"), "generated pictures (noise and scanned digits)")


def verification(setup: Setup, count: int) -> list[Path]:
    """Up to `count` labelled images of the network's classes, to compare more answers than are timed.

    A network is confident about its own classes, so agreement on them means more.
    """
    folder = measured_network(setup).labelled
    return [] if folder is None or count == 0 else ImageCollection(list(find_images([str(folder)])), "").spread(count)


def generated_pictures(folder: Path) -> list[Path]:
    """Smooth noise and scanned digits as JPEG, in common sizes of photographs."""
    from sklearn.datasets import load_digits

    generator = np.random.default_rng(0)
    digits = load_digits().images
    folder.mkdir()
    for index in range(PICTURES):
        pixels = generator.integers(0, 256, (24, 32, 3), dtype=np.uint8)
        if index % 2:
            pixels = np.repeat((15 * digits[index]).astype(np.uint8)[:, :, None], 3, axis=2)
        image = Image.fromarray(pixels).resize(SIZES[index // 2 % len(SIZES)], Image.Resampling.BICUBIC)
        image.save(folder / f"{index:03d}.jpg", quality=90)
    return sorted(folder.iterdir())
