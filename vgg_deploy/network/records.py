"""Frozen dataclasses as strict JSON, and back: what manifests and the sidecars of plans are written in."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, TypeVar

from vgg_deploy.errors import ManifestError, UsageError

Record = TypeVar("Record")


def to_json(record: Any, version: int, indent: int | None = None, key: str = "version") -> str:
    """A dataclass as JSON, with the version of its format under `key`, which is none of its fields.

    Raises:
        ManifestError: a figure is NaN or infinite.
    """
    try:
        return json.dumps({key: version, **encode(record)}, ensure_ascii=False, allow_nan=False, indent=indent)
    except ValueError as error:
        raise ManifestError("a figure of the manifest is NaN or infinite; JSON has no number for it") from error


def from_json(kind: type[Record], text: str, version: int, where: str, key: str = "version") -> Record:
    """Reads what `to_json` wrote; `where` names the artifact in messages.

    Raises:
        ManifestError: not JSON, of another version, or a field is missing or has the wrong type.
    """
    try:
        data = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{where}: its manifest is not JSON ({error})") from error
    found = data.get(key) if isinstance(data, dict) else None
    if found is None and key != "version":
        raise ManifestError(f"{where}: its manifest has version None: it is none of vgg_deploy's, or it is damaged")
    if found != version:
        raise ManifestError(
            f"{where}: its manifest has version {found!r}, this vgg_deploy reads {version}; "
            f"{'export' if key == 'version' else 'build'} it again, or install the vgg_deploy that wrote it"
        )
    try:
        record = _decode(kind, data, "manifest")
    except (UsageError, ManifestError, OverflowError) as error:
        raise ManifestError(f"{where}: {error}") from error
    assert isinstance(record, kind)
    return record


def _refuse_constant(name: str) -> float:
    """NaN and Infinity, which Python's reader takes and JSON does not have."""
    raise ValueError(f"{name} is no number of JSON")


def encode(value: Any) -> Any:
    """A dataclass, or what one holds, as JSON's own types."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: encode(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
    if isinstance(value, Mapping):
        return {key: encode(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [encode(item) for item in value]
    return value


def _decode(kind: Any, value: Any, where: str) -> Any:
    """`value`, from JSON, as the annotated type `kind`.

    Unknown keys are passed over. Optional fields may be missing, and those whose metadata say so: they were added since.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        return _decode(next(argument for argument in arguments if argument is not type(None)), value, where)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise ManifestError(f"{where} is {value!r:.80}; expected an object")
        found: dict[str, Any] = {}
        for item, hint in _hinted_fields(kind):
            if item.name not in value and type(None) in typing.get_args(hint):
                found[item.name] = None
                continue
            if item.name not in value and item.metadata.get("may_be_missing"):
                continue
            if item.name not in value:
                raise ManifestError(f"{where}.{item.name} is missing")
            found[item.name] = _decode(hint, value[item.name], f"{where}.{item.name}")
        return kind(**found)
    if origin is tuple:
        if not isinstance(value, list) or (arguments[-1] is not Ellipsis and len(value) != len(arguments)):
            length = "" if arguments[-1] is Ellipsis else f" of {len(arguments)}"
            raise ManifestError(f"{where} is {value!r:.80}; expected a list{length}")
        return tuple(_decode(arguments[0], item, f"{where}[{index}]") for index, item in enumerate(value))
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, dict):
            raise ManifestError(f"{where} is {value!r:.80}; expected an object")
        return {key: _decode(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    accepted = (int, float) if kind is float else kind
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        raise ManifestError(f"{where} is {value!r:.80}; expected {kind.__name__}")
    return float(value) if kind is float else value


@lru_cache  # a manifest has a thousand classes
def _hinted_fields(kind: type) -> list[tuple[dataclasses.Field[Any], Any]]:
    """The fields that a dataclass is made from, with their types."""
    hints = typing.get_type_hints(kind)
    return [(item, hints[item.name]) for item in dataclasses.fields(kind) if item.init]
