"""Options that several commands share, and the parsers of their values."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from vgg_deploy.errors import UsageError
from vgg_deploy.inference.engine_options import DEFAULT_CUDA_API, EngineOptions
from vgg_deploy.network.label_files import read_labels
from vgg_deploy.network.manifest import NORMALIZATIONS, Normalization, TrainScale

Function = Callable[..., Any]
Decorator = Callable[[Function], Function]

_LABELS = "vgg_deploy.labels"  # where click's context keeps the value of --labels


def gathered(name: str, make: Callable[..., object], *options: Decorator) -> Decorator:
    """Adds options to a command. The command receives, as `name`, the object that `make` builds from their values."""

    def decorate(command: Function) -> Function:
        def with_object(**values: Any) -> Any:
            own = {parameter: values.pop(parameter) for parameter in names}
            return command(**{name: make(**own)}, **values)

        before = len(_parameters(command))
        function: Function = functools.wraps(command)(with_object)
        for option in reversed(options):  # click's decorators apply from the last to the first
            function = option(function)
        names = [parameter.name for parameter in _parameters(function)[before:] if parameter.expose_value]
        return function

    return decorate


def _parameters(command: Function) -> list[click.Parameter]:
    """The parameters that decorators have added so far."""
    return list(getattr(command, "__click_params__", ()))


def comma_integers(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """'256,288,320' -> (256, 288, 320)."""
    if value is None:
        return None
    try:
        return tuple(int(number) for number in value.split(","))
    except ValueError:
        raise click.BadParameter(
            f"{value!r} is not a comma-separated list of whole numbers, such as 256,288,320"
        ) from None


def rgb_triple(
    _ctx: click.Context, _parameter: click.Parameter, value: str | None
) -> tuple[float, float, float] | None:
    """'123.68,116.779,103.939' -> three numbers. A single number stands for all three."""
    if value is None:
        return None
    try:
        numbers = [float(number) for number in value.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) == 1:
        numbers *= 3
    if len(numbers) != 3:
        raise click.BadParameter(f"{value!r} is not R,G,B in units of 0..255, such as 123.68,116.779,103.939")
    red, green, blue = numbers
    return red, green, blue


def train_scale(ctx: click.Context, parameter: click.Parameter, value: str | None) -> TrainScale | None:
    """'256' or '256,512' -> S."""
    numbers = comma_integers(ctx, parameter, value)
    if numbers is None:
        return None
    if len(numbers) > 2:
        raise click.BadParameter(f"{value!r} has {len(numbers)} numbers; expected S or Smin,Smax")
    try:
        return TrainScale(numbers[0], numbers[-1])
    except UsageError as error:
        raise click.BadParameter(str(error)) from None


def chosen_normalization(
    name: str | None, mean: tuple[float, float, float] | None, std: tuple[float, float, float] | None
) -> Normalization | None:
    """The normalization that --normalization, --mean and --std state together. None if none of them is given.

    Raises:
        UsageError: a mean or std that contradicts the name; numbers in units of 0..1; a mean of 0 with a std of 1,
            which may mean 0..1 or 0..255.
    """
    if name not in (None, "paper") and (mean or std):
        raise UsageError(f"--normalization {name} has its own mean and std; give --mean and --std without it")
    if name == "paper" and std:
        raise UsageError("--normalization paper does not divide; give --mean and --std without it")
    if mean is None and name is not None:
        return NORMALIZATIONS[name]
    if mean is None:
        if std is not None:
            raise UsageError("--std requires --mean; both are in units of 0..255")
        return None
    std = std or (1.0, 1.0, 1.0)
    if (any(mean) and max(mean) <= 1) or (std != (1.0, 1.0, 1.0) and max(std) <= 1):
        scaled = ",".join(f"{255 * value:.3f}" for value in mean), ",".join(f"{255 * value:.3f}" for value in std)
        raise UsageError(
            "--mean and --std look like units of 0..1. Give them in units of 0..255: "
            f"--mean {scaled[0]} --std {scaled[1]}"
        )
    if not any(mean) and std == (1.0, 1.0, 1.0):
        raise UsageError(
            "--mean 0 with --std 1 has two meanings. Give --normalization unit if the network takes pixels in 0..1, "
            "as ToTensor alone gives; give --normalization raw if it takes pixels in 0..255 as they are"
        )
    return Normalization(mean, std)


@dataclass(frozen=True, slots=True)
class LabelsFile:
    """The file that --labels names, and its text."""

    path: Path
    text: str


def labels_text() -> str | None:
    """The text of the running command's labels file. None if --labels is not given."""
    labels: LabelsFile | None = click.get_current_context().meta.get(_LABELS)
    return None if labels is None else labels.text


