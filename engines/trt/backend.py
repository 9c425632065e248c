"""TensorRT and TensorRT-RTX, two packages with one interface, and their log."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from vgg_deploy.errors import EngineError, MissingDependencyError, reason_of

TENSORRT, TENSORRT_RTX = "tensorrt", "tensorrt-rtx"
OLDEST_GPU = (7, 5)  # the lowest compute capability that TensorRT 10 and 11 support

# Backend -> its module, and the extra that installs it.
_MODULES = {TENSORRT: ("tensorrt", "gpu"), TENSORRT_RTX: ("tensorrt_rtx", "rtx")}

# TensorRT-RTX 1.7 logs these at severity INTERNAL_ERROR or WARNING although nothing is wrong.
_NOISE = (
    "Thread context has not been set! Using global log stream.",
    "is unsupported in TensorRT-RTX",
)


@dataclass(frozen=True, slots=True)
class Backend:
    """A package that builds and runs plans.

    Attributes:
        name: tensorrt or tensorrt-rtx.
        trt: its module. Our code is the same for both, except for a few branches where the interfaces differ.
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
    except Exception as error:  # libraries that are missing or too new: ImportError, OSError, RuntimeError
        raise EngineError(f"{name} is installed but cannot be loaded: {reason_of(error)}") from error


def choose(name: str | None, gpu: tuple[int, int] | None) -> Backend:
    """The backend to build with.

    Args:
        name: the backend that the user named. None: the installed one; if both are installed, TensorRT if it supports
            the GPU, otherwise TensorRT-RTX.
        gpu: compute capability of this machine's GPU, if there is one.

    Raises:
        MissingDependencyError: the named backend is not installed, or none is.
        EngineError: the backend is installed but cannot be loaded.
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
    """What TensorRT logged during a block, each message once."""

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def reason(self) -> str:
        """The last error, in one line."""
        # After another error, TensorRT-RTX often reports a missing driver. That is the reason only if it stands alone.
        errors = [error for error in self.errors if "catchCudaError" not in error] or self.errors
        return errors[-1] if errors else "TensorRT gives no reason"


class _Sink:
    """Passes a backend's log to every current listener, because a message does not say which call caused it."""

    def __init__(self) -> None:
        self.listeners: dict[int, tuple[Messages, Callable[[str], None] | None]] = {}

    def take(self, severity: str, text: str) -> None:
        noise, line = any(noise in text for noise in _NOISE), " ".join(text.split())
        for messages, verbose in tuple(self.listeners.values()):
            if verbose is not None:
                verbose(f"[{severity.lower()}] {text.rstrip()}")
            logs = {"INTERNAL_ERROR": messages.errors, "ERROR": messages.errors, "WARNING": messages.warnings}
            log = logs.get(severity)
            if log is not None and not noise and line not in log:
                log.append(line)


# Each backend has one logger for the life of the process: TensorRT keeps a bare pointer to it, and crashes once it is
# collected.
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
    """Collects what the backend logs during the block, in any thread. `verbose` gets every line at once."""
    _, sink = _logger_and_sink(backend)
    listener = (Messages(), verbose)
    sink.listeners[id(listener)] = listener
    try:
        yield listener[0]
    finally:
        del sink.listeners[id(listener)]
