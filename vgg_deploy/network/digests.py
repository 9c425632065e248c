"""Digests of what an export wrote, so that a later change of the file is found and named."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Digests:
    """SHA-256 of the parts of an ONNX file, in hexadecimal.

    Attributes:
        manifest: of the manifest's other fields, without `digests` and `verdict`.
        graph: of the nodes, inputs, outputs, and the names, types and shapes of the tensors.
        tensors: of each tensor's type, shape and bytes, by its name.
    """

    manifest: str
    graph: str
    tensors: Mapping[str, str]
