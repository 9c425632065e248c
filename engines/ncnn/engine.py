"""ncnn, on the CPU, in FP32: its 3x3 convolutions are Winograd's, which take about a quarter of the multiplications."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import ncnn
import numpy as np

from engines.ncnn.translation import Network, UntranslatedError, Weights, translate
from vgg_deploy.artifacts.onnx_file import OnnxFile
from vgg_deploy.errors import EngineError, UnsupportedModelError
from vgg_deploy.inference.engine import ContextManaged, EngineInfo, Scores, check_images
from vgg_deploy.inference.engine_options import EngineOptions
from vgg_deploy.network.manifest import Manifest
from vgg_deploy.network.tensors import ACTIVATION, Floats, Images

_FLOAT32 = np.zeros(1, np.float32)  # says so, before the weight of a convolution


class NcnnEngine(ContextManaged):
    """An ONNX file in ncnn; see `vgg_deploy.inference.engine.Engine`. `run` is safe from several threads."""

    def __init__(
        self, file: OnnxFile, manifest: Manifest, options: EngineOptions, notices: tuple[str, ...] = ()
    ) -> None:
        self._path = file.path
        self._network, loaded = _load(file, options)
        self._net: ncnn.Net | None = loaded
        precision = str(manifest.precision)
        if manifest.precision.arithmetic == "float16":
            precision += ", computed in float32"
        assert manifest.shapes is not None  # read_manifest sets them
        self.info = EngineInfo(
            runtime=f"ncnn {ncnn.__version__}",
            device="cpu",
            precision=precision,
            outputs=tuple(self._network.outputs),
            shapes=manifest.shapes,
            concurrency=options.request_count,
            threads=options.total_threads,
            manifest=manifest,
            notices=notices,
        )

    def run(self, images: Images) -> Scores:
        check_images(images, self.info.shapes)
        net = self._net
        if net is None:
            raise EngineError(f"{self._path} was closed; open it again")
        answers = [self._answer(net, image) for image in images]
        return Scores.from_outputs({name: np.stack([answer[name] for answer in answers]) for name in answers[0]})

    def _answer(self, net: ncnn.Net, image: Images) -> dict[str, Floats]:
        extractor = net.create_extractor()
        extractor.input(self._network.image, _normalized(image, self._network))
        # An output that others are computed from is taken before them, so that it is there still.
        answer = {name: _extracted(extractor, blob, image) for name, blob in self._network.outputs.items()}
        return {
            name: values[:, None, None] if _lost_its_position(name, values) else values
            for name, values in answer.items()
        }

    def close(self) -> None:
        self._net = None


def _lost_its_position(name: str, values: Floats) -> bool:
    """A layer's activation has rows and columns, also where they are one: the spatial mean, and what follows it."""
    return name.startswith(ACTIVATION) and values.ndim == 1


def _normalized(image: Images, network: Network) -> ncnn.Mat:
    height, width = image.shape[:2]
    pixels = ncnn.Mat.from_pixels(np.ascontiguousarray(image), ncnn.Mat.PixelType.PIXEL_RGB, width, height)
    pixels.substract_mean_normalize(network.mean, [1 / value for value in network.std])
    return pixels


def _extracted(extractor: ncnn.Extractor, blob: str, image: Images) -> Floats:
    status, values = extractor.extract(blob)
    if status != 0:
        height, width = image.shape[:2]
        raise EngineError(f"ncnn failed on {height} x {width} (status {status}): is there enough memory?")
    return np.array(values, dtype=np.float32)


class _Stream(ncnn.DataReader):  # type: ignore[misc]  # the vendor has no types
    """Gives ncnn the weights one after the other, each copied once: to where it keeps them."""

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


def _load(file: OnnxFile, options: EngineOptions) -> tuple[Network, ncnn.Net]:
    try:
        graph = file.graph
        network = translate(graph)
        net = ncnn.Net()
        _configure(net.opt, options)
        if net.load_param_mem(network.text) != 0:
            raise UntranslatedError("it does not take these layers")
        if net.load_model(_Stream(in_ncnns_order(network, graph.weights))) != 0:
            raise EngineError(f"ncnn could not load the weights of {file.path}: is there enough memory?")
    except UntranslatedError as error:
        raise UnsupportedModelError("ncnn", file.path, str(error)) from error
    return network, net


def _configure(option: ncnn.Option, options: EngineOptions) -> None:
    option.num_threads = options.total_threads // options.request_count  # a rest is left to decoding
    option.use_vulkan_compute = False
    # On CPUs that have them it would store activations in half precision, unasked.
    option.use_fp16_packed = option.use_fp16_storage = option.use_fp16_arithmetic = False
    option.use_bf16_packed = option.use_bf16_storage = False


def in_ncnns_order(network: Network, weights: Weights) -> Iterator[Floats]:
    """The bytes of ncnn's weight file: before each layer's weight what type it is of, behind it the bias.

    Raises:
        UntranslatedError: a weight is NaN or infinite.
    """
    for weight, bias in network.weights:
        yield _FLOAT32
        for name in (weight, bias):
            array = weights[name].astype(np.float32, copy=False)
            # Its ReLU makes 0 of NaN: answers would look sound.
            if not (np.isfinite(array.min()) and np.isfinite(array.max())):
                raise UntranslatedError(f"{name} has values that are not finite: the weights are damaged")
            yield array


def open_model(file: OnnxFile, manifest: Manifest, options: EngineOptions, notices: tuple[str, ...] = ()) -> NcnnEngine:
    """Opens an ONNX file; the device is always the CPU here. See `engines.open_engine`."""
    return NcnnEngine(file, manifest, options, notices)


def availability(device: str) -> str:
    """In a few words, how ncnn can use `device` (always cpu) here."""
    return f"ncnn {ncnn.__version__}"


def layer_times(path: Path, options: EngineOptions, images: Images, repetitions: int) -> list[dict[str, float]]:
    """Milliseconds by node's name, of each of some calls by themselves.

    ncnn has no profile: each layer's output is asked for in turn, twice; the second time it is there, and what handing it over
    costs is taken off.
    """
    network, net = _load(OnnxFile(path), replace(options, requests=1))
    runs: list[dict[str, float]] = []
    for _ in range(1 + repetitions):  # the first is left out
        times: dict[str, float] = {}
        for image in images:
            begin = time.perf_counter()
            pixels = _normalized(image, network)
            times[network.normalization] = times.get(network.normalization, 0.0) + 1000 * (time.perf_counter() - begin)
            extractor = net.create_extractor()
            extractor.input(network.image, pixels)
            for blob, node in network.blobs:
                begin = time.perf_counter()
                _extracted(extractor, blob, image)
                middle = time.perf_counter()
                _extracted(extractor, blob, image)
                cost = 1000 * (2 * middle - begin - time.perf_counter())
                times[node] = times.get(node, 0.0) + max(0.0, cost)
        runs.append(times)
    return runs[1:]
