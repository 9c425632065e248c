"""CUDA through cuda-python: its calls, their arguments, and their errors."""

from __future__ import annotations

import ast
import ctypes
import importlib
import inspect
import sys
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from engines.trt.cuda import Cuda, CudaGraph, Event, Memory, Pinned, Stream, open_cuda
from engines.trt.gpu import compute_capability
from vgg_deploy.errors import EngineError, MissingDependencyError, UsageError

runtime = pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed (extra rtx or gpu)")

from engines.trt import cuda_python  # noqa: E402

no_driver = pytest.mark.skipif(compute_capability() is not None, reason="this machine has a GPU")


# ---- which one ----


def test_another_api_is_refused() -> None:
    with pytest.raises(UsageError, match="cuda_api is 'cupy'; expected cuda-python or pycuda"):
        open_cuda("cupy", 0, "rtx")


@pytest.mark.parametrize(
    ("api", "package", "named"),
    [
        ("cuda-python", "cuda.bindings", r"running a plan needs cuda-python, .* pip install '\.\[gpu\]'"),
        ("pycuda", "pycuda", r"--cuda-api pycuda needs pycuda, .* pip install '\.\[pycuda\]'"),
    ],
)
def test_a_package_that_is_missing_names_its_extra(
    api: str, package: str, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == package else find(name, *rest))
    with pytest.raises(MissingDependencyError, match=named):
        open_cuda(api, 0, "gpu")


def test_not_even_the_parent_package_is_missing_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda", None)
    monkeypatch.delitem(sys.modules, "cuda.bindings")
    with pytest.raises((MissingDependencyError, EngineError), match="cuda-python"):
        open_cuda("cuda-python", 0, "rtx")


def test_a_package_that_does_not_load_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str, package: str | None = None) -> Any:
        raise ImportError("libcuda.so.1: cannot open shared object file")

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(
        EngineError, match=r"cuda-python is installed but cannot be loaded: libcuda\.so\.1: cannot open"
    ):
        open_cuda("cuda-python", 0, "rtx")


# ---- cuda-python without a driver: the real calls, which give error codes ----


@no_driver
def test_without_a_driver_opening_says_so_in_one_line() -> None:
    reason = r"CUDA driver version is insufficient for CUDA runtime version \(cudaErrorInsufficientDriver\)"
    expected = f"^cudaGetDeviceCount failed: {reason}$"
    with pytest.raises(EngineError, match=expected):
        open_cuda("cuda-python", 0, "rtx")


def unopened() -> cuda_python.CudaPython:
    device = object.__new__(cuda_python.CudaPython)
    device._index, device.device = 0, "cuda:0"
    return device


MEMORY, STREAM, EVENT = Memory(256, 8, 256), Stream(0, runtime.cudaStream_t(0)), Event(runtime.cudaEvent_t(0))
PINNED, GRAPH = Pinned(np.zeros(8, np.uint8), 512), CudaGraph(runtime.cudaGraphExec_t(0))


@no_driver
@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("cudaSetDevice", lambda cuda: cuda.active().__enter__()),
        ("cudaMalloc", lambda cuda: cuda.allocate(8, "a test")),
        ("cudaHostAlloc", lambda cuda: cuda.pin(8, "a test")),
        ("cudaStreamCreateWithFlags", lambda cuda: cuda.stream()),
        ("cudaEventCreateWithFlags", lambda cuda: cuda.event()),
        ("cudaMemcpyAsync", lambda cuda: cuda.upload(MEMORY, PINNED, 8, STREAM)),
        ("cudaMemcpyAsync", lambda cuda: cuda.download(PINNED, MEMORY, 8, STREAM)),
        ("cudaEventRecord", lambda cuda: cuda.record(EVENT, STREAM)),
        ("cudaEventSynchronize", lambda cuda: cuda.wait(EVENT)),
        ("cudaStreamBeginCapture", lambda cuda: cuda.capture(STREAM, lambda: None)),
        ("cudaGraphLaunch", lambda cuda: cuda.launch(GRAPH, STREAM)),
        ("cudaFree", lambda cuda: cuda.free(Memory(256, 8, 256))),
        ("cudaFreeHost", lambda cuda: cuda.free(Pinned(np.zeros(8, np.uint8), 512))),
        ("cudaStreamDestroy", lambda cuda: cuda.free(Stream(1, runtime.cudaStream_t(1)))),
        ("cudaEventDestroy", lambda cuda: cuda.free(Event(runtime.cudaEvent_t(1)))),
        ("cudaGraphExecDestroy", lambda cuda: cuda.free(CudaGraph(runtime.cudaGraphExec_t(1)))),
    ],
)
def test_each_call_of_cuda_python_takes_our_arguments_and_names_itself_when_it_fails(
    name: str, call: Callable[[Cuda], object]
) -> None:
    with pytest.raises(EngineError, match=rf"^{name} failed: CUDA driver version is insufficient .*\)$"):
        call(unopened())


