"""The rows of answers in a file of the user's own pipeline: what they may be, and the order of their columns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vgg_deploy.errors import UsageError, counted
from vgg_deploy.network.classes import ClassName, class_of_folder, first_other_class

Rows = npt.NDArray[np.float64]  # [n, classes]

PROBABILITIES, LOGITS = "probabilities", "logits"

# The sum of a row may be this far from 1: four decimals for each of a thousand classes are off by 0.001 as a rule.
# Class scores before the soft-max are off by whole units.
LARGEST_SUM_ERROR = 0.01


def column_order(source: Path, columns: Sequence[str], classes: Sequence[ClassName]) -> list[int]:
    """The column of each class.

    Args:
        source: the file, for messages.
        columns: their names: ids or labels of classes.
        classes: of the model.

    Raises:
        UsageError: the names are not those of the classes.
    """
    if first_other_class([ClassName(name, name) for name in columns], classes) is None:
        return list(range(len(classes)))  # labels that occur twice would be ambiguous one by one
    found: dict[int, int] = {}  # class -> column
    unknown = []
    for column, name in enumerate(columns):
        try:
            found.setdefault(class_of_folder(name, classes), column)
        except UsageError:
            unknown.append(name)
    missing = [name.id for index, name in enumerate(classes) if index not in found]
    if unknown or missing:
        raise UsageError(
            f"{source} names the classes {_listed(columns)}; the model has {_listed([name.id for name in classes])}. "
            f"Not of the model: {_listed(unknown)}. Without a column: {_listed(missing)}. Name the columns as the "
            "model does, or leave the names out if the columns have the model's order"
        )
    return [found[index] for index in range(len(classes))]


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:5]) or "none"
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"


def logarithms_of(path: Path, kind: str, values: npt.NDArray[Any], count: int) -> Rows:
    """The logarithms of the posteriors, float64 [n, classes]; minus infinity for a posterior of 0.

    Args:
        path: the file, for messages.
        kind: `PROBABILITIES` or `LOGITS`.
        values: [n, classes].
        count: the number of images.

    Raises:
        UsageError: `values` are not what `kind` says, or not a row for each image.
    """
    shape = list(values.shape)
    if values.dtype.kind not in "fiu" or values.ndim != 2:
        raise UsageError(f"{path}: {kind} is {values.dtype} {shape}; expected numbers [n, classes]")
    if values.dtype == np.float16:
        raise UsageError(
            f"{path}: {kind} is float16, whose rounding hides small differences; compute them in float32, and save that"
        )
    if len(values) != count:
        raise UsageError(
            f"{path} has {counted(count, 'image')} and {counted(len(values), 'row')} of {kind}; "
            "expected a row for each image"
        )
    if values.shape[1] < 2:
        raise UsageError(f"{path}: {kind} is {shape}; expected [n, classes] with at least two classes")
    rows: Rows = values.astype(np.float64)
    if not np.isfinite(rows).all():
        index = int((~np.isfinite(rows)).any(axis=1).argmax())
        raise UsageError(f"{path}: row {index} of {kind} has NaN or infinity: the pipeline that wrote it is at fault")
    if kind == LOGITS:
        if _are_posteriors(rows):
            raise UsageError(
                f"{path}: each row of logits is between 0 and 1 and sums to 1, so it looks like probabilities; name it "
                "probabilities"
            )
        rows = rows - rows.max(axis=1, keepdims=True)
        logarithms: Rows = rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))
        return logarithms
    _check_posteriors(path, rows)
    with np.errstate(divide="ignore"):
        logarithms = np.log(rows)  # -inf for 0
    return logarithms


def _are_posteriors(rows: Rows) -> bool:
    return bool((rows >= 0).all() and (np.abs(rows.sum(axis=1) - 1) <= LARGEST_SUM_ERROR).all())


def _check_posteriors(path: Path, rows: Rows) -> None:
    if _are_posteriors(rows):
        return
    sums = rows.sum(axis=1)  # [n]
    wrong = (rows < 0).any(axis=1) | (np.abs(sums - 1) > LARGEST_SUM_ERROR)  # [n]
    index = int(wrong.argmax())
    row = rows[index]
    found = f"{path}: row {index} of probabilities has values from {row.min():.3g} to {row.max():.3g} and sums to "
    found += f"{sums[index]:.4g}; expected 0..1 with a sum of 1"
    if row.min() >= 0 and abs(sums[index] - 100) <= 100 * LARGEST_SUM_ERROR:
        raise UsageError(f"{found}. It looks like percent: divide by 100")
    if row.min() >= 0 and row.max() <= 1:
        raise UsageError(f"{found}. It looks like the outputs of a sigmoid for each class, which VGG does not have")
    raise UsageError(
        f"{found}. It looks like logits: name it logits in an .npz file, or apply the soft-max in your pipeline"
    )


def is_number(cell: str) -> bool:
    """Whether a cell of a CSV file is a number."""
    try:
        float(cell)
    except ValueError:
        return False
    return True
