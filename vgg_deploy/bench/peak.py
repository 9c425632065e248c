"""The machine's matrix-multiply peak in a precision, as a runtime reaches it: what an engine's effective GFLOP/s are a share of.

It is measured on small ONNX models of our engine contract whose cost is nearly all in a chain of large 1x1 convolutions, each a
matrix product of channels x channels by channels x positions, in the types and with the Q/DQ nodes of our exports.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from vgg_deploy.artifacts.onnx_format import IR_VERSION, OPSET
from vgg_deploy.bench.timing import Latency, interleaved
from vgg_deploy.errors import EngineError, UsageError
from vgg_deploy.inference.engine import ContextManaged, Engine, EngineInfo
from vgg_deploy.network.precision import FLOAT16, FLOAT32, INT8
from vgg_deploy.network.tensors import PROBABILITIES

BFLOAT16 = "bfloat16"
# Which runtimes reach the peak of a precision on CPUs; the better one counts.
RUNTIMES = {FLOAT32: ("openvino", "onnxruntime"), BFLOAT16: ("openvino",), INT8: ("openvino",)}
_LABELS = "yes\nno"
_RANGE = 4.0  # of activations, in units of their root mean square


def arithmetic(info: EngineInfo) -> str:
    """float32, float16, bfloat16 or int8: in what most of an engine's products are really computed, so which peak is its own."""
    declared = info.manifest.precision
    if declared.lowest == INT8:
        return INT8
    if info.bf16:
        return BFLOAT16
    # CPU runtimes compute FP16 files in FP32.
    return declared.arithmetic if info.device != "cpu" else FLOAT32


@dataclass(frozen=True, slots=True)
class Product:
    """A chain of `depth` 1x1 convolutions from `channels` to `channels` over `side` x `side` positions, after one from RGB."""

    channels: int
    side: int
    depth: int = 4

    @property
    def gflop(self) -> float:
        return 2 * self.side**2 * self.channels * (3 + self.depth * self.channels) / 1e9

    def __str__(self) -> str:
        return f"1x1 convolution {self.channels} -> {self.channels} over {self.side}x{self.side}"


# Smaller ones reach less (INT8 on two cores with AVX-512 VNNI: 512 channels 1,300 GFLOP/s, these 1,520, 1,590 and 1,630), larger
# ones no more.
PRODUCTS = (Product(1024, 48), Product(2048, 32), Product(2048, 48))


def product_model(product: Product, precision: str) -> onnx.ModelProto:
    """A product as an ONNX model: uint8 `images` [1, side, side, 3] in, float32 `probabilities` [1, 2] out.

    bfloat16 is a float32 model, which the runtime is allowed to compute in bfloat16. INT8 has Q/DQ nodes where our exports for
    TensorRT have them: symmetric, on the inputs of convolutions, and on weights with a scale for each output channel.
    """
    writer = _Writer(precision, np.random.default_rng(0))
    writer.node("Cast", "images", "float", to=TensorProto.FLOAT)
    writer.node("Sub", "float", "centred", writer.constant("mean", np.float32(127.5)))
    writer.node("Div", "centred", "scaled", writer.constant("std", np.float32(74)))  # of bytes drawn evenly
    writer.node("Transpose", "scaled", "x0", perm=[0, 3, 1, 2])
    if precision == FLOAT16:
        writer.node("Cast", "x0", "half", to=TensorProto.FLOAT16)
    tensor, channels = "half" if precision == FLOAT16 else "x0", 3
    for index in range(product.depth + 1):
        tensor = writer.convolution(tensor, f"x{index + 1}", channels, product.channels)
        channels = product.channels
    if precision == FLOAT16:
        writer.node("Cast", tensor, "wide", to=TensorProto.FLOAT)
        tensor = "wide"
    writer.node("GlobalAveragePool", tensor, "mean_over_positions")
    weight = writer.constant("scores.weight", writer.weights(2, channels).astype(np.float32))
    writer.node("Conv", "mean_over_positions", "score_map", weight)
    writer.node("Flatten", "score_map", "scores", axis=1)
    writer.node("Softmax", "scores", PROBABILITIES, axis=1)
    shape = [1, product.side, product.side, 3]
    graph = helper.make_graph(
        writer.nodes,
        "peak",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info(PROBABILITIES, TensorProto.FLOAT, [1, 2])],
        writer.constants,
    )
    # Without our manifest: it is no VGG. Labels make it one that engines take.
    model: onnx.ModelProto = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )
    return model


