"""What `vgg-deploy bench` times and for how long, with its options."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import click

from vgg_deploy.bench.batch_shape import BatchShape
from vgg_deploy.bench.effort import Effort
from vgg_deploy.cli.found_images import found_images
from vgg_deploy.cli.parameters import comma_integers, gathered, images_option
from vgg_deploy.errors import UsageError, either

SECONDS = 10.0


@dataclass(frozen=True)
class Workloads:
    """What to time.

    Attributes:
        shapes: batch shapes; None: one image of the network's crop, and eight if the first model accepts them.
        protocol: a test protocol to time over the images, decoding included.
        scales: the Q's of the protocol.
        images: names of image files, folders and patterns; if empty, pictures are generated.
        limit: use at most this many images.
        layers: whether to profile layers.
        peak: whether to measure the machine's matrix-multiply peak beside the contestants.
    """

    shapes: tuple[BatchShape, ...] | None
    protocol: str | None
    scales: tuple[int, ...] | None
    images: tuple[str, ...]
    limit: int
    layers: bool
    peak: bool

    def __post_init__(self) -> None:
        from vgg_deploy.views.protocols import PROTOCOLS

        if self.protocol is not None and self.protocol not in PROTOCOLS:
            raise UsageError(f"--protocol is {self.protocol!r}; expected {either(PROTOCOLS)}")
        if self.protocol is not None and not self.images:
            raise UsageError("--protocol times image files: give --images DIR")
        if self.scales is not None and self.protocol is None:
            raise UsageError("--scales requires --protocol")

    @functools.cached_property
    def paths(self) -> tuple[Path, ...]:
        """The image files."""
        return tuple(found_images(self.images))


def _shapes(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> tuple[BatchShape, ...] | None:
    """'1x224x224,8x224x224' -> shapes, each once."""
    if value is None:
        return None
    try:
        return tuple(dict.fromkeys(BatchShape.parse(shape) for shape in value.split(",")))
    except UsageError as error:
        raise click.BadParameter(str(error)) from None


# The command receives `workloads`, a `Workloads`.
workload_options = gathered(
    "workloads",
    Workloads,
    click.option(
        "--shapes",
        callback=_shapes,
        metavar="NxHxW,...",
        help="Batches to time: images, rows, columns.  [default: one image of the network's crop, and eight; none if "
        "--protocol is given]",
    ),
    click.option("--protocol", metavar="P", help="Also time a test protocol over the images, decoding included."),
    click.option("--scales", callback=comma_integers, metavar="Q,Q,...", help="Test scales of the protocol."),
    images_option(required=False),
    click.option(
        "--limit",
        type=click.IntRange(1),
        metavar="N",
        default=16,
        show_default=True,
        help="Use at most this many images, a seeded sample.",
    ),
    click.option("--layers", is_flag=True, help="Show the time of each layer."),
    click.option(
        "--peak",
        is_flag=True,
        help="Also measure the machine's matrix-multiply peak, and show the share of it that each contestant reaches. "
        "Takes 10 s to minutes longer.",
    ),
)


def _effort(*, repetitions: int | None, seconds: float | None) -> Effort:
    if repetitions is not None and seconds is not None:
        raise click.UsageError("--repetitions and --seconds exclude each other; give one of them")
    return Effort(repetitions, SECONDS if seconds is None else seconds)


# The command receives `effort`, an `Effort`.
effort_options = gathered(
    "effort",
    _effort,
    click.option("--repetitions", type=click.IntRange(1), metavar="N", help="Repetitions, in place of --seconds."),
    click.option(
        "--seconds",
        type=click.FloatRange(0, min_open=True),
        metavar="S",
        help="Time to spend on each shape and on the protocol, for all contestants together; at least three "
        f"repetitions.  [default: {SECONDS:g}]",
    ),
)
