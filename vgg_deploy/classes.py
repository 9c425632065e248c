"""Names of classes: from a labels file, and from folders."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from vgg_deploy.errors import UsageError


@dataclass(frozen=True, slots=True)
class ClassName:
    """A class: `id` is its folder's name, unique; `label` is what people read."""

    id: str
    label: str


def numbered_classes(count: int) -> tuple[ClassName, ...]:
    """Classes known by their position only."""
    return tuple(ClassName(str(index), str(index)) for index in range(count))


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
    before the WordNet id, and that before the word: ImageNet has two classes called crane.

    Raises:
        UsageError: no class or several match; names the nearest.
    """
    known_spellings = [{*_spellings(name.id), *_spellings(name.label)} for name in classes]
    for spelling in _spellings(folder):
        matches = [index for index, known in enumerate(known_spellings) if spelling in known]
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise UsageError(
                f"folder {folder!r} matches several classes: {', '.join(classes[index].id for index in matches)}"
            )
    nearest = difflib.get_close_matches(folder, [name.label for name in classes], 3, 0.0)
    raise UsageError(f"folder {folder!r} is no class of this network; the nearest are {', '.join(nearest)}")


def _spellings(name: str) -> tuple[str, ...]:
    """A name, and the parts of WordNet id and word if it is made of both; underscores are spaces, case does not count."""
    plain = name.casefold().replace("_", " ").strip()
    match = re.fullmatch(r"(n\d{8}) (.+)", plain)
    return (plain, match[1], match[2]) if match else (plain,)
