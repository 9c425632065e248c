"""Options of the training command for the recipe, and the recipe that they make."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vgg_deploy.cli.parameters import (
    chosen_normalization,
    gathered,
    normalization_option,
    rgb_triple,
    std_option,
    train_scale,
)
from vgg_deploy.errors import UsageError
from vgg_deploy.network.manifest import TORCHVISION_NORMALIZATION, Normalization
from vgg_deploy.network.spec import CONFIGURATIONS, NetworkSpec
from vgg_deploy.network.weight_facts import WeightFacts

if TYPE_CHECKING:
    from train.recipe import Recipe

IMAGENET = "imagenet"
FINE_TUNING_RATE = 1e-3  # section 3.1's learning rate for weights that are already trained
# Options that replace fields of a recipe file under another name.
REPLACED_FIELDS = {"weights": ("initialisation",), "normalization": ("mean", "std")}


def _recipe_choices(*, recipe_file: Path | None, **options: Any) -> RecipeChoices:
    chosen = {name: value for name, value in options.items() if value is not None}
    return RecipeChoices(options=chosen, file=recipe_file)


# The command receives `recipe_choices`, a `RecipeChoices`.
recipe_options = gathered(
    "recipe_choices",
    _recipe_choices,
    click.option("--arch", type=click.Choice(CONFIGURATIONS), help="Column of Table 1.  [default: D; digits: A]"),
    click.option(
        "--width-divisor", type=int, help="Divides the channels of every convolution.  [default: 1; digits: 8]"
    ),
    click.option("--crop", type=int, help="Side of the training crop, a multiple of 32.  [default: 224; digits: 64]"),
    click.option("--fc-width", type=int, help="Units of fc6 and fc7.  [default: 4096 / width divisor; digits: 256]"),
    click.option(
        "--train-scale",
        callback=train_scale,
        metavar="S|SMIN,SMAX",
        help="Short side S of the rescaled images: fixed, or drawn from a range for each image.  "
        "[default: 256, in proportion for other crops]",
    ),
    click.option(
        "--mirror/--no-mirror", default=None, help="Flip half of the crops left to right.  [default: yes; digits: no]"
    ),
    click.option(
        "--rgb-shift",
        type=float,
        help="Std of the random colour shift along the principal components of RGB. 0: none.  [default: 0.1; digits: "
        "0]",
    ),
    click.option(
        "--batch", type=int, help="Images in each step, in all processes together.  [default: 256; digits: 32]"
    ),
    click.option(
        "--epochs", type=int, help="Maximum number of passes over the training images.  [default: 74; digits: 10]"
    ),
    click.option(
        "--lr",
        "learning_rate",
        type=float,
        help="Learning rate at the start.  [default: 0.01; with --weights: 0.001; digits: 0.002]",
    ),
    click.option(
        "--patience",
        type=int,
        help="Epochs without a better validation top-1 until the learning rate is divided by 10.  [default: 3; "
        "digits: 2]",
    ),
    click.option(
        "--lr-drops",
        "learning_rate_drops",
        type=int,
        help="Maximum number of such divisions; training ends when one more is due.  [default: 3]",
    ),
    click.option("--momentum", type=float, help="Momentum of SGD.  [default: 0.9]"),
    click.option("--weight-decay", type=float, help="Multiplier of the L2 penalty.  [default: 0.0005]"),
    click.option(
        "--dropout", type=float, help="Fraction of the outputs of fc6 and fc7 that are dropped.  [default: 0.5]"
    ),
    click.option(
        "--init",
        "initialisation",
        metavar="a:CKPT|gaussian|glorot|CKPT",
        help="Initial weights. a:CKPT: the first four convolutions and the FC layers of a trained A. gaussian: N(0, "
        "0.01). glorot: Glorot & Bengio 2010. CKPT: all layers that fit.  [default: A and A-LRN: gaussian, or glorot "
        "for narrower networks; B to E: the best A in runs/ of the same images, which is trained first if there is "
        "none]",
    ),
    click.option(
        "--weights",
        metavar="CKPT|imagenet",
        help="Fine-tune a checkpoint, or torchvision's ImageNet weights. fc6 and fc7 are kept if they fit. For other "
        "classes, fc8 is new.",
    ),
    click.option(
        "--freeze-features/--no-freeze-features",
        default=None,
        help="With --weights: keep the convolutions and train the FC layers only.  [default: no]",
    ),
    normalization_option,
    click.option(
        "--mean",
        callback=rgb_triple,
        metavar="R,G,B",
        help="Mean to subtract, in units of 0..255.  [default: the weights' mean, or the mean of the training images]",
    ),
    std_option,
    click.option("--seed", type=int, help="Seed of weights, order, crops, colours and dropout.  [default: 0]"),
    click.option(
        "--recipe",
        "recipe_file",
        type=click.Path(path_type=Path),
        metavar="FILE.toml",
        help="File with a recipe, such as recipe.toml of a run. Options on the command line replace its values.",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeChoices:
    """The parts of a recipe that the user chose.

    Attributes:
        options: the command-line options that were given, by name.
        file: a recipe file.
    """

    options: Mapping[str, Any]
    file: Path | None = None

    def recipe(self, *, digits: bool, fixed_scales: bool = False) -> Recipe:
        """The recipe of the paper, or of the digits, with these choices.

        Args:
            digits: start from the digits' recipe instead of the paper's.
            fixed_scales: raise an error if the user chose a training scale.

        Raises:
            UsageError: the choices contradict each other, are out of range, or the file or the weights cannot be read.
            CheckpointError: the weights are damaged.
        """
        from train.recipe import DIGITS, Recipe

        chosen = self._merged()
        if fixed_scales and "train_scale" in chosen:
            raise UsageError("--schedule paper sets S for each stage; leave out the training scale")
        normalization = chosen_normalization(*(chosen.pop(name, None) for name in ("normalization", "mean", "std")))
        option_of = {"configuration": "arch", "width_divisor": "width_divisor", "fc_width": "fc_width"}
        sizes = {field: chosen.pop(option) for field, option in option_of.items() if option in chosen}
        crop, weights = chosen.pop("crop", None), chosen.pop("weights", None)
        base = DIGITS
        if not digits:
            base = Recipe(NetworkSpec("D", fc_width=4096 // max(1, sizes.get("width_divisor", 1))))
        if weights is not None:
            if "initialisation" in chosen:
                raise UsageError("--weights and --init both set the initial weights; give only one of them")
            path, spec, their_normalization = _weights(weights, sizes.get("configuration"), normalization)
            base = replace(base.with_crop(spec.crop), spec=spec, learning_rate=FINE_TUNING_RATE)
            chosen["initialisation"] = path
            if weights == IMAGENET:
                normalization = their_normalization
        if normalization is not None:
            std = None if normalization.std == (1.0, 1.0, 1.0) else normalization.std
            chosen |= {"mean": normalization.mean, "std": std}
        recipe = replace(base, spec=replace(base.spec, **sizes))
        if crop is not None:
            recipe = recipe.with_crop(crop)
        return replace(recipe, **chosen)

    def _merged(self) -> dict[str, Any]:
        """The values of the file, replaced by those of the command line."""
        if self.file is None:
            return dict(self.options)
        from train.recipe_file import read_recipe

        replaced = {field for option in self.options for field in REPLACED_FIELDS.get(option, ())}
        values = {name: value for name, value in read_recipe(self.file).items() if name not in replaced}
        return {**values, **self.options}


def _weights(
    weights: str, configuration: str | None, normalization: Normalization | None
) -> tuple[str, NetworkSpec, Normalization]:
    """The file of the weights to fine-tune, their network, and how their pixels are normalized."""
    from train.network.checkpoint import read

    path = Path(weights)
    if weights == IMAGENET:
        from train.network.pretrained import cached

        path, normalization = cached(configuration or "D"), TORCHVISION_NORMALIZATION
    manifest = read(path, WeightFacts(configuration=configuration, normalization=normalization)).manifest
    assert manifest.spec is not None
    assert manifest.normalization is not None
    return str(path), manifest.spec, manifest.normalization
