from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from train.recipe import DIGITS, Recipe
from vgg_deploy.errors import UsageError
from vgg_deploy.network.manifest import TrainScale
from vgg_deploy.network.spec import NetworkSpec

PAPER = Recipe(NetworkSpec("D"))


def test_the_defaults_are_section_3_1_of_the_paper():
    assert (PAPER.batch, PAPER.momentum, PAPER.weight_decay, PAPER.dropout) == (256, 0.9, 5e-4, 0.5)
    assert (PAPER.learning_rate, PAPER.learning_rate_drops, PAPER.epochs) == (1e-2, 3, 74)
    assert PAPER.train_scale == TrainScale(256, 256)
    assert PAPER.mirror
    assert PAPER.rgb_shift == 0.1


@pytest.mark.parametrize("configuration", ["A", "A-LRN"])
def test_a_starts_from_gaussian_at_full_width_and_from_glorot_if_narrower(configuration: str):
    wide, narrow = (Recipe(NetworkSpec(configuration, width_divisor=divisor)) for divisor in (1, 8))
    assert wide.chosen_initialisation == "gaussian"
    assert narrow.chosen_initialisation == "glorot"
    assert dataclasses.replace(narrow, initialisation="gaussian").chosen_initialisation == "gaussian"


@pytest.mark.parametrize("configuration", ["B", "E"])
def test_deeper_networks_start_from_a_trained_a_by_default(configuration: str):
    recipe = Recipe(NetworkSpec(configuration))
    assert recipe.chosen_initialisation is None
    for how in ("gaussian", "glorot", "a:runs/a/best.safetensors", "w.pth"):
        assert dataclasses.replace(recipe, initialisation=how).chosen_initialisation == how


@pytest.mark.parametrize("initialisation", [None, "glorot", "a:w.safetensors"])
def test_freezing_needs_weights_of_all_convolutions(initialisation: str | None):
    with pytest.raises(UsageError, match=r"freeze_features is True.*--weights"):
        dataclasses.replace(PAPER, initialisation=initialisation, freeze_features=True)
    assert dataclasses.replace(PAPER, initialisation="w.pth", freeze_features=True).freeze_features


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("batch", 0),
        ("batch", 2.5),
        ("epochs", 0),
        ("patience", 0),
        ("learning_rate_drops", -1),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("weight_decay", -1e-4),
        ("momentum", 1.0),
        ("dropout", 1.0),
        ("initialisation", "he"),
        ("rgb_shift", -0.1),
        ("std", (1.0, 1.0, 1.0)),
        ("mean", (0.0, 0.0, 256.0)),
        ("mean", (float("nan"), 0.0, 0.0)),
        ("seed", -1),
    ],
)
def test_a_value_out_of_range_is_refused_with_the_field_and_the_value(field: str, value: Any):
    with pytest.raises(UsageError, match=f"{field} is .*; expected") as caught:
        dataclasses.replace(PAPER, **{field: value})
    shown = value if isinstance(value, str) else str(value)
    assert shown in str(caught.value)


def test_a_scale_below_the_crop_is_refused():
    with pytest.raises(UsageError, match=r"S is 200 and the crop 224.*at least 224"):
        Recipe(NetworkSpec("D"), train_scale=TrainScale(200, 200))


def test_another_crop_changes_s_in_proportion():
    half = Recipe(NetworkSpec("D"), train_scale=TrainScale(256, 512)).with_crop(96)
    assert (half.spec.crop, half.train_scale) == (96, TrainScale(109, 219))
    with pytest.raises(UsageError, match="crop is 100"):
        PAPER.with_crop(100)


def test_the_learning_rate_stays_while_validation_improves():
    recipe = dataclasses.replace(PAPER, patience=2)
    assert recipe.next_learning_rate([]) == 1e-2
    assert recipe.next_learning_rate([0.1, 0.2, 0.15, 0.3, 0.25]) == 1e-2


def test_the_learning_rate_is_divided_by_ten_after_patience_epochs_without_improvement():
    recipe = dataclasses.replace(PAPER, patience=2)
    assert recipe.next_learning_rate([0.3, 0.2]) == 1e-2
    assert recipe.next_learning_rate([0.3, 0.2, 0.3]) == pytest.approx(1e-3)
    assert recipe.next_learning_rate([0.3, 0.2, 0.3, 0.1]) == pytest.approx(1e-3)
    assert recipe.next_learning_rate([0.3, 0.2, 0.3, 0.1, 0.1]) == pytest.approx(1e-4)


def test_training_ends_instead_of_a_fourth_division():
    recipe = dataclasses.replace(PAPER, patience=1)
    assert recipe.next_learning_rate([0.5, 0.5, 0.5, 0.5]) == pytest.approx(1e-5)
    assert recipe.next_learning_rate([0.5, 0.5, 0.5, 0.5, 0.5]) is None


def test_training_ends_after_the_last_epoch():
    recipe = dataclasses.replace(PAPER, epochs=3)
    assert recipe.next_learning_rate([0.1, 0.2]) == 1e-2
    assert recipe.next_learning_rate([0.1, 0.2, 0.3]) is None


def test_the_recipe_as_json_names_the_chosen_initialisation():
    plain = json.loads(json.dumps(DIGITS.as_json()))
    assert plain["initialisation"] == "glorot"
    assert plain["spec"] == {"configuration": "A", "width_divisor": 8, "crop": 64, "fc_width": 256, "classes": 10}
    assert plain["train_scale"] == {"minimum": DIGITS.train_scale.minimum, "maximum": DIGITS.train_scale.maximum}


def test_digits_are_not_mirrored_and_their_colours_not_shifted():
    assert not DIGITS.mirror
    assert DIGITS.rgb_shift == 0
