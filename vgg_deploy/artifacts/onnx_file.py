"""Reads an ONNX file without its weights and without onnx: a file of 550 MB takes milliseconds.

It maps the file and reads what every command needs. Importing the onnx package would take longer than that, so only
`OnnxFile.header` does it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from vgg_deploy.artifacts.external_data import external_locations
from vgg_deploy.artifacts.kinds import CHECKPOINT, ONNX, kind_of, require_file
from vgg_deploy.artifacts.onnx_format import (
    PRODUCER,
    ElementType,
    EntryField,
    GraphField,
    ModelField,
    TensorField,
)
from vgg_deploy.artifacts.onnx_graph import Graph, read_nodes, read_weights
from vgg_deploy.artifacts.protobuf import Message, NotProtobufError, TruncatedError, encoded_key, fields, mapped
from vgg_deploy.artifacts.tensor import StoredTensor, read_tensors
from vgg_deploy.artifacts.value_info import ValueInfo
from vgg_deploy.errors import ManifestError, ModelFileError, UsageError
from vgg_deploy.network.label_files import classes_from_labels
from vgg_deploy.network.manifest import MANIFEST_KEY, Manifest, TrainScale
from vgg_deploy.network.shapes import AxisRange, ShapeRange
from vgg_deploy.network.tensors import PROBABILITIES

if TYPE_CHECKING:
    import onnx


_PICTURES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF")  # how PNG, JPEG, GIF and WebP begin


class OnnxFile:
    """An ONNX file, opened and mapped once. The map is closed with the last object that reads from it.

    Attributes:
        path: the file.
        inputs: the graph's inputs that are not weights.
        outputs: the graph's outputs.
        producer: the name of the tool that wrote it.
        manifest_json: the text of its manifest; None if it has none.
        external_files: the other files that hold its weights, sorted. Each is in the file's folder or below it, and
            exists.

    Raises:
        UsageError: the file does not exist.
        ModelFileError: the file is empty, truncated or not ONNX; external data is missing, or outside the file's
            folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with model_errors(path):
            self._data = _opened(path)
            model = Message(self._data)
            self._graph = graph = model.message(ModelField.GRAPH)
            if GraphField.NODES not in graph:
                raise ModelFileError(f"{path} is not an ONNX file: it has no nodes")
            if ModelField.OPSET not in model:
                raise ModelFileError(f"{path} is truncated or damaged: it names no opset; copy or export it again")
            locations = set(external_locations(model, path))
            self.external_files = tuple(sorted(path.parent / location for location in locations))
            weights = {tensor.text(TensorField.NAME) for tensor in graph.messages(GraphField.INITIALIZERS)}
            inputs = map(ValueInfo.of, graph.messages(GraphField.INPUTS))
            self.inputs = tuple(value for value in inputs if value.name not in weights)
            self.outputs = tuple(map(ValueInfo.of, graph.messages(GraphField.OUTPUTS)))
            self.producer = model.text(ModelField.PRODUCER)
            entries = model.messages(ModelField.METADATA)
            self.manifest_json = next(
                (entry.text(EntryField.VALUE) for entry in entries if entry.text(EntryField.KEY) == MANIFEST_KEY), None
            )

    @cached_property
    def manifest(self) -> Manifest | None:
        """The manifest that the file holds, or None.

        Raises:
            ManifestError: it is damaged or of another version.
        """
        return None if self.manifest_json is None else Manifest.from_json(self.manifest_json, str(self.path))

    @cached_property
    def header(self) -> onnx.ModelProto:
        """The model with every node, name, type and shape, and no weights.

        Raises:
            ModelFileError: onnx cannot read it.
        """
        return self.header_with_small_tensors(0)

    def header_with_small_tensors(self, below: int) -> onnx.ModelProto:
        """The header. Tensors of less than `below` bytes, such as zero-points, keep their data."""
        from onnx import ModelProto

        with model_errors(self.path):
            stripped = _without_data(self._data, below)
        try:
            model: onnx.ModelProto = ModelProto.FromString(stripped)
        except Exception as error:
            raise ModelFileError(f"{self.path} is not an ONNX file, or it is damaged") from error
        return model

    @cached_property
    def graph(self) -> Graph:
        """The nodes, and the weights as views into the mapped file.

        Raises:
            ModelFileError: a node or a weight is damaged; external data cannot be read.
        """
        with model_errors(self.path):
            return Graph(
                inputs=tuple(value.name for value in self.inputs),
                outputs=tuple(value.name for value in self.outputs),
                nodes=read_nodes(self._graph),
                weights=read_weights(self._graph, self.path.parent),
            )

    @cached_property
    def tensors(self) -> tuple[StoredTensor, ...]:
        """The initializers, in the file's order, as views into the mapped file and its external data.

        Raises:
            ModelFileError: a tensor is damaged; external data cannot be read.
        """
        with model_errors(self.path):
            return tuple(read_tensors(self._graph, self.path.parent))

    def effective_manifest(self, labels: str | None = None) -> Manifest:
        """The manifest with the shapes and outputs of the graph itself: those of an engine that runs the file.

        A file without our manifest needs an input uint8 [n, h, w, 3], an output `probabilities` float32 [n, classes],
        and `labels`. Its effective manifest has no spec and no normalization.

        Args:
            labels: text of a labels file; its names replace those of the manifest.

        Raises:
            UsageError: the labels do not fit, or are missing for a file without our manifest.
            ModelFileError: the graph does not accept our images; says why.
            ManifestError: the manifest is damaged, of another version, or does not fit the graph.
        """
        stated = self.manifest
        axes, classes = self._axes_and_classes()
        outputs = tuple(output.name for output in self.outputs)
        if stated is not None and len(stated.classes) != classes:
            raise ManifestError(
                f"{self.path}: its manifest names {len(stated.classes)} classes, but its output has {classes}; "
                "export it again"
            )
        if labels is not None:
            names = classes_from_labels(labels, classes)
        elif stated is not None:
            names = stated.classes
        elif self.producer == PRODUCER:
            raise ModelFileError(
                f"{self.path} was written by vgg_deploy, but its manifest is missing: the file was truncated, or "
                "another tool removed the manifest; export it again"
            )
        else:
            raise UsageError(
                f"{self.path} has no vgg_deploy manifest, so its {classes} classes have no names: give --labels FILE, "
                "one label per line"
            )
        smallest = 1 if stated is None else stated.crop
        batch, height, width = (
            AxisRange(low) if size is None else AxisRange(size, size)
            for size, low in zip(axes, (1, smallest, smallest), strict=True)
        )
        shapes = ShapeRange(batch, height, width)
        if stated is not None:
            stated = stated.with_(shapes=shapes, outputs=outputs)
            return stated if labels is None else stated.named(names)
        crop = max(height.minimum, width.minimum)
        return Manifest(names, None, None, TrainScale(crop, crop), shapes=shapes, outputs=outputs)

    def _axes_and_classes(self) -> tuple[tuple[int | None, ...], int]:
        """Batch, height and width of the input (None: dynamic), and the number of classes.

        Raises:
            ModelFileError: the graph does not accept our images.
        """
        outputs = {value.name: value for value in self.outputs}
        foreign = self.manifest_json is None
        begin = f"{self.path} " + ("has no vgg_deploy manifest, and" if foreign else "was changed after its export:")
        if len(self.inputs) != 1:
            raise ModelFileError(f"{begin} it has {len(self.inputs)} inputs; expected one, uint8 [n, h, w, 3]")
        (images,) = self.inputs
        shape = images.shape
        if images.element != ElementType.UINT8 or len(shape) != 4 or shape[3] != 3:
            raise ModelFileError(
                f"{begin} its input is {images}, so its normalization of pixels is unknown. Export its weights with "
                "vgg-deploy export, or give it an input uint8 [n, h, w, 3] that it normalizes itself"
            )
        if shape[1] and shape[2] and shape[1] != shape[2]:
            raise ModelFileError(
                f"{begin} it only takes images of {shape[1]} rows and {shape[2]} columns; expected square images"
            )
        if PROBABILITIES not in outputs:
            raise ModelFileError(
                f"{begin} it has no output named {PROBABILITIES}; its outputs are {', '.join(outputs)}"
            )
        scores = outputs[PROBABILITIES]
        classes = scores.shape[1] if len(scores.shape) == 2 else None
        if scores.element != ElementType.FLOAT or classes is None:
            raise ModelFileError(f"{begin} its output {PROBABILITIES} is {scores}; expected float32 [n, classes]")
        return shape[:3], classes


