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
        EngineError: it is installed and cannot be loaded.
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
        raise EngineError(f"{name} is installed and cannot be loaded: {reason}") from error


@dataclass(slots=True)
class Messages:
    """What TensorRT said meanwhile, each message once."""

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def reason(self) -> str:
        """The last error, in one line."""
        return self.errors[-1] if self.errors else "TensorRT gives no reason"


class _Sink:
    """Where a backend's log goes at the moment."""

    def __init__(self) -> None:
        self.messages = Messages()
        self.verbose: Callable[[str], None] | None = None

    def take(self, severity: str, text: str) -> None:
        if self.verbose is not None:
            self.verbose(f"[{severity.lower()}] {text.rstrip()}")
        if any(noise in text for noise in _NOISE):
            return
        line = " ".join(text.split())
        kept = {
            "INTERNAL_ERROR": self.messages.errors,
            "ERROR": self.messages.errors,
            "WARNING": self.messages.warnings,
        }
        known = kept.get(severity)
        if known is not None and line not in known:
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
    """Collects what the backend says within the block; `verbose` is given every line of it as it comes."""
    _, sink = _logger_and_sink(backend)
    before = sink.messages, sink.verbose
    sink.messages, sink.verbose = Messages(), verbose
    try:
        yield sink.messages
    finally:
        sink.messages, sink.verbose = before
