"""The machine's matrix-multiply peak in a precision, as a runtime reaches it.

Reports show an engine's GFLOP/s as a share of this peak.

The peak is measured on small ONNX models with the inputs and outputs of our exports. Nearly all of their cost is a
chain of large 1x1 convolutions. Each is a matrix product of channels x channels by channels x positions, with the types
and Q/DQ nodes of our exports.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx

from vgg_deploy.bench.batches import ImageBatch
from vgg_deploy.bench.product import Product, product_model
from vgg_deploy.bench.timing import Latency
from vgg_deploy.bench.turn_length import TURN_S
from vgg_deploy.bench.turns import Calls
from vgg_deploy.errors import EngineError, UsageError
from vgg_deploy.inference.context_managed import ContextManaged
from vgg_deploy.inference.engine import Engine, EngineInfo
from vgg_deploy.inference.engine_options import EngineOptions
from vgg_deploy.network.precision import FLOAT32, INT8

BFLOAT16 = "bfloat16"
# The runtimes in which to measure a precision's peak on CPUs; the fastest one counts.
RUNTIMES = {FLOAT32: ("openvino", "onnxruntime"), BFLOAT16: ("openvino",), INT8: ("openvino",)}
_LABELS = "yes\nno"
_OPENVINO = EngineOptions(runtime="openvino")
_CALLS = 5  # of each product, in turn, after a warm-up call; the fastest calls are compared
SEARCH_CALLS = 1 + _CALLS
OpenWith = Callable[[Path, EngineOptions], Engine]
# Smaller products reach less: INT8 on two cores with AVX-512 VNNI does 1,300 GFLOP/s with 512 channels, and 1,520,
# 1,590 and 1,630 with these. Larger ones reach no more.
PRODUCTS = (Product(1024, 48), Product(2048, 32), Product(2048, 48))


def arithmetic(info: EngineInfo) -> str:
    """float32, float16, bfloat16 or int8: the precision of most of an engine's products, whose peak it is compared
    with.
    """
    declared = info.manifest.precision
    if declared.lowest == INT8:
        return INT8
    if info.bf16:
        return BFLOAT16
    # CPU runtimes compute FP16 files in FP32.
    return declared.arithmetic if info.device != "cpu" else FLOAT32


@dataclass(frozen=True, slots=True)
class Peak:
    """A measured peak.

    Attributes:
        precision: float32, float16, bfloat16 or int8.
        runtime: the name and version of the runtime.
        product: the fastest product.
        seconds: the time of each call.
    """

    precision: str
    runtime: str
    product: Product
    seconds: tuple[float, ...]

    @staticmethod
    def merged(peaks: Sequence[Peak]) -> Peak:
        """Several measurements of one probe as one, with all their calls."""
        return replace(peaks[0], seconds=tuple(seconds for peak in peaks for seconds in peak.seconds))

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
    """A product in an open engine, measured in turn with the contestants, so that drift of the machine affects both.

    Args:
        open_with: `engines.open_with`.
        product: what to compute.
        precision: float32, float16 (GPUs), bfloat16 or int8.
        options: runtime, device and threads.

    Raises:
        UsageError: the runtime is not installed, or this machine does not compute in this precision.
        EngineError: the runtime failed.
    """

    def __init__(
        self, open_with: OpenWith, product: Product, precision: str, options: EngineOptions = _OPENVINO
    ) -> None:
        self.product, self.precision = product, precision
        self._folder = tempfile.TemporaryDirectory(prefix="vgg-deploy-peak-")
        try:
            path = Path(self._folder.name) / "product.onnx"
            onnx.save(product_model(product, precision), path)
            bf16 = precision == BFLOAT16
            self._engine = open_with(path, replace(options, labels=_LABELS, allow_bf16=bf16))
            if bf16 and not self._engine.info.bf16:
                self._engine.close()
                raise UsageError("this CPU does not compute in bfloat16")
        except BaseException:
            self._folder.cleanup()
            raise
        self.runtime = self._engine.info.runtime
        images = np.random.default_rng(1).integers(0, 256, (1, product.side, product.side, 3), dtype=np.uint8)
        self._batch = ImageBatch(images, 1)
        run = self._engine.run
        self._calls = Calls(lambda images: run(images).probabilities, least_s=TURN_S, settles=True)

    def __call__(self, once: bool = False) -> Peak:
        """The peak in one turn of calls, or in a single call if `once`."""
        return Peak(self.precision, self.runtime, self.product, self._calls(self._batch, once).seconds)

    def close(self) -> None:
        self._calls.close()
        self._engine.close()
        self._folder.cleanup()


def open_best_probe(
    open_with: OpenWith,
    precision: str,
    options: EngineOptions,
    *,
    products: tuple[Product, ...] | None = None,
    say: Callable[[str], None] = lambda _text: None,
) -> PeakProbe | None:
    """An open probe of the fastest product and runtime. None if no runtime can compute them; `say` gets the reason.

    Args:
        options: device and threads.
        products: None: `PRODUCTS`.
    """
    runtimes = RUNTIMES.get(precision, ()) if options.device_kind == "cpu" else ("onnxruntime",)
    probes: list[PeakProbe] = []
    try:
        reasons = [] if runtimes else [f"no runtime here supports it on {options.device or 'cpu'}"]
        for runtime in runtimes:
            try:
                for product in products or PRODUCTS:
                    probes.append(PeakProbe(open_with, product, precision, replace(options, runtime=runtime)))
            except (UsageError, EngineError) as error:
                reasons.append(str(error))
        if not probes:
            say(f"the peak in {precision} is unknown: {'; '.join(reasons)}")
            return None
        for probe in probes:
            probe(once=True)
        rounds = [[probe(once=True).gflops_per_s for probe in probes] for _ in range(_CALLS)]
        rates = [max(of_probe) for of_probe in zip(*rounds, strict=True)]
        return probes.pop(rates.index(max(rates)))
    finally:
        for probe in probes:
            probe.close()
