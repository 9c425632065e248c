"""Options and parsers that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from vgg_deploy.manifest import Normalization, TrainScale


def comma_integers(_ctx: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """'256,288,320' -> (256, 288, 320)."""
    if value is None:
        return None
    try:
        return tuple(int(word) for word in value.split(","))
    except ValueError:
        raise click.BadParameter(
            f"{value!r}; expected whole numbers with commas between, such as 256,288,320"
        ) from None


def rgb_triple(_ctx: click.Context, parameter: click.Parameter, value: str | None) -> tuple[float, float, float] | None:
    """'123.68,116.779,103.939' -> three numbers; one number counts for all three."""
    if value is None:
        return None
    try:
        numbers = [float(word) for word in value.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) == 1:
        numbers *= 3
    if len(numbers) != 3:
        raise click.BadParameter(f"{value!r}; expected R,G,B in units of 0..255, such as 123.68,116.779,103.939")
    red, green, blue = numbers
    return red, green, blue


def train_scale(_ctx: click.Context, parameter: click.Parameter, value: str | None) -> TrainScale | None:
    """'256' or '256,512' -> S."""
    from vgg_deploy.errors import UsageError
    from vgg_deploy.manifest import TrainScale

    numbers = comma_integers(_ctx, parameter, value)
    if numbers is None:
        return None
    if len(numbers) > 2:
        raise click.BadParameter(f"{value!r}; expected S, or Smin,Smax")
    try:
        return TrainScale(numbers[0], numbers[-1])
    except UsageError as error:
        raise click.BadParameter(str(error)) from None


def chosen_normalization(
    name: str | None, mean: tuple[float, float, float] | None, std: tuple[float, float, float] | None
) -> Normalization | None:
    """The normalization that --normalization, --mean and --std say together; None: none of them was given.

    Raises:
        UsageError: torchvision's with another mean or std; numbers in units of 0..1.
    """
    from vgg_deploy.errors import UsageError
    from vgg_deploy.manifest import NORMALIZATIONS, Normalization

    if name == "torchvision" and (mean or std):
        raise UsageError("--normalization torchvision has its own mean and std; give --mean and --std without it")
    if name == "paper" and std:
        raise UsageError(
            "--normalization paper subtracts a mean and divides by nothing; give --mean and --std without it"
        )
    if mean is None and name is not None:
        return NORMALIZATIONS[name]
    if mean is None:
        if std is not None:
            raise UsageError("--std was given without --mean; give both, in units of 0..255")
        return None
    std = std or (1.0, 1.0, 1.0)
    if (any(mean) and max(mean) <= 1) or (std != (1.0, 1.0, 1.0) and max(std) <= 1):
        scaled = ",".join(f"{255 * value:.3f}" for value in mean), ",".join(f"{255 * value:.3f}" for value in std)
        raise UsageError(
            f"--mean and --std look like units of 0..1; give them in units of 0..255: --mean {scaled[0]} --std {scaled[1]}"
        )
    return Normalization(mean, std)


def read_labels(path: Path | None) -> str | None:
    """Text of a labels file.

    Raises:
        UsageError: it cannot be read as text.
    """
    from vgg_deploy.errors import UsageError

    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not UTF-8 text; a labels file has one label a line") from None
    except OSError as error:
        raise UsageError(f"cannot read the labels file {path}: {error.strerror}") from None


def engine_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --runtime, --device and --threads."""
    options = (
        click.option(
            "--runtime",
            default="auto",
            show_default=True,
            type=click.Choice(["auto", "onnxruntime", "openvino"]),
            help="What computes. auto: the first that is installed and has the device.",
        ),
        click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N."),
        click.option("--threads", type=int, help="Threads of computation.  [default: one for each core]"),
    )
    for option in reversed(options):
        command = option(command)
    return command
