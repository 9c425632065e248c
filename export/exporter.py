"""From a checkpoint to an ONNX file with its manifest; the file is checked after it is written."""

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
from export.graph import INPUT, build_graph
from export.manifest import exported_manifest
from train.network.checkpoint import Checkpoint
from train.network.reference import Reference
from vgg_deploy.artifacts.export_options import ExportOptions, GraphOptions
from vgg_deploy.artifacts.fingerprint import file_digests, model_digests
from vgg_deploy.artifacts.onnx_file import OnnxFile
from vgg_deploy.artifacts.onnx_format import GraphField, ModelField, TensorField
from vgg_deploy.artifacts.onnx_layers import layer_types
from vgg_deploy.artifacts.protobuf import encoded_key
from vgg_deploy.errors import ModelFileError, OutputError
from vgg_deploy.files import whole_file
from vgg_deploy.network.manifest import MANIFEST_KEY, Manifest
from vgg_deploy.network.precision import Precision, Quantization
from vgg_deploy.network.tensors import Images
from vgg_deploy.version import __version__


@dataclass(frozen=True, slots=True)
class ExportResult:
    """What was written.

    Attributes:
        path: the ONNX file.
        manifest: the manifest in the file.
        notices: what the user should know, such as which layers stay in FP32.
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
        checkpoint: from `train.network.checkpoint.read`. Its weights are consumed; to use it further, read it again.
        path: the file to write.
        dynamic, half, quantization, score_map, features: see `GraphOptions`.
        fine, calibration, largest, external_data: see `ExportOptions`.

    Raises:
        OutputError: the file cannot be written.
        ModelFileError: the written file is not what was requested.
        UsageError: `half` with a quantization for ONNX Runtime.
    """
    graph = GraphOptions(dynamic=dynamic, half=half, quantization=quantization, score_map=score_map, features=features)
    options = ExportOptions(
        graph=graph, fine=fine, external_data=external_data, calibration=calibration, largest=largest
    )
    return export_with(checkpoint, path, options)


def export_with(checkpoint: Checkpoint, path: Path, options: ExportOptions) -> ExportResult:
    """`export` with its options as one object."""
    graph = options.graph
    precision, notices = _half_precision(checkpoint, options) if graph.half else (Precision(), [])
    if graph.quantization is not None:
        precision = dataclasses.replace(precision, quantization=graph.quantization)
    graph = dataclasses.replace(graph, float32_layers=frozenset(precision.float32_layers))
    manifest = exported_manifest(checkpoint.manifest, graph, precision, fine=options.fine).with_(
        source=checkpoint.source, tools=tool_versions()
    )
    assert manifest.spec is not None
    assert manifest.normalization is not None
    weights = {name: tensor.numpy() for name, tensor in checkpoint.weights.items()}
    checkpoint.weights.clear()
    model = build_graph(manifest.spec, weights, manifest.normalization, graph)
    manifest = manifest.with_(digests=model_digests(model, manifest), verdict=None)
    model.metadata_props.add(key=MANIFEST_KEY, value=manifest.to_json())
    try:
        with ExitStack() as stack:
            if options.external_data:
                stack.enter_context(externalized_weights(model, path))
            temporary = stack.enter_context(whole_file(path))
            write_model(model, temporary)
            del model
            _check(temporary, manifest, options.external_data)
    except ValueError as error:  # protobuf's limit of 2 GB
        raise OutputError(f"cannot write {path}: {error}") from error
    return ExportResult(path, manifest, tuple(notices))


def tool_versions() -> dict[str, str]:
    """Names and versions of the tools that make an export."""
    return {
        "vgg_deploy": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "onnx": onnx.__version__,
        "numpy": np.__version__,
    }


