"""Damages of the manifest in an ONNX file: each of its fields."""

from __future__ import annotations

from functools import partial

from tests.mutants.damage import FILE, INSPECT, add, damage
from tests.mutants.edit import Edit
from tests.mutants.fields import ANY, edited

# Fields that nothing but a digest can judge: they say how the file was made. They change no answer.
PROVENANCE = (
    ("precision", "largest_activations"),
    ("precision", "largest_activations", ANY),
    ("precision", "quantization", "method"),
    ("precision", "quantization", "images", ANY, "name"),
    ("precision", "quantization", "images", ANY, "sha256"),
    ("precision", "quantization", "scales"),
    ("precision", "quantization", "mirror"),
    ("precision", "quantization", "budget"),
    ("precision", "range"),
    ("source", "name"),
    ("tools", ANY),
)
JUDGED = (
    ("version",),
    ("classes", ANY, "id"),
    ("classes", ANY, "label"),
    ("spec", "configuration"),
    ("spec", "width_divisor"),
    ("spec", "crop"),
    ("spec", "fc_width"),
    ("spec", "classes"),
    ("spec", "fine"),
    ("normalization", "mean"),
    ("normalization", "std"),
    ("train_scale", "minimum"),
    ("train_scale", "maximum"),
    ("mirror",),
    ("channels_reversed",),
    ("classes_numbered",),
    ("rescaling", "filter"),
    ("rescaling", "rounding"),
    ("precision", "arithmetic"),
    ("precision", "float32_layers"),
    ("precision", "quantization", "target"),
    ("precision", "quantization", "layers", ANY),
    ("precision", "quantization", "kept"),
    ("precision", "quantization", "kept", ANY),
    ("precision", "quantization", "ranges", ANY),
    ("shapes", "batch", "minimum"),
    ("shapes", "batch", "maximum"),
    ("shapes", "height", "minimum"),
    ("shapes", "height", "maximum"),
    ("shapes", "width", "minimum"),
    ("shapes", "width", "maximum"),
    ("outputs", ANY),
    ("source", "sha256"),
    ("training", ANY),
)
DIGESTS = (("digests", "manifest"), ("digests", "graph"), ("digests", "tensors", ANY))
# Written after the file by `verify --record`, so the digest of the manifest does not cover it.
LATER = ("verdict",)


def _edit(file: Edit, path: tuple[str, ...]) -> None:
    file.manifest = edited(file.manifest, path)


for _path in PROVENANCE + DIGESTS:
    add(f"manifest: {'.'.join(_path)}", partial(_edit, path=_path), also=frozenset({INSPECT}))
for _path in JUDGED:
    add(f"manifest: {'.'.join(_path)}", partial(_edit, path=_path), also=FILE)


@damage("manifest: classes exchanged")
def classes_exchanged(file: Edit) -> None:
    data = file.manifest
    data["classes"][:2] = data["classes"][1::-1]
    file.manifest = data


@damage("manifest: a range of INT8 halved")
def range_halved(file: Edit) -> None:
    data = edited(file.manifest, ("precision", "quantization", "ranges", "conv3_2"))
    data["precision"]["quantization"]["ranges"]["conv3_2"][1] /= 2
    file.manifest = data


@damage("manifest: without its normalization")
def no_normalization(file: Edit) -> None:
    file.manifest = {**file.manifest, "normalization": None}


@damage("manifest: without the network")
def no_network(file: Edit) -> None:
    file.manifest = {**file.manifest, "spec": None}


@damage("manifest: without its digests", also=frozenset())
def no_digests(file: Edit) -> None:
    file.manifest = {name: value for name, value in file.manifest.items() if name != "digests"}


@damage("manifest: removed")
def removed(file: Edit) -> None:
    del file.model.metadata_props[:]
