"""Leaves out what an examination says of tensors that the derivation has named, so that one fault is one line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from export.proof.file.tensor_differences import TensorDifference

# Messages of `vgg_deploy.artifacts.graph_check` name a scale or a zero point by the node that reads it, and scales of
# integer weights by the value that they scale.
_OF_NODE = re.compile(r"the (scale|zero point) of ([\w.]+)_(?:de)?quantize\b")
_OF_VALUES = re.compile(r"the scales of ([\w.]+) are not those of its input times those of ([\w.]+\w)")
_NAME = re.compile(r"\w+(?:\.\w+)*")
_OTHERS = re.compile(r"also (\d+) other tensors?: each was changed after the export")


def without_named(lines: Sequence[str], differences: Iterable[TensorDifference]) -> list[str]:
    """The contradictions of a file, without those about tensors whose differences are listed already.

    Args:
        lines: `vgg_deploy.artifacts.integrity.Examination.contradictions`.
        differences: of the tensors that were derived anew.
    """
    named = {difference.tensor for difference in differences}
    kept = [line for line in lines if not _tensors_in(line) & named]
    dropped = len(lines) - len(kept)
    return [line for line in kept if not _counts_named(line, dropped, len(named))]


def _tensors_in(line: str) -> set[str]:
    """The names in a line that may be those of tensors."""
    names = set(_NAME.findall(line))
    names |= {f"{node}.{kind.replace(' ', '_')}" for kind, node in _OF_NODE.findall(line)}
    for values in _OF_VALUES.findall(line):
        names |= {f"{value}.scale" for value in values}
    return names


def _counts_named(line: str, dropped: int, named: int) -> bool:
    """Whether a line only counts changed tensors, and all of them are listed already."""
    others = _OTHERS.match(line)
    return others is not None and dropped > 0 and int(others[1]) < named
