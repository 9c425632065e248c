"""Labels files: the names of classes, in JSON, as lines of names, or as lines of indices and names.

The content decides what a file is, not its ending. A file that can be read in two ways is refused with both.
"""

from __future__ import annotations

import codecs
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vgg_deploy.errors import UsageError
from vgg_deploy.network.classes import ClassName
from vgg_deploy.network.label_json import AS_JSON, Names, names_from_json, number_of, shortened

# UTF-32 comes first: its mark for little endian begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_LINE_END = re.compile(r"\r\n|\r|\n")
_NUMBERED = re.compile(
    r"([0-9]{1,9})(?:\s*[,;:=]\s*|[.)]\s+|\s+-\s+|\s+)(\S.*)"
)  # 3 red fox; 3,red fox; 3: red fox; 3. red fox
_NUMBER_LAST = re.compile(r"(.*\S)(?:\s*[,;:]\s*|\s+)([0-9]{1,9})")  # red fox,3
_QUOTED = re.compile(r"""(["'])(.*)\1,?""")
_WORD_IN_BRACKETS = re.compile(r"""\[[^\[\]"',]+\]|\{[^{}"':,]+\}""")  # a name, such as [background]


class LabelsText(str):
    """The text of a labels file. It knows the name of the file, for messages."""

    def __new__(cls, text: str, file: str = "the labels file") -> LabelsText:
        labels = super().__new__(cls, text)
        labels.file = file
        return labels

    file: str


def read_labels(path: Path | None) -> LabelsText | None:
    """The text of a labels file, or None without one. It is UTF-8, or begins with the mark of UTF-16 or UTF-32.

    Raises:
        UsageError: the file cannot be read, or has another encoding.
    """
    if path is None:
        return None
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read the labels file {path}: {error.strerror}") from None
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8-sig")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        found = "not UTF-8 text" if encoding == "utf-8-sig" else f"damaged {encoding.upper()} text"
        where = f" (line {line})" if encoding == "utf-8-sig" else ""
        raise UsageError(f"{path} is {found}{where}; expected a labels file: save it as UTF-8") from None
    if "\0" in text:
        raise UsageError(
            f"{path} has zero bytes: it is no text, or UTF-16 without a byte order mark; expected a labels file: save "
            "it as UTF-8"
        )
    return LabelsText(text, str(path))


def classes_from_labels(text: str, count: int, where: str | None = None) -> tuple[ClassName, ...]:
    """The classes that a labels file names, in the order of the outputs.

    The file is one of these:

    - JSON: a list of names or of [id, name]; {index: name}; {index: [id, name]}; {name: index}. A Python dictionary of
      the same content is read too.
    - `label` or `id<TAB>label` per line, in the order of the outputs.
    - `index label`, `index,label` or `index: label` per line, in any order, with or without a header.

    A label without an id is its own id. If a label occurs twice, its index makes the id unique.

    Args:
        text: of the file.
        count: the number of classes of the network.
        where: names the file in messages. None: as `text` knows, if it is a `LabelsText`.

    Raises:
        UsageError: the file does not name `count` classes, an index is missing or occurs twice, an id occurs twice, or
            the file can be read in two ways.
    """
    if where is None:
        where = text.file if isinstance(text, LabelsText) else "the labels file"
    text = text.removeprefix("\ufeff")
    lines = [_Line(number, line.strip()) for number, line in enumerate(_LINE_END.split(text), 1) if line.strip()]
    if lines and lines[0].text[0] in "[{" and not (len(lines) > 1 and _WORD_IN_BRACKETS.fullmatch(lines[0].text)):
        names = names_from_json(text, count, where)
    else:
        names = _from_lines(lines, count, where)
    repeated = Counter(label for id_, label in names if id_ is None)
    classes = tuple(
        ClassName((label if repeated[label] == 1 else f"{label}#{index}") if id_ is None else id_, label)
        for index, (id_, label) in enumerate(names)
    )
    seen: dict[str, int] = {}
    for index, name in enumerate(classes):
        if (first := seen.setdefault(name.id, index)) != index:
            raise UsageError(
                f"{where} has the class id {name.id!r} more than once, for the classes {first} and {index}; ids must "
                "be unique"
            )
    return classes


# ---- lines ----


@dataclass(frozen=True, slots=True)
class _Line:
    """A line that is not blank, and its number, from 1."""

    number: int
    text: str


