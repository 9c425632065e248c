"""Names of classes: from a labels file, and from folders."""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from vgg_deploy.errors import UsageError


@dataclass(frozen=True, slots=True)
class ClassName:
    """A class: `id` is its folder's name, unique; `label` is what people read."""

    id: str
    label: str


def numbered_classes(count: int) -> tuple[ClassName, ...]:
    """Classes known by their position only."""
    return tuple(ClassName(str(index), str(index)) for index in range(count))


def read_labels(path: Path | None) -> str | None:
    """Text of a labels file.

    Raises:
        UsageError: it cannot be read as text.
    """
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not UTF-8 text; a labels file has one label a line") from None
    except OSError as error:
        raise UsageError(f"cannot read the labels file {path}: {error.strerror}") from None


def classes_from_labels(text: str, count: int, where: str) -> tuple[ClassName, ...]:
    """Reads a labels file: one label a line in the order of the outputs, or `id<TAB>label`.

    Without an id the label is the id; a label that stands twice is numbered apart by its line.

    Raises:
        UsageError: the number of lines is not `count`, or an id is given twice.
    """
    lines = [line.strip() for line in text.removeprefix("\ufeff").splitlines() if line.strip()]
    if len(lines) != count:
        raise UsageError(
            f"{where} has {len(lines)} labels; the network has {count} classes: one label a line is needed"
        )
    classes = []
    for number, line in enumerate(lines):
        name, tab, label = line.partition("\t")
        if tab:
            classes.append(ClassName(name.strip(), label.strip()))
        else:
            classes.append(ClassName(line if lines.count(line) == 1 else f"{line}#{number}", line))
    ids = [name.id for name in classes]
    if len(set(ids)) != len(ids):
        repeated = next(name for name in ids if ids.count(name) > 1)
        raise UsageError(f"{where} has the class id {repeated!r} more than once; ids must be unique")
    return tuple(classes)


def class_of_folder(folder: str, classes: Sequence[ClassName]) -> int:
    """Index of the class that a folder's name means.

    `n01440764`, `tench` and `n01440764_tench` all match a class whose id or label is any of the three. The whole name counts
    before the WordNet id, and that before the word: ImageNet has two classes called crane, and a folder that states the one is
    never the other.

    Raises:
        UsageError: no class or several match; names the nearest.
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
        f"folder {folder!r} is no class of this network; the nearest are {', '.join(_nearest(folder, classes))} "
        "(an image's folder names its class)"
    )


def first_other_class(these: Sequence[ClassName], those: Sequence[ClassName]) -> int | None:
    """The first index at which two networks' classes are not the same; None where all are.

    One may be called by its WordNet id and the other by its word, as long as nothing tells them apart.
    """
    for index, (one, other) in enumerate(zip(these, those, strict=False)):
        if one.id == other.id:
            continue
        spellings = [{*_spellings(name.id), *_spellings(name.label)} for name in (one, other)]
        if _other_synsets(one, other) or not spellings[0] & spellings[1]:
            return index
    return None if len(these) == len(those) else min(len(these), len(those))


def _nearest(folder: str, classes: Sequence[ClassName]) -> list[str]:
    """Three labels or ids that are spelled most like a folder's name, or a part of it."""

    def likeness(name: str) -> float:
        pairs = itertools.product(_spellings(folder), _spellings(name))
        return max(difflib.SequenceMatcher(None, one, other).ratio() for one, other in pairs)

    names = dict.fromkeys(text for name in classes for text in (name.label, name.id))
    return sorted(names, key=likeness, reverse=True)[:3]


def _other_synsets(one: ClassName, other: ClassName) -> bool:
    """Whether both have a WordNet id, and not the same."""
    both = [_wordnet_ids(name) for name in (one, other)]
    return all(both) and not both[0] & both[1]


def _wordnet_ids(name: ClassName) -> set[str]:
    return {word for text in (name.id, name.label) for word in _spellings(text) if re.fullmatch(r"n\d{8}", word)}


@lru_cache(maxsize=4)  # a thousand folders are looked up among the same thousand classes
def _known_spellings(classes: tuple[ClassName, ...]) -> tuple[frozenset[str], ...]:
    return tuple(frozenset((*_spellings(name.id), *_spellings(name.label))) for name in classes)


def _spellings(name: str) -> tuple[str, ...]:
    """A name, and the parts of WordNet id and word if it is made of both; underscores are spaces, case does not count."""
    plain = name.casefold().replace("_", " ").strip()
    match = re.fullmatch(r"(n\d{8}) (.+)", plain)
    return (plain, match[1], match[2]) if match else (plain,)
