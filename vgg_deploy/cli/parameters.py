"""Options that several commands share, and the parsers of their values."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vgg_deploy.inference.engine_options import DEFAULT_CUDA_API, EngineOptions
from vgg_deploy.network.classes import read_labels

if TYPE_CHECKING:
    from vgg_deploy.network.manifest import Normalization, TrainScale

Function = Callable[..., Any]
Decorator = Callable[[Function], Function]

_LABELS = "vgg_deploy.labels"  # where the value of --labels is in click's context
_ENGINE_FIELDS = tuple(field.name for field in fields(EngineOptions))

REQUESTS_HELP = "Batches computed side by side. They share the threads.  [default: 2 on the CPU]"


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


@dataclass(frozen=True, slots=True)
class LabelsFile:
    """The file that --labels names, and its text."""

    path: Path
    text: str


def labels_text() -> str | None:
    """The text of the running command's labels file; None: --labels was not given."""
    labels: LabelsFile | None = click.get_current_context().meta.get(_LABELS)
    return None if labels is None else labels.text


def labels_files() -> tuple[Path, ...]:
    """The running command's labels file, if it has one, as one of the files that it reads."""
    labels: LabelsFile | None = click.get_current_context().meta.get(_LABELS)
    return () if labels is None else (labels.path,)


def labels_option(command: Function) -> Function:
    """Adds --labels, once however often it is applied. The file is read at once; `labels_text` returns it."""
    if any(parameter.name == "labels" for parameter in getattr(command, "__click_params__", ())):
        return command
    return click.option(
        "--labels",
        type=click.Path(path_type=Path),
        metavar="FILE",
        expose_value=False,
        callback=_read_labels,
        help="Class names in the order of the outputs, one a line: LABEL or ID<TAB>LABEL.  [default: those of the model]",
    )(command)


def _read_labels(ctx: click.Context, _parameter: click.Parameter, path: Path | None) -> None:
    if path is not None:
        ctx.meta[_LABELS] = LabelsFile(path, read_labels(path) or "")


def engine_options(*, requests: str | None = REQUESTS_HELP, plans: bool = True) -> Decorator:
    """Adds the options that say how to open an engine. The command receives them as `options`, an `EngineOptions`.

    They are --runtime, --device, --threads, --allow-bf16 and --labels, and on request --requests, --cuda-api and --trust.

    Args:
        requests: the help text of --requests; None: the command has no such option.
        plans: whether the command has --cuda-api and --trust.
    """
    added = [
        click.option(
            "--runtime",
            default="auto",
            show_default=True,
            type=click.Choice(["auto", "onnxruntime", "openvino", "ncnn", "tensorrt", "tensorrt-rtx"]),
            help="Runtime that computes. auto: the fastest that is installed for this ONNX file; for a plan, the one that built it.",
        ),
        click.option("--device", help="cpu, cuda or cuda:N.  [default: cpu; cuda:0 for a plan]"),
        click.option("--threads", type=int, help="Compute threads on the CPU.  [default: one for each core]"),
        click.option(
            "--allow-bf16",
            is_flag=True,
            help="Compute in bfloat16 if the CPU can. Answers then change about as much as in FP16.",
        ),
    ]
    if requests is not None:
        added.append(click.option("--requests", type=int, help=requests))
    if plans:
        added += [
            click.option(
                "--cuda-api",
                default=DEFAULT_CUDA_API,
                show_default=True,
                type=click.Choice(["cuda-python", "pycuda"]),
                help="Library that handles a plan's GPU memory.",
            ),
            click.option(
                "--trust",
                is_flag=True,
                help="Run a plan without a manifest beside it (then --labels is required), or with a manifest of another plan. "
                "A plan runs native code.",
            ),
        ]

    def decorate(command: Function) -> Function:
        @functools.wraps(command)
        def with_options(**values: Any) -> Any:
            given = {name: values.pop(name) for name in _ENGINE_FIELDS if name in values}
            return command(options=EngineOptions(**given, labels=labels_text()), **values)

        return with_click_options(labels_option(with_options), added)

    return decorate


def with_click_options(command: Function, options: Sequence[Decorator]) -> Function:
    """Applies click's decorators so that `--help` lists the options in this order."""
    for option in reversed(options):
        command = option(command)
    return command
