"""The names of classes in JSON, or in a Python dictionary as `print` writes it."""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from vgg_deploy.errors import UsageError

_NUMBER = re.compile(r"0|[1-9][0-9]{0,8}")
AS_JSON = 'a JSON list ["cat", ...] in the order of the outputs'
_EXPECTED_JSON = (
    'expected ["cat", ...] in the order of the outputs, {"0": "cat", ...}, {"0": ["n02123045", "cat"], ...}, '
    'or {"cat": 0, ...}'
)

Names = list[tuple[str | None, str]]  # id (None: the label is the id) and label, in the order of the outputs


@dataclass(frozen=True, slots=True)
class _Parsed:
    """A list, or the pairs of an object in the file's order with the line of each."""

    items: tuple[Any, ...] = ()
    pairs: tuple[tuple[Any, Any], ...] | None = None

    @staticmethod
    def of(text: str, where: str) -> _Parsed:
        """Raises UsageError if the text is neither JSON nor a Python list or dictionary."""
        try:
            value = json.loads(text, object_pairs_hook=_Pairs)
        except (ValueError, RecursionError) as error:
            value = _python_literal(text)
            if value is None:
                line = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
                what = error.msg if isinstance(error, json.JSONDecodeError) else "it is nested too deeply"
                raise UsageError(
                    f"{where}{line}: it begins like JSON, but cannot be read as JSON: {what}; {_EXPECTED_JSON}"
                ) from None
        return _Parsed(pairs=tuple(value)) if isinstance(value, _Pairs) else _Parsed(items=tuple(value))


class _Pairs(list[tuple[Any, Any]]):
    """The pairs of an object. A dictionary would keep only the last of two equal keys."""


def _python_literal(text: str) -> Any:
    """A list or dictionary of texts, numbers and lists as Python writes it; None if it is not one."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python warns about backslashes in texts
            return _value_of(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None


def _value_of(node: ast.expr | None) -> Any:
    if isinstance(node, ast.Dict):
        return _Pairs((_value_of(key), _value_of(value)) for key, value in zip(node.keys, node.values, strict=True))
    if isinstance(node, ast.List | ast.Tuple):
        return [_value_of(item) for item in node.elts]
    if isinstance(node, ast.Constant) and isinstance(node.value, str | int) and not isinstance(node.value, bool):
        return node.value
    raise ValueError("not a plain value")


def names_from_json(text: str, count: int, where: str) -> Names:
    """The names in the order of the outputs; see `classes_from_labels`.

    Raises:
        UsageError: the text cannot be read, does not name `count` classes, or can be read in two ways.
    """
    parsed = _Parsed.of(text, where)
    found = parsed.items if parsed.pairs is None else parsed.pairs
    if len(found) != count:
        raise UsageError(
            f"{where} has {len(found)} labels; the network has {count} classes; expected one label for each class"
        )
    if parsed.pairs is None:
        return [_named(item, f"{where}, entry {index}") for index, item in enumerate(parsed.items)]
    pairs = parsed.pairs
    keys, values = [key for key, _ in pairs], [value for _, value in pairs]
    if (repeated := next((key for key, times in Counter(keys).items() if times > 1), None)) is not None:
        raise UsageError(f"{where} has the key {shortened(repeated)} more than once; expected each key once")
    readings: list[Callable[[], Names]] = []
    by_key, by_value = _all_numbers(keys), _all_numbers(values)
    if by_key:
        readings.append(lambda: _sorted(((key, value) for key, value in pairs), where))
    if by_value:
        readings.append(lambda: _sorted(((value, key) for key, value in pairs), where))
    if not readings:
        index = next(index for index, key in enumerate(keys) if number_of(key) is None)
        raise UsageError(
            f"{where} has the entry {shortened(keys[index])}: {shortened(values[index])}; {_EXPECTED_JSON}"
        )
    if len(readings) == 2 and not _permutation(values):
        readings = readings[:1] if _permutation(keys) else readings
    elif len(readings) == 2 and not _permutation(keys):
        readings = readings[1:]
    answers = [reading() for reading in readings]
    if len(answers) == 2 and answers[0] != answers[1]:
        raise UsageError(
            f"{where} can be read in two ways, since its keys and its values are all numbers from 0 to {count - 1}: as "
            f"{{index: name}} or as {{name: index}}. Write {AS_JSON} instead"
        )
    return answers[0]


def _sorted(pairs: Iterable[tuple[Any, Any]], where: str) -> Names:
    """The names by index; each of 0 to n - 1 must occur once."""
    found: dict[int, Any] = {}
    indices = []
    for key, value in pairs:
        index = number_of(key)
        assert index is not None
        if index in found:
            raise UsageError(
                f"{where} has the index {index} twice, for {shortened(found[index])} and {shortened(value)}; expected "
                "each index once"
            )
        found[index] = value
        indices.append(index)
    missing = next((index for index in range(len(found)) if index not in found), None)
    if missing is not None:
        one = ". They seem to start at 1: subtract 1" if min(found) == 1 and max(found) == len(found) else ""
        raise UsageError(
            f"{where} has indices from {min(found)} to {max(found)} and lacks {missing}; expected each of 0 to "
            f"{len(found) - 1} once{one}. If the numbers are names of folders, write {AS_JSON}"
        )
    return [_named(found[index], f"{where}, index {index}") for index in range(len(found))]


def _named(value: Any, where: str) -> tuple[str | None, str]:
    if isinstance(value, int) and not isinstance(value, bool) and not isinstance(value, _Pairs):
        value = str(value)
    if isinstance(value, str) and value.strip():
        return None, value.strip()
    if isinstance(value, list) and len(value) == 2 and all(isinstance(text, str) and text.strip() for text in value):
        return value[0].strip(), value[1].strip()
    raise UsageError(f"{where} is {shortened(value)}; {_EXPECTED_JSON}")


def _all_numbers(values: Sequence[Any]) -> bool:
    return all(number_of(value) is not None for value in values)


def _permutation(values: Sequence[Any]) -> bool:
    """Whether the values are 0 to n - 1, in any order."""
    return {number_of(value) for value in values} == set(range(len(values)))


def number_of(value: Any) -> int | None:
    """A whole number from 0, also as text."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value if value >= 0 else None
    return int(value) if isinstance(value, str) and _NUMBER.fullmatch(value.strip()) else None


def shortened(value: Any) -> str:
    """A value for a message, shortened."""
    text = repr(dict(value) if isinstance(value, _Pairs) else value)
    return text if len(text) <= 40 else f"{text[:37]}..."
