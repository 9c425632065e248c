"""ncnn on the CPU, in FP32. Winograd's method saves about three quarters of the multiplications in 3x3 convolutions."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import ncnn
import numpy as np
import numpy.typing as npt

from engines.ncnn.translation import Translation, UntranslatedError, Weights, translate, translate_piece
from engines.onnx_model import OnnxModel
from vgg_deploy.artifacts.onnx_file import OnnxFile, read_piece
from vgg_deploy.artifacts.onnx_format import ElementType
from vgg_deploy.errors import EngineError, UnsupportedModelError
from vgg_deploy.inference.context_managed import ContextManaged
from vgg_deploy.inference.engine import BaseEngine
from vgg_deploy.inference.engine_options import EngineOptions
from vgg_deploy.inference.piece import PieceModel
from vgg_deploy.network.tensors import ACTIVATION, Floats, Images

_FLOAT32 = np.zeros(1, np.float32)  # ncnn's tag for float32; it precedes the weight of a convolution


class NcnnEngine(BaseEngine[ncnn.Net]):
    """An ONNX file in ncnn; see `vgg_deploy.inference.engine.Engine`."""

    def __init__(self, model: OnnxModel) -> None:
        self._network, net = _load(model.file, model.options)
        precision = str(model.manifest.precision)
        if model.manifest.precision.arithmetic == "float16":
            precision += ", computed in float32"
        info = model.info(f"ncnn {ncnn.__version__}", precision, tuple(self._network.outputs))
        super().__init__(model.path, info, net)

    def _infer(self, worker: ncnn.Net, images: Images) -> Mapping[str, Floats]:
        results = [self._infer_image(worker, image) for image in images]  # each output without its first axis, n
        return {name: np.stack([outputs[name] for outputs in results]) for name in results[0]}  # [n, ...]

    def _infer_image(self, net: ncnn.Net, image: Images) -> dict[str, Floats]:
        extractor = net.create_extractor()
        extractor.input(self._network.image, _normalized(image, self._network))
        # In the order of computation: ncnn drops a blob once the layers that read it have run.
        outputs = {name: _extracted(extractor, blob) for name, blob in self._network.outputs.items()}
        # A flattened activation becomes [channels, 1, 1].
        return {name: array[:, None, None] if _is_flattened(name, array) else array for name, array in outputs.items()}


def _is_flattened(name: str, array: Floats) -> bool:
    """Whether an activation lacks rows and columns, which ncnn drops after the spatial mean."""
    return name.startswith(ACTIVATION) and array.ndim == 1


def _normalized(image: Images, network: Translation) -> ncnn.Mat:
    """An image uint8 [height, width, 3] as float32 [3, height, width], normalized as the network says."""
    height, width = image.shape[:2]
    pixels = ncnn.Mat.from_pixels(np.ascontiguousarray(image), ncnn.Mat.PixelType.PIXEL_RGB, width, height)
    pixels.substract_mean_normalize(network.mean, [1 / std for std in network.std])
    return pixels  # [3, height, width]


def _extracted(extractor: ncnn.Extractor, blob: str) -> Floats:
    """Computes a blob and copies it.

    Raises:
        EngineError: ncnn failed.
    """
    status, array = extractor.extract(blob)
    if status != 0:
        raise EngineError(f"ncnn failed with status {status}; usually memory has run out: try smaller --scales")
    return np.array(array, dtype=np.float32)


class _WeightReader(ncnn.DataReader):  # type: ignore[misc]  # the vendor has no types
    """Hands ncnn the weights one after the other. Each is copied once, to its final place."""

    def __init__(self, weights: Iterator[Floats]) -> None:
        super().__init__()
        self._weights = weights

    def read(self, buffer: object, size: int) -> int:
        weight = next(self._weights, None)
        if weight is None or weight.nbytes != size:
            return 0
        ctypes.memmove(_address(buffer, None), weight.ctypes.data, size)
        return size


_address = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


class NcnnPiece(ContextManaged):
    """A piece in ncnn; see `vgg_deploy.inference.piece.Piece`. ncnn computes FP16 pieces in FP32 and returns that."""

    def __init__(self, model: PieceModel, options: EngineOptions) -> None:
        self._name = f"the piece of {model.name}"
        graph, self._input, self._output = read_piece(model.data)
        try:
            if self._input.element == ElementType.UINT8:
                self._network = translate(graph)
            else:
                self._network = translate_piece(graph, on_one_position=model.on_one_position)
            self._net: ncnn.Net | None = _loaded(self._network, graph.weights, options, self._name)
        except UntranslatedError as error:
            raise UnsupportedModelError("ncnn", self._name, str(error)) from error
        self._on_one_position = model.on_one_position

    def run(self, values: npt.NDArray[Any]) -> npt.NDArray[np.floating[Any]]:
        """See `vgg_deploy.inference.piece.Piece.run`."""
        if self._net is None:
            raise EngineError(f"{self._name} was closed; open it again")
        results = np.stack([self._run_one(self._net, each) for each in values])  # [n, ...]
        missing = len(self._output.shape) - results.ndim  # ncnn drops the rows and columns of one position
        return results.reshape(*results.shape, *[1] * missing)

    def _run_one(self, net: ncnn.Net, values: npt.NDArray[Any]) -> Floats:
        extractor = net.create_extractor()
        if self._input.element == ElementType.UINT8:
            mat = _normalized(values, self._network)  # [3, height, width]
        else:
            single = np.ascontiguousarray(values, np.float32)
            mat = ncnn.Mat(single.ravel() if self._on_one_position else single).clone()
        extractor.input(self._network.image, mat)
        (blob,) = self._network.outputs.values()
        return _extracted(extractor, blob)

    def close(self) -> None:
        self._net = None


def _load(file: OnnxFile, options: EngineOptions) -> tuple[Translation, ncnn.Net]:
    try:
        network = translate(file.graph)
        net = _loaded(network, file.graph.weights, options, str(file.path))
    except UntranslatedError as error:
        raise UnsupportedModelError("ncnn", file.path, str(error)) from error
    return network, net


def _loaded(network: Translation, weights: Weights, options: EngineOptions, name: str) -> ncnn.Net:
    """A translated network with its weights, ready to run.

    Raises:
        UntranslatedError: ncnn rejects it, or a weight is NaN or infinite.
        EngineError: memory has run out. `name` names the network.
    """
    net = ncnn.Net()
    _configure(net.opt, options)
    if net.load_param_mem(network.text) != 0:
        raise UntranslatedError("ncnn rejects the translated layers")
    if net.load_model(_WeightReader(in_ncnn_order(network, weights))) != 0:
        raise EngineError(f"ncnn could not load the weights of {name}; usually memory has run out")
    return net


def _configure(option: ncnn.Option, options: EngineOptions) -> None:
    option.num_threads = options.total_threads // options.request_count  # a remainder is left for decoding
    option.use_vulkan_compute = False
    # By default ncnn stores activations in half precision on CPUs that support it.
    option.use_fp16_packed = option.use_fp16_storage = option.use_fp16_arithmetic = False
    option.use_bf16_packed = option.use_bf16_storage = False


def in_ncnn_order(network: Translation, weights: Weights) -> Iterator[Floats]:
    """The arrays of ncnn's weight file, in order: for each layer the tag of the weight's type, the weight, the bias.

    Raises:
        UntranslatedError: a weight is NaN or infinite.
    """
    for weight, bias in network.weights:
        yield _FLOAT32
        for name in (weight, bias):
            array = weights[name].astype(np.float32, copy=False)
            # ncnn's ReLU turns NaN into 0, so wrong answers would look valid.
            if not (np.isfinite(array.min()) and np.isfinite(array.max())):
                raise UntranslatedError(f"{name} has values that are not finite: the weights are damaged")
            yield array


def open_model(model: OnnxModel) -> NcnnEngine:
    """Opens an ONNX file; see `engines.open_engine`. The device is always the CPU."""
    return NcnnEngine(model)


def open_piece(model: PieceModel, options: EngineOptions) -> NcnnPiece:
    """Opens a piece; see `engines.open_piece`. The device is always the CPU."""
    return NcnnPiece(model, options)


def availability(device: str) -> str:
    """Name and version of ncnn, which can use `device` (always cpu) on every machine."""
    return f"ncnn {ncnn.__version__}"


def layer_times(path: Path, options: EngineOptions, images: Images, repetitions: int) -> list[dict[str, float]]:
    """Milliseconds by node name for each of `repetitions` separate calls.

    ncnn has no profiler, so each layer's output is extracted twice in turn. The second extraction only copies it, so
    its time is subtracted from the first.
    """
    network, net = _load(OnnxFile(path), replace(options, requests=1))
    calls: list[dict[str, float]] = []
    for _ in range(1 + repetitions):  # the first call does not count
        times: dict[str, float] = {}
        for image in images:
            begin = time.perf_counter()
            pixels = _normalized(image, network)
            times[network.normalization] = times.get(network.normalization, 0.0) + 1000 * (time.perf_counter() - begin)
            extractor = net.create_extractor()
            extractor.input(network.image, pixels)
            for blob, node in network.blobs:
                begin = time.perf_counter()
                _extracted(extractor, blob)
                computed = time.perf_counter()
                _extracted(extractor, blob)
                copied = time.perf_counter()
                cost_ms = 1000 * ((computed - begin) - (copied - computed))
                times[node] = times.get(node, 0.0) + max(0.0, cost_ms)
        calls.append(times)
    return calls[1:]