def _from_lines(lines: Sequence[_Line], count: int, where: str) -> Names:
    header = len(lines) == count + 1 and not _NUMBERED.fullmatch(lines[0].text) and _is_header(lines)
    if header:
        lines = lines[1:]
    if len(lines) != count:
        raise UsageError(
            f"{where} has {len(lines)} labels; the network has {count} classes; expected one label per line"
        )
    if any("\t" in line.text for line in lines):
        return _with_tabs(lines, where)
    numbered = [_NUMBERED.fullmatch(line.text) for line in lines]
    matches = [match for match in numbered if match]
    if len(matches) == len(lines):
        return _by_index([(line, int(match[1]), match[2]) for line, match in zip(lines, matches, strict=True)], where)
    indices = [int(match[1]) for match in matches]
    if 2 * len(matches) > len(lines) and len(set(indices)) == len(indices) and max(indices) < count:
        line = next(line for line, match in zip(lines, numbered, strict=True) if match is None)
        raise UsageError(
            f"{where}, line {line.number}: {shortened(line.text)} has no index, but {len(matches)} of the {len(lines)} "
            f"lines look like an index and a name; expected `index name` on each line, or {AS_JSON}"
        )
    _refuse_indices_at_the_end(lines, where)
    return [(None, line.text) for line in lines]


def _is_header(lines: Sequence[_Line]) -> bool:
    """Whether the first line names two columns of the others, an index and a name."""
    return re.fullmatch(r"\w+\s*[,;\t]\s*\w+", lines[0].text) is not None and all(
        _NUMBERED.fullmatch(line.text) for line in lines[1:]
    )


def _by_index(entries: Sequence[tuple[_Line, int, str]], where: str) -> Names:
    """The names in the order of their indices, which must be 0 to n - 1."""
    count = len(entries)
    choices = (
        f"expected each of 0 to {count - 1} once. If the numbers are not the indices of the outputs, write {AS_JSON}, "
        "or `ID<TAB>LABEL` on each line"
    )
    found: dict[int, tuple[_Line, str]] = {}
    for line, index, label in entries:
        if index >= count:
            one = " (the indices seem to start at 1)" if index == count and 0 not in found else ""
            raise UsageError(
                f"{where}, line {line.number}: {shortened(line.text)} has the index {index}{one}; {choices}"
            )
        if index in found:
            raise UsageError(
                f"{where}, line {line.number}: {shortened(line.text)} has the index {index}, as line "
                f"{found[index][0].number} has; {choices}"
            )
        quoted = _QUOTED.fullmatch(label)
        found[index] = line, quoted[2].replace('""', '"').strip() if quoted else label
    return [(None, found[index][1]) for index in range(count)]


def _with_tabs(lines: Sequence[_Line], where: str) -> Names:
    names: Names = []
    for line in lines:
        name, tab, label = line.text.partition("\t")
        names.append((name.strip(), label.strip()) if tab else (None, line.text))
    for what, texts in (("begin", [id_ or "" for id_, _ in names]), ("end", [label for _, label in names])):
        numbers = [number for text in texts if (number := number_of(text)) is not None]
        if len(numbers) < len(texts) or max(numbers) > len(texts) or len(set(numbers)) < len(texts):
            continue  # these cannot be indices
        back = next(
            (line for line, one, other in zip(lines[1:], numbers, numbers[1:], strict=False) if one > other), None
        )
        if back is not None:
            raise UsageError(
                f"{where}, line {back.number}: the lines {what} with numbers that are not in order, so they can be "
                "read in two ways. If the numbers are the indices of the outputs, write `index name` with a space. If "
                f'they are names of folders, write JSON: {{"0": ["ID", "LABEL"], ...}}'
            )
    return names


def _refuse_indices_at_the_end(lines: Sequence[_Line], where: str) -> None:
    """Raises UsageError if all lines may be a name and its index."""
    matches = [match for line in lines if (match := _NUMBER_LAST.fullmatch(line.text))]
    if len(lines) < 2 or len(matches) < len(lines):
        return
    indices, names = {int(match[2]) for match in matches}, {match[1] for match in matches}
    if indices == set(range(len(lines))) and len(names) == len(lines):
        raise UsageError(
            f"{where}, line {lines[0].number}: {shortened(lines[0].text)} can be read in two ways, as all lines "
            f"end with numbers from 0 to {len(lines) - 1}. If they are the indices of the outputs, write `index "
            f"name`. If they are part of the names, write {AS_JSON}"
        )