def test_every_name_of_the_runtime_api_is_there() -> None:
    tree = ast.parse(inspect.getsource(cuda_python))
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "runtime"
    }
    assert len(used) > 20
    assert [name for name in used if not hasattr(runtime, name)] == []


# ---- cuda-python with a driver that records ----


class Recorder:
    """cuda.bindings.runtime with its own constants; its functions succeed and are recorded."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.results: dict[str, tuple[Any, ...]] = {}
        self.failing: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        real = getattr(runtime, name)
        if isinstance(real, type) or not callable(real) or name == "cudaGetErrorString":
            return real

        def call(*arguments: Any) -> tuple[Any, ...]:
            self.calls.append((name, *arguments))
            values = self.results.get(name, ())
            if name in self.failing:
                return (self.failing[name], *(None for _ in values))
            return (runtime.cudaError_t.cudaSuccess, *values)

        call.__name__ = name
        return call


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    made = Recorder()
    host = ctypes.create_string_buffer(64)
    made.results = {
        "cudaGetDeviceCount": (2,),
        "cudaGetDeviceProperties": (types.SimpleNamespace(name=b"NVIDIA Test\0\0"),),
        "cudaDeviceGetAttribute": (8,),
        "cudaMalloc": (4096,),
        "cudaHostAlloc": (ctypes.addressof(host),),
        "cudaStreamCreateWithFlags": (runtime.cudaStream_t(7),),
        "cudaEventCreateWithFlags": (runtime.cudaEvent_t(8),),
        "cudaStreamEndCapture": (runtime.cudaGraph_t(9),),
        "cudaGraphInstantiate": (runtime.cudaGraphExec_t(10),),
        "cudaMemGetInfo": (3 << 30, 8 << 30),
    }
    monkeypatch.setattr(cuda_python, "runtime", made)
    monkeypatch.setattr(
        cuda_python, "_FREE", {kind: getattr(made, call.__name__) for kind, call in cuda_python._FREE.items()}
    )
    yield made
    del host


def test_a_device_knows_its_name_and_capability(recorder: Recorder) -> None:
    opened = cuda_python.open_device(1)
    assert (opened.device, str(opened.gpu)) == ("cuda:1", "NVIDIA Test (compute capability 8.8)")
    with pytest.raises(EngineError, match="device is cuda:2, but CUDA shows 2 GPUs here"):
        cuda_python.open_device(2)


def test_each_thread_makes_the_device_current(recorder: Recorder) -> None:
    opened = cuda_python.open_device(1)
    recorder.calls.clear()

    def work() -> None:
        with opened.active():
            pass

    for _ in range(2):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert recorder.calls == [("cudaSetDevice", 1)] * 2


def test_a_request_makes_these_calls(recorder: Recorder) -> None:
    cuda = cuda_python.open_device(0)
    recorder.calls.clear()
    memory, pinned, stream, event = cuda.allocate(16, "a test"), cuda.pin(64, "a test"), cuda.stream(), cuda.event()
    assert (memory.address, stream.handle, pinned.array.shape, pinned.array.dtype) == (4096, 7, (64,), np.uint8)
    pinned.array[:] = 5
    assert ctypes.string_at(pinned.owner, 64) == b"\x05" * 64
    cuda.upload(memory, pinned, 16, stream)
    cuda.download(pinned, memory, 8, stream)
    cuda.record(event, stream)
    cuda.wait(event)
    kinds, host = runtime.cudaMemcpyKind, pinned.owner
    assert recorder.calls == [
        ("cudaMalloc", 16),
        ("cudaHostAlloc", 64, runtime.cudaHostAllocDefault),
        ("cudaStreamCreateWithFlags", runtime.cudaStreamNonBlocking),
        ("cudaEventCreateWithFlags", runtime.cudaEventBlockingSync | runtime.cudaEventDisableTiming),
        ("cudaMemcpyAsync", 4096, host, 16, kinds.cudaMemcpyHostToDevice, stream.owner),
        ("cudaMemcpyAsync", host, 4096, 8, kinds.cudaMemcpyDeviceToHost, stream.owner),
        ("cudaEventRecord", event.owner, stream.owner),
        ("cudaEventSynchronize", event.owner),
    ]


def test_each_resource_is_freed_once(recorder: Recorder) -> None:
    cuda = cuda_python.open_device(0)
    things = (cuda.allocate(16, "a test"), cuda.pin(64, "a test"), cuda.stream(), cuda.event())
    graph = cuda.capture(things[2], lambda: None)
    owners = [resource.owner for resource in (*things, graph)]
    recorder.calls.clear()
    for _ in range(2):
        for resource in (*things, graph):
            cuda.free(resource)
    names = ("cudaFree", "cudaFreeHost", "cudaStreamDestroy", "cudaEventDestroy", "cudaGraphExecDestroy")
    assert recorder.calls == list(zip(names, owners, strict=True))


def test_a_capture_becomes_an_executable_graph_and_its_template_is_destroyed(recorder: Recorder) -> None:
    cuda = cuda_python.open_device(0)
    stream = cuda.stream()
    recorder.calls.clear()
    graph = cuda.capture(stream, lambda: recorder.calls.append(("work",)))
    cuda.launch(graph, stream)
    mode = runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
    assert [(call[0], *map(int, call[1:])) for call in recorder.calls] == [
        ("cudaStreamBeginCapture", 7, int(mode)),
        ("work",),
        ("cudaStreamEndCapture", 7),
        ("cudaGraphInstantiate", 9, 0),
        ("cudaGraphDestroy", 9),
        ("cudaGraphLaunch", 10, 7),
    ]


def test_a_capture_whose_work_fails_is_still_ended(recorder: Recorder) -> None:
    cuda = cuda_python.open_device(0)
    stream = cuda.stream()
    recorder.calls.clear()

    def fail() -> None:
        raise EngineError("no")

    with pytest.raises(EngineError, match=r"^no$"):
        cuda.capture(stream, fail)
    assert [call[0] for call in recorder.calls] == [
        "cudaStreamBeginCapture",
        "cudaStreamEndCapture",
        "cudaGraphDestroy",
    ]


def test_a_capture_that_cuda_refuses_leaves_no_template(recorder: Recorder) -> None:
    cuda = cuda_python.open_device(0)
    stream = cuda.stream()
    recorder.failing["cudaGraphInstantiate"] = runtime.cudaError_t.cudaErrorNotSupported
    with pytest.raises(
        EngineError, match=r"^cudaGraphInstantiate failed: operation not supported \(cudaErrorNotSupported\)$"
    ):
        cuda.capture(stream, lambda: None)
    assert recorder.calls[-1][0] == "cudaGraphDestroy"


@pytest.mark.parametrize(("call", "name"), [("allocate", "cudaMalloc"), ("pin", "cudaHostAlloc")])
def test_out_of_memory_says_how_much_for_what_and_what_is_free(call: str, name: str, recorder: Recorder) -> None:
    cuda = cuda_python.open_device(0)
    recorder.failing[name] = runtime.cudaError_t.cudaErrorMemoryAllocation
    recorder.results[name] = (None,)
    expected = (
        r"out of memory on cuda:0: could not allocate 5\.5 GiB for the weights, 3\.0 GiB are free\. Build .*--max-batch"
    )
    with pytest.raises(EngineError, match=expected):
        getattr(cuda, call)(11 << 29, "the weights")
    recorder.failing["cudaMemGetInfo"] = runtime.cudaError_t.cudaErrorUnknown
    with pytest.raises(EngineError, match=r"5\.5 GiB for the weights\. Build"):
        getattr(cuda, call)(11 << 29, "the weights")
