"""Options of the training command for its execution: device, data workers and speed."""

from __future__ import annotations

import functools
import importlib.util
import os
from typing import TYPE_CHECKING, Any

import click

from vgg_deploy.cli.parameters import Function, with_click_options
from vgg_deploy.cli.weights import require_torch
from vgg_deploy.cores import usable_cores
from vgg_deploy.errors import UsageError

if TYPE_CHECKING:
    from train.compute.execution import Execution

_OPTIONS = {
    "workers": click.option(
        "--workers",
        type=click.IntRange(0),
        help="Processes that decode images. 0: the training process decodes them.  [default: 1; on a GPU: one for "
        "each core]",
    ),
    "device": click.option(
        "--device",
        default="auto",
        show_default=True,
        type=click.Choice(["auto", "cpu", "cuda"]),
        help="Device that computes. auto: the GPU if there is one.",
    ),
    "micro_batch": click.option(
        "--micro-batch",
        type=int,
        help="Images computed at once in each process. Fewer need less memory and give the same result.  [default: "
        "the batch]",
    ),
    "channels_last": click.option(
        "--channels-last/--no-channels-last",
        default=None,
        help="Store activations with channels last, the layout of tensor cores.  [default: on a GPU]",
    ),
    "compiled": click.option(
        "--compile/--no-compile", "compiled", default=None, help="Use torch.compile.  [default: on a GPU]"
    ),
    "bf16": click.option(
        "--bf16/--no-bf16", default=None, help="Compute in bfloat16, with float32 weights.  [default: on a GPU]"
    ),
    "save_minutes": click.option(
        "--save-minutes",
        type=float,
        help="Minutes between saves of the training state within an epoch. 0: after each step.  [default: 10]",
    ),
}


def execution_options(command: Function) -> Function:
    """Adds the options of the execution. The command receives them as `execution`, an `Execution`."""

    @functools.wraps(command)
    def with_execution(**values: Any) -> Any:
        prepare_torch()
        options = {name: values.pop(name) for name in _OPTIONS}
        chosen = {name: value for name, value in options.items() if value is not None}
        return command(execution=chosen_execution(**chosen), **values)

    return with_click_options(with_execution, list(_OPTIONS.values()))


def prepare_torch() -> None:
    """Sets the environment variables that torch reads when it is loaded.

    Raises:
        MissingDependencyError: torch or safetensors is not installed.
    """
    # By default, the threads of a step wait for each other by spinning. While other programs used the same cores,
    # spinning made training on the digits 3 to 10 times slower (two cores, 27-157 instead of 293-429 images/s). On idle
    # cores, sleeping costs a fifth of the speed.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if "RANK" in os.environ:  # torch's C++ logs pages if torchrun ends before its processes; we print one line
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    require_torch("training")


def chosen_execution(device: str, **chosen: Any) -> Execution:
    """The execution on a device, with defaults that depend on the device.

    Raises:
        UsageError: a value is out of range, or there is no such device.
    """
    import torch

    from train.compute.execution import Execution

    on_gpu = device != "cpu" and torch.cuda.is_available()
    if device == "cuda" and not on_gpu:
        raise UsageError("--device cuda, but torch finds no CUDA device; leave out --device to train on the CPU")
    # A GPU can use what all cores decode. On the CPU, one worker decodes more images than the cores can train on.
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    defaults = {
        "workers": max(1, usable_cores() // processes) if on_gpu else 1,
        "channels_last": on_gpu,
        "compiled": on_gpu and importlib.util.find_spec("triton") is not None,
        "bf16": on_gpu,
    }
    return Execution(device="cuda" if on_gpu else "cpu", **(defaults | chosen))