def labels_files() -> tuple[Path, ...]:
    """The running command's labels file, if there is one, for a list of the files that it reads."""
    labels: LabelsFile | None = click.get_current_context().meta.get(_LABELS)
    return () if labels is None else (labels.path,)


def labels_option(command: Function) -> Function:
    """Adds --labels, unless the command has it already. The file is read at once; `labels_text` returns its text."""
    if any(parameter.name == "labels" for parameter in _parameters(command)):
        return command
    return click.option(
        "--labels",
        type=click.Path(path_type=Path),
        metavar="FILE",
        expose_value=False,
        callback=_read_labels,
        help="Class names: one LABEL or ID<TAB>LABEL per line in the order of the outputs, INDEX LABEL lines, or "
        "JSON.  [default: the model's]",
    )(command)


def _read_labels(ctx: click.Context, _parameter: click.Parameter, path: Path | None) -> None:
    if path is not None:
        ctx.meta[_LABELS] = LabelsFile(path, read_labels(path) or "")


def scales_option(help: str) -> Decorator:
    """Adds --scales, the test scales Q."""
    return click.option("--scales", callback=comma_integers, metavar="Q,Q,...", help=help)


def flip_option(
    help: str = "Score mirrored views too.  [default: as in training]",
) -> Decorator:
    """Adds --flip and --no-flip, the parameter `mirror`."""
    return click.option("--flip/--no-flip", "mirror", default=None, help=help)


normalization_option = click.option(
    "--normalization",
    type=click.Choice(tuple(NORMALIZATIONS)),
    help="For weights whose file does not state it. paper: 0..255 minus a mean. unit: 0..1. tf: -1..1. raw: 0..255.",
)

std_option = click.option(
    "--std", callback=rgb_triple, metavar="R,G,B", help="Divisor in units of 0..255.  [default: 1,1,1]"
)

batch_option = click.option(
    "--batch",
    type=click.IntRange(1),
    metavar="N",
    help="Largest number of views of one shape in a call.  [default: 2; 4 on a GPU]",
)


def images_option(*, required: bool) -> Decorator:
    """Adds --images, patterns of image files."""
    return click.option(
        "--images",
        required=required,
        multiple=True,
        metavar="DIR",
        help="Folder, file or glob pattern of real images. Can be repeated.",
    )


def engine_options(
    *,
    requests: str | None = "Batches that run in parallel and share the threads.  [default: 2 on the CPU]",
    plans: bool = True,
) -> Decorator:
    """Adds the options for opening an engine. The command receives them as `options`, an `EngineOptions`.

    They are --runtime, --device, --threads, --allow-bf16 and --labels; on request also --requests, --cuda-api and
    --trust.

    Args:
        requests: the help text of --requests. None: the command does not have the option.
        plans: whether the command has --cuda-api and --trust.
    """
    options: list[Decorator] = [
        click.option(
            "--runtime",
            default="auto",
            show_default=True,
            type=click.Choice(["auto", "onnxruntime", "openvino", "ncnn", "tensorrt", "tensorrt-rtx"]),
            help="Runtime of the model. auto: for an ONNX file, the fastest one installed; for a plan, the one that "
            "built it.",
        ),
        click.option("--device", metavar="DEVICE", help="cpu, cuda or cuda:N.  [default: cpu; cuda:0 for a plan]"),
        click.option("--threads", type=int, metavar="N", help="Compute threads on the CPU.  [default: one per core]"),
        click.option(
            "--allow-bf16",
            is_flag=True,
            help="Compute in bfloat16 if the CPU supports it. Predictions change about as much as in FP16.",
        ),
    ]
    if requests is not None:
        options.append(click.option("--requests", type=int, metavar="N", help=requests))
    if plans:
        options += [
            cuda_api_option("Library that manages a plan's GPU memory."),
            click.option(
                "--trust",
                is_flag=True,
                help="Run a plan that has no manifest beside it (requires --labels), or whose manifest describes "
                "another file. A plan runs native code.",
            ),
        ]
    return gathered("options", _engine_options, *options, labels_option)


def cuda_api_option(help: str) -> Decorator:
    """Adds --cuda-api."""
    return click.option(
        "--cuda-api",
        default=DEFAULT_CUDA_API,
        show_default=True,
        type=click.Choice(["cuda-python", "pycuda"]),
        help=help,
    )


def _engine_options(**values: Any) -> EngineOptions:
    return EngineOptions(**values, labels=labels_text())
