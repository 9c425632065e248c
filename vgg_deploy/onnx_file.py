"""What an ONNX file says of itself, read without its weights: a file of 550 MB is looked through in milliseconds.

The file is mapped into memory, and everything but the tensors' data is handed to onnx's own parser.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx
from onnx import TensorProto

from vgg_deploy.classes import classes_from_labels
from vgg_deploy.engine import PROBABILITIES
from vgg_deploy.errors import ManifestError, ModelFileError, UsageError
from vgg_deploy.manifest import MANIFEST_KEY, AxisRange, Manifest, ShapeRange, TrainScale

# Field numbers of onnx.proto.
_MODEL_GRAPH, _GRAPH_INITIALIZER = 7, 5
_TENSOR_DATA = frozenset({4, 5, 6, 7, 9, 10, 11})  # float, int32, string, int64, raw, double, uint64 data
PRODUCER = "vgg_deploy"  # the `producer_name` of our files
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


def read_header(path: Path, keep_below: int = 0) -> onnx.ModelProto:
    """The model with every node, name, type and shape, and no weights.

    Args:
        keep_below: tensors of fewer bytes, such as zero-points, keep their data.

    Raises:
        UsageError: no such file.
        ModelFileError: empty, cut off, or not ONNX; external data outside the file's folder, or missing.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such model" if not path.exists() else f"{path} is not a file; name an ONNX file")
    if path.stat().st_size == 0:
        raise ModelFileError(f"{path} is empty (0 bytes)")
    try:
        # The map is closed with the last view into it; on an error the traceback still holds some.
        with path.open("rb") as file:
            stripped = _without_data(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)), keep_below)
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror}") from error
    except _CutOffError as error:
        raise ModelFileError(f"{path} is cut off or damaged: {error}; copy or export it again") from error
    except _NotProtobufError as error:
        raise ModelFileError(f"{path} is not an ONNX file, or it is damaged") from error
    try:
        model: onnx.ModelProto = onnx.ModelProto.FromString(stripped)
    except Exception as error:
        raise ModelFileError(f"{path} is not an ONNX file, or it is damaged") from error
    if not model.graph.node:
        raise ModelFileError(f"{path} is not an ONNX file: it has no nodes")
    if not model.opset_import:
        raise ModelFileError(f"{path} is cut off or damaged: it names no opset; copy or export it again")
    _check_external_data(model, path)
    return model


class _CutOffError(Exception):
    pass


class _NotProtobufError(Exception):
    pass


def _without_data(model: memoryview, keep_below: int) -> bytes:
    parts = []
    for field, whole, body in _fields(model):
        if field == _MODEL_GRAPH and body is not None:
            parts.append(_message(_MODEL_GRAPH, _graph_without_data(body, keep_below)))
        else:
            parts.append(bytes(whole))
    return b"".join(parts)


def _graph_without_data(graph: memoryview, keep_below: int) -> bytes:
    parts = []
    for field, whole, body in _fields(graph):
        if field == _GRAPH_INITIALIZER and body is not None and len(body) >= keep_below:
            kept = [bytes(inner) for name, inner, _ in _fields(body) if name not in _TENSOR_DATA]
            parts.append(_message(_GRAPH_INITIALIZER, b"".join(kept)))
        else:
            parts.append(bytes(whole))
    return b"".join(parts)


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview, memoryview | None]]:
    """Field number, the field whole, and its body where it has a length, of a protobuf message."""
    position, end = 0, len(message)
    while position < end:
        start = position
        key, position = _varint(message, position)
        field, wire, body = key >> 3, key & 7, None
        if wire == _VARINT:
            _, position = _varint(message, position)
        elif wire == _FIXED64:
            position += 8
        elif wire == _FIXED32:
            position += 4
        elif wire == _LENGTH:
            length, position = _varint(message, position)
            if position + length > end:
                raise _CutOffError(f"a field of {length:,} bytes begins where {end - position:,} are left")
            body = message[position : position + length]
            position += length
        else:
            raise _NotProtobufError(f"wire type {wire}")
        if position > end or field == 0:
            raise _CutOffError("it ends within a field")
        yield field, message[start:position], body


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            raise _CutOffError("it ends within a number")
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, position
    raise _NotProtobufError("a number of over ten bytes")


def _message(field: int, body: bytes) -> bytes:
    return encoded_varint(field << 3 | _LENGTH) + encoded_varint(len(body)) + body


def encoded_varint(value: int) -> bytes:
    """A number of at least 0 as protobuf writes it: seven bits a byte, the lowest first."""
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _check_external_data(model: onnx.ModelProto, path: Path) -> None:
    """Refuses weights in files outside the model's folder: a model from elsewhere must not read what it likes."""
    folder = path.parent.resolve()
    for tensor, location in _external_tensors(model):
        try:
            target = (folder / location).resolve()
            inside, present = target.is_relative_to(folder), target.is_file()
        except (OSError, ValueError, RuntimeError):  # too long, a null byte, a circle of links
            inside = present = False
        if not location or Path(location).is_absolute() or not inside:
            raise ModelFileError(
                f"{path}: the weights of {tensor.name} are said to be in {location!r:.200}, outside the model's folder: refused"
            )
        if not present:
            raise ModelFileError(f"{path}: its weights are in {location}, which is not beside it; copy both files")