def _half_precision(checkpoint: Checkpoint, options: ExportOptions) -> tuple[Precision, list[str]]:
    """FP16 with the layers that must stay in FP32, and notices about them."""
    spec = checkpoint.manifest.spec
    assert spec is not None
    weights = {name: tensor.numpy() for name, tensor in checkpoint.weights.items()}
    unrepresentable = unrepresentable_layers(weights)
    notices = [
        f"{layers} (weights beyond FP16's range)"
        for layers in _not_in_float16(sorted(unrepresentable), options.graph.quantization)
    ]
    float32_layers = options.graph.float32_layers.union(unrepresentable)
    largest = options.largest
    if largest is None and options.calibration is not None:
        with Reference(checkpoint, keep_activations=True) as reference:
            largest = measure_activations(reference.run, options.calibration, spec)
    if largest is None:
        notices.append("activations were not measured and may overflow FP16 (--calibration DIR measures them)")
    else:
        overflowing = overflowing_layers(spec, largest)
        peak = max(largest, key=largest.__getitem__)
        notices.append(f"largest activation {largest[peak]:,.0f} in {peak}; FP16 ends at {LARGEST_FLOAT16:,.0f}")
        notices.extend(
            f"{layers} (outputs or inputs exceed 1/{HEADROOM:.0f} of FP16's range on the calibration images)"
            for layers in _not_in_float16(overflowing, options.graph.quantization)
        )
        float32_layers |= set(overflowing)
    ordered = tuple(layer.name for layer in spec.weight_layers if layer.name in float32_layers)
    return Precision("float16", ordered, "unmeasured" if largest is None else "measured", largest), notices


def _not_in_float16(layers: Sequence[str], quantization: Quantization | None) -> Iterator[str]:
    """Texts that list which of these layers stay in FP32, and which are in INT8 and return FP32."""
    quantized = () if quantization is None else quantization.layers
    for outcome, names in (
        ("kept in FP32", [layer for layer in layers if layer not in quantized]),
        ("in INT8, returning FP32", [layer for layer in layers if layer in quantized]),
    ):
        if names:
            yield f"{outcome}: {', '.join(names)}"


def write_model(model: onnx.ModelProto, path: Path) -> None:
    """Writes what onnx.save would write, weights last, and empties the model.

    onnx.save would hold the weights in memory three times.
    """
    tensors = list(model.graph.initializer)
    del model.graph.initializer[:]
    graph = model.graph.SerializeToString()
    model.ClearField("graph")
    sizes = [tensor.ByteSize() for tensor in tensors]
    length = len(graph) + sum(len(encoded_key(GraphField.INITIALIZERS, size)) + size for size in sizes)
    with path.open("wb") as file:
        file.write(model.SerializeToString() + encoded_key(ModelField.GRAPH, length) + graph)
        for tensor, size in zip(tensors, sizes, strict=True):
            has_data, data = tensor.HasField("raw_data"), tensor.raw_data
            tensor.ClearField("raw_data")
            file.write(encoded_key(GraphField.INITIALIZERS, size) + tensor.SerializeToString())
            if has_data:
                file.write(encoded_key(TensorField.RAW_DATA, len(data)))
                file.write(data)


def _check(path: Path, manifest: Manifest, external_data: bool) -> None:
    """Compares the written file with what was requested: valid ONNX, manifest, digests, free or fixed axes, types."""
    # With a path, or for a full check, onnx (1.23) would hold the weights three times. The full check adds only shape
    # inference, which runs on the header below.
    onnx.checker.check_model(path if external_data else path.read_bytes())
    file = OnnxFile(path)
    onnx.shape_inference.infer_shapes(file.header, check_type=True, strict_mode=True)
    written = file.effective_manifest()
    if written != manifest:
        raise ModelFileError(
            f"the written file takes {INPUT} of {written.shapes} and has the outputs {', '.join(written.outputs)}; "
            f"expected {manifest.shapes} and {', '.join(manifest.outputs)}, with the same manifest"
        )
    for layer, layer_type in layer_types(file.header).items():
        if layer_type != manifest.precision.of(layer):
            raise ModelFileError(
                f"layer {layer} of the written file is {layer_type}; expected {manifest.precision.of(layer)}"
            )
    if file_digests(file) != manifest.digests:
        raise ModelFileError("the written file has other bytes than were written; the disk may be damaged")
