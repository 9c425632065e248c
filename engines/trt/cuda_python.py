"""CUDA's runtime API through cuda-python."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from cuda.bindings import runtime

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

_SUCCESS = runtime.cudaError_t.cudaSuccess
_OUT_OF_MEMORY = runtime.cudaError_t.cudaErrorMemoryAllocation


_FREE = {
    Memory: runtime.cudaFree,
    Pinned: runtime.cudaFreeHost,
    Stream: runtime.cudaStreamDestroy,
    Event: runtime.cudaEventDestroy,
    CudaGraph: runtime.cudaGraphExecDestroy,
}


class CudaPython:
    """See `engines.trt.cuda.Cuda`."""

    captures = True

    def __init__(self, index: int) -> None:
        self._index, self.device = index, f"cuda:{index}"
        count = _call(runtime.cudaGetDeviceCount)
        if index >= count:
            raise no_such_device(self.device, count)
        name = _call(runtime.cudaGetDeviceProperties, index).name.split(b"\0")[0].decode(errors="replace")
        attributes = runtime.cudaDeviceAttr
        major = _call(runtime.cudaDeviceGetAttribute, attributes.cudaDevAttrComputeCapabilityMajor, index)
        minor = _call(runtime.cudaDeviceGetAttribute, attributes.cudaDevAttrComputeCapabilityMinor, index)
        self.gpu = Gpu(name, (major, minor))

    @contextmanager
    def active(self) -> Iterator[None]:
        _call(runtime.cudaSetDevice, self._index)  # for the calling thread only
        yield

    def allocate(self, size: int, purpose: str) -> Memory:
        error, address = runtime.cudaMalloc(size)
        self._check_memory(error, runtime.cudaMalloc, size, purpose)
        return Memory(address, size, address)

    def pin(self, size: int, purpose: str) -> Pinned:
        error, address = runtime.cudaHostAlloc(size, runtime.cudaHostAllocDefault)
        self._check_memory(error, runtime.cudaHostAlloc, size, purpose)
        return Pinned(np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address)), address)

    def stream(self) -> Stream:
        stream = _call(runtime.cudaStreamCreateWithFlags, NON_BLOCKING)
        return Stream(int(stream), stream)

    def event(self) -> Event:
        flags = runtime.cudaEventBlockingSync | runtime.cudaEventDisableTiming
        return Event(_call(runtime.cudaEventCreateWithFlags, flags))

    def upload(self, memory: Memory, pinned: Pinned, size: int, stream: Stream) -> None:
        kind = runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        _call(runtime.cudaMemcpyAsync, memory.address, pinned.owner, size, kind, stream.owner)

    def download(self, pinned: Pinned, memory: Memory, size: int, stream: Stream) -> None:
        kind = runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        _call(runtime.cudaMemcpyAsync, pinned.owner, memory.address, size, kind, stream.owner)

    def record(self, event: Event, stream: Stream) -> None:
        _call(runtime.cudaEventRecord, event.owner, stream.owner)

    def wait(self, event: Event) -> None:
        _call(runtime.cudaEventSynchronize, event.owner)

    def capture(self, stream: Stream, work: Callable[[], None]) -> CudaGraph:
        # Thread-local: a capture forbids some calls, such as allocation, in this thread only and not in the other lane.
        mode = runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        _call(runtime.cudaStreamBeginCapture, stream.owner, mode)
        try:
            work()
        except BaseException:
            # The capture must end even if it failed. The error to report is that of `work`.
            _, abandoned = runtime.cudaStreamEndCapture(stream.owner)
            if abandoned is not None and int(abandoned):
                runtime.cudaGraphDestroy(abandoned)
            raise
        recorded = _call(runtime.cudaStreamEndCapture, stream.owner)
        try:
            return CudaGraph(_call(runtime.cudaGraphInstantiate, recorded, 0))
        finally:
            _call(runtime.cudaGraphDestroy, recorded)

    def launch(self, graph: CudaGraph, stream: Stream) -> None:
        _call(runtime.cudaGraphLaunch, graph.owner, stream.owner)

    def free(self, resource: Resource) -> None:
        owner, resource.owner = resource.owner, None
        if owner is not None:
            _call(_FREE[type(resource)], owner)

    def _check_memory(self, error: Any, function: Any, size: int, purpose: str) -> None:
        if error != _OUT_OF_MEMORY:
            _check(error, function)
            return
        failed, free, _total = runtime.cudaMemGetInfo()
        raise out_of_memory(self.device, size, purpose, free if failed == _SUCCESS else None)


def open_device(index: int) -> CudaPython:
    """See `engines.trt.cuda.open_cuda`."""
    return CudaPython(index)


def _call(function: Any, *arguments: Any) -> Any:
    """The result of a CUDA call, after its error code is checked."""
    error, *values = function(*arguments)
    _check(error, function)
    return values[0] if values else None


def _check(error: Any, function: Any) -> None:
    if error == _SUCCESS:
        return
    _, text = runtime.cudaGetErrorString(error)
    raise EngineError(f"{function.__name__} failed: {text.decode()} ({error.name})")
