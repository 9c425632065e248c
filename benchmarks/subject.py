"""What is measured on: a VGG-16 and photographs, real where there are some."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
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
from vgg_deploy.views.images import find_images

if TYPE_CHECKING:  # torch is not for every process that reads this
    from train.network.checkpoint import Checkpoint

PICTURES = 90  # generated where there are no photographs
SIZES = ((500, 375), (375, 500), (500, 333), (400, 400))  # width and height of common photographs


@dataclass(frozen=True, slots=True)
class Setup:
    """What the options that all benchmarks share say; see `benchmarks.options`.

    Attributes:
        weights: a checkpoint; None: that of the data folder, or random weights.
        images: a folder; None: the photos of the data folder, or generated pictures.
        width_divisor: above 1, random weights of a narrower network, for trying the benchmarks.
        quick: few images and repetitions: the figures mean nothing.
        out: where results are written; None: nowhere.
    """

    weights: Path | None = None
    images: Path | None = None
    width_divisor: int = 1
    quick: bool = False
    out: Path | None = None

    @property
    def data(self) -> Path | None:
        """The folder of real data, where there is one; see `benchmarks.data`."""
        folder = data_folder()
        if folder is not None and not folder.is_dir():
            raise click.UsageError(f"{DATA_VARIABLE} names {folder}, which is not a folder")
        return folder


@dataclass(frozen=True, slots=True)
class Network:
    """A network.

    Attributes:
        checkpoint: reads or makes the weights anew: an export consumes them.
        words: what it is.
        labelled: a folder of images in folders that name its classes, where there is one.
    """

    checkpoint: Callable[[], Checkpoint]
    words: str
    labelled: Path | None = None


def network(setup: Setup) -> Network:
    """The checkpoint that is asked for, or the VGG-16 of the data folder, or one of random weights, which costs the same."""
    data = setup.data
    if setup.width_divisor == 1 and setup.weights is not None:
        path = setup.weights
        return Network(lambda: _read(path, None), path.name)
    if setup.width_divisor == 1 and data is not None:
        path, labels = data / "vgg16_imagenette_fp16.safetensors", data / "imagenette_labels.txt"
        return Network(lambda: _read(path, labels), path.name, data / "imagenette" / "val")
    spec = NetworkSpec("D", width_divisor=setup.width_divisor, fc_width=4096 // setup.width_divisor)
    width = "" if setup.width_divisor == 1 else f", width / {setup.width_divisor}"
    return Network(lambda: random_checkpoint(spec), f"VGG-16 of random weights{width}")


def _read(path: Path, labels: Path | None) -> Checkpoint:
    from train.network.checkpoint import Facts, read

    if labels is None:
        return read(path)
    return read(path, Facts(normalization=PAPER_NORMALIZATION, labels=labels.read_text(encoding="utf-8")))


def random_checkpoint(spec: NetworkSpec) -> Checkpoint:
    """Glorot's weights, for the paper's S in proportion to the crop."""
    import torch

    from train.network.checkpoint import Checkpoint
    from train.network.model import VGG

    module = VGG(spec)
    module.initialise("glorot", torch.Generator().manual_seed(0))
    scale = spec.crop * 8 // 7
    manifest = Manifest(numbered_classes(spec.classes), spec, PAPER_NORMALIZATION, TrainScale(scale, scale))
    return Checkpoint(dict(module.state_dict()), manifest, Source("random", "0" * 64))


@dataclass(frozen=True, slots=True)
class Pictures:
    """Image files, and what they are."""

    paths: list[Path]
    words: str

    def spread(self, count: int) -> list[Path]:
        """`count` of them, from all over; fewer where there are not so many."""
        step = max(1, len(self.paths) // count)
        return self.paths[::step][:count]

    def draw(self, count: int, besides: Collection[Path] = ()) -> Drawn:
        """`count` of them to measure on, at most half, and the others for calibration, of which none is measured on.

        Args:
            besides: further images that answers are compared on.
        """
        measured = self.spread(min(count, max(1, len(self.paths) // 2)))
        kept = {path.resolve() for path in (*measured, *besides)}
        others = [path for path in self.paths if path.resolve() not in kept]
        words = f"{len(measured)} {self.words}" + (
            "" if others else ", on which INT8 was calibrated too: there are no others"
        )
        return Drawn(measured, others or self.paths, words)


@dataclass(frozen=True, slots=True)
class Drawn:
    """Images for one benchmark.

    Attributes:
        measured: what is timed.
        calibration: what gives INT8 its ranges.
        words: what was measured on.
    """

    measured: list[Path]
    calibration: list[Path]
    words: str


def pictures(setup: Setup, folder: Path) -> Pictures:
    """The images that are asked for, or the photos of the data folder, or pictures generated in `folder`; says where there are none."""
    images = setup.images or (setup.data and setup.data / "photos")
    if images is not None:
        return Pictures(list(find_images([str(images)])), f"photographs of {images.resolve().name}/")
    click.echo(
        f"no {BESIDE.parent.name}/{BESIDE.name}, no {DATA_VARIABLE} and no --images: on generated pictures", err=True
    )
    return Pictures(generated_pictures(folder / "pictures"), "generated pictures (noise and scanned digits)")


def verification(setup: Setup, count: int) -> list[Path]:
    """Up to `count` labelled images of the network's own classes, of which it is sure, for comparing more answers than are timed;
    none where there are none."""
    folder = network(setup).labelled
    return [] if folder is None or count == 0 else Pictures(list(find_images([str(folder)])), "").spread(count)


def generated_pictures(folder: Path) -> list[Path]:
    """Smooth noise and scanned digits, of the sizes of photographs, as JPEG."""
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
