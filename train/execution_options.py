"""Options of the training command for its execution: device, data workers and speed."""

from __future__ import annotations

import importlib.util
import os
from typing import TYPE_CHECKING, Any

import click

from vgg_deploy.cli.parameters import gathered
from vgg_deploy.cli.weights import require_torch
from vgg_deploy.cores import usable_cores
from vgg_deploy.errors import UsageError

if TYPE_CHECKING:
    from train.compute.execution import Execution


def _execution(**options: Any) -> Execution:
    prepare_torch()
    return chosen_execution(**{name: value for name, value in options.items() if value is not None})


# The command receives `execution`, an `Execution`.
execution_options = gathered(
    "execution",
    _execution,
    click.option(
        "--workers",
        type=click.IntRange(0),
        help="Processes that decode images. 0: the training process decodes them.  [default: 1; on a GPU: one for "
        "each core]",
    ),
    click.option(
        "--device",
        default="auto",
        show_default=True,
        type=click.Choice(["auto", "cpu", "cuda"]),
        help="Device that computes. auto: the GPU if there is one.",
    ),
    click.option(
        "--micro-batch",
        type=int,
        help="Images computed at once in each process. Fewer need less memory and give the same result.  [default: "
        "the batch]",
    ),
    click.option(
        "--channels-last/--no-channels-last",
        default=None,
        help="Store activations with channels last, the layout of tensor cores.  [default: on a GPU]",
    ),
    click.option("--compile/--no-compile", "compiled", default=None, help="Use torch.compile.  [default: on a GPU]"),
    click.option(
        "--bf16/--no-bf16", default=None, help="Compute in bfloat16, with float32 weights.  [default: on a GPU]"
    ),
    click.option(
        "--save-minutes",
        type=float,
        help="Minutes between saves of the training state within an epoch. 0: after each step.  [default: 10]",
    ),
)


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
