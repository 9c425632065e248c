"""CUDA through PyCUDA, with a fake module that has PyCUDA's names and records the calls."""

from __future__ import annotations

import sys
import types
from typing import Any

import numpy as np
import pytest

from engines.trt.cuda import open_cuda
from vgg_deploy.errors import EngineError


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A fake pycuda.driver with PyCUDA's names (src/wrapper/wrap_cudadrv.cpp); it records the calls."""
    module: Any = types.ModuleType("pycuda.driver")
    module.calls, module.contexts, module.failing = [], [], {}

    class Error(Exception):
        pass

    module.Error = Error
    for name in ("MemoryError", "LogicError", "LaunchError", "RuntimeError"):
        setattr(module, name, type(name, (Error,), {}))

    def called(name: str, *arguments: Any, current: bool = True) -> None:
        assert module.contexts or not current, f"{name} without a context"
        module.calls.append((name, *arguments))
        if name in module.failing:
            raise module.failing[name]

    class Context:
        def push(self) -> None:
            called("push", current=False)
            module.contexts.append(self)

        @staticmethod
        def pop() -> None:
            called("pop")
            module.contexts.pop()

    class Device:
        def __init__(self, number: int) -> None:
            called("Device", number, current=False)

        @staticmethod
        def count() -> int:
            return 1

        def name(self) -> str:
            return "NVIDIA Test"

        def compute_capability(self) -> tuple[int, int]:
            return (8, 6)

        def retain_primary_context(self) -> Context:
            called("retain_primary_context", current=False)
            return Context()

    class DeviceAllocation:
        def __init__(self, size: int) -> None:
            self.size = size

        def __int__(self) -> int:
            return 4096

        def free(self) -> None:
            called("DeviceAllocation.free")

    class PagelockedHostAllocation:
        def free(self) -> None:
            called("PagelockedHostAllocation.free")

    class Locked(np.ndarray):
        base = PagelockedHostAllocation()  # type: ignore[assignment]

    class Stream:
        handle = 7

        def __init__(self, flags: int = 0) -> None:
            called("Stream", flags)

        def __del__(self) -> None:
            module.calls.append(("Stream destroyed", bool(module.contexts)))

    class Event:
        def __init__(self, flags: int = 0) -> None:
            called("Event", flags)

        def record(self, stream: Stream | None = None) -> Event:
            called("record", stream)
            return self

        def synchronize(self) -> Event:
            called("synchronize")
            return self

    def pagelocked_empty(shape: Any, dtype: Any, order: str = "C", mem_flags: int = 0) -> Any:
        called("pagelocked_empty", shape, dtype)
        return np.zeros(shape, dtype).view(Locked)

    def mem_alloc(size: int) -> DeviceAllocation:
        called("mem_alloc", size)
        return DeviceAllocation(size)

    def memcpy_htod_async(dest: int, src: Any, stream: Stream | None = None) -> None:
        called("memcpy_htod_async", dest, src.nbytes, stream)

    def memcpy_dtoh_async(dest: Any, src: int, stream: Stream | None = None) -> None:
        called("memcpy_dtoh_async", dest.nbytes, src, stream)

    module.init = lambda flags=0: called("init", current=False)
    module.mem_get_info = lambda: (3 << 30, 8 << 30)
    module.event_flags = types.SimpleNamespace(DEFAULT=0, BLOCKING_SYNC=1, DISABLE_TIMING=2)
    for resource in (Context, Device, DeviceAllocation, PagelockedHostAllocation, Stream, Event):
        setattr(module, resource.__name__, resource)
    for function in (pagelocked_empty, mem_alloc, memcpy_htod_async, memcpy_dtoh_async):
        setattr(module, function.__name__, function)
    package: Any = types.ModuleType("pycuda")
    package.driver, package.__path__ = module, []
    package.__spec__ = module.__spec__ = types.SimpleNamespace()
    monkeypatch.setitem(sys.modules, "pycuda", package)
    monkeypatch.setitem(sys.modules, "pycuda.driver", module)
    monkeypatch.delitem(sys.modules, "engines.trt.pycuda_api", raising=False)
    yield module
    sys.modules.pop("engines.trt.pycuda_api", None)


