"""python -m train, and vgg-deploy train."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from train.execution_options import execution_options
from train.recipe_options import RecipeChoices, recipe_options
from train.runs.chance import beats_chance
from train.runs.metrics_log import check_tensorboard
from train.runs.run import ROOT
from vgg_deploy.cli.entry import run_command
from vgg_deploy.errors import UsageError

if TYPE_CHECKING:
    from train.campaign import TrainingResult
    from train.compute.execution import Execution
    from train.data.folder import DataFolder

BUILT_IN = "digits"

_NO_DATA = """--data is missing. A data folder has one folder of images for each class, for training and for validation:

    DIR/train/cat/001.jpg ...
    DIR/train/dog/001.jpg ...
    DIR/val/cat/901.jpg ...
    DIR/val/dog/901.jpg ...

The folders are named after the classes, and are the same in train/ and val/. Then give: --data DIR
To try training now, with 1,797 scanned digits, give: --data digits"""


def _required(ctx: click.Context, _parameter: click.Parameter, data: str | None) -> str | None:
    if data is None and not ctx.resilient_parsing:
        raise click.UsageError(_NO_DATA, ctx)
    return data


@click.command("train")
@click.option(
    "--data",
    metavar="DIR|digits",
    callback=_required,
    help="Images: DIR/train/CLASS/* and DIR/val/CLASS/*, or the built-in digits.  [required]",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder of the run.  [default: the unfinished run of the same recipe and data, or else runs/NAME-DATE-TIME]",
)
@click.option(
    "--schedule",
    type=click.Choice(["paper"]),
    help="paper: train at S = 256, then S = 384, then S from [256, 512]. Each stage starts from the weights of the "
    "one before.",
)
@click.option("--tensorboard", is_flag=True, help="Also write TensorBoard files into the folder of the run.")
@recipe_options
@execution_options
def command(
    data: str,
    out: Path | None,
    schedule: str | None,
    tensorboard: bool,
    recipe_choices: RecipeChoices,
    execution: Execution,
) -> None:
    """Train a network by the paper's recipe (section 3.1).

    Writes a folder under runs/: the checkpoints best.safetensors and last.safetensors, which the other commands read,
    and run.json, recipe.toml, metrics.jsonl and curves.png. After an interruption, the same command continues the run.

    Defaults marked "digits" apply to --data digits, which trains a narrow A on 64-pixel crops.

    Several GPUs or machines: torchrun --nproc-per-node N -m train ...
    """
    from train.campaign import Campaign
    from train.compute.processes import joined_processes
    from train.data.folder import class_ids, read_folder

    if tensorboard:
        check_tensorboard()
    if schedule is not None and out is not None:
        raise UsageError("--schedule paper makes a folder for each stage; leave out --out")
    digits = data == BUILT_IN
    with joined_processes("cuda" if execution.on_gpu else "cpu") as processes:
        execution = execution.among(processes)
        if not digits:
            class_ids(Path(data))  # before weights are downloaded
        recipe = recipe_choices.recipe(digits=digits, fixed_scales=schedule is not None)
        folder = _digits_folder(warn=processes.first) if digits else Path(data)
        with execution.console.status(f"listing the images of {folder}"):
            images = read_folder(folder)
        if images.notice and processes.first:
            click.echo(images.notice, err=True)
        if processes.agreed(lambda: images.fingerprint) != images.fingerprint:
            raise UsageError(
                f"the images in {folder} differ between this machine and the first one; copy the folder again"
            )
        recipe = replace(recipe, spec=replace(recipe.spec, classes=len(images.classes)))
        campaign = Campaign(
            data=images,
            execution=execution,
            facts={"data": str(folder), "execution": str(execution), "processes": processes.size},
            suffix="-digits" if digits else "",
            tensorboard=tensorboard,
        )
        result = campaign.train_stages(recipe) if schedule else campaign.train(recipe, out=out)
        if processes.first:
            _print_result(result, images)


def _digits_folder(*, warn: bool) -> Path:
    from train.data.digits import write_digits

    if warn and Path(BUILT_IN).is_dir():
        click.echo(
            "--data digits selects the built-in digits; to use the folder of that name, give --data ./digits", err=True
        )
    folder = ROOT / "digits-data"
    write_digits(folder)
    return folder


def _print_result(result: TrainingResult, data: DataFolder) -> None:
    top1, top5 = result.best.val.top1, result.best.val.top5
    if not beats_chance(top1, len(data.val), data.val.largest_share):
        click.echo(
            f"Warning: this network learned nothing: always answering the largest class is right for "
            f"{data.val.largest_share:.2%} of the {len(data.val):,} validation images. Try a lower --lr, another "
            "--init, or a shallower --arch",
            err=True,
        )
    click.echo(
        f"{result.checkpoint}: epoch {result.best.number}, top-1 accuracy {top1:.2%} (error {1 - top1:.2%}), "
        f"top-5 accuracy {top5:.2%} (error {1 - top5:.2%})"
    )


if __name__ == "__main__":
    if os.environ.get("LOCAL_RANK", "0") != "0":  # under torchrun, only one process a machine prints errors
        sys.stdout = sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - until the end
    run_command(command, "python -m train")