class _Writer:
    def __init__(self, precision: str, random: np.random.Generator) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._int8, self._random = precision == INT8, random
        self._type: Any = np.float16 if precision == FLOAT16 else np.float32
        if self._int8:
            self._levels = (
                self.constant("step", np.float32(_RANGE / 127)),
                self.constant("zero", np.int8(0)),
            )

    def node(self, operator: str, source: str, output: str, *constants: str, **attributes: Any) -> None:
        self.nodes.append(helper.make_node(operator, [source, *constants], [output], name=output, **attributes))

    def constant(self, name: str, values: Any) -> str:
        array = np.asarray(values)
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        self.constants.append(helper.make_tensor(name, kind, array.shape, array.tobytes(), raw=True))
        return name

    def weights(self, outputs: int, inputs: int) -> Any:
        """He's scaling keeps activations at their size: those that fade to denormals would be slow, and say nothing."""
        return self._random.normal(0, math.sqrt(2 / inputs), (outputs, inputs, 1, 1))

    def convolution(self, source: str, output: str, inputs: int, outputs: int) -> str:
        weights = self.weights(outputs, inputs)
        if self._int8:
            self.node("QuantizeLinear", source, f"{output}.quantized", *self._levels)
            self.node("DequantizeLinear", f"{output}.quantized", f"{output}.input", *self._levels)
            source = f"{output}.input"
            scales = np.abs(weights).max(axis=(1, 2, 3)) / 127
            integers = np.rint(weights / scales[:, None, None, None]).astype(np.int8)
            names = (
                self.constant(f"{output}.scales", scales.astype(np.float32)),
                self.constant(f"{output}.zeros", np.zeros(outputs, np.int8)),
            )
            weight = f"{output}.weight"
            self.node("DequantizeLinear", self.constant(f"{output}.integers", integers), weight, *names, axis=0)
        else:
            weight = self.constant(f"{output}.weight", weights.astype(self._type))
        self.node("Conv", source, f"{output}.sum", weight)
        self.node("Relu", f"{output}.sum", output)
        return output


@dataclass(frozen=True, slots=True)
class Peak:
    """What was reached.

    Attributes:
        precision: float32, float16, bfloat16 or int8.
        runtime: name and version of what computed.
        product: the one that was fastest.
        seconds: of each call.
    """

    precision: str
    runtime: str
    product: Product
    seconds: tuple[float, ...]

    @property
    def gflops_per_s(self) -> float:
        """At the median time, as effective rates are."""
        return Latency(1, self.seconds).gflops_per_s(self.product.gflop)

    @property
    def highest_gflops_per_s(self) -> float:
        return self.product.gflop / min(self.seconds)

    def __str__(self) -> str:
        return f"{self.gflops_per_s:,.0f} GFLOP/s in {self.precision} ({self.product}, {self.runtime})"


class PeakProbe(ContextManaged):
    """One product, open, to be timed in turn with engines (`timing.interleaved`), so that a drift of the machine meets both.

    Args:
        open_engine: `engines.open_engine`.
        precision: float32, float16 (GPUs), bfloat16 or int8.
        runtime, device, threads: as `open_engine` takes them.

    Raises:
        UsageError: the runtime is not installed, or this machine does not compute in this precision.
        EngineError: the runtime failed.
    """

    def __init__(
        self,
        open_engine: Callable[..., Engine],
        product: Product,
        precision: str,
        *,
        runtime: str = "openvino",
        device: str | None = None,
        threads: int | None = None,
    ) -> None:
        self.product, self.precision = product, precision
        self._folder = tempfile.TemporaryDirectory(prefix="vgg-deploy-peak-")
        try:
            path = Path(self._folder.name) / "product.onnx"
            onnx.save(product_model(product, precision), path)
            self._engine = open_engine(
                path,
                runtime=runtime,
                device=device,
                threads=threads,
                labels=_LABELS,
                allow_bf16=precision == BFLOAT16,
            )
            if precision == BFLOAT16 and not self._engine.info.bf16:
                self._engine.close()
                raise UsageError("this CPU does not compute in bfloat16")
        except BaseException:
            self._folder.cleanup()
            raise
        self.runtime = self._engine.info.runtime
        shape = (1, product.side, product.side, 3)
        self._images = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)

    def seconds(self) -> float:
        """Time of one product."""
        began = time.perf_counter()
        self._engine.run(self._images)
        return time.perf_counter() - began

    def peak(self, seconds: list[float]) -> Peak:
        """These times of it as a peak."""
        return Peak(self.precision, self.runtime, self.product, tuple(seconds))

    def close(self) -> None:
        self._engine.close()
        self._folder.cleanup()


def open_best_probe(
    open_engine: Callable[..., Engine],
    precision: str,
    *,
    device: str | None = None,
    threads: int | None = None,
    runtimes: tuple[str, ...] | None = None,
    products: tuple[Product, ...] | None = None,
    repetitions: int = 5,
    say: Callable[[str], None] = lambda _text: None,
) -> PeakProbe | None:
    """The fastest of some products in some runtimes, open; None where no runtime can, with the reason through `say`.

    Args:
        runtimes: None: those that are known to reach the peak.
        products: None: `PRODUCTS`.
        repetitions: of each product, interleaved, after a first that does not count; the best ones are compared.
    """
    on_cpu = device in (None, "cpu")
    wanted = runtimes or (RUNTIMES.get(precision, ()) if on_cpu else ("onnxruntime",))
    probes: list[PeakProbe] = []
    try:
        reasons = [] if wanted else [f"no runtime here computes in it on {device or 'cpu'}"]
        for runtime in wanted:
            try:
                for product in products or PRODUCTS:
                    probes.append(
                        PeakProbe(open_engine, product, precision, runtime=runtime, device=device, threads=threads)
                    )
            except (UsageError, EngineError) as error:
                reasons.append(str(error))
        if not probes:
            say(f"the peak in {precision} is not known: {'; '.join(reasons)}")
            return None
        for probe in probes:
            probe.seconds()
        samples = interleaved(repetitions, *(probe.seconds for probe in probes))
        rates = [probe.product.gflop / min(times) for probe, times in zip(probes, samples, strict=True)]
        return probes.pop(rates.index(max(rates)))
    finally:
        for probe in probes:
            probe.close()
