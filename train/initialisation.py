"""The weights that a training starts from: random ones, outer layers of a trained A, or those of another training."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from train.network.checkpoint import Checkpoint, read
from train.network.model import GAUSSIAN, GLOROT, VGG, random_initialisation
from train.recipe import FROM_A, Recipe
from vgg_deploy.errors import UsageError
from vgg_deploy.files import Source
from vgg_deploy.network.classes import ClassName, first_other_class, numbered_classes
from vgg_deploy.network.manifest import Normalization
from vgg_deploy.network.weight_facts import WeightFacts

# Section 3.1: "the first four convolutional layers and the last three fully-connected layers". The first four of A have
# the shapes of the layers of the same names in deeper networks, and of no others.
FROM_A_LAYERS = ("conv1_1", "conv2_1", "conv3_1", "conv3_2", "fc6", "fc7", "fc8")


@dataclass(frozen=True, slots=True)
class InitialWeights:
    """Weights to start from.

    Attributes:
        weights: the weights of all layers, in FC form.
        normalization: the normalization with which the checkpoint was trained. None: all weights are random.
        source: the checkpoint.
        taken: the layers that come from the checkpoint.
        choice_notices: which of the weights in the checkpoint's file were taken.
    """

    weights: dict[str, Tensor]
    normalization: Normalization | None = None
    source: Source | None = None
    taken: tuple[str, ...] = ()
    choice_notices: tuple[str, ...] = ()

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

    A checkpoint of the same configuration gives its convolutions. It also gives fc6 and fc7 if crop and FC width are
    the same, and fc8 if the classes are the same too. All other layers are random: N(0, 0.01) at full width, Glorot's
    for narrower networks. All layers learn at the same rate (section 3.1).

    Raises:
        UsageError: no such checkpoint, or one of another configuration or width.
        CheckpointError: it cannot be read.
    """
    how, generator = recipe.chosen_initialisation, torch.Generator().manual_seed(recipe.seed)
    if how is None:
        raise UsageError(
            f"configuration {recipe.spec.configuration} starts from a trained A: give a:CHECKPOINT, gaussian or glorot"
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
    return InitialWeights(
        weights, checkpoint.manifest.normalization, checkpoint.source, names, checkpoint.choice_notices
    )


def _taken(recipe: Recipe, how: str, classes: tuple[ClassName, ...]) -> tuple[Checkpoint, tuple[str, ...]]:
    """The checkpoint, and the names of the layers to take from it."""
    from_a, path = how.startswith(FROM_A), Path(how.removeprefix(FROM_A))
    configuration = "A" if from_a else recipe.spec.configuration
    checkpoint = read(path, WeightFacts(configuration=configuration, normalization=recipe.normalization))
    theirs = checkpoint.manifest.spec
    assert theirs is not None
    ours = replace(recipe.spec, configuration=configuration)
    if theirs.width_divisor != ours.width_divisor:
        raise UsageError(
            f"{path} has width divisor {theirs.width_divisor} and this network {ours.width_divisor}, so none of its "
            f"layers fits; use --width-divisor {theirs.width_divisor}, or another checkpoint"
        )
    their_classes = checkpoint.manifest.classes
    # Foreign checkpoints have no class names, or the names of folders without labels.
    not_other = their_classes == numbered_classes(len(classes)) or first_other_class(their_classes, classes) is None
    same_classes = their_classes == classes or (checkpoint.manifest.training is None and not_other)
    same_head = (theirs.crop, theirs.fc_width) == (ours.crop, ours.fc_width)
    if from_a and not (same_classes and same_head):
        raise UsageError(
            f"{path} does not fit: it has {len(their_classes)} classes, crop {theirs.crop} and FC width "
            f"{theirs.fc_width}; this network has {len(classes)} classes, crop {ours.crop} and FC width "
            f"{ours.fc_width}. All three must be the same"
        )
    if from_a:
        return checkpoint, FROM_A_LAYERS
    fits = {"fc6": same_head, "fc7": same_head, "fc8": same_classes and same_head}
    return checkpoint, tuple(layer.name for layer in recipe.spec.weight_layers if fits.get(layer.name, True))
