"""The parts of CUDA that run a plan, for cuda-python and PyCUDA: a device, memory, streams, events and graphs."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from vgg_deploy.errors import EngineError, MissingDependencyError, UsageError

Bytes = npt.NDArray[np.uint8]

# Value of --cuda-api -> our module, the vendor's module, and the extra that installs it (None: the backend's extra).
CUDA_APIS = {
    "cuda-python": ("engines.trt.cuda_python", "cuda.bindings", None),
    "pycuda": ("engines.trt.pycuda_api", "pycuda", "pycuda"),
}
NON_BLOCKING = 1  # a stream that does not wait for the default stream; PyCUDA has no name for it


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU.

    Attributes:
        name: such as NVIDIA GeForce RTX 4090.
        capability: the compute capability, such as (8, 9).
    """

    name: str
    capability: tuple[int, int]

    def __str__(self) -> str:
        return f"{self.name} (compute capability {'.'.join(map(str, self.capability))})"


@dataclass(slots=True, eq=False)
class Memory:
    """GPU memory: address, bytes, and the vendor's handle, which is None once the memory is freed."""

    address: int
    size: int
    owner: Any


@dataclass(slots=True, eq=False)
class Pinned:
    """Pinned host memory, which the GPU can copy while the host continues: uint8 [size]."""

    array: Bytes
    owner: Any


@dataclass(slots=True, eq=False)
class Stream:
    """A queue of GPU work: the handle that TensorRT takes, and the vendor's object."""

    handle: int
    owner: Any


@dataclass(slots=True, eq=False)
class Event:
    """A point in a stream for which a thread can wait."""

    owner: Any


@dataclass(slots=True, eq=False)
class CudaGraph:
    """Recorded GPU work that is launched as a whole."""

    owner: Any


Resource = Memory | Pinned | Stream | Event | CudaGraph


class Cuda(Protocol):
    """One device. Make every call except `active` inside an `active` block of the same thread.

    Each call may raise EngineError, with the name of the failed CUDA call and CUDA's reason.
    """

    @property
    def device(self) -> str:
        """Such as cuda:0."""
        ...

    @property
    def gpu(self) -> Gpu: ...

    @property
    def captures(self) -> bool:
        """Whether it supports graphs."""
        ...

    def active(self) -> AbstractContextManager[None]:
        """Makes the device current in this thread during the block. TensorRT's calls need that too."""
        ...

    def allocate(self, size: int, purpose: str) -> Memory: ...

    def pin(self, size: int, purpose: str) -> Pinned: ...

    def stream(self) -> Stream: ...

    def event(self) -> Event: ...

    def upload(self, memory: Memory, pinned: Pinned, size: int, stream: Stream) -> None:
        """Copies the first `size` bytes to the GPU, in the stream's order."""
        ...

    def download(self, pinned: Pinned, memory: Memory, size: int, stream: Stream) -> None: ...

    def record(self, event: Event, stream: Stream) -> None: ...

    def wait(self, event: Event) -> None:
        """Waits for the work before the event without keeping a core busy."""
        ...

    def capture(self, stream: Stream, work: Callable[[], None]) -> CudaGraph:
        """Records what `work` puts into the stream, without running it."""
        ...

    def launch(self, graph: CudaGraph, stream: Stream) -> None: ...

    def free(self, resource: Resource) -> None:
        """Frees a resource; the second call does nothing."""
        ...


def open_cuda(api: str, index: int, extra: str) -> Cuda:
    """Opens a device.

    Args:
        api: cuda-python or pycuda.
        index: the device's number.
        extra: the extra that installs the plan's backend together with cuda-python.

    Raises:
        UsageError: an unknown API.
        MissingDependencyError: the API's package is not installed.
        EngineError: the package cannot be loaded; no driver, no GPU, or no GPU with this number.
    """
    if api not in CUDA_APIS:
        raise UsageError(f"cuda_api is {api!r}; expected {' or '.join(CUDA_APIS)}")
    adapter, module, own_extra = CUDA_APIS[api]
    if not _installed(module):
        raise MissingDependencyError(api, own_extra or extra, "--cuda-api pycuda" if own_extra else "running a plan")
    try:
        opened: Cuda = importlib.import_module(adapter).open_device(index)
    except (ImportError, OSError) as error:
        raise EngineError(f"{api} is installed but cannot be loaded: {error}") from error
    return opened


def no_such_device(device: str, count: int) -> EngineError:
    """The error to raise if CUDA shows fewer GPUs than `device` needs. `count`: how many it shows."""
    gpus = "1 GPU" if count == 1 else f"{count} GPUs"
    return EngineError(f"device is {device}, but CUDA shows {gpus} here; the first is cuda:0")


def out_of_memory(device: str, size: int, purpose: str, free: int | None) -> EngineError:
    """The error to raise if the GPU has too little memory. `purpose`: a noun phrase."""
    left = "" if free is None else f", {written(free)} are free"
    return EngineError(
        f"out of memory on {device}: could not allocate {written(size)} for {purpose}{left}. Build the plan "
        "with a smaller --max-batch, smaller --scales or a smaller --max-aspect, or stop other programs on the GPU"
    )


def written(size: int) -> str:
    """A number of bytes as text, in GiB or MiB."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # its parent package is missing too
        return False
