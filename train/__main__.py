"""python -m train, and vgg-deploy train."""

from __future__ import annotations

import importlib.util
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from train.recipe_options import options
from vgg_deploy.cli.entry import run_command
from vgg_deploy.errors import MissingDependencyError, UsageError

if TYPE_CHECKING:
    from train.compute.execution import Execution
    from train.compute.processes import Processes
    from train.recipe import Recipe
    from vgg_deploy.network.manifest import Normalization
    from vgg_deploy.network.spec import NetworkSpec

BUILT_IN, IMAGENET = "digits", "imagenet"
CHANCE_MARGIN = 1.2  # times the largest class's share: up to there, validation may be luck
FINE_TUNING_RATE = 1e-3  # section 3.1's for weights that are trained already
# Options that say in another way what fields of a recipe's file say; the command line wins.
INSTEAD_OF = {"weights": ("initialisation",), "normalization": ("mean", "std")}

_WHAT_A_DATA_FOLDER_IS = """--data is missing. A data folder has a folder of images for each class, for training and for validation:

    DIR/train/cat/001.jpg ...
    DIR/train/dog/001.jpg ...
    DIR/val/cat/901.jpg ...
    DIR/val/dog/901.jpg ...

The folders' names become the classes' names, the same in train/ and val/. Then: --data DIR
To try training now, with 1,797 scanned digits: --data digits"""


@click.command("train")
@options
def command(
    data: str | None,
    out: Path | None,
    schedule: str | None,
    recipe_file: Path | None,
    tensorboard: bool,
    device: str,
    **choices: Any,
) -> None:
    """Train a network by the paper's recipe.

    Writes best.safetensors and last.safetensors, with all that later stages need to know, and run.json, recipe.toml,
    metrics.jsonl and curves.png. The same command goes on with a run that was stopped. The digits have defaults of their own:
    a narrow A on 64-pixel crops. Several GPUs or machines: torchrun --nproc-per-node N -m train ...
    """
    if data is None:
        raise click.UsageError(_WHAT_A_DATA_FOLDER_IS)
    # By default the threads of a step wait for each other by spinning. Where others compute on the same cores, that made
    # training on the digits 3 to 10 times slower (two cores, 27-157 instead of 293-429 images/s); alone, sleeping costs it a fifth.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is loaded
    if "RANK" in os.environ:  # torch's C++ would log pages when torchrun ends before us; we say it in a line
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    for package in ("torch", "safetensors"):
        if importlib.util.find_spec(package) is None:
            raise MissingDependencyError(package, "train", "training")
    from train.compute.processes import joined
    from train.runs.metrics_log import check_tensorboard

    if tensorboard:
        check_tensorboard()
    chosen = {name: value for name, value in choices.items() if value is not None}
    execution = _execution(device, chosen)
    with joined("cuda" if execution.on_gpu else "cpu") as processes:
        execution = replace(execution, device=processes.device) if processes.size > 1 else execution
        _train(data, out, schedule, recipe_file, tensorboard, chosen, execution, processes)


def _train(
    data: str,
    out: Path | None,
    schedule: str | None,
    recipe_file: Path | None,
    tensorboard: bool,
    chosen: dict[str, Any],
    execution: Execution,
    processes: Processes,
) -> None:
    from rich.console import Console

    from train.campaign import Campaign
    from train.data import digits
    from train.data.folder import read_folder
    from train.recipe_file import read_recipe
    from train.runs import run as runs

    console = Console(stderr=True, quiet=not processes.first)
    if recipe_file is not None:
        replaced = {field for option in chosen for field in INSTEAD_OF.get(option, ())}
        chosen = {name: value for name, value in read_recipe(recipe_file).items() if name not in replaced} | chosen
    if schedule is not None and (out is not None or "train_scale" in chosen):
        raise UsageError(
            "--schedule paper has its own S, and a folder for each stage; leave the training scale and --out out"
        )
    recipe = _recipe(data == BUILT_IN, chosen)
    folder = Path(data)
    if data == BUILT_IN:
        if folder.is_dir() and processes.first:
            click.echo("--data digits is the built-in set; the folder of this name is --data ./digits", err=True)
        folder = runs.ROOT / "digits-data"
        digits.write(folder)
    with console.status(f"looking through {folder}"):
        found = read_folder(folder)
    if processes.agreed(lambda: found.fingerprint) != found.fingerprint:
        raise UsageError(f"{folder} holds other images here than on the first machine; copy them anew")
    recipe = replace(recipe, spec=replace(recipe.spec, classes=len(found.classes)))
    facts = {"data": str(folder), "execution": str(execution), "processes": processes.size}
    suffix = "-digits" if data == BUILT_IN else ""
    campaign = Campaign(found, execution, processes, console, facts, suffix=suffix, tensorboard=tensorboard)
    trained = campaign.stages(recipe) if schedule else campaign.trained(recipe, out=out)
    if not processes.first:
        return
    best = trained.best
    if best.val.top1 <= CHANCE_MARGIN * found.val.largest_share:
        click.echo(
            f"Warning: this network learned nothing: always answering the largest class is right for "
            f"{found.val.largest_share:.2%}. Try a lower --lr, another --init, or a shallower --arch",
            err=True,
        )
    click.echo(
        f"{trained.checkpoint}: epoch {best.number}, top-1 accuracy {best.val.top1:.2%} (error {1 - best.val.top1:.2%}), "
        f"top-5 accuracy {best.val.top5:.2%} (error {1 - best.val.top5:.2%})"
    )


def _recipe(digits: bool, choices: dict[str, Any]) -> Recipe:
    """The digits' recipe or the paper's, with what was chosen instead of its own."""
    from train.recipe import DIGITS, Recipe
    from vgg_deploy.cli.parameters import chosen_normalization
    from vgg_deploy.network.spec import NetworkSpec

    given = chosen_normalization(*(choices.pop(name, None) for name in ("normalization", "mean", "std")))
    sizes = {"arch": "configuration", "width_divisor": "width_divisor", "fc_width": "fc_width"}
    chosen_sizes = {field: choices.pop(option) for option, field in sizes.items() if option in choices}
    crop = choices.pop("crop", None)
    weights = choices.pop("weights", None)
    base = DIGITS
    if not digits:
        base = Recipe(NetworkSpec("D", fc_width=4096 // max(1, chosen_sizes.get("width_divisor", 1))))
    if weights is not None:
        if "initialisation" in choices:
            raise UsageError("--weights and --init both say what to start from; give one of them")
        path, theirs, normalization = _weights(weights, chosen_sizes.get("configuration"), given)
        base = replace(base.with_crop(theirs.crop), spec=theirs, learning_rate=FINE_TUNING_RATE)
        choices["initialisation"] = path
        if weights == IMAGENET:
            given = normalization
    if given is not None:
        choices |= {"mean": given.mean, "std": None if given.std == (1.0, 1.0, 1.0) else given.std}
    recipe = replace(base, spec=replace(base.spec, **chosen_sizes))
    if crop is not None:
        recipe = recipe.with_crop(crop)
    return replace(recipe, **choices)


def _weights(
    weights: str, configuration: str | None, given: Normalization | None
) -> tuple[str, NetworkSpec, Normalization]:
    """The file of the weights to fine-tune, their network, and how their pixels are normalized."""
    from train.network.checkpoint import Facts, read

    path = Path(weights)
    if weights == IMAGENET:
        from train.network.pretrained import cached
        from vgg_deploy.network.manifest import TORCHVISION_NORMALIZATION

        path, given = cached(configuration or "D"), TORCHVISION_NORMALIZATION
    manifest = read(path, Facts(configuration, given)).manifest
    assert manifest.spec is not None
    assert manifest.normalization is not None
    return str(path), manifest.spec, manifest.normalization


def _execution(device: str, choices: dict[str, Any]) -> Execution:
    """Takes its own from the choices."""
    import torch

    from train.compute.execution import SAVE_MINUTES, Execution
    from vgg_deploy.cores import usable_cores

    on_gpu = device != "cpu" and torch.cuda.is_available()
    if device == "cuda" and not on_gpu:
        raise UsageError("--device cuda, but torch sees no CUDA device here; leave --device out to train on the CPU")
    # A GPU takes what all cores can decode. On the CPU, one worker decodes more images than the cores can learn from.
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    workers = choices.pop("workers", max(1, usable_cores() // here) if on_gpu else 1)
    compiled = choices.pop("compiled", None)
    if compiled is None:
        compiled = on_gpu and importlib.util.find_spec("triton") is not None
    return Execution(
        "cuda" if on_gpu else "cpu",
        workers,
        choices.pop("micro_batch", None),
        channels_last=choices.pop("channels_last", on_gpu),
        compiled=compiled,
        bf16=choices.pop("bf16", on_gpu),
        save_minutes=choices.pop("save_minutes", SAVE_MINUTES),
    )


if __name__ == "__main__":
    if os.environ.get("LOCAL_RANK", "0") != "0":  # torchrun's: one process a machine says what is wrong with a command
        sys.stdout = sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - until the end
    run_command(command, "python -m train")
