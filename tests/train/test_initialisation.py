"""The weights that a training starts from: random ones, outer layers of a trained A, or those of another training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from train.initialisation import FROM_A_LAYERS, initial_weights
from train.network.checkpoint import read
from train.recipe import Recipe
from vgg_deploy.errors import UsageError
from vgg_deploy.network.classes import ClassName, numbered_classes
from vgg_deploy.network.manifest import TORCHVISION_NORMALIZATION, TrainScale
from vgg_deploy.network.spec import NetworkSpec

Checkpoints = Callable[..., Path]
NAMES = tuple(ClassName(name, name) for name in "abcde")
TRAINED = {"classes": NAMES, "normalization": TORCHVISION_NORMALIZATION, "training": {"epoch": {}}}


@pytest.fixture
def recipe(narrow_spec: Callable[..., NetworkSpec]) -> Callable[..., Recipe]:
    """`recipe("E", "a:CKPT", classes=7)` -> a recipe of a narrow network."""

    def make(configuration: str, initialisation: Any, **fields: Any) -> Recipe:
        spec = narrow_spec(configuration, **fields)
        scale = TrainScale(spec.crop * 8 // 7, spec.crop * 8 // 7)
        return Recipe(spec, train_scale=scale, initialisation=str(initialisation))

    return make


MakeRecipe = Callable[..., Recipe]


@pytest.fixture
def trained(narrow_checkpoint: Checkpoints) -> Checkpoints:
    """`trained("A")` -> one of our checkpoints, with the classes a to e."""

    def make(configuration: str, **fields: Any) -> Path:
        return narrow_checkpoint(configuration, manifest=TRAINED, **fields)

    return make


@pytest.mark.parametrize("configuration", ["B", "C", "D", "E"])
def test_a_gives_its_first_four_convolutions_and_its_fc_layers_and_the_rest_is_random(
    configuration: str, recipe: MakeRecipe, trained: Checkpoints
):
    path = trained("A")
    start = initial_weights(recipe(configuration, f"a:{path}"), NAMES)
    of_a, random = read(path).weights, initial_weights(recipe(configuration, "glorot"), NAMES).weights
    assert start.taken == FROM_A_LAYERS == ("conv1_1", "conv2_1", "conv3_1", "conv3_2", "fc6", "fc7", "fc8")
    for name, value in start.weights.items():
        expected = of_a if name.rpartition(".")[0] in FROM_A_LAYERS else random
        assert torch.equal(value, expected[name]), name
    assert start.normalization == TORCHVISION_NORMALIZATION  # the layers were trained with it


def test_the_named_layers_are_the_first_four_convolutions_of_a():
    assert tuple(layer.name for layer in NetworkSpec("A").convolutions)[:4] == FROM_A_LAYERS[:4]


def test_the_random_rest_is_gaussian_at_full_width(monkeypatch: pytest.MonkeyPatch):
    how: list[str] = []
    monkeypatch.setattr("train.network.model.VGG.initialise", lambda self, kind, generator: how.append(kind))
    with pytest.raises(UsageError, match="no such checkpoint"), torch.device("meta"):
        initial_weights(Recipe(NetworkSpec("B", fc_width=8), initialisation="a:nowhere.safetensors"), NAMES)
    assert how == ["gaussian"]


@pytest.mark.parametrize("fields", [{"classes": 7}, {"crop": 96}, {"fc_width": 32}])
def test_an_a_of_other_sizes_or_classes_does_not_fit(fields: dict[str, int], recipe: MakeRecipe, trained: Checkpoints):
    asked = recipe("B", f"a:{trained('A')}", **fields)
    with pytest.raises(UsageError, match="does not fit: it has 5 classes"):
        initial_weights(asked, numbered_classes(asked.spec.classes) if "classes" in fields else NAMES)


def test_another_configuration_is_not_an_a(recipe: MakeRecipe, trained: Checkpoints):
    with pytest.raises(UsageError, match="holds configuration D, which contradicts --arch A"):
        initial_weights(recipe("E", f"a:{trained('D')}"), NAMES)


def test_another_width_is_refused_and_the_option_is_named(recipe: MakeRecipe, trained: Checkpoints):
    with pytest.raises(UsageError, match=r"width divisor 16 and this network 8.*--width-divisor 16"):
        initial_weights(recipe("A", trained("A"), width_divisor=8), NAMES)


def test_a_checkpoint_of_the_same_network_and_classes_gives_all_layers(recipe: MakeRecipe, trained: Checkpoints):
    path = trained("D")
    start = initial_weights(recipe("D", path), NAMES)
    assert all(torch.equal(start.weights[name], value) for name, value in read(path).weights.items())
    assert str(start) == f"all layers from {path.name}"


@pytest.mark.parametrize(
    ("fields", "new"),
    [
        ({"classes": 7}, {"fc8"}),
        ({"fc_width": 32}, {"fc6", "fc7", "fc8"}),
        ({"crop": 96, "classes": 7}, {"fc6", "fc7", "fc8"}),
    ],
)
def test_other_classes_or_sizes_get_a_new_head(
    fields: dict[str, int], new: set[str], recipe: MakeRecipe, trained: Checkpoints
):
    path = trained("D")
    asked = recipe("D", path, **fields)
    start = initial_weights(asked, numbered_classes(asked.spec.classes) if "classes" in fields else NAMES)
    for name, value in read(path).weights.items():
        layer = name.rpartition(".")[0]
        if layer in new:
            assert layer not in start.taken
        else:
            assert torch.equal(start.weights[name], value)
    assert {layer.name for layer in asked.spec.weight_layers} - set(start.taken) == new
    assert "random: " in str(start)


def test_the_same_number_of_other_classes_gets_a_new_fc8(recipe: MakeRecipe, trained: Checkpoints):
    others = tuple(ClassName(name, name) for name in "vwxyz")
    assert "fc8" not in initial_weights(recipe("D", trained("D")), others).taken


def test_weights_without_class_names_keep_fc8_for_the_same_number_of_classes(
    recipe: MakeRecipe, narrow_spec: Callable[..., NetworkSpec], random_weights: Callable[..., Any], tmp_path: Path
):
    torch.save(random_weights(narrow_spec("D")), tmp_path / "w.pth")
    asked = replace(recipe("D", tmp_path / "w.pth"), mean=(1.0, 2.0, 3.0))
    assert "fc8" in initial_weights(asked, NAMES).taken


def test_class_names_in_foreign_weights_decide_about_fc8_and_may_be_ids_without_labels(
    recipe: MakeRecipe, narrow_spec: Callable[..., NetworkSpec], random_weights: Callable[..., Any], tmp_path: Path
):
    labelled = tuple(ClassName(name, f"label of {name}") for name in "abcde")
    for names, kept in (("abcde", True), ("edcba", False)):
        path = tmp_path / f"{names}.pth"
        torch.save({"model": random_weights(narrow_spec("D")), "classes": list(names)}, path)
        asked = replace(recipe("D", path), mean=(1.0, 2.0, 3.0))
        for classes in (NAMES, labelled):
            assert ("fc8" in initial_weights(asked, classes).taken) == kept


def test_a_training_knows_which_of_several_sets_of_weights_it_starts_from(
    recipe: MakeRecipe, narrow_spec: Callable[..., NetworkSpec], random_weights: Callable[..., Any], tmp_path: Path
):
    weights = random_weights(narrow_spec("D"))
    averaged = {name: tensor + 1 for name, tensor in weights.items()}
    torch.save({"model": weights, "model_ema": averaged}, tmp_path / "w.pth")
    start = initial_weights(replace(recipe("D", tmp_path / "w.pth"), mean=(1.0, 2.0, 3.0)), NAMES)
    assert torch.equal(start.weights["fc8.bias"], averaged["fc8.bias"])
    (notice,) = start.choice_notices
    assert "model_ema is taken" in notice
