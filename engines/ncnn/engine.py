"""ncnn on the CPU, in FP32. Winograd's method saves about three quarters of the multiplications in 3x3 convolutions."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import ncnn
import numpy as np

from engines.ncnn.translation import Translation, UntranslatedError, Weights, translate
from engines.onnx_model import OnnxModel
from vgg_deploy.artifacts.onnx_file import OnnxFile
from vgg_deploy.errors import EngineError, UnsupportedModelError
from vgg_deploy.inference.engine import BaseEngine
from vgg_deploy.inference.engine_options import EngineOptions
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
    height, width = image.shape[:2]
    pixels = ncnn.Mat.from_pixels(np.ascontiguousarray(image), ncnn.Mat.PixelType.PIXEL_RGB, width, height)
    pixels.substract_mean_normalize(network.mean, [1 / std for std in network.std])
    return pixels  # [3, height, width]


def _extracted(extractor: ncnn.Extractor, blob: str) -> Floats:
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


def _load(file: OnnxFile, options: EngineOptions) -> tuple[Translation, ncnn.Net]:
    try:
        network = translate(file.graph)
        net = ncnn.Net()
        _configure(net.opt, options)
        if net.load_param_mem(network.text) != 0:
            raise UntranslatedError("ncnn rejects the translated layers")
        if net.load_model(_WeightReader(in_ncnn_order(network, file.graph.weights))) != 0:
            raise EngineError(f"ncnn could not load the weights of {file.path}; usually memory has run out")
    except UntranslatedError as error:
        raise UnsupportedModelError("ncnn", file.path, str(error)) from error
    return network, net


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
