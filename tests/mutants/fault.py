"""A damaged file as a runtime that miscomputes: asked for a layer of the healthy file, it computes the damaged one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from export.proof.layers import operators
from export.proof.layers.pieces import CutFile
from vgg_deploy.errors import EngineError, VGGDeployError
from vgg_deploy.inference.context_managed import ContextManaged
from vgg_deploy.inference.piece import Piece, PieceModel

Array = npt.NDArray[Any]
OpenPiece = Callable[[PieceModel], Piece]

_BLOCK = 256  # output channels whose weights are read at once


class Fault:
    """Opens, for a piece of the healthy file, what the damaged file computes between the same tensors.

    Args:
        path: the damaged file.
        healthy: the healthy file.
        open_piece: opens a piece in the runtime.
    """

    def __init__(self, path: Path, healthy: CutFile, open_piece: OpenPiece) -> None:
        self._file, self._open_piece = CutFile(path), open_piece
        self._cuts = {cut.layer: cut for cut in healthy.cuts}

    def __call__(self, piece: PieceModel) -> Piece:
        try:
            model = self._file.model(self._cuts[piece.name])
        except VGGDeployError as error:  # such as a tensor that the damaged file lacks
            raise EngineError(str(error)) from error
        return self._open_piece(replace(model, on_one_position=piece.on_one_position))


class Remembered:
    """Opens pieces that a runtime computes once for each piece and input: most layers of a mutant are healthy."""

    def __init__(self, open_piece: OpenPiece) -> None:
        self._open_piece = open_piece
        self._outputs: dict[tuple[bytes, bytes], Array] = {}

    def __call__(self, piece: PieceModel) -> Piece:
        return _RememberedPiece(piece, self._open_piece, self._outputs)


@contextmanager
def remembered_convolutions() -> Iterator[None]:
    """Computes each exact convolution once: the exact values are those of the healthy file for every mutant."""
    compute, results = operators.convolution, dict[tuple[str, ...], Any]()

    def remembered(maps: Any, out: int, weight: Callable[[slice], Any], bias: Any, window: Any) -> Any:
        weights = (weight(slice(first, first + _BLOCK)) for first in range(0, out, _BLOCK))
        key = (_digest(maps), *map(_digest, weights), "" if bias is None else _digest(bias), repr(window))
        if key not in results:
            results[key] = compute(maps, out, weight, bias, window)
        return results[key].copy()

    operators.convolution = remembered
    try:
        yield
    finally:
        operators.convolution = compute


def _digest(values: Array) -> str:
    return f"{values.dtype} {values.shape} {hashlib.sha256(np.ascontiguousarray(values)).hexdigest()}"


class _RememberedPiece(ContextManaged):
    def __init__(self, model: PieceModel, open_piece: OpenPiece, outputs: dict[tuple[bytes, bytes], Array]) -> None:
        self._model, self._open_piece, self._outputs = model, open_piece, outputs
        self._digest = hashlib.sha256(model.data).digest()
        self._piece: Piece | None = None

    def run(self, values: Array) -> Array:
        key = self._digest, hashlib.sha256(np.ascontiguousarray(values)).digest()
        if key not in self._outputs:
            if self._piece is None:
                self._piece = self._open_piece(self._model)
            self._outputs[key] = self._piece.run(values)
        return self._outputs[key]

    def close(self) -> None:
        if self._piece is not None:
            self._piece.close()
