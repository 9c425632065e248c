"""The registry of runtimes for ONNX files, and the choice of the fastest one for a file on this machine."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from engines.amx import amx_in_use
from vgg_deploy.artifacts.plan import BACKENDS
from vgg_deploy.errors import EngineError, MissingDependencyError, UsageError
from vgg_deploy.inference.engine_options import EngineOptions
from vgg_deploy.install import install_command
from vgg_deploy.network.manifest import Manifest
from vgg_deploy.network.precision import Quantization

NO_BF16 = "this CPU does not compute in bfloat16: --allow-bf16 has no effect"
_AS_FAST = "it was as fast as openvino on the CPUs that we measured, and a new image size costs no extra time"
# VGG-16, one image at a time on two cores of a Xeon with AMX, in turns: openvino 2.4 times (1.8 to 6.0) as fast as
# onnxruntime 1.32 at 256x341, and 2.7 times (1.3 to 4.6) at 224x224. The machine was busy with other work.
_ON_AMX = "it computes INT8 with this CPU's AMX, on which it took less than half of onnxruntime's time"


@dataclass(frozen=True, slots=True)
class Runtime:
    """A runtime for ONNX files.

    Attributes:
        adapter: our module for it. Its `open_model(OnnxModel)` opens an ONNX file.
        module: the vendor's module.
        extra: the extra that installs it.
        devices: the kinds of device on which it runs.
        quantized: whether it runs INT8 files.
        bf16: whether it computes in bfloat16 if the CPU can.
    """

    adapter: str
    module: str
    extra: str
    devices: tuple[str, ...] = ("cpu",)
    quantized: bool = True
    bf16: bool = False

    @property
    def installed(self) -> bool:
        return importlib.util.find_spec(self.module) is not None


RUNTIMES = {
    "onnxruntime": Runtime("engines.ort", "onnxruntime", "cpu", ("cpu", "cuda")),
    "openvino": Runtime("engines.ov", "openvino", "cpu", bf16=True),
    "ncnn": Runtime("engines.ncnn.engine", "ncnn", "cpu", quantized=False),
}


@dataclass(frozen=True, slots=True)
class Choice:
    """A runtime's name, and why `auto` chose it (None: the user named it)."""

    runtime: str
    reason: str | None = None


def choose_runtime(
    options: EngineOptions, manifest: Manifest | None = None, unusable: Mapping[str, str] = MappingProxyType({})
) -> Choice:
    """The runtime that the options name, or, for `auto`, the fastest that is installed.

    Args:
        options: `runtime`, `device` and `allow_bf16` matter here.
        manifest: the file's manifest; None: any FP32 file of ours.
        unusable: runtimes that cannot run this file, with the reason; `auto` skips them.

    Raises:
        UsageError: the runtime is unknown, is not installed, or does not support the device or the precision.
        EngineError: no installed runtime can run this file.
    """
    runtime = options.runtime
    if runtime == "auto":
        return _fastest(options, manifest, unusable)
    if runtime in BACKENDS:
        raise UsageError(
            f"{runtime} runs plans, not ONNX files; build one: vgg-deploy build MODEL.onnx --backend {runtime}"
        )
    if runtime not in RUNTIMES:
        raise UsageError(f"runtime is {runtime!r}; expected auto, {', '.join(RUNTIMES)}")
    chosen = RUNTIMES[runtime]
    if options.device_kind not in chosen.devices:
        raise UsageError(
            f"{runtime} supports {', '.join(chosen.devices)} only, and device is {options.device}; "
            "use --runtime onnxruntime"
        )
    if not chosen.installed:
        raise MissingDependencyError(chosen.module, _extra(chosen, options), f"--runtime {runtime}")
    if options.allow_bf16 and not chosen.bf16:
        raise UsageError(f"{runtime} does not support bfloat16; use --runtime openvino, or leave --allow-bf16 out")
    if _quantization(manifest) is not None and not chosen.quantized:
        raise UsageError(f"{runtime} does not support INT8 files; use --runtime openvino")
    return Choice(runtime)


def _quantization(manifest: Manifest | None) -> Quantization | None:
    """How the file was quantized; None if it has no INT8 layers."""
    quantization = None if manifest is None else manifest.precision.quantization
    return quantization if quantization is not None and quantization.layers else None


def _extra(runtime: Runtime, options: EngineOptions) -> str:
    return "gpu" if options.device_kind == "cuda" else runtime.extra


def _fastest(options: EngineOptions, manifest: Manifest | None, unusable: Mapping[str, str]) -> Choice:
    ranked = _by_speed(options, manifest)
    first = next(iter(ranked))
    for name, reason in ranked.items():
        if not RUNTIMES[name].installed or name in unusable:
            continue
        if first in unusable:
            reason = f"{first} would be faster, but cannot run this file: {unusable[first]}"
        elif name != first:
            reason = f"{first} would be faster for this file, but is not installed"
        return Choice(name, reason)
    if unusable:
        tried = [f"{name}: {unusable.get(name, 'not installed')}" for name in ranked]
        raise EngineError(f"no runtime can run this file: {'; '.join(tried)}")
    if options.allow_bf16:
        raise MissingDependencyError("openvino", "cpu", "--allow-bf16")
    raise MissingDependencyError(
        "an ONNX runtime (onnxruntime, openvino or ncnn)",
        _extra(RUNTIMES[first], options),
        f"running on {options.device or 'cpu'}",
    )


def _by_speed(options: EngineOptions, manifest: Manifest | None) -> dict[str, str | None]:
    """The runtimes that can run a file, fastest first, with the reason. benchmarks/results has the figures."""
    if options.device_kind != "cpu":
        return {"onnxruntime": None}
    if options.allow_bf16:
        return {"openvino": "only openvino computes in bfloat16"}
    quantization = _quantization(manifest)
    if quantization is not None and quantization.target == "tensorrt":
        return {
            "openvino": "it runs the INT8 layers of a file made for TensorRT as INT8; onnxruntime does not",
            "onnxruntime": None,
        }
    if quantization is not None and amx_in_use():
        return {
            "openvino": _ON_AMX,
            "onnxruntime": None,
        }
    if quantization is not None:
        return {
            "onnxruntime": f"the file was made for it; without AMX, {_AS_FAST}",
            "openvino": None,
        }
    any_graph: dict[str, str | None] = {
        "onnxruntime": f"in floating point {_AS_FAST}",
        "openvino": None,
    }
    if manifest is not None and manifest.spec is None:  # another exporter's graph
        return any_graph
    return {
        "ncnn": "its Winograd convolutions were the fastest in floating point on the CPUs that we measured",
        **any_graph,
    }


def pairing_notices(runtime: str, options: EngineOptions, manifest: Manifest | None) -> tuple[str, ...]:
    """Notices for an INT8 file in a runtime that it was not made for."""
    quantization = _quantization(manifest)
    if (
        quantization is None
        or quantization.target == "onnxruntime"
        or (runtime, options.device_kind) != ("onnxruntime", "cpu")
    ):
        return ()
    remedy = (
        "--runtime openvino runs them as INT8"
        if RUNTIMES["openvino"].installed
        else f"openvino runs them as INT8 ({install_command(RUNTIMES['openvino'].extra)})"
    )
    return (
        "the file's Q/DQ nodes are placed for TensorRT. onnxruntime's CPU kernels run most of them one by one, slower "
        "than FP32: VGG-16 took 1.2 times as long as in FP32; openvino takes a quarter of the FP32 time. "
        f"{remedy}. Or export the file with --target onnxruntime",
    )
