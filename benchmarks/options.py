"""Options of all benchmarks."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from benchmarks.report import RESULTS
from benchmarks.subject import Setup

_OPTIONS = (
    click.option("--weights", type=click.Path(path_type=Path), help="Checkpoint whose file states its normalization."),
    click.option("--images", type=click.Path(path_type=Path), help="Folder of photographs."),
    click.option(
        "--width-divisor",
        default=1,
        show_default=True,
        help="Try the benchmark on a narrower network with random weights. The figures do not apply to a VGG.",
    ),
    click.option(
        "--quick",
        is_flag=True,
        help="One repetition on few images, to see that it runs. Writes results only with --out.",
    ),
    click.option("--out", type=click.Path(path_type=Path), help=f"Folder for the results.  [default: {RESULTS.name}/]"),
)


def setup_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds --weights, --images, --width-divisor, --quick and --out. The command receives them as one `Setup`."""

    @functools.wraps(command)
    def with_setup(
        weights: Path | None,
        images: Path | None,
        width_divisor: int,
        quick: bool,
        out: Path | None,
        **others: Any,
    ) -> None:
        written = out or (None if quick else RESULTS)
        command(Setup(weights, images, width_divisor, quick, written), **others)

    decorated: Callable[..., None] = with_setup
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated
