"""python -m train, and vgg-deploy train."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vgg_deploy.cli.options import rgb_triple, train_scale
from vgg_deploy.cli.run import run_command
from vgg_deploy.errors import MissingDependencyError, UsageError
from vgg_deploy.spec import CONFIGURATIONS

if TYPE_CHECKING:
    from train.data import DataFolder
    from train.loop import Place
    from train.recipe import Recipe

BUILT_IN = "digits"
CHANCE_MARGIN = 1.2  # times the largest class's share: up to there, validation may be luck

_WHAT_A_DATA_FOLDER_IS = """--data is missing. A data folder has a folder of images for each class, for training and for validation:

    DIR/train/cat/001.jpg ...
    DIR/train/dog/001.jpg ...
    DIR/val/cat/901.jpg ...
    DIR/val/dog/901.jpg ...

The folders' names become the classes' names, the same in train/ and val/. Then: --data DIR
To try training now, with 1,797 scanned digits: --data digits"""


@click.command("train")
@click.option("--arch", type=click.Choice(CONFIGURATIONS), help="Column of Table 1.  [default: D; A for the digits]")
@click.option("--data", metavar="DIR|digits", help="DIR/train/CLASS/* and DIR/val/CLASS/*, or the built-in digits.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder for checkpoints and figures.  [default: runs/NAME-DATE-TIME]"
)
@click.option("--width-divisor", type=int, help="Divide the channels of every convolution by this.  [default: 1]")
@click.option("--crop", type=int, help="Side of the training crop, a multiple of 32.  [default: 224]")
@click.option("--fc-width", type=int, help="Units of fc6 and fc7.  [default: 4096 / width divisor]")
@click.option(
    "--train-scale",
    callback=train_scale,
    metavar="S|SMIN,SMAX",
    help="Short side that images are rescaled to, fixed or drawn for each.  [default: 256; in proportion for other crops]",
)
@click.option("--mirror/--no-mirror", default=None, help="Flip half of the crops.  [default: mirror; not the digits]")
@click.option("--batch", type=int, help="Images a step.  [default: 256]")
@click.option("--epochs", type=int, help="Passes over the images, at most.  [default: 74]")
@click.option("--lr", "learning_rate", type=float, help="Learning rate at the start.  [default: 0.01]")
@click.option(
    "--patience", type=int, help="Epochs without a better validation until the learning rate is divided by 10."
)
@click.option(
    "--init",
    "initialisation",
    type=click.Choice(["gaussian", "glorot"]),
    help="Random weights: N(0, 0.01) or Glorot's.  [default: gaussian at full width, glorot for narrower networks]",
)
@click.option("--mean", callback=rgb_triple, help="Mean R,G,B in 0..255.  [default: measured on the training images]")
@click.option("--seed", type=int, help="Of weights, order, crops and dropout.  [default: 0]")
@click.option("--workers", type=click.IntRange(0), help="Processes that decode images.  [default: by the cores]")
@click.option("--device", default="auto", show_default=True, type=click.Choice(["auto", "cpu", "cuda"]))
def command(data: str | None, out: Path | None, workers: int | None, device: str, **choices: Any) -> None:
    """Train a network by the paper's recipe.

    Writes best.safetensors and last.safetensors, with all that later stages need to know, and run.json with the figures of
    each epoch. The digits have defaults of their own: a narrow A on 64-pixel crops.
    """
    if data is None:
        raise click.UsageError(_WHAT_A_DATA_FOLDER_IS)
    # By default the threads of a step wait for each other by spinning. Where others compute on the same cores, that made
    # training on the digits 3 to 10 times slower (two cores, 27-157 instead of 293-429 images/s); alone, sleeping costs it a fifth.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is loaded
    for package in ("torch", "safetensors"):
        if importlib.util.find_spec(package) is None:
            raise MissingDependencyError(package, "train", "training")
    from rich.console import Console

    from train import digits, runs
    from train.data import read_folder
    from train.loop import train

    recipe = _recipe(data == BUILT_IN, {name: value for name, value in choices.items() if value is not None})
    place = _place(device, workers)
    console = Console(stderr=True)
    folder = Path(data)
    if data == BUILT_IN:
        if folder.is_dir():
            click.echo("--data digits is the built-in set; the folder of this name is --data ./digits", err=True)
        folder = runs.ROOT / "digits-data"
        digits.write(folder)
    with console.status(f"looking through {folder}"):
        found = read_folder(folder)
    recipe = replace(recipe, spec=replace(recipe.spec, classes=len(found.classes)))
    name = recipe.spec.common_name + ("-digits" if data == BUILT_IN else "")
    facts = {"data": str(folder), "device": place.device, "recipe": recipe.as_json()}
    with runs.Run(out or runs.new_folder(runs.ROOT, name), facts) as run:
        click.echo(f"{run.folder}: {_summary(recipe, found, place)}", err=True)
        try:
            best = train(recipe, found, run, place, console)
        except KeyboardInterrupt:
            if run.last.exists():
                click.echo(f"{run.best} and {run.last.name} hold what was trained until the last whole epoch", err=True)
            raise
    if best.val.top1 <= CHANCE_MARGIN * found.val.largest_share:
        click.echo(
            f"Warning: this network learned nothing: always answering the largest class is right for "
            f"{found.val.largest_share:.2%}. Try a lower --lr, the other --init, or a shallower --arch",
            err=True,
        )
    click.echo(
        f"{run.best}: epoch {best.number}, top-1 accuracy {best.val.top1:.2%} (error {1 - best.val.top1:.2%}), "
        f"top-5 accuracy {best.val.top5:.2%} (error {1 - best.val.top5:.2%})"
    )


def _recipe(digits: bool, choices: dict[str, Any]) -> Recipe:
    """The digits' recipe or the paper's, with what was chosen on the command line instead of its own."""
    from train.recipe import DIGITS, Recipe
    from vgg_deploy.spec import NetworkSpec

    sizes = {"arch": "configuration", "width_divisor": "width_divisor", "fc_width": "fc_width"}
    chosen_sizes = {field: choices.pop(option) for option, field in sizes.items() if option in choices}
    crop = choices.pop("crop", None)
    base = DIGITS
    if not digits:
        base = Recipe(NetworkSpec("D", fc_width=4096 // max(1, chosen_sizes.get("width_divisor", 1))))
    recipe = replace(base, spec=replace(base.spec, **chosen_sizes))
    if crop is not None:
        recipe = recipe.with_crop(crop)
    return replace(recipe, **choices)


def _place(device: str, workers: int | None) -> Place:
    import torch

    from train.loop import Place

    on_gpu = device != "cpu" and torch.cuda.is_available()
    if device == "cuda" and not on_gpu:
        raise UsageError("--device cuda, but torch sees no CUDA device here; leave --device out to train on the CPU")
    if workers is None:
        # A GPU takes what all cores can decode. On the CPU, one worker decodes more images than the cores can learn from.
        workers = _cores() if on_gpu else 1
    return Place("cuda" if on_gpu else "cpu", workers)


def _cores() -> int:
    """Cores that this process may use, which in a container can be fewer than the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _summary(recipe: Recipe, data: DataFolder, place: Place) -> str:
    spec = recipe.spec
    return (
        f"configuration {spec.configuration}, {spec.parameters:,} parameters from {recipe.chosen_initialisation}, "
        f"{len(data.classes)} classes, {len(data.train):,} + {len(data.val):,} images, S = {recipe.train_scale}, "
        f"crop {spec.crop}, batch {recipe.batch}, on {place.device} with {place.workers} data workers"
    )


if __name__ == "__main__":
    run_command(command, "python -m train")
