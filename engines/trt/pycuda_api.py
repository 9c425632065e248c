"""CUDA's driver API through PyCUDA, for users who work with it already. It has no graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pycuda.driver as driver

from engines.trt.cuda import (
    NON_BLOCKING,
    CudaGraph,
    Event,
    Gpu,
    Memory,
    Pinned,
    Resource,
    Stream,
    no_such_device,
    out_of_memory,
)
from vgg_deploy.errors import EngineError


class PyCuda:
    """See `engines.trt.cuda.Cuda`. It uses the device's primary context, as TensorRT does."""

    captures = False  # PyCUDA 2026.1 does not wrap stream capture

    def __init__(self, index: int) -> None:
        self.device = f"cuda:{index}"
        with _errors():
            driver.init()
            count = driver.Device.count()
        if index >= count:
            raise no_such_device(self.device, count)
        with _errors():
            device = driver.Device(index)
            self.gpu = Gpu(device.name(), device.compute_capability())
            self._context = device.retain_primary_context()

    @contextmanager
    def active(self) -> Iterator[None]:
        with _errors():
            self._context.push()
        try:
            yield
        finally:
            with _errors():
                driver.Context.pop()

    def allocate(self, size: int, purpose: str) -> Memory:
        with _errors(self.device, size, purpose):
            allocation = driver.mem_alloc(size)
        return Memory(int(allocation), size, allocation)

    def pin(self, size: int, purpose: str) -> Pinned:
        with _errors(self.device, size, purpose):
            array = driver.pagelocked_empty(size, np.uint8)
        return Pinned(array, array.base)

    def stream(self) -> Stream:
        with _errors():
            stream = driver.Stream(NON_BLOCKING)
        return Stream(stream.handle, stream)

    def event(self) -> Event:
        flags = driver.event_flags
        with _errors():
            return Event(driver.Event(flags.BLOCKING_SYNC | flags.DISABLE_TIMING))

    def upload(self, memory: Memory, pinned: Pinned, size: int, stream: Stream) -> None:
        with _errors():
            driver.memcpy_htod_async(memory.address, pinned.array[:size], stream.owner)

    def download(self, pinned: Pinned, memory: Memory, size: int, stream: Stream) -> None:
        with _errors():
            driver.memcpy_dtoh_async(pinned.array[:size], memory.address, stream.owner)

    def record(self, event: Event, stream: Stream) -> None:
        with _errors():
            event.owner.record(stream.owner)

    def wait(self, event: Event) -> None:
        with _errors():
            event.owner.synchronize()

    def capture(self, stream: Stream, work: Callable[[], None]) -> CudaGraph:
        raise EngineError("PyCUDA has no CUDA graphs; cuda-python has them (--cuda-api cuda-python)")

    def launch(self, graph: CudaGraph, stream: Stream) -> None:
        raise EngineError("PyCUDA has no CUDA graphs; cuda-python has them (--cuda-api cuda-python)")

    def free(self, resource: Resource) -> None:
        # Dropping the last reference to a stream or an event destroys it. Here the context is active, as that requires.
        owner, resource.owner = resource.owner, None
        if owner is not None and isinstance(resource, (Memory, Pinned)):
            with _errors():
                owner.free()


def open_device(index: int) -> PyCuda:
    """See `engines.trt.cuda.open_cuda`."""
    return PyCuda(index)


@contextmanager
def _errors(device: str = "", size: int = 0, purpose: str = "") -> Iterator[None]:
    """Translates PyCUDA's errors. Their text names the call and the reason."""
    try:
        yield
    except driver.MemoryError as error:
        if not size:
            raise EngineError(" ".join(str(error).split())) from error
        raise out_of_memory(device, size, purpose, driver.mem_get_info()[0]) from error
    except driver.Error as error:
        raise EngineError(" ".join(str(error).split())) from error
