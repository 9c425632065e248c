"""What an ONNX file says of itself, read without its weights: a file of 550 MB is looked through in milliseconds.

The file is mapped into memory. What every command needs is read from it here; onnx, whose import takes longer than all of that, is
loaded only where whole nodes are asked for.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vgg_deploy.artifacts.external_data import (
    GRAPH_INITIALIZER,
    GRAPH_NODE,
    KEY,
    MODEL_GRAPH,
    TENSOR_NAME,
    VALUE,
    external_data,
)
from vgg_deploy.artifacts.protobuf import CutOffError, Message, NotProtobufError, encoded_key, fields
from vgg_deploy.errors import ManifestError, ModelFileError, UsageError
from vgg_deploy.network.classes import classes_from_labels
from vgg_deploy.network.manifest import MANIFEST_KEY, Manifest, TrainScale
from vgg_deploy.network.shapes import AxisRange, ShapeRange
from vgg_deploy.network.tensors import PROBABILITIES

if TYPE_CHECKING:
    import onnx

PRODUCER = "vgg_deploy"  # the `producer_name` of our files

# Field numbers of onnx.proto, by message.
_MODEL_PRODUCER, _MODEL_OPSET, _MODEL_METADATA = 2, 8, 14
_GRAPH_INPUT, _GRAPH_OUTPUT = 11, 12
_TENSOR_DATA = frozenset({4, 5, 6, 7, 9, 10, 11})  # float, int32, string, int64, raw, double, uint64 data
_VALUE_NAME, _VALUE_TYPE, _TYPE_TENSOR, _ELEMENT, _SHAPE, _SHAPE_AXIS, _AXIS_SIZE = 1, 2, 1, 1, 2, 1, 1

_FLOAT, _UINT8 = 1, 2  # of TensorProto.DataType


@dataclass(frozen=True, slots=True)
class Value:
    """An input or output of a graph.

    Attributes:
        name: its name.
        element: its type, as onnx.TensorProto.DataType has it.
        shape: its sizes; a free axis is None.
    """

    name: str
    element: int
    shape: tuple[int | None, ...]

    @staticmethod
    def of(value: Message) -> Value:
        tensor = value.message(_VALUE_TYPE).message(_TYPE_TENSOR)
        sizes = (axis.number(_AXIS_SIZE) for axis in tensor.message(_SHAPE).messages(_SHAPE_AXIS))
        # Some exporters write a free axis as -1, or as 0.
        shape = tuple(size if size > 0 else None for size in sizes)
        return Value(value.text(_VALUE_NAME), tensor.number(_ELEMENT), shape)

    def __str__(self) -> str:
        """In words, such as "uint8 [?, ?, ?, 3]"."""
        from onnx import TensorProto

        known = self.element in TensorProto.DataType.values()
        kind = TensorProto.DataType.Name(self.element).lower() if known else f"type {self.element}"
        return f"{kind} [{', '.join('?' if size is None else str(size) for size in self.shape)}]"


@dataclass(frozen=True, slots=True)
class OnnxFile:
    """What an ONNX file says of itself.

    Attributes:
        inputs: of the graph, without those that are weights.
        outputs: of the graph.
        producer: the name of what wrote it.
        manifest: our manifest's JSON, or None.
        external: the files in which weights are, relative to its folder: each in it, and there.
    """

    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    producer: str
    manifest: str | None
    external: frozenset[str]


def look_into(path: Path) -> OnnxFile:
    """What an ONNX file says of itself.

    Raises:
        UsageError: no such file.
        ModelFileError: empty, cut off, or not ONNX; external data outside the file's folder, or missing.
    """
    with mapped(path) as data:
        return described(data, path)


def read_header(path: Path, keep_below: int = 0) -> onnx.ModelProto:
    """The model with every node, name, type and shape, and no weights.

    Args:
        keep_below: tensors of fewer bytes, such as zero-points, keep their data.

    Raises what `look_into` does.
    """
    from onnx import ModelProto

    with mapped(path) as data:
        described(data, path)
        stripped = _without_data(data, keep_below)
    try:
        model: onnx.ModelProto = ModelProto.FromString(stripped)
    except Exception as error:
        raise ModelFileError(f"{path} is not an ONNX file, or it is damaged") from error
    return model


@contextmanager
def mapped(path: Path) -> Iterator[memoryview]:
    """The bytes of a file, while they are read as an ONNX model; what is wrong with them becomes a ModelFileError."""
    if not path.is_file():
        raise UsageError(f"{path}: no such model" if not path.exists() else f"{path} is not a file; name an ONNX file")
    if path.stat().st_size == 0:
        raise ModelFileError(f"{path} is empty (0 bytes)")
    try:
        # The map is closed with the last view into it; on an error the traceback still holds some.
        with path.open("rb") as file:
            yield memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror}") from error
    except CutOffError as error:
        raise ModelFileError(f"{path} is cut off or damaged: {error}; copy or export it again") from error
    except NotProtobufError as error:
        raise ModelFileError(f"{path} is not an ONNX file, or it is damaged") from error


def described(data: memoryview, path: Path) -> OnnxFile:
    """What a mapped ONNX file says of itself; see `look_into`."""
    model = Message(data)
    graph = model.message(MODEL_GRAPH)
    if GRAPH_NODE not in graph:
        raise ModelFileError(f"{path} is not an ONNX file: it has no nodes")
    if _MODEL_OPSET not in model:
        raise ModelFileError(f"{path} is cut off or damaged: it names no opset; copy or export it again")
    external = frozenset(external_data(model, path))
    weights = {tensor.text(TENSOR_NAME) for tensor in graph.messages(GRAPH_INITIALIZER)}
    inputs, outputs = (tuple(map(Value.of, graph.messages(field))) for field in (_GRAPH_INPUT, _GRAPH_OUTPUT))
    metadata = model.messages(_MODEL_METADATA)
    return OnnxFile(
        inputs=tuple(value for value in inputs if value.name not in weights),
        outputs=outputs,
        producer=model.text(_MODEL_PRODUCER),
        manifest=next((entry.text(VALUE) for entry in metadata if entry.text(KEY) == MANIFEST_KEY), None),
        external=external,
    )


def _without_data(model: memoryview, keep_below: int) -> bytes:
    parts = []
    for field, whole, body in fields(model):
        if field == MODEL_GRAPH and isinstance(body, memoryview):
            graph = _graph_without_data(body, keep_below)
            parts.append(encoded_key(MODEL_GRAPH, len(graph)) + graph)
        else:
            parts.append(bytes(whole))
    return b"".join(parts)


def _graph_without_data(graph: memoryview, keep_below: int) -> bytes:
    parts = []
    for field, whole, body in fields(graph):
        if field == GRAPH_INITIALIZER and isinstance(body, memoryview) and len(body) >= keep_below:
            kept = b"".join(bytes(inner) for name, inner, _ in fields(body) if name not in _TENSOR_DATA)
            parts.append(encoded_key(GRAPH_INITIALIZER, len(kept)) + kept)
        else:
            parts.append(bytes(whole))
    return b"".join(parts)


def external_files(path: Path) -> tuple[Path, ...]:
    """The files beside an ONNX file in which weights of it are, in sorted order. Raises what `look_into` does."""
    return tuple(sorted(path.parent / location for location in look_into(path).external))


def read_manifest(path: Path, labels: str | None = None) -> Manifest:
    """The manifest of an ONNX file, with the shapes that the file itself states.

    A file without ours is accepted where it takes uint8 images [n, h, w, 3] and gives `probabilities` float32 [n, classes],
    and `labels` names the classes; its manifest then has no spec and no normalization.

    Args:
        labels: text of a labels file; replaces the manifest's names.

    Raises:
        UsageError: no such file; labels that do not fit, or none for a foreign file.
        ModelFileError: see `look_into`; a file that cannot be fed, with the reason.
        ManifestError: a manifest that is damaged, of another version, or that does not fit the file.
    """
    file = look_into(path)
    ours = None if file.manifest is None else Manifest.from_json(file.manifest, str(path))
    axes, classes = _axes_and_classes(file, path, foreign=ours is None)
    outputs = tuple(output.name for output in file.outputs)
    if ours is not None and len(ours.classes) != classes:
        raise ManifestError(
            f"{path}: its manifest names {len(ours.classes)} classes, its output has {classes}; export it again"
        )
    if labels is not None:
        names = classes_from_labels(labels, classes, "the labels file")
    elif ours is not None:
        names = ours.classes
    elif file.producer == PRODUCER:
        raise ModelFileError(
            f"{path} was written by vgg_deploy, and its manifest is missing: it is cut off, or another tool removed it; export it again"
        )
    else:
        raise UsageError(
            f"{path} has no vgg_deploy manifest, so its {classes} classes have no names: give --labels FILE, one label a line"
        )
    smallest = 1 if ours is None else ours.crop
    batch, height, width = (
        AxisRange(low) if size is None else AxisRange(size, size)
        for size, low in zip(axes, (1, smallest, smallest), strict=True)
    )
    shapes = ShapeRange(batch, height, width)
    if ours is not None:
        return ours.with_(classes=names, shapes=shapes, outputs=outputs)
    crop = max(height.minimum, width.minimum)
    return Manifest(names, None, None, TrainScale(crop, crop), shapes=shapes, outputs=outputs)


def _axes_and_classes(file: OnnxFile, path: Path, *, foreign: bool) -> tuple[tuple[int | None, ...], int]:
    """Batch, height and width of the input (None: free), and the number of classes, of a model that we can feed."""
    outputs = {value.name: value for value in file.outputs}
    begin = f"{path} has no vgg_deploy manifest, and" if foreign else f"{path} was changed after its export:"
    if len(file.inputs) != 1:
        raise ModelFileError(
            f"{begin} it has {len(file.inputs)} inputs; only models with one, uint8 [n, h, w, 3], can be fed"
        )
    (images,) = file.inputs
    shape = images.shape
    if images.element != _UINT8 or len(shape) != 4 or shape[3] != 3:
        raise ModelFileError(
            f"{begin} its input is {images}; how it wants its pixels normalized is unknown. "
            "Export its weights with vgg-deploy export, or give it an input uint8 [n, h, w, 3] that it normalizes itself"
        )
    if shape[1] and shape[2] and shape[1] != shape[2]:
        raise ModelFileError(
            f"{begin} it takes images of {shape[1]} rows and {shape[2]} columns only; crops are square"
        )
    if PROBABILITIES not in outputs:
        raise ModelFileError(f"{begin} it has no output named {PROBABILITIES} (it has {', '.join(outputs)})")
    scores = outputs[PROBABILITIES]
    classes = scores.shape[1] if len(scores.shape) == 2 else None
    if scores.element != _FLOAT or classes is None:
        raise ModelFileError(f"{begin} its {PROBABILITIES} are {scores}; expected float32 [n, classes]")
    return shape[:3], classes
