"""From a checkpoint to an ONNX file with its manifest, checked as it lies on the disk."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch

from export.external_weights import externalized_weights
from export.float16 import HEADROOM, LARGEST_FLOAT16, measure_activations, overflowing_layers, unrepresentable_layers
from export.graph import INPUT, GraphOptions, build_graph
from train.network.checkpoint import Checkpoint
from train.network.reference import Reference
from vgg_deploy.artifacts.onnx_file import OnnxFile
from vgg_deploy.artifacts.onnx_format import GraphField, ModelField, TensorField
from vgg_deploy.artifacts.onnx_layers import layer_types
from vgg_deploy.artifacts.protobuf import encoded_key
from vgg_deploy.errors import ModelFileError, OutputError
from vgg_deploy.files import whole_file
from vgg_deploy.network.manifest import MANIFEST_KEY, Manifest
from vgg_deploy.network.precision import Precision, Quantization
from vgg_deploy.network.shapes import AxisRange, ShapeRange
from vgg_deploy.network.tensors import Images
from vgg_deploy.version import __version__


@dataclass(frozen=True, slots=True)
class ExportResult:
    """What was written.

    Attributes:
        path: the ONNX file.
        manifest: as it stands in the file.
        notices: what the user should know, such as layers kept in FP32.
    """

    path: Path
    manifest: Manifest
    notices: tuple[str, ...]


def export(
    checkpoint: Checkpoint,
    path: Path,
    *,
    dynamic: bool = False,
    half: bool = False,
    score_map: bool = False,
    features: bool = False,
    fine: bool = False,
    calibration: Iterable[Images] | None = None,
    quantization: Quantization | None = None,
    largest: Mapping[str, float] | None = None,
    external_data: bool = False,
) -> ExportResult:
    """Folds the FC layers into convolutions (section 3.2) and writes the network as ONNX, whole or not at all.

    Args:
        checkpoint: from `train.network.checkpoint.read`. Its weights are consumed: read it again to use it further.
        path: the file to write.
        dynamic: free batch, height and width; otherwise 1 x crop x crop.
        half: FP16 weights and arithmetic from conv1_1 to fc8.
        score_map, features: further outputs, see `export.graph.GraphOptions`.
        fine: class scores on OverFeat's finer grid; see `NetworkSpec.fine`.
        calibration: with `half`, batches uint8 [n, h, w, 3] on which the largest activation of each layer is measured;
            layers that would overflow FP16 stay FP32.
        quantization: layers in INT8 and their ranges, from `export.int8.Calibration`; with `half`, the rest is FP16.
        largest: with `half`, the largest activations where they are known; `calibration` is then not needed.
        external_data: keep the weights in a file of their own beside it, which runtimes map.

    Raises:
        OutputError: it cannot be written.
        ModelFileError: the written file is not what was asked for.
    """
    manifest = checkpoint.manifest
    notices: list[str] = []
    assert manifest.spec is not None
    spec, normalization = dataclasses.replace(manifest.spec, fine=fine), manifest.normalization
    assert normalization is not None
    weights = {name: tensor.numpy() for name, tensor in checkpoint.weights.items()}
    precision = Precision()
    if half:
        precision, notices = _half_precision(checkpoint, calibration, largest, quantization)
    if quantization is not None:
        precision = dataclasses.replace(precision, quantization=quantization)
    options = GraphOptions(
        dynamic, half, frozenset(precision.float32_layers), precision.quantization, score_map, features
    )
    checkpoint.weights.clear()
    model = build_graph(spec, weights, normalization, options)
    edge = AxisRange(spec.crop) if dynamic else AxisRange(spec.crop, spec.crop)
    manifest = manifest.with_(
        spec=spec,
        precision=precision,
        shapes=ShapeRange(AxisRange(1) if dynamic else AxisRange(1, 1), edge, edge),
        outputs=options.outputs,
        source=checkpoint.source,
        tools=tool_versions(),
    )
    model.metadata_props.add(key=MANIFEST_KEY, value=manifest.to_json())
    try:
        with ExitStack() as stack:
            if external_data:
                stack.enter_context(externalized_weights(model, path))
            temporary = stack.enter_context(whole_file(path))
            write_model(model, temporary)
            del model
            _check(temporary, manifest, external_data)
    except ValueError as error:  # protobuf's limit of 2 GB
        raise OutputError(f"cannot write {path}: {error}") from error
    return ExportResult(path, manifest, tuple(notices))


def tool_versions() -> dict[str, str]:
    """What an artifact was made with."""
    return {
        "vgg_deploy": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "onnx": onnx.__version__,
        "numpy": np.__version__,
    }


def _half_precision(
    checkpoint: Checkpoint,
    calibration: Iterable[Images] | None,
    largest: Mapping[str, float] | None,
    quantization: Quantization | None,
) -> tuple[Precision, list[str]]:
    spec = checkpoint.manifest.spec
    assert spec is not None
    notices: list[str] = []
    weights = {name: tensor.numpy() for name, tensor in checkpoint.weights.items()}
    kept = set(unrepresentable_layers(weights))
    notices.extend(f"{words}: weights beyond FP16's range" for words in _staying(sorted(kept), quantization))
    if largest is None and calibration is not None:
        with Reference(checkpoint, keep_activations=True) as reference:
            largest = measure_activations(reference.run, calibration, spec)
    if largest is None:
        notices.append("range unmeasured: whether activations overflow FP16 is unknown (--calibration DIR measures it)")
    else:
        overflowing = overflowing_layers(spec, largest)
        peak = max(largest, key=largest.__getitem__)
        notices.append(f"largest activation {largest[peak]:,.0f} in {peak}; FP16 ends at {LARGEST_FLOAT16:,.0f}")
        notices.extend(
            f"{words}: their outputs or inputs pass FP16's range / {HEADROOM:.0f} on the calibration images"
            for words in _staying(overflowing, quantization)
        )
        kept |= set(overflowing)
    ordered = tuple(layer.name for layer in spec.weight_layers if layer.name in kept)
    return Precision("float16", ordered, "unmeasured" if largest is None else "measured", largest), notices


def _staying(layers: Sequence[str], quantization: Quantization | None) -> Iterator[str]:
    """Says of layers that cannot be FP16 that they stay FP32, or that they are INT8 and give FP32."""
    quantized = () if quantization is None else quantization.layers
    for words, named in (
        ("stay FP32", [layer for layer in layers if layer not in quantized]),
        ("are INT8 and give FP32", [layer for layer in layers if layer in quantized]),
    ):
        if named:
            yield f"{', '.join(named)} {words}"


def write_model(model: onnx.ModelProto, path: Path) -> None:
    """Writes what onnx.save writes, weights last, and empties the model: onnx.save would hold its weights three times."""
    tensors = list(model.graph.initializer)
    del model.graph.initializer[:]
    graph = model.graph.SerializeToString()
    model.ClearField("graph")
    sizes = [tensor.ByteSize() for tensor in tensors]
    length = len(graph) + sum(len(encoded_key(GraphField.INITIALIZERS, size)) + size for size in sizes)
    with path.open("wb") as file:
        file.write(model.SerializeToString() + encoded_key(ModelField.GRAPH, length) + graph)
        for tensor, size in zip(tensors, sizes, strict=True):
            inside, data = tensor.HasField("raw_data"), tensor.raw_data
            tensor.ClearField("raw_data")
            file.write(encoded_key(GraphField.INITIALIZERS, size) + tensor.SerializeToString())
            if inside:
                file.write(encoded_key(TensorField.RAW_DATA, len(data)))
                file.write(data)


def _check(path: Path, manifest: Manifest, external_data: bool) -> None:
    """Holds the written file against what was asked for: valid ONNX, the manifest, free or fixed axes, and types."""
    # By its path, or as a full check, onnx (1.23) would hold the weights three times; the next line is what is left of that.
    onnx.checker.check_model(path if external_data else path.read_bytes())
    file = OnnxFile(path)
    header = file.header
    onnx.shape_inference.infer_shapes(header, check_type=True, strict_mode=True)
    written = file.effective_manifest()
    if written != manifest:
        raise ModelFileError(
            f"the written file's {INPUT} are {written.shapes} and its outputs {', '.join(written.outputs)}; asked for were "
            f"{manifest.shapes} and {', '.join(manifest.outputs)}, with the same manifest"
        )
    for layer, found in layer_types(header).items():
        if found != manifest.precision.of(layer):
            raise ModelFileError(f"the written file's {layer} is {found}; asked for was {manifest.precision.of(layer)}")