def read_piece(data: bytes) -> tuple[Graph, ValueInfo, ValueInfo]:
    """The graph, the input and the output of a model in memory that has one of each.

    Raises:
        ModelFileError: it is damaged, or has more inputs or outputs.
    """
    where = Path("the piece")
    with model_errors(where):
        graph = Message(memoryview(data)).message(ModelField.GRAPH)
        inputs = tuple(map(ValueInfo.of, graph.messages(GraphField.INPUTS)))
        outputs = tuple(map(ValueInfo.of, graph.messages(GraphField.OUTPUTS)))
        if len(inputs) != 1 or len(outputs) != 1:
            raise ModelFileError(f"{where} has {len(inputs)} inputs and {len(outputs)} outputs; expected one of each")
        names = (inputs[0].name,), (outputs[0].name,)
        return Graph(*names, read_nodes(graph), read_weights(graph, Path())), inputs[0], outputs[0]


def read_manifest(path: Path, labels: str | None = None) -> Manifest:
    """The effective manifest of an ONNX file; for callers that need nothing else of the file."""
    return OnnxFile(path).effective_manifest(labels)


def _opened(path: Path) -> memoryview:
    require_file(path, ONNX)
    if path.stat().st_size == 0:
        raise ModelFileError(f"{path} is empty (0 bytes)")
    if kind_of(path) == CHECKPOINT:
        raise ModelFileError(f"{path} is a checkpoint, not an ONNX file; verify takes it as --reference")
    with path.open("rb") as file:
        if file.read(8).startswith(_PICTURES):
            raise ModelFileError(f"{path} is a picture, not an ONNX file; vgg-deploy export writes one")
    return mapped(path)


