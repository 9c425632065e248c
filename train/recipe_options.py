"""The options of the command that trains: each field of the recipe, and where it computes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from vgg_deploy.cli.parameters import rgb_triple, train_scale
from vgg_deploy.network.spec import CONFIGURATIONS

RECIPE_OPTIONS = (
    click.option(
        "--arch", type=click.Choice(CONFIGURATIONS), help="Column of Table 1.  [default: D; A for the digits]"
    ),
    click.option("--width-divisor", type=int, help="Divide the channels of every convolution by this.  [default: 1]"),
    click.option("--crop", type=int, help="Side of the training crop, a multiple of 32.  [default: 224]"),
    click.option("--fc-width", type=int, help="Units of fc6 and fc7.  [default: 4096 / width divisor]"),
    click.option(
        "--train-scale",
        callback=train_scale,
        metavar="S|SMIN,SMAX",
        help="Short side that images are rescaled to, fixed or drawn for each.  [default: 256; in proportion for other crops]",
    ),
    click.option(
        "--mirror/--no-mirror", default=None, help="Flip half of the crops.  [default: mirror; not the digits]"
    ),
    click.option(
        "--rgb-shift",
        type=float,
        help="Std of the random shift of colours along their principal components; 0: none.  [default: 0.1; 0 for the digits]",
    ),
    click.option("--batch", type=int, help="Images a step, in all processes together.  [default: 256]"),
    click.option("--epochs", type=int, help="Passes over the images, at most.  [default: 74]"),
    click.option(
        "--lr", "learning_rate", type=float, help="Learning rate at the start.  [default: 0.01; 0.001 with --weights]"
    ),
    click.option(
        "--patience", type=int, help="Epochs without a better validation until the learning rate is divided by 10."
    ),
    click.option("--lr-drops", "learning_rate_drops", type=int, help="Divisions until training ends.  [default: 3]"),
    click.option("--momentum", type=float, help="Of SGD.  [default: 0.9]"),
    click.option("--weight-decay", type=float, help="Multiplier of the L2 penalty.  [default: 0.0005]"),
    click.option("--dropout", type=float, help="Fraction of fc6's and fc7's outputs that are dropped.  [default: 0.5]"),
    click.option(
        "--init",
        "initialisation",
        metavar="a:CKPT|gaussian|glorot|CKPT",
        help="Start from a trained A's first four convolutions and FC layers, from N(0, 0.01), from Glorot's, or from all layers "
        "of a checkpoint.  [default: A: gaussian at full width, glorot for narrower; B to E: from an A, trained first if need be]",
    ),
    click.option(
        "--weights",
        metavar="CKPT|imagenet",
        help="Fine-tune a checkpoint: its convolutions, fc6 and fc7 if they fit, and a new fc8 for other classes.",
    ),
    click.option(
        "--freeze-features/--no-freeze-features", default=None, help="With --weights: train the FC layers alone."
    ),
    click.option(
        "--normalization",
        type=click.Choice(["paper", "torchvision"]),
        help="Of weights that do not say theirs.  paper: RGB 0..255 minus a mean.",
    ),
    click.option(
        "--mean",
        callback=rgb_triple,
        metavar="R,G,B",
        help="Mean in units of 0..255.  [default: of the weights, or measured on the training images]",
    ),
    click.option("--std", callback=rgb_triple, metavar="R,G,B", help="Divisor in units of 0..255.  [default: 1,1,1]"),
    click.option("--seed", type=int, help="Of weights, order, crops, colours and dropout.  [default: 0]"),
)

PLACE_OPTIONS = (
    click.option("--workers", type=click.IntRange(0), help="Processes that decode images.  [default: by the cores]"),
    click.option("--device", default="auto", show_default=True, type=click.Choice(["auto", "cpu", "cuda"])),
    click.option("--micro-batch", type=int, help="Images computed at once; gradients add up.  [default: the batch]"),
    click.option(
        "--channels-last/--no-channels-last", default=None, help="Channels last in memory.  [default: on GPUs]"
    ),
    click.option("--compile/--no-compile", "compiled", default=None, help="torch.compile.  [default: on GPUs]"),
    click.option(
        "--bf16/--no-bf16", default=None, help="Compute in bfloat16, keep float32 weights.  [default: on GPUs]"
    ),
    click.option(
        "--save-minutes",
        type=float,
        help="Minutes between saves of the training state within an epoch; 0: each step.  [default: 10]",
    ),
)

RUN_OPTIONS = (
    click.option("--data", metavar="DIR|digits", help="DIR/train/CLASS/* and DIR/val/CLASS/*, or the built-in digits."),
    click.option(
        "--out",
        type=click.Path(path_type=Path),
        help="Folder for checkpoints and figures.  [default: the unfinished run of this recipe, else runs/NAME-DATE-TIME]",
    ),
    click.option(
        "--schedule",
        type=click.Choice(["paper"]),
        help="paper: S = 256, then S = 384, then S drawn from [256, 512], each a run from the weights of the one before.",
    ),
    click.option(
        "--recipe",
        "recipe_file",
        type=click.Path(path_type=Path),
        metavar="FILE.toml",
        help="Values of the options that make the recipe; the command line wins.",
    ),
    click.option("--tensorboard", is_flag=True, help="Write TensorBoard's files into the run too."),
)


def options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds all of them."""
    for option in reversed(RUN_OPTIONS + RECIPE_OPTIONS + PLACE_OPTIONS):
        command = option(command)
    return command
