"""Names of classes, and the class that a folder's name means."""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from vgg_deploy.errors import UsageError


@dataclass(frozen=True, slots=True)
class ClassName:
    """A class. `id` is the name of its folder and unique; `label` is what people read."""

    id: str
    label: str


def numbered_classes(count: int) -> tuple[ClassName, ...]:
    """Classes named after their position, for weights without names."""
    return tuple(ClassName(str(index), str(index)) for index in range(count))


def class_of_folder(folder: str, classes: Sequence[ClassName]) -> int:
    """Index of the class that a folder's name means.

    `n01440764`, `tench` and `n01440764_tench` all match a class whose id or label is any of the three. The whole name
    is tried first, then the WordNet id, then the word after it. ImageNet has two classes called crane: a folder with
    the WordNet id of one never matches the other.

    Raises:
        UsageError: no class or several classes match; names the nearest.
    """
    known_spellings = _known_spellings(tuple(classes))
    named = ClassName(folder, folder)
    for spelling in _spellings(folder):
        matches = [
            index
            for index, known in enumerate(known_spellings)
            if spelling in known and not _other_synsets(named, classes[index])
        ]
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise UsageError(
                f"folder {folder!r} matches several classes: {', '.join(classes[index].id for index in matches)}"
            )
    raise UsageError(
        f"folder {folder!r} is not a class of this network; the nearest are {', '.join(_nearest(folder, classes))} "
        "(an image's folder names its class)"
    )


def first_other_class(these: Sequence[ClassName], those: Sequence[ClassName]) -> int | None:
    """The first index at which the classes of two networks differ; None if all are the same.

    Two classes are the same if they share a spelling of id or label, and their WordNet ids do not differ.
    """
    for index, pair in enumerate(zip(these, those, strict=False)):
        if pair[0].id == pair[1].id:
            continue
        spellings = [{*_spellings(name.id), *_spellings(name.label)} for name in pair]
        if _other_synsets(*pair) or not spellings[0] & spellings[1]:
            return index
    return None if len(these) == len(those) else min(len(these), len(those))


def _nearest(folder: str, classes: Sequence[ClassName]) -> list[str]:
    """The three labels or ids whose spelling is nearest to a folder's name or a part of it."""

    def likeness(name: str) -> float:
        pairs = itertools.product(_spellings(folder), _spellings(name))
        return max(difflib.SequenceMatcher(None, left, right).ratio() for left, right in pairs)

    names = dict.fromkeys(text for name in classes for text in (name.label, name.id))
    return sorted(names, key=likeness, reverse=True)[:3]


def _other_synsets(name: ClassName, other: ClassName) -> bool:
    """Whether both have a WordNet id, and the ids differ."""
    ids, other_ids = _wordnet_ids(name), _wordnet_ids(other)
    return bool(ids and other_ids) and not ids & other_ids


def _wordnet_ids(name: ClassName) -> set[str]:
    return {word for text in (name.id, name.label) for word in _spellings(text) if re.fullmatch(r"n\d{8}", word)}


@lru_cache(maxsize=4)  # a thousand folders are looked up among the same thousand classes
def _known_spellings(classes: tuple[ClassName, ...]) -> tuple[frozenset[str], ...]:
    return tuple(frozenset((*_spellings(name.id), *_spellings(name.label))) for name in classes)


def _spellings(name: str) -> tuple[str, ...]:
    """A name, and its WordNet id and word if it consists of both. Underscores become spaces; case is ignored."""
    plain = name.casefold().replace("_", " ").strip()
    match = re.fullmatch(r"(n\d{8}) (.+)", plain)
    return (plain, match[1], match[2]) if match else (plain,)
