"""Fields of manifests and sidecars, as JSON: their paths, and another valid value for each."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from tests.mutants.edit import NotApplicable

ANY = "*"  # in a path: the first item of a list, or the first key of an object

# Objects whose keys are data.
_MAPPINGS = ("tools", "training", "ranges", "largest_activations", "tensors", "layers")

# Another valid value of the fields that take few.
_CHOICES: dict[str, tuple[Any, ...]] = {
    "configuration": ("A", "B", "A-LRN"),
    "filter": ("bilinear", "bicubic"),
    "rounding": ("floor", "nearest"),
    "arithmetic": ("float32", "float16"),
    "range": ("not limited", "measured", "unmeasured"),
    "target": ("tensorrt", "onnxruntime"),
    "method": ("minmax", "entropy"),
    "backend": ("tensorrt-rtx", "tensorrt"),
    "hardware_compatibility": ("none", "same"),
    "layers_from": ("declared", "built"),
    "version": ("1.2.3", "3.2.1"),
    "width_divisor": (8, 4, 16),
}


def paths(value: Any, names: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The paths of all fields of a JSON value. Items of a list, and keys that are data, share one path."""
    if names[-2:] == ("training", ANY):  # plain JSON, whose names are data
        yield names
    elif isinstance(value, dict) and value:
        keys = [ANY] if names and names[-1] in _MAPPINGS else list(value)
        for key in keys:
            yield from paths(value[next(iter(value)) if key == ANY else key], (*names, key))
    elif isinstance(value, list) and value and isinstance(value[0], (dict, str)):
        yield from paths(value[0], (*names, ANY))
    else:
        yield names


def edited(data: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    """A copy of `data` with another value at `path`; raises `NotApplicable` if there is no such field."""
    new = copy.deepcopy(data)
    place: Any = new
    for name in path[:-1]:
        place = _item(place, name)
    key = _key(place, path[-1])
    place[key] = _other(place[key], next(name for name in reversed(path) if name != ANY))
    return new


def _item(place: Any, name: str) -> Any:
    return place[_key(place, name)]


def _key(place: Any, name: str) -> Any:
    if not isinstance(place, (dict, list)) or not place or (name != ANY and name not in place):
        raise NotApplicable(f"no field {name}")
    if name != ANY:
        return name
    return 0 if isinstance(place, list) else next(iter(place))


def _other(value: Any, name: str) -> Any:
    """Another value of the same type."""
    if value in _CHOICES.get(name, ()) and not isinstance(value, bool):
        return next(choice for choice in _CHOICES[name] if choice != value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 32 if name == "crop" else value + 1
    if isinstance(value, str):
        return ("1" if value[0] == "0" else "0") + value[1:] if value else "x"
    if isinstance(value, list):
        return [_other(item, name) for item in value] if value else ["fc8"]
    if isinstance(value, dict):
        return {key: _other(item, name) for key, item in value.items()}
    if value is None:
        return {"largest_activations": {"conv1_1": 1.0}, "budget": "none", "maximum": 4096}.get(name, 7)
    raise NotApplicable(f"{name} is {value!r}")
