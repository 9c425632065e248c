"""Options and parsers that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from vgg_deploy.network.classes import read_labels as read_labels

if TYPE_CHECKING:
    from vgg_deploy.network.manifest import Normalization, TrainScale


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
    from vgg_deploy.network.manifest import TrainScale

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
    from vgg_deploy.network.manifest import NORMALIZATIONS, Normalization

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


def engine_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --runtime, --device, --threads and --allow-bf16."""
    options = (
        click.option(
            "--runtime",
            default="auto",
            show_default=True,
            type=click.Choice(["auto", "onnxruntime", "openvino", "ncnn", "tensorrt", "tensorrt-rtx"]),
            help="What computes. auto: for an ONNX file the fastest that is installed for it, which is said; for a plan what built it.",
        ),
        click.option("--device", help="cpu, cuda or cuda:N.  [default: cpu; cuda:0 for a plan]"),
        click.option("--threads", type=int, help="Threads of computation on the CPU.  [default: one for each core]"),
        click.option(
            "--allow-bf16",
            is_flag=True,
            help="Compute in bfloat16 on CPUs that do so; answers change as FP16's do.",
        ),
    )
    return _with_options(command, options)


def stream_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --requests."""
    options = (
        click.option(
            "--requests",
            type=int,
            help="Batches computed side by side; they share the threads.  [default: 2 on the CPU]",
        ),
    )
    return _with_options(command, options)


def plan_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --cuda-api and --trust."""
    options = (
        click.option(
            "--cuda-api",
            default="cuda-python",
            show_default=True,
            type=click.Choice(["cuda-python", "pycuda"]),
            help="Through what a plan's GPU memory is handled.",
        ),
        click.option(
            "--trust",
            is_flag=True,
            help="Run a plan that has no manifest beside it (with --labels), or another one's. Plans run native code.",
        ),
    )
    return _with_options(command, options)


def _with_options(
    command: Callable[..., Any], options: Sequence[Callable[[Callable[..., Any]], Callable[..., Any]]]
) -> Callable[..., Any]:
    for option in reversed(options):
        command = option(command)
    return command
