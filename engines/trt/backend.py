"""TensorRT and TensorRT-RTX: two packages with one interface, and the log that both write to."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from vgg_deploy.errors import EngineError, MissingDependencyError

TENSORRT, TENSORRT_RTX = "tensorrt", "tensorrt-rtx"
OLDEST_GPU = (7, 5)  # compute capability: the oldest that TensorRT 10 and 11 build for

# Backend -> its module, and the extra that installs it.
_MODULES = {TENSORRT: ("tensorrt", "gpu"), TENSORRT_RTX: ("tensorrt_rtx", "rtx")}

# What TensorRT-RTX 1.7 says at severity INTERNAL_ERROR or WARNING of itself, where nothing is wrong.
_NOISE = (
    "Thread context has not been set! Using global log stream.",
    "is unsupported in TensorRT-RTX",
)


@dataclass(frozen=True, slots=True)
class Backend:
    """A package that builds and runs plans.

    Attributes:
        name: tensorrt or tensorrt-rtx.
        trt: its module; the rest of the code is the same for both, and branches only where their interfaces differ.
    """

    name: str
    trt: Any

    @property
    def version(self) -> str:
        return str(self.trt.__version__)

    @property
    def is_rtx(self) -> bool:
        return self.name == TENSORRT_RTX

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


def installed() -> tuple[str, ...]:
    """Names of the backends that are installed."""
    return tuple(name for name, (module, _extra) in _MODULES.items() if importlib.util.find_spec(module) is not None)


def load(name: str) -> Backend:
    """Imports a backend.

    Raises:
        MissingDependencyError: it is not installed.
        EngineError: it is installed but cannot be loaded.
    """
    module, extra = _MODULES[name]
    if importlib.util.find_spec(module) is None:
        raise MissingDependencyError(name, extra, f"backend {name}")
    try:
        return Backend(name, importlib.import_module(module))
    except (
        Exception
    ) as error:  # its libraries may be missing, or too new for the driver: ImportError, OSError, RuntimeError
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise EngineError(f"{name} is installed but cannot be loaded: {reason}") from error


def choose(name: str | None, gpu: tuple[int, int] | None) -> Backend:
    """The backend to build with: the one that is named, else the one that is installed, of both TensorRT where it has a GPU.

    Args:
        gpu: the compute capability of the GPU that is there, if any.

    Raises:
        MissingDependencyError: it is not installed, or none is.
        EngineError: it is installed but cannot be loaded.
    """
    supported = gpu is not None and gpu >= OLDEST_GPU
    if name is None:
        names = sorted(installed(), key=lambda name: (name == TENSORRT) != supported)
        if not names:
            extra = "gpu" if supported else "rtx"
            raise MissingDependencyError("tensorrt or tensorrt-rtx", extra, "building a plan")
        name = names[0]
    return load(name)


@dataclass(slots=True)
class Messages:
    """What TensorRT said meanwhile, each message once."""

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def reason(self) -> str:
        """The last error, in one line; that there is no driver, which TensorRT-RTX adds to others, is the last choice."""
        telling = [error for error in self.errors if "catchCudaError" not in error] or self.errors
        return telling[-1] if telling else "TensorRT gives no reason"


class _Sink:
    """Where a backend's log goes: to all who listen at the moment, since a message does not say whose call it is about."""

    def __init__(self) -> None:
        self.listeners: dict[int, tuple[Messages, Callable[[str], None] | None]] = {}

    def take(self, severity: str, text: str) -> None:
        noise, line = any(noise in text for noise in _NOISE), " ".join(text.split())
        for messages, verbose in tuple(self.listeners.values()):
            if verbose is not None:
                verbose(f"[{severity.lower()}] {text.rstrip()}")
            kept = {"INTERNAL_ERROR": messages.errors, "ERROR": messages.errors, "WARNING": messages.warnings}
            known = kept.get(severity)
            if known is not None and not noise and line not in known:
                known.append(line)


# Each backend has one logger for the life of the process: TensorRT keeps a bare pointer to it, and crashes when it is collected.
_loggers: dict[str, tuple[Any, _Sink]] = {}


def logger(backend: Backend) -> Any:
    """The backend's `ILogger`."""
    return _logger_and_sink(backend)[0]


def _logger_and_sink(backend: Backend) -> tuple[Any, _Sink]:
    if backend.name not in _loggers:
        trt, sink = backend.trt, _Sink()

        class Log(trt.ILogger):  # type: ignore[name-defined, misc]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, message: str) -> None:
                sink.take(severity.name, message)

        _loggers[backend.name] = (Log(), sink)
    return _loggers[backend.name]


@contextmanager
def listening(backend: Backend, verbose: Callable[[str], None] | None = None) -> Iterator[Messages]:
    """Collects what the backend says within the block; `verbose` is given every line of it as it comes.

    Of what it says meanwhile in other threads, their blocks and this one hear everything.
    """
    _, sink = _logger_and_sink(backend)
    listener = (Messages(), verbose)
    sink.listeners[id(listener)] = listener
    try:
        yield listener[0]
    finally:
        del sink.listeners[id(listener)]
