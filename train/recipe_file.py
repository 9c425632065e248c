"""Recipes as TOML files: the file that a user gives with --recipe, and recipe.toml of a run."""

from __future__ import annotations

import difflib
import json
import tomllib
from pathlib import Path
from typing import Any

from train.recipe import Recipe
from vgg_deploy.errors import UsageError
from vgg_deploy.network.manifest import TrainScale

_WHOLE, _NUMBER, _TEXT, _SWITCH = "a whole number", "a number", "a string", "true or false"
_SCALE, _RGB = "S, or [Smin, Smax]", "[R, G, B] in units of 0..255"

# The fields of a recipe and of its network, and what each holds.
FIELDS = {
    **dict.fromkeys(("width_divisor", "crop", "fc_width", "batch", "epochs", "patience"), _WHOLE),
    **dict.fromkeys(("learning_rate_drops", "seed"), _WHOLE),
    **dict.fromkeys(("rgb_shift", "learning_rate", "momentum", "weight_decay", "dropout"), _NUMBER),
    **dict.fromkeys(("arch", "initialisation"), _TEXT),
    **dict.fromkeys(("mirror", "freeze_features"), _SWITCH),
    **dict.fromkeys(("mean", "std"), _RGB),
    "train_scale": _SCALE,
}


def read_recipe(path: Path) -> dict[str, Any]:
    """The fields that a TOML file sets, with the values of the corresponding command-line options.

    Raises:
        UsageError: the file cannot be read, has a field that no recipe has, or a value of the wrong kind.
    """
    try:
        fields = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read the recipe {path}: {error.strerror}") from None
    except ValueError as error:  # includes UnicodeDecodeError and TOMLDecodeError
        raise UsageError(f"{path} is not TOML ({error}); expected lines such as learning_rate = 0.01") from None
    return {name: _value(path, name, value) for name, value in fields.items()}


def _value(path: Path, name: str, value: Any) -> Any:
    if name not in FIELDS:
        near = difflib.get_close_matches(name, FIELDS, 1)
        hint = f"did you mean {near[0]}?" if near else f"the fields are {', '.join(sorted(FIELDS))}"
        raise UsageError(f"{path}: a recipe has no field {name!r}; {hint}")
    kind = FIELDS[name]
    whole, number = type(value) is int, type(value) in (int, float)
    if kind == _SCALE and whole:
        return TrainScale(value, value)
    if kind == _SCALE and _numbers(value, 2, int):
        return TrainScale(*value)
    if kind == _RGB and _numbers(value, 3, (int, float)):
        return tuple(float(each) for each in value)
    if kind == _NUMBER and number:
        return float(value)
    if (kind, type(value)) in ((_WHOLE, int), (_TEXT, str), (_SWITCH, bool)):
        return value
    raise UsageError(f"{path}: {name} is {value!r}; expected {kind}")


def _numbers(value: Any, count: int, kinds: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == count
        and all(isinstance(each, kinds) and not isinstance(each, bool) for each in value)
    )


def recipe_text(recipe: Recipe) -> str:
    """A recipe as TOML, one field a line. Fields that are None are left out."""
    plain = recipe.as_json()
    spec, scale = plain.pop("spec"), plain.pop("train_scale")
    del spec["classes"]  # the data folder decides
    values = {
        "arch": spec.pop("configuration"),
        **spec,
        "train_scale": [scale["minimum"], scale["maximum"]],
        **plain,
    }
    lines = []
    for name, value in values.items():
        if value is not None:
            # JSON and TOML have the same syntax for numbers, strings, booleans and lists of numbers.
            lines.append(f"{name} = {json.dumps(value, ensure_ascii=False)}")
    return "\n".join(lines) + "\n"
