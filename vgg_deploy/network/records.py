"""Frozen dataclasses as strict JSON, and back: the format of manifests and of the sidecars of plans.

Stricter than msgspec and cattrs, which fill in a missing field that has a default: a manifest without its `std` would
then silently normalize wrongly.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import types
import typing
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, TypeVar

from vgg_deploy.errors import ManifestError, UsageError

Record = TypeVar("Record")


def to_json(record: Any, version: int, indent: int | None = None, key: str = "version") -> str:
    """A dataclass as JSON, with the version of its format under `key`, which must not be the name of a field.

    Raises:
        ManifestError: a number is NaN or infinite.
    """
    try:
        return json.dumps({key: version, **encode(record)}, ensure_ascii=False, allow_nan=False, indent=indent)
    except ValueError as error:
        raise ManifestError("a number of the manifest is NaN or infinite, which JSON cannot hold") from error


def from_json(kind: type[Record], text: str, version: int, where: str, key: str = "version") -> Record:
    """Reads what `to_json` wrote; `where` names the artifact in messages.

    Raises:
        ManifestError: the text is not JSON or has another version, or a field is missing or has the wrong type.
    """
    try:
        data = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{where}: its manifest is not JSON ({error})") from error
    stated = data.get(key) if isinstance(data, dict) else None
    if stated is None and key != "version":
        raise ManifestError(f"{where}: its manifest has no {key}: another tool wrote it, or it is damaged")
    if stated != version:
        raise ManifestError(
            f"{where}: its manifest has version {stated!r}, but this vgg_deploy reads {version}; "
            f"{'export' if key == 'version' else 'build'} it again, or install the version of vgg_deploy that wrote it"
        )
    try:
        record = _decode(kind, data, "manifest")
    except (UsageError, ManifestError, OverflowError) as error:
        raise ManifestError(f"{where}: {error}") from error
    assert isinstance(record, kind)
    return record


def _refuse_constant(name: str) -> float:
    """NaN and Infinity, which Python reads but JSON does not have."""
    raise ValueError(f"{name} is not a number in JSON")


def encode(value: Any) -> Any:
    """A dataclass, or a value of one of its fields, as JSON types."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: encode(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
    if isinstance(value, Mapping):
        return {key: encode(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [encode(item) for item in value]
    return value


def _decode(kind: Any, value: Any, where: str) -> Any:
    """`value`, from JSON, as the annotated type `kind`. A union may only be of one type and None."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin in (types.UnionType, typing.Union):
        (only,) = (argument for argument in arguments if argument is not type(None))
        return None if value is None else _decode(only, value, where)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return _decode_dataclass(kind, value, where)
    if origin is tuple:
        return _decode_tuple(arguments, value, where)
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, dict):
            raise ManifestError(f"{where} is {value!r:.80}; expected an object")
        return {key: _decode(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    accepted = (int, float) if kind is float else kind
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        raise ManifestError(f"{where} is {value!r:.80}; expected {kind.__name__}")
    return float(value) if kind is float else value


def _decode_dataclass(kind: type, value: Any, where: str) -> Any:
    """Ignores unknown keys. A field may be missing only if it is optional, or if its metadata allow it because it was
    added later.
    """
    if not isinstance(value, dict):
        raise ManifestError(f"{where} is {value!r:.80}; expected an object")
    decoded: dict[str, Any] = {}
    for field, hint in _hinted_fields(kind):
        if field.name in value:
            decoded[field.name] = _decode(hint, value[field.name], f"{where}.{field.name}")
        elif type(None) in typing.get_args(hint):
            decoded[field.name] = None
        elif not field.metadata.get("may_be_missing"):
            raise ManifestError(f"{where}.{field.name} is missing")
    return kind(**decoded)


def _decode_tuple(kinds: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    """A list as a tuple. If `kinds` ends in an ellipsis, all items have its first type; else each item has its own."""
    repeated = kinds[-1] is Ellipsis
    if not isinstance(value, list) or (not repeated and len(value) != len(kinds)):
        raise ManifestError(f"{where} is {value!r:.80}; expected a list{'' if repeated else f' of {len(kinds)}'}")
    item_kinds = itertools.repeat(kinds[0], len(value)) if repeated else kinds
    return tuple(
        _decode(kind, item, f"{where}[{index}]")
        for index, (kind, item) in enumerate(zip(item_kinds, value, strict=True))
    )


@lru_cache  # a manifest has a thousand classes
def _hinted_fields(kind: type) -> list[tuple[dataclasses.Field[Any], Any]]:
    """The fields that the constructor of a dataclass takes, with their types."""
    hints = typing.get_type_hints(kind)
    return [(field, hints[field.name]) for field in dataclasses.fields(kind) if field.init]
