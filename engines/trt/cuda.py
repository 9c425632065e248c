"""What running a plan needs of CUDA, over cuda-python or PyCUDA: one device, memory, streams, events and graphs."""

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

# How it is asked for -> our module, the vendor's module, and the extra that installs it; None: the backend's own.
CUDA_APIS = {
    "cuda-python": ("engines.trt.cuda_python", "cuda.bindings", None),
    "pycuda": ("engines.trt.pycuda_api", "pycuda", "pycuda"),
}
NON_BLOCKING = 1  # of a stream: it does not wait for the default stream. PyCUDA has no name for it


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU.

    Attributes:
        name: such as NVIDIA GeForce RTX 4090.
        capability: its compute capability, such as (8, 9).
    """

    name: str
    capability: tuple[int, int]

    def __str__(self) -> str:
        return f"{self.name} (compute capability {'.'.join(map(str, self.capability))})"


@dataclass(slots=True, eq=False)
class Memory:
    """Memory of the GPU: its address, bytes, and the vendor's handle, which is None once it is freed."""

    address: int
    size: int
    owner: Any


@dataclass(slots=True, eq=False)
class Pinned:
    """Memory of the host that the GPU copies from and to while the host goes on: uint8 [size]."""

    array: Bytes
    owner: Any


@dataclass(slots=True, eq=False)
class Stream:
    """Work of the GPU in order: the handle that TensorRT takes, and the vendor's object."""

    handle: int
    owner: Any


@dataclass(slots=True, eq=False)
class Event:
    """A point in a stream that can be waited for."""

    owner: Any


@dataclass(slots=True, eq=False)
class Graph:
    """Work that was recorded and is launched as one."""

    owner: Any


Thing = Memory | Pinned | Stream | Event | Graph


class Cuda(Protocol):
    """One device. Every call but `active` is made within `active`, in the thread that makes it.

    Any of them raises EngineError, which names CUDA's call and CUDA's reason.
    """

    @property
    def device(self) -> str:
        """Such as cuda:0."""
        ...

    @property
    def gpu(self) -> Gpu: ...

    @property
    def captures(self) -> bool:
        """Whether it has graphs."""
        ...

    def active(self) -> AbstractContextManager[None]:
        """Makes the device this thread's own within the block; TensorRT's calls need it too."""
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
        """Waits for the work before the event, without keeping a core busy."""
        ...

    def capture(self, stream: Stream, work: Callable[[], None]) -> Graph:
        """Records what `work` puts into the stream, which does not run yet."""
        ...

    def launch(self, graph: Graph, stream: Stream) -> None: ...

    def free(self, thing: Thing) -> None:
        """Gives it back; a second time does nothing."""
        ...


def open_cuda(api: str, index: int, extra: str) -> Cuda:
    """The device of this index.

    Args:
        api: cuda-python or pycuda.
        extra: the one that installs the plan's backend, and cuda-python with it.

    Raises:
        UsageError: another API.
        MissingDependencyError: its package is not installed.
        EngineError: it cannot be loaded; no driver, no GPU, or none of this index.
    """
    if api not in CUDA_APIS:
        raise UsageError(f"cuda_api is {api!r}; expected {' or '.join(CUDA_APIS)}")
    home, module, own_extra = CUDA_APIS[api]
    if not _installed(module):
        raise MissingDependencyError(api, own_extra or extra, "--cuda-api pycuda" if own_extra else "running a plan")
    try:
        opened: Cuda = importlib.import_module(home).open_device(index)
    except (ImportError, OSError) as error:
        raise EngineError(f"{api} is installed but cannot be loaded: {error}") from error
    return opened


def out_of_memory(device: str, size: int, purpose: str, free: int | None) -> EngineError:
    """What to raise where the GPU has not this much memory."""
    left = "" if free is None else f", {written(free)} are free"
    return EngineError(
        f"out of memory on {device}: {written(size)} were asked for {purpose}{left}; build the plan with a smaller --max-batch, "
        "smaller --scales or a smaller --max-aspect, or end what else uses the GPU"
    )


def written(size: int) -> str:
    """Bytes in GiB or MiB."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package that it is part of
        return False