@contextmanager
def model_errors(path: Path) -> Iterator[None]:
    """Translates errors of reading a model into a ModelFileError."""
    try:
        yield
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror}") from error
    except TruncatedError as error:
        raise ModelFileError(f"{path} is truncated or damaged: {error}; copy or export it again") from error
    except (NotProtobufError, UnicodeDecodeError) as error:  # onnx decodes a name when it is read
        raise ModelFileError(f"{path} is not an ONNX file, or it is damaged") from error


def _without_data(model: memoryview, keep_below: int) -> bytes:
    parts = []
    for field, whole, body in fields(model):
        if field == ModelField.GRAPH and isinstance(body, memoryview):
            graph = _graph_without_data(body, keep_below)
            parts.append(encoded_key(ModelField.GRAPH, len(graph)) + graph)
        else:
            parts.append(bytes(whole))
    return b"".join(parts)


def _graph_without_data(graph: memoryview, keep_below: int) -> bytes:
    parts = []
    for field, whole, body in fields(graph):
        if field == GraphField.INITIALIZERS and isinstance(body, memoryview) and len(body) >= keep_below:
            tensor = b"".join(bytes(part) for number, part, _ in fields(body) if number not in TensorField.DATA)
            parts.append(encoded_key(GraphField.INITIALIZERS, len(tensor)) + tensor)
        else:
            parts.append(bytes(whole))
    return b"".join(parts)
