"""Engines: one file per vendor SDK, and the registry that opens them."""

from __future__ import annotations

import importlib
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

from vgg_deploy.engine import Engine
from vgg_deploy.errors import EngineError, MissingDependencyError, UsageError
from vgg_deploy.onnx_file import read_manifest


@dataclass(frozen=True, slots=True)
class Runtime:
    """A runtime and where it is found.

    Attributes:
        home: our module, whose `open_model(path, manifest, device, threads)` opens an ONNX file.
        module: the vendor's module.
        extra: the extra that installs it.
        devices: kinds of device it can run on.
    """

    home: str
    module: str
    extra: str
    devices: tuple[str, ...]

    @property
    def installed(self) -> bool:
        return importlib.util.find_spec(self.module) is not None


# In the order in which `auto` tries them. On the CPU both take the same time for FP32 (VGG-16 at 224: 73 and 74 ms on two
# cores), and ONNX Runtime does not slow down for the first image of a new shape.
RUNTIMES = {
    "onnxruntime": Runtime("engines.ort", "onnxruntime", "cpu", ("cpu", "cuda")),
    "openvino": Runtime("engines.ov", "openvino", "cpu", ("cpu",)),
}


def open_engine(
    path: str | Path,
    *,
    runtime: str = "auto",
    device: str = "cpu",
    threads: int | None = None,
    labels: str | None = None,
) -> Engine:
    """Opens an ONNX file.

    Args:
        path: the file.
        runtime: auto, onnxruntime or openvino.
        device: cpu, cuda or cuda:N. Never another one than was asked for.
        threads: of computation; None: one for each core.
        labels: text of a labels file, for a model without our manifest, or instead of its names.

    Raises:
        UsageError: no such file, runtime or device; a runtime that is not installed; labels that do not fit.
        ModelFileError, ManifestError: a file that cannot be fed.
        EngineError: the runtime cannot be loaded, or refused the file.
    """
    path = Path(path)
    if path.suffix == ".plan":
        raise UsageError(f"{path}: this version runs ONNX files, not TensorRT plans; give the .onnx it was built from")
    if path.suffix in (".pt", ".pth", ".safetensors"):
        raise UsageError(
            f"{path} is a checkpoint, not a model to run: vgg-deploy export --weights {path} --dynamic makes one"
        )
    if threads is not None and threads < 1:
        raise UsageError(f"threads is {threads}; expected 1 or more")
    manifest = read_manifest(path, labels)
    name = choose_runtime(runtime, device)
    try:
        home = importlib.import_module(RUNTIMES[name].home)
    except (ImportError, OSError) as error:
        raise EngineError(f"{name} is installed and cannot be loaded: {error}") from error
    engine: Engine = home.open_model(path, manifest, device, threads)
    return engine


def choose_runtime(runtime: str, device: str) -> str:
    """The runtime that `auto` means on this machine, or `runtime` itself if it can be used.

    Raises:
        UsageError: unknown, not installed, or without this kind of device.
    """
    kind = device.partition(":")[0]
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device, re.ASCII):
        raise UsageError(f"device is {device!r}; expected cpu, cuda or cuda:N")
    if runtime == "auto":
        usable = [name for name, candidate in RUNTIMES.items() if candidate.installed and kind in candidate.devices]
        if usable:
            return usable[0]
        extra = "gpu" if kind == "cuda" else "cpu"
        raise MissingDependencyError("an ONNX runtime (onnxruntime or openvino)", extra, f"running on {device}")
    if runtime not in RUNTIMES:
        raise UsageError(f"runtime is {runtime!r}; expected auto, {', '.join(RUNTIMES)}")
    chosen = RUNTIMES[runtime]
    if kind not in chosen.devices:
        raise UsageError(
            f"{runtime} runs on {', '.join(chosen.devices)} here, not on {device}; use --runtime onnxruntime"
        )
    if not chosen.installed:
        raise MissingDependencyError(chosen.module, "gpu" if kind == "cuda" else chosen.extra, f"--runtime {runtime}")
    return runtime
