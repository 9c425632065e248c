from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from train.recipe import DIGITS, Recipe
from train.recipe_file import FIELDS, read_recipe, recipe_text
from vgg_deploy.errors import UsageError
from vgg_deploy.network.manifest import TrainScale
from vgg_deploy.network.spec import NetworkSpec


def written(path: Path, text: str) -> Path:
    path.write_text(text, "utf-8")
    return path


def test_every_field_of_a_recipe_can_be_set():
    of_the_network = {"arch", "width_divisor", "crop", "fc_width"}
    assert FIELDS.keys() == {field.name for field in fields(Recipe)} - {"spec"} | of_the_network


def test_a_written_recipe_is_read_back(tmp_path: Path):
    recipe = Recipe(
        NetworkSpec("E", width_divisor=2, crop=96, fc_width=128),
        train_scale=TrainScale(100, 200),
        mirror=False,
        rgb_shift=0.05,
        initialisation="a:runs/ä/best.safetensors",
        mean=(1.0, 2.0, 3.5),
        std=(50.0, 51.0, 52.0),
        seed=7,
    )
    fields = read_recipe(written(tmp_path / "r.toml", recipe_text(recipe)))
    sizes = {name: fields.pop(name) for name in ("width_divisor", "crop", "fc_width")}
    assert Recipe(NetworkSpec(fields.pop("arch"), **sizes), **fields) == recipe


def test_the_digits_recipe_is_written_with_its_chosen_initialisation():
    assert 'initialisation = "glorot"\n' in recipe_text(DIGITS)
    assert "classes" not in recipe_text(replace(DIGITS, seed=3))


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("train_scale = 256", TrainScale(256, 256)),
        ("train_scale = [256, 512]", TrainScale(256, 512)),
        ("mean = [123, 117, 104]", (123.0, 117.0, 104.0)),
        ("learning_rate = 1", 1.0),
        ("mirror = false", False),
        ("arch = 'E'", "E"),
    ],
)
def test_a_value_is_read_as_the_option_would_parse_it(tmp_path: Path, line: str, value: Any):
    assert list(read_recipe(written(tmp_path / "r.toml", line)).values()) == [value]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("learning_rat = 0.1", "no field 'learning_rat'; did you mean learning_rate?"),
        ("zzz = 1", "no field 'zzz'; the fields are arch, batch"),
        ("batch = 2.5", "batch is 2.5; expected a whole number"),
        ("batch = true", "batch is True; expected a whole number"),
        ("mirror = 1", "mirror is 1; expected true or false"),
        ("learning_rate = 'fast'", "learning_rate is 'fast'; expected a number"),
        ("mean = [1, 2]", r"mean is \[1, 2\]; expected \[R, G, B\]"),
        ("train_scale = 256.5", "train_scale is 256.5; expected S"),
        ("train_scale = [true, 2]", "expected S, or"),
        ("batch", "is not TOML"),
    ],
)
def test_a_bad_recipe_is_refused_with_the_file_and_what_is_expected(tmp_path: Path, text: str, named: str):
    with pytest.raises(UsageError, match=named) as caught:
        read_recipe(written(tmp_path / "r.toml", text))
    assert "r.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path):
    with pytest.raises(UsageError, match=r"cannot read the recipe .*nowhere\.toml: No such file"):
        read_recipe(tmp_path / "nowhere.toml")
