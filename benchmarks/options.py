"""Options of all benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from benchmarks.report import RESULTS
from benchmarks.subject import Setup
from vgg_deploy.cli.parameters import gathered


def _setup(*, quick: bool, out: Path | None, **values: Any) -> Setup:
    return Setup(quick=quick, out=out or (None if quick else RESULTS), **values)


# The command receives `setup`, a `Setup`.
setup_options = gathered(
    "setup",
    _setup,
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