def external_files(path: Path) -> tuple[Path, ...]:
    """The files beside an ONNX file in which weights of it are, in sorted order. Raises what `read_header` does."""
    return tuple(sorted({path.parent / location for _tensor, location in _external_tensors(read_header(path))}))


def _external_tensors(model: onnx.ModelProto) -> Iterator[tuple[onnx.TensorProto, str]]:
    nodes = [model.graph.node, *(function.node for function in model.functions)]
    for tensor in [*_initializers(model.graph), *(tensor for some in nodes for tensor in _tensors_of_nodes(some))]:
        if tensor.data_location == TensorProto.EXTERNAL:
            yield tensor, next((entry.value for entry in tensor.external_data if entry.key == "location"), "")


def _initializers(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)


def _tensors_of_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    """Tensors that nodes carry themselves, and those of the graphs in them (If, Loop)."""
    for node in nodes:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
            for graph in (attribute.g, *attribute.graphs):
                yield from _initializers(graph)
                yield from _tensors_of_nodes(graph.node)


def manifest_text(model: onnx.ModelProto) -> str | None:
    """Our manifest's JSON in a model, or None."""
    return next((entry.value for entry in model.metadata_props if entry.key == MANIFEST_KEY), None)


def read_manifest(path: Path, labels: str | None = None) -> Manifest:
    """The manifest of an ONNX file, with the shapes that the file itself states.

    A file without ours is accepted where it takes uint8 images [n, h, w, 3] and gives `probabilities` float32 [n, classes],
    and `labels` names the classes; its manifest then has no spec and no normalization.

    Args:
        labels: text of a labels file; replaces the manifest's names.

    Raises:
        UsageError: no such file; labels that do not fit, or none for a foreign file.
        ModelFileError: see `read_header`; a file that cannot be fed, with the reason.
        ManifestError: a manifest that is damaged, of another version, or that does not fit the file.
    """
    header = read_header(path)
    text = manifest_text(header)
    ours = None if text is None else Manifest.from_json(text, str(path))
    axes, classes = _axes_and_classes(header, path, foreign=ours is None)
    outputs = tuple(output.name for output in header.graph.output)
    if ours is not None and len(ours.classes) != classes:
        raise ManifestError(
            f"{path}: its manifest names {len(ours.classes)} classes, its output has {classes}; export it again"
        )
    if labels is not None:
        names = classes_from_labels(labels, classes, "the labels file")
    elif ours is not None:
        names = ours.classes
    elif header.producer_name == PRODUCER:
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


def _axes_and_classes(model: onnx.ModelProto, path: Path, *, foreign: bool) -> tuple[list[int | None], int]:
    """Batch, height and width of the input (None: free), and the number of classes, of a model that we can feed."""
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    outputs = {value.name: value for value in model.graph.output}
    begin = f"{path} has no vgg_deploy manifest, and" if foreign else f"{path} was changed after its export:"
    if len(inputs) != 1:
        raise ModelFileError(
            f"{begin} it has {len(inputs)} inputs; only models with one, uint8 [n, h, w, 3], can be fed"
        )
    kind, shape = _type_and_shape(inputs[0])
    if kind != TensorProto.UINT8 or len(shape) != 4 or shape[3] != 3:
        raise ModelFileError(
            f"{begin} its input is {described(inputs[0])}; how it wants its pixels normalized is unknown. "
            "Export its weights with vgg-deploy export, or give it an input uint8 [n, h, w, 3] that it normalizes itself"
        )
    if shape[1] and shape[2] and shape[1] != shape[2]:
        raise ModelFileError(
            f"{begin} it takes images of {shape[1]} rows and {shape[2]} columns only; crops are square"
        )
    if PROBABILITIES not in outputs:
        raise ModelFileError(f"{begin} it has no output named {PROBABILITIES} (it has {', '.join(map(str, outputs))})")
    kind, scores = _type_and_shape(outputs[PROBABILITIES])
    classes = scores[1] if len(scores) == 2 else None
    if kind != TensorProto.FLOAT or classes is None:
        raise ModelFileError(
            f"{begin} its {PROBABILITIES} are {described(outputs[PROBABILITIES])}; expected float32 [n, classes]"
        )
    return shape[:3], classes


def _type_and_shape(value: onnx.ValueInfoProto) -> tuple[int, list[int | None]]:
    """Element type and sizes; a free axis is None. Some exporters write one as -1, or as 0."""
    tensor = value.type.tensor_type
    return tensor.elem_type, [axis.dim_value if axis.dim_value > 0 else None for axis in tensor.shape.dim]


def described(value: onnx.ValueInfoProto) -> str:
    """An input or output in words, such as "uint8 [?, ?, ?, 3]"."""
    kind, shape = _type_and_shape(value)
    sizes = ", ".join("?" if size is None else str(size) for size in shape)
    return f"{TensorProto.DataType.Name(kind).lower()} [{sizes}]"