def test_pycuda_runs_a_request_in_the_primary_context(driver: Any) -> None:
    cuda = open_cuda("pycuda", 0, "rtx")
    assert (cuda.device, str(cuda.gpu), cuda.captures) == ("cuda:0", "NVIDIA Test (compute capability 8.6)", False)
    assert driver.calls == [("init",), ("Device", 0), ("retain_primary_context",)]
    driver.calls.clear()
    with cuda.active():
        memory, pinned, stream, event = cuda.allocate(16, "a test"), cuda.pin(64, "a test"), cuda.stream(), cuda.event()
        assert (memory.address, stream.handle, pinned.array.shape) == (4096, 7, (64,))
        cuda.upload(memory, pinned, 16, stream)
        cuda.download(pinned, memory, 8, stream)
        cuda.record(event, stream)
        cuda.wait(event)
    assert driver.calls == [
        ("push",),
        ("mem_alloc", 16),
        ("pagelocked_empty", 64, np.uint8),
        ("Stream", 1),  # CU_STREAM_NON_BLOCKING
        ("Event", 3),
        ("memcpy_htod_async", 4096, 16, stream.owner),
        ("memcpy_dtoh_async", 8, 4096, stream.owner),
        ("record", stream.owner),
        ("synchronize",),
        ("pop",),
    ]


def test_pycuda_frees_while_the_context_is_active(driver: Any) -> None:
    cuda = open_cuda("pycuda", 0, "rtx")
    with cuda.active():
        memory, pinned, stream, event = cuda.allocate(16, "a test"), cuda.pin(64, "a test"), cuda.stream(), cuda.event()
        driver.calls.clear()
        for _ in range(2):
            for resource in (memory, pinned, stream, event):
                cuda.free(resource)
        assert driver.calls == [
            ("DeviceAllocation.free",),
            ("PagelockedHostAllocation.free",),
            ("Stream destroyed", True),
        ]


def test_pycuda_releases_the_context_after_a_failure_too(driver: Any) -> None:
    cuda = open_cuda("pycuda", 0, "rtx")
    with pytest.raises(KeyError), cuda.active():
        raise KeyError
    assert driver.contexts == []


def test_pycudas_errors_become_engine_errors_of_one_line(driver: Any) -> None:
    cuda = open_cuda("pycuda", 0, "rtx")
    driver.failing = {
        "mem_alloc": driver.MemoryError("cuMemAlloc failed: out of memory"),
        "synchronize": driver.LogicError("cuEventSynchronize failed:\nan illegal memory access was encountered"),
    }
    with cuda.active():
        with pytest.raises(
            EngineError,
            match=r"out of memory on cuda:0: could not allocate 5\.5 GiB for the weights, 3\.0 GiB are free",
        ):
            cuda.allocate(11 << 29, "the weights")
        with pytest.raises(EngineError, match=r"^cuEventSynchronize failed: an illegal memory access was encountered$"):
            cuda.wait(cuda.event())
        with pytest.raises(EngineError, match="PyCUDA has no CUDA graphs"):
            cuda.capture(cuda.stream(), lambda: None)
    driver.failing = {"push": driver.LogicError("cuCtxPushCurrent failed: invalid device context")}
    with pytest.raises(EngineError, match="cuCtxPushCurrent failed: invalid device context"), cuda.active():
        pass


def test_pycuda_without_a_gpu_or_with_fewer_says_so(driver: Any) -> None:
    with pytest.raises(EngineError, match="device is cuda:1, but CUDA shows 1 GPU here"):
        open_cuda("pycuda", 1, "rtx")
    driver.failing = {"init": driver.RuntimeError("cuInit failed: no CUDA-capable device is detected")}
    with pytest.raises(EngineError, match=r"^cuInit failed: no CUDA-capable device is detected$"):
        open_cuda("pycuda", 0, "rtx")
