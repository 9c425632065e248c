"""What was changed in an ONNX file since its export, found by its recorded digests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from vgg_deploy.artifacts.fingerprint import file_digests
from vgg_deploy.artifacts.onnx_file import OnnxFile
from vgg_deploy.network.digests import Digests

_LISTED = 6  # tensors that are named one by one


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """How the parts of a file differ from recorded digests.

    Attributes:
        recorded: how many tensors have a digest.
        changed, missing, added, repeated: names of tensors with other bytes, type or shape; of those that are gone; of
            new ones; and of those that the file holds more than once.
        graph: whether the graph differs.
        manifest: whether the manifest differs.
    """

    recorded: int
    changed: tuple[str, ...]
    missing: tuple[str, ...]
    added: tuple[str, ...]
    repeated: tuple[str, ...]
    graph: bool
    manifest: bool

    @staticmethod
    def since(recorded: Digests, file: OnnxFile) -> Changes:
        """The changes of a file since these digests were recorded, from one pass over its bytes.

        Raises:
            ModelFileError: a tensor is damaged, or its external data cannot be read.
        """
        found, names = file_digests(file), [tensor.name for tensor in file.tensors]
        return Changes(
            recorded=len(recorded.tensors),
            changed=tuple(
                name for name, digest in recorded.tensors.items() if found.tensors.get(name, digest) != digest
            ),
            missing=tuple(name for name in recorded.tensors if name not in found.tensors),
            added=tuple(name for name in found.tensors if name not in recorded.tensors),
            repeated=tuple(name for name in found.tensors if names.count(name) > 1),
            graph=found.graph != recorded.graph,
            manifest=found.manifest != recorded.manifest,
        )

    def lines(self) -> Iterator[str]:
        """Each change as the end of a sentence about the file; the first tensors of a kind by name."""
        for names, what in (
            (self.changed, "was changed after the export"),
            (self.missing, "is missing; it was there at the export"),
            (self.added, "was added after the export"),
            (self.repeated, "is in the file more than once"),
        ):
            yield from (f"the tensor {name} {what}" for name in names[:_LISTED])
            others = len(names) - _LISTED
            if others > 0:
                yield f"also {others} other tensor{'s' * (others > 1)}: each {what}"
        if self.graph:
            yield "its graph was changed after the export: a node, an attribute, an input, an output or an opset"
        if self.manifest:
            yield "its manifest was edited after the export"

    def __str__(self) -> str:
        """84 tensors, graph and manifest as exported; or what is not."""
        wrong = {*self.changed, *self.missing, *self.added, *self.repeated}
        differing = [f"{len(wrong)} tensor{'s' * (len(wrong) > 1)}"] if wrong else []
        differing += ["the graph"] * self.graph + ["the manifest"] * self.manifest
        if not differing:
            return f"{self.recorded} tensors, graph and manifest as exported"
        return f"changed after the export: {', '.join(differing)} (of {self.recorded} tensors, graph and manifest)"
