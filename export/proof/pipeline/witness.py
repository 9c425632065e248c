"""Answers of the user's own pipeline, from a file. `export.proof.pipeline.proof` compares them with an engine's.

An .npz file has `probabilities` or `logits` [n, classes], and the images: `paths` (text [n]), `images` (uint8
[n, h, w, 3], RGB) or, if their sizes differ, `image_0`, `image_1` and so on. `classes` (text [classes]) may name the
columns. A .csv file has a path and then a probability for each class in each line. A first line may name the columns.
"""

from __future__ import annotations

import csv
import re
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from export.proof.pipeline.witness_rows import LOGITS, PROBABILITIES, Rows, column_order, is_number, logarithms_of
from vgg_deploy.errors import UsageError, counted, reason_of
from vgg_deploy.inference.engine import check_bytes
from vgg_deploy.network.classes import ClassName
from vgg_deploy.network.tensors import Images

_PATHS, _IMAGES, _CLASSES = "paths", "images", "classes"
_IMAGE = re.compile(r"image_(\d+)")
_EXPECTED = "expected paths or images, and probabilities or logits; classes may name the columns"
# What the first cell of a line that names columns may be.
_PATH_COLUMN = frozenset({"path", "paths", "image", "images", "file", "filename", "name"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Witness:
    """What the user's own pipeline answers for some images. Either `images` or `paths` is empty.

    Attributes:
        source: the file.
        logarithms: float64 [n, classes], the logarithms of the posteriors. They keep what posteriors near 0 and 1 hide.
        images: the exact pixels, each uint8 [h, w, 3], RGB.
        paths: image files.
        columns: the names of the classes in the order of the columns; empty if the file does not name them.
    """

    source: Path
    logarithms: Rows
    images: tuple[Images, ...] = ()
    paths: tuple[Path, ...] = ()
    columns: tuple[str, ...] = field(default=())

    @property
    def exact(self) -> bool:
        """Whether the file has the pixels themselves, so that decoding and rescaling play no part."""
        return bool(self.images)

    @property
    def names(self) -> tuple[str, ...]:
        """The images' names in reports."""
        return tuple(f"image {index}" for index in range(len(self.images))) or tuple(map(str, self.paths))

    def ordered(self, classes: Sequence[ClassName]) -> tuple[Rows, bool]:
        """The logarithms with the columns in the order of `classes`, and whether that changed their order.

        Raises:
            UsageError: another number of classes, or names that are not those of `classes`.
        """
        count = self.logarithms.shape[1]
        if count != len(classes):
            raise UsageError(
                f"{self.source} has answers for {counted(count, 'class', 'classes')}, and the model has "
                f"{len(classes)}: they are different networks"
            )
        if not self.columns:
            return self.logarithms, False
        order = column_order(self.source, self.columns, classes)
        return self.logarithms[:, order], order != list(range(count))


def read_witness(path: Path) -> Witness:
    """Reads a file of answers: .npz or .csv, see the module.

    Paths are relative to the file's folder, or else to the current folder.

    Raises:
        UsageError: the file cannot be read, or is not as described; says what was found, what was expected and what to
            do.
    """
    suffix = path.suffix.lower()
    if suffix not in (".npz", ".csv"):
        raise UsageError(f"{path} is not a file of answers; expected .npz or .csv")
    if not path.is_file():
        raise UsageError(f"{path}: no such file of answers; the page docs/witness.md shows how to write one")
    return _from_npz(path) if suffix == ".npz" else _from_csv(path)


def _from_npz(path: Path) -> Witness:
    arrays = _arrays(path)
    numbered = {name for name in arrays if _IMAGE.fullmatch(name)}
    unknown = sorted(set(arrays) - numbered - {_PATHS, _IMAGES, _CLASSES, PROBABILITIES, LOGITS})
    if unknown:
        raise UsageError(f"{path} has {', '.join(unknown)}; {_EXPECTED}")
    given = [name for name in (_PATHS, _IMAGES) if name in arrays] + (["image_0 ..."] if numbered else [])
    if len(given) != 1:
        raise UsageError(f"{path} has {' and '.join(given) or 'no images'}; give one of paths, images and image_0 ...")
    answers = [name for name in (PROBABILITIES, LOGITS) if name in arrays]
    if len(answers) != 1:
        found = " and ".join(answers) or f"no answers, only {', '.join(sorted(arrays))}"
        raise UsageError(f"{path} has {found}; give one of probabilities and logits, [n, classes]")
    images = _images(path, arrays, numbered)
    if images and max(int(pixels.max()) for pixels in images) <= 1:
        raise UsageError(f"{path}: no pixel is above 1; expected the pixels in 0..255, before they are divided by 255")
    paths = _located(path, _texts(path, _PATHS, arrays[_PATHS])) if _PATHS in arrays else ()
    columns = _texts(path, _CLASSES, arrays[_CLASSES]) if _CLASSES in arrays else ()
    (kind,) = answers
    logarithms = logarithms_of(path, kind, arrays[kind], len(images) + len(paths))
    if columns and len(columns) != logarithms.shape[1]:
        raise UsageError(
            f"{path} names {counted(len(columns), 'class', 'classes')} and has answers for {logarithms.shape[1]}"
        )
    return Witness(source=path, logarithms=logarithms, images=images, paths=paths, columns=columns)


def _arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    try:
        # numpy (2.4) leaves a damaged archive open if it opened it itself.
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                raise UsageError(f"{path} holds one array without a name; write it with np.savez: {_EXPECTED}")
            return {name: _array(path, loaded, name) for name in loaded.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UsageError(f"{path} cannot be read as .npz: {reason_of(error)}; write it with np.savez") from None


def _array(path: Path, loaded: Mapping[str, npt.NDArray[Any]], name: str) -> npt.NDArray[Any]:
    try:
        return loaded[name]
    except ValueError as error:  # numpy refuses to unpickle, or the header is damaged
        raise UsageError(
            f"{path}: {name} cannot be read ({reason_of(error)}). Objects are refused, since reading them runs code: "
            "save texts as np.array([str(path), ...]), and images of different sizes as image_0, image_1 ..."
        ) from None
    except (OSError, EOFError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise UsageError(f"{path}: {name} is damaged: {reason_of(error)}; write the file again") from None


def _images(path: Path, arrays: Mapping[str, npt.NDArray[Any]], numbered: set[str]) -> tuple[Images, ...]:
    if _IMAGES in arrays:
        _check_pixels(path, _IMAGES, arrays[_IMAGES], 4)
        return tuple(arrays[_IMAGES])
    names = [f"image_{index}" for index in range(len(numbered))]
    absent = [name for name in names if name not in numbered]
    if absent:
        raise UsageError(
            f"{path} has {counted(len(numbered), 'image')}, but no {absent[0]}; number them from image_0 on"
        )
    for name in names:
        _check_pixels(path, name, arrays[name], 3)
    return tuple(arrays[name] for name in names)


def _check_pixels(path: Path, name: str, pixels: npt.NDArray[Any], axes: int) -> None:
    try:
        check_bytes(pixels if axes == 4 else pixels[None])
    except UsageError:
        shape = "[n, h, w, 3]" if axes == 4 else "[h, w, 3]"
        raise UsageError(
            f"{path}: {name} is {pixels.dtype} {list(pixels.shape)}; expected uint8 {shape}: the pixels in RGB, as "
            "decoded and rescaled, before they become floating point and channels come first"
        ) from None
    if pixels.size == 0:
        raise UsageError(f"{path}: {name} is empty; give at least one image")


def _texts(path: Path, name: str, values: npt.NDArray[Any]) -> tuple[str, ...]:
    if values.ndim != 1 or values.dtype.kind != "U":
        raise UsageError(
            f"{path}: {name} is {values.dtype} {list(values.shape)}; expected a list of texts: "
            "np.array([str(...), ...])"
        )
    return tuple(map(str, values))


def _located(source: Path, texts: Sequence[str]) -> tuple[Path, ...]:
    """The image files: relative to the folder of `source`, or else to the current folder."""
    if not texts:
        raise UsageError(f"{source} has no images; give at least one")
    located, absent = [], []
    for text in texts:
        choices = (source.parent / text, Path(text))  # the first is `text` itself if that is absolute
        found = next((choice for choice in choices if text and choice.is_file()), None)
        if found is None:
            absent.append(text)
        else:
            located.append(found)
    if absent:
        raise UsageError(
            f"{source} names {len(absent)} of {len(texts)} images that do not exist, such as {absent[0]!r}; paths are "
            f"relative to {source.parent} or to the current folder"
        )
    return tuple(located)


def _from_csv(path: Path) -> Witness:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            lines = [(reader.line_num, cells) for cells in reader if cells]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path} cannot be read as CSV in UTF-8: {reason_of(error)}") from None
    header: list[str] = []
    if lines and _names_columns(lines[0][1]):
        header = [cell.strip() for cell in lines.pop(0)[1]]
    if not lines:
        raise UsageError(f"{path} has no images; expected lines of a path and a probability for each class")
    width = len(header or lines[0][1])
    if width < 3:
        raise UsageError(
            f"{path} has {counted(width, 'column')}; expected a path and a probability for each class, separated "
            "by commas"
        )
    rows = []
    for number, cells in lines:
        if len(cells) != width:
            raise UsageError(
                f"{path}: line {number} has {counted(len(cells), 'cell')}; expected {width}, as in the first line"
            )
        try:
            rows.append([float(cell) for cell in cells[1:]])
        except ValueError:
            cell = next(cell for cell in cells[1:] if not is_number(cell))
            raise UsageError(f"{path}: line {number} has {cell!r}; expected a probability") from None
    logarithms = logarithms_of(path, PROBABILITIES, np.array(rows), len(lines))
    paths = _located(path, [cells[0] for _number, cells in lines])
    return Witness(source=path, logarithms=logarithms, paths=paths, columns=tuple(header[1:]))


def _names_columns(cells: Sequence[str]) -> bool:
    return cells[0].strip().casefold() in _PATH_COLUMN or not all(map(is_number, cells[1:]))
