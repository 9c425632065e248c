"""The weights that a training starts from: random, a trained A's outer layers, or another training's."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from train.network.checkpoint import Checkpoint, Facts, read
from train.network.model import GAUSSIAN, GLOROT, VGG, random_initialisation
from train.recipe import FROM_A, Recipe
from vgg_deploy.errors import UsageError
from vgg_deploy.files import Source
from vgg_deploy.network.classes import ClassName, numbered_classes
from vgg_deploy.network.manifest import Normalization

# Section 3.1: "the first four convolutional layers and the last three fully-connected layers". A's first four have the shapes
# of the deeper networks' layers of the same names, and of no others.
FROM_A_LAYERS = ("conv1_1", "conv2_1", "conv3_1", "conv3_2", "fc6", "fc7", "fc8")


@dataclass(frozen=True, slots=True)
class InitialWeights:
    """Weights to start from.

    Attributes:
        weights: of all layers, in FC form.
        normalization: what those from a checkpoint were trained with; None: all are random.
        source: the checkpoint.
        taken: the layers that came from it.
    """

    weights: dict[str, Tensor]
    normalization: Normalization | None = None
    source: Source | None = None
    taken: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.source is None:
            return "random weights"
        layers = dict.fromkeys(name.rpartition(".")[0] for name in self.weights)
        new = [name for name in layers if name not in self.taken]
        if not new:
            return f"all layers from {self.source.name}"
        return f"{', '.join(self.taken)} from {self.source.name}; random: {', '.join(new)}"


def initial_weights(recipe: Recipe, classes: tuple[ClassName, ...]) -> InitialWeights:
    """The weights that `recipe.chosen_initialisation` names.

    Layers that come from nowhere are random: N(0, 0.01) at full width, Glorot's for narrower networks. A checkpoint of the
    same configuration gives its convolutions; fc6 and fc7 where crop and FC width are the same; and fc8 where the classes
    are. None of them learns at a lower rate than the others (section 3.1).

    Raises:
        UsageError: no such checkpoint, or of another configuration or width.
        CheckpointError: it cannot be read.
    """
    how, generator = recipe.chosen_initialisation, torch.Generator().manual_seed(recipe.seed)
    if how is None:
        raise UsageError(
            f"configuration {recipe.spec.configuration} starts from a trained A: give a:CHECKPOINT, or gaussian or glorot"
        )
    network, random = VGG(recipe.spec), how in (GAUSSIAN, GLOROT)
    network.initialise(how if random else random_initialisation(recipe.spec), generator)
    weights = network.state_dict()
    if random:
        return InitialWeights(weights)
    checkpoint, names = _taken(recipe, how, classes)
    for name in weights:
        if name.rpartition(".")[0] in names:
            weights[name] = checkpoint.weights[name]
    return InitialWeights(weights, checkpoint.manifest.normalization, checkpoint.source, names)


def _taken(recipe: Recipe, how: str, classes: tuple[ClassName, ...]) -> tuple[Checkpoint, tuple[str, ...]]:
    """The checkpoint and the names of the layers that are taken from it."""
    from_a, path = how.startswith(FROM_A), Path(how.removeprefix(FROM_A))
    configuration = "A" if from_a else recipe.spec.configuration
    checkpoint = read(path, Facts(configuration, recipe.normalization))
    theirs = checkpoint.manifest.spec
    assert theirs is not None
    ours = replace(recipe.spec, configuration=configuration)
    if theirs.width_divisor != ours.width_divisor:
        raise UsageError(
            f"{path} has width divisor {theirs.width_divisor}, this network {ours.width_divisor}: no layer of it fits; "
            f"give --width-divisor {theirs.width_divisor}, or another checkpoint"
        )
    known = checkpoint.manifest.classes
    unnamed = checkpoint.manifest.training is None and known == numbered_classes(len(classes))  # others' name none
    same_classes = known == classes or unnamed
    same_head = (theirs.crop, theirs.fc_width) == (ours.crop, ours.fc_width)
    if from_a and not (same_classes and same_head):
        raise UsageError(
            f"{path} does not fit: classes, crop and FC width must be this network's; it has {len(known)} classes, crop "
            f"{theirs.crop} and FC width {theirs.fc_width}, here they are {len(classes)}, {ours.crop} and {ours.fc_width}"
        )
    if from_a:
        return checkpoint, FROM_A_LAYERS
    kept = {"fc6": same_head, "fc7": same_head, "fc8": same_classes and same_head}
    return checkpoint, tuple(layer.name for layer in recipe.spec.weight_layers if kept.get(layer.name, True))
