"""Class names that a training program stored beside the weights."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from vgg_deploy.network.classes import ClassName, numbered_classes

# Keys of class names in checkpoints: torchvision's ImageFolder, Hugging Face, YOLO, mmcv, torchvision's weights and
# hand-written programs. Case is ignored.
_KEYS = {
    *("class_to_idx", "idx_to_class", "classes", "class_names", "classnames", "names", "labels", "label_names"),
    *("id2label", "label2id", "categories"),
}
_DEEPEST = 4  # levels of mappings that are searched


def stored_classes(
    loaded: Any, metadata: Mapping[str, str], count: int, where: str
) -> tuple[tuple[ClassName, ...] | None, tuple[str, ...]]:
    """The class names in a checkpoint, in the order of the outputs, and notices. None if no names fit.

    Names that are incomplete are ignored. If several fit and contradict each other, all are ignored.

    Args:
        loaded: what the file holds; mappings within it are searched, and the values of argparse.Namespace.
        metadata: texts beside the tensors of a safetensors file; lists and mappings in them are JSON.
        count: the number of outputs.
        where: names the file in notices.
    """
    fitting: dict[str, list[str]] = {}
    notices = []
    for place, value in (*_candidates(loaded, (), 0), *_candidates(_parsed(metadata), (), 0)):
        names, problem = _names(value, count)
        if names is not None:
            fitting[place] = names
        elif problem is not None:
            notices.append(f"{where}: its {place} {problem}, so it is ignored")
    if not fitting:
        return None, tuple(notices)
    (first, names), *others = fitting.items()
    contradicting = next((place for place, other in others if other != names), None)
    if contradicting is not None:
        index = next(index for index in range(count) if names[index] != fitting[contradicting][index])
        notices.append(
            f"{where}: class {index} is {names[index]!r} in its {first} and {fitting[contradicting][index]!r} in its "
            f"{contradicting}, so both are ignored"
        )
        return None, tuple(notices)
    classes = tuple(
        ClassName(name if names.count(name) == 1 else f"{name}#{index}", name) for index, name in enumerate(names)
    )
    if len({item.id for item in classes}) != count:
        notices.append(f"{where}: its {first} has names that cannot be told apart, so it is ignored")
        return None, tuple(notices)
    if classes == numbered_classes(count):
        return None, tuple(notices)
    few = ", ".join(names[:3]) + (", ..." if count > 3 else "")
    notices.append(f"class names are those in {where}, from {first}: {few} (--labels FILE replaces them)")
    return classes, tuple(notices)


def _candidates(loaded: Any, path: tuple[str, ...], depth: int) -> Iterator[tuple[str, Any]]:
    if isinstance(loaded, argparse.Namespace):
        loaded = vars(loaded)
    if not isinstance(loaded, Mapping) or depth > _DEEPEST:
        return
    for key, value in loaded.items():
        if not isinstance(key, str) or isinstance(value, Tensor) or key.startswith("optim"):
            continue
        if key.casefold() in _KEYS and isinstance(value, (Mapping, list, tuple)) and value:
            yield ".".join((*path, key)), value
        else:
            yield from _candidates(value, (*path, key), depth + 1)


def _parsed(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The lists and mappings in texts of JSON."""
    parsed = {}
    for key, text in metadata.items():
        if text.lstrip()[:1] in ("[", "{"):
            try:
                parsed[key] = json.loads(text)
            except (ValueError, RecursionError):
                continue
    return parsed


def _names(value: Any, count: int) -> tuple[list[str] | None, str | None]:
    """The names in the order of the outputs; or None, and what is wrong with them, if they are names at all."""
    if isinstance(value, Mapping):
        pairs = _pairs(value)
        if pairs is None:
            return None, "does not map names to numbers, or numbers to names"
    elif all(isinstance(name, str) for name in value):
        pairs = list(enumerate(value))
    else:
        return None, None  # a list of other things, such as the numbers of chosen classes
    by_index: dict[int, str] = {}
    for index, name in pairs:
        if index in by_index:
            return None, f"has two names for class {index}, {by_index[index]!r} and {name!r}"
        by_index[index] = name
    if len(pairs) != count:
        return None, f"has {len(pairs)} names for {count} classes"
    if absent := [index for index in range(count) if index not in by_index]:
        return None, f"has no name for class {absent[0]}"
    names = [by_index[index].strip() for index in range(count)]
    if blank := [index for index, name in enumerate(names) if not name]:
        return None, f"has an empty name for class {blank[0]}"
    if names == [f"LABEL_{index}" for index in range(count)]:
        return None, None  # what transformers writes where nobody gave names
    return names, None


def _pairs(value: Mapping[Any, Any]) -> list[tuple[int, str]] | None:
    """Index and name of each class, whichever of the two is the key."""
    if all(isinstance(name, str) and _is_index(index) for name, index in value.items()):
        return [(index, name) for name, index in value.items()]
    pairs = []
    for index, name in value.items():
        if isinstance(index, str) and index.isdecimal():
            index = int(index)
        if not _is_index(index) or not isinstance(name, str):
            return None
        pairs.append((index, name))
    return pairs


def _is_index(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
