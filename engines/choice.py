"""Which runtime computes an ONNX file: the registry, what suits a file on this machine, and what to say about it."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from vgg_deploy.artifacts.plan import BACKENDS
from vgg_deploy.errors import EngineError, MissingDependencyError, UsageError
from vgg_deploy.inference.engine_options import EngineOptions
from vgg_deploy.install import install_command
from vgg_deploy.network.manifest import Manifest
from vgg_deploy.network.precision import Quantization

NO_BF16 = "this CPU does not compute in bfloat16: --allow-bf16 has no effect"


@dataclass(frozen=True, slots=True)
class Runtime:
    """A runtime of ONNX files and where it is found.

    Attributes:
        home: our module, whose `open_model(OnnxModel)` opens an ONNX file.
        module: the vendor's module.
        extra: the extra that installs it.
        devices: kinds of device it can run on.
        quantized: whether it runs INT8 files.
        bf16: whether it computes in bfloat16 on CPUs that do so.
    """

    home: str
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
    """A runtime's name, and why `auto` took it (None: it was asked for)."""

    runtime: str
    reason: str | None = None


def choose_runtime(
    options: EngineOptions, manifest: Manifest | None = None, unable: Mapping[str, str] = MappingProxyType({})
) -> Choice:
    """The runtime that `auto` means for a file on this machine, or `options.runtime` if it can be used.

    Args:
        unable: runtimes that were found unable to run this file, with the reason; `auto` takes another.

    Raises:
        UsageError: unknown, not installed, or without this kind of device or precision.
    """
    runtime = options.runtime
    if runtime == "auto":
        return _fastest(options, manifest, unable)
    if runtime in BACKENDS:
        raise UsageError(
            f"{runtime} runs plans, not ONNX files: vgg-deploy build MODEL.onnx --backend {runtime} makes one"
        )
    if runtime not in RUNTIMES:
        raise UsageError(f"runtime is {runtime!r}; expected auto, {', '.join(RUNTIMES)}")
    chosen = RUNTIMES[runtime]
    if options.device_kind not in chosen.devices:
        raise UsageError(
            f"{runtime} runs on {', '.join(chosen.devices)} here, not on {options.device}; use --runtime onnxruntime"
        )
    if not chosen.installed:
        raise MissingDependencyError(chosen.module, _extra(chosen, options), f"--runtime {runtime}")
    if options.allow_bf16 and not chosen.bf16:
        raise UsageError(
            f"{runtime} does not compute in bfloat16 on CPUs here; use --runtime openvino, or leave --allow-bf16 out"
        )
    if _quantization(manifest) is not None and not chosen.quantized:
        raise UsageError(f"{runtime} computes in floating point here, and the file is INT8; use --runtime openvino")
    return Choice(runtime)


def _quantization(manifest: Manifest | None) -> Quantization | None:
    """Of a file that has INT8 layers."""
    quantization = None if manifest is None else manifest.precision.quantization
    return quantization if quantization is not None and quantization.layers else None


def _extra(runtime: Runtime, options: EngineOptions) -> str:
    return "gpu" if options.device_kind == "cuda" else runtime.extra


def _fastest(options: EngineOptions, manifest: Manifest | None, unable: Mapping[str, str]) -> Choice:
    ranked = _by_speed(options, manifest)
    first = next(iter(ranked))
    for name, reason in ranked.items():
        if not RUNTIMES[name].installed or name in unable:
            continue
        if first in unable:
            reason = f"{first}, which would be faster, cannot: {unable[first]}"
        elif name != first:
            reason = f"{first} would be faster for this file, and is not installed"
        return Choice(name, reason)
    if unable:
        tried = [f"{name}: {unable.get(name, 'not installed')}" for name in ranked]
        raise EngineError(f"no runtime can run this file: {'; '.join(tried)}")
    if options.allow_bf16:
        raise MissingDependencyError("openvino", "cpu", "--allow-bf16")
    raise MissingDependencyError(
        "an ONNX runtime (onnxruntime, openvino or ncnn)",
        _extra(RUNTIMES[first], options),
        f"running on {options.device or 'cpu'}",
    )


def _by_speed(options: EngineOptions, manifest: Manifest | None) -> dict[str, str | None]:
    """The runtimes that can run a file, the fastest first, with what makes it so; the figures are those of benchmarks/results."""
    if options.device_kind != "cpu":
        return {"onnxruntime": None}
    if options.allow_bf16:
        return {"openvino": "it alone computes in bfloat16"}
    quantization = _quantization(manifest)
    if quantization is not None and quantization.target == "tensorrt":
        return {
            "openvino": "it runs the INT8 of a file made for TensorRT as INT8, onnxruntime does not",
            "onnxruntime": None,
        }
    if quantization is not None:
        return {
            "onnxruntime": "the file is made for it; as fast as openvino on the CPUs that were measured, and new image sizes cost it nothing",
            "openvino": None,
        }
    others: dict[str, str | None] = {
        "onnxruntime": "as fast as openvino in floating point on the CPUs that were measured, and new image sizes cost it nothing",
        "openvino": None,
    }
    if manifest is not None and manifest.spec is None:  # another exporter's graph
        return others
    return {
        "ncnn": "its Winograd convolutions are the fastest in floating point on the CPUs that were measured",
        **others,
    }


def pairing_notices(runtime: str, options: EngineOptions, manifest: Manifest | None) -> tuple[str, ...]:
    """Notices for INT8 files in a runtime for which they were not made."""
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
        "the file's Q/DQ nodes are placed for TensorRT, and onnxruntime's CPU kernels run most of them one by one, slower than "
        "FP32 (VGG-16 took 1.2 times as long as in FP32; openvino takes a quarter of the FP32 time): "
        f"{remedy}. Or export the file with --target onnxruntime",
    )
