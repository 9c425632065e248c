"""A piece of a network: one layer of an ONNX file that a runtime computes alone."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True, kw_only=True)
class PieceModel:
    """A piece as an ONNX model with one input and one output.

    Attributes:
        name: of the layer, for messages.
        data: the serialized model, with its weights.
        on_one_position: whether the input is a spatial mean, [n, channels, 1, 1] for images of every size. Runtimes
            may compute it differently from a map that happens to have one position.
    """

    name: str
    data: bytes
    on_one_position: bool = False


class Piece(Protocol):
    """Computes a piece in a runtime, exactly as the runtime computes it in the whole file."""

    def run(self, values: npt.NDArray[Any]) -> npt.NDArray[np.floating[Any]]:
        """The output for one input, of the shapes and types of the piece.

        The output is float16 only if the runtime rounded it to FP16; it may be float32 although the file says FP16.

        Raises:
            EngineError: the runtime failed.
        """
        ...

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
