"""From a checkpoint to an ONNX file, and the proof that both give the same answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from export.exporter import export

__all__ = ["export"]


def __getattr__(name: str) -> Any:
    # `export` reads checkpoints, which needs torch. Verifying ONNX files does not.
    if name == "export":
        from export.exporter import export

        return export
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
