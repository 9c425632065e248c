"""A GPU and TensorRT in plain Python. They really compute, so that tests check answers and not only calls.

Work in a stream runs when a caller waits for it. Names are those of the vendors.
"""

from __future__ import annotations

import enum
import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from engines.trt.cuda import CudaGraph, Event, Gpu, Memory, Pinned, Resource, Stream, out_of_memory
from vgg_deploy.errors import EngineError
from vgg_deploy.network.tensors import Images

SCRATCH_BYTES = 1000
SHAPES = (((1, 32, 32), (2, 40, 48), (4, 64, 64)), ((1, 64, 64), (1, 80, 96), (2, 128, 128)))


def answer(images: Images, classes: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Posteriors [n, classes] and a score map [n, classes, rows, columns] that depend on the content."""
    rows, columns = images.shape[1] // 32, images.shape[2] // 32
    grid = images[:, : rows * 32, : columns * 32].reshape(len(images), rows, 32, columns, 32, 3).astype(np.float64)
    cells = grid.mean(axis=(2, 4))  # n, rows, columns, 3
    weights = np.random.default_rng(0).normal(0, 0.05, (3, classes))
    scores = np.moveaxis(cells @ weights, 3, 1)
    exponents = np.exp(scores.mean(axis=(2, 3)))
    return (exponents / exponents.sum(axis=1, keepdims=True)).astype(np.float32), scores.astype(np.float32)


class FakeCuda:
    """See `engines.trt.cuda.Cuda`. `log` holds every call, `live` every resource that is not freed.

    Args:
        memory: bytes of the GPU.
        broken: names of calls that fail.
    """

    def __init__(
        self,
        *,
        captures: bool = True,
        memory: int = 1 << 30,
        capability: tuple[int, int] = (8, 9),
        device: str = "cuda:0",
    ) -> None:
        self.captures, self.device, self.gpu = captures, device, Gpu("Fake RTX", capability)
        self.log: list[tuple[Any, ...]] = []
        self.live: set[Any] = set()
        self.broken: set[str] = set()
        self.before_wait: Callable[[], None] = lambda: None
        self._here, self._numbers = threading.local(), itertools.count(1)
        self._memory = memory
        self.blocks: dict[int, np.ndarray] = {}
        self.streams: dict[int, FakeStream] = {}

    def _call(self, name: str, *details: Any) -> None:
        assert getattr(self._here, "depth", 0) > 0, f"{name} without the device"
        self.log.append((name, *details))
        if name in self.broken:
            raise EngineError(f"{name} failed: an illegal memory access was encountered (cudaErrorIllegalAddress)")

    @contextmanager
    def active(self) -> Iterator[None]:
        self._here.depth = getattr(self._here, "depth", 0) + 1
        try:
            yield
        finally:
            self._here.depth -= 1

    def allocate(self, size: int, purpose: str) -> Memory:
        self._call("allocate", size, purpose)
        if size > self._memory:
            raise out_of_memory(self.device, size, purpose, self._memory)
        self._memory -= size
        address = next(self._numbers) << 32
        self.blocks[address] = np.zeros(size, np.uint8)
        return self._kept(Memory(address, size, size))

    def pin(self, size: int, purpose: str) -> Pinned:
        self._call("pin", size, purpose)
        return self._kept(Pinned(np.full(size, 0xAA, np.uint8), size))

    def stream(self) -> Stream:
        self._call("stream")
        handle = next(self._numbers)
        self.streams[handle] = FakeStream()
        return self._kept(Stream(handle, self.streams[handle]))

    def event(self) -> Event:
        self._call("event")
        return self._kept(Event([]))

    def upload(self, memory: Memory, pinned: Pinned, size: int, stream: Stream) -> None:
        self._call("upload", stream.handle, size)
        block = self.blocks[memory.address]
        stream.owner.put(lambda: block.__setitem__(slice(size), pinned.array[:size]))

    def download(self, pinned: Pinned, memory: Memory, size: int, stream: Stream) -> None:
        self._call("download", stream.handle, size)
        block = self.blocks[memory.address]
        stream.owner.put(lambda: pinned.array.__setitem__(slice(size), block[:size]))

    def record(self, event: Event, stream: Stream) -> None:
        self._call("record", stream.handle)
        event.owner[:] = [stream.owner, len(stream.owner.waiting)]

    def wait(self, event: Event) -> None:
        self._call("wait")
        self.before_wait()
        stream, length = event.owner
        for work in stream.waiting[:length]:
            work()
        del stream.waiting[:length]

    def capture(self, stream: Stream, work: Callable[[], None]) -> CudaGraph:
        self._call("capture", stream.handle)
        stream.owner.recording = []
        try:
            work()
            recorded = stream.owner.recording
        finally:
            stream.owner.recording = None
        return self._kept(CudaGraph(recorded))

    def launch(self, graph: CudaGraph, stream: Stream) -> None:
        self._call("launch", stream.handle)
        for work in graph.owner:
            stream.owner.put(work)

    def free(self, resource: Resource) -> None:
        self._call("free", type(resource).__name__)
        assert resource in self.live, "freed twice"
        self.live.remove(resource)
        if isinstance(resource, Memory):
            self._memory += resource.size
            del self.blocks[resource.address]

    def _kept(self, resource: Any) -> Any:
        self.live.add(resource)
        return resource

    def calls(self, *names: str) -> list[tuple[Any, ...]]:
        """The calls of these names, in order."""
        return [call for call in self.log if call[0] in names]


class FakeStream:
    def __init__(self) -> None:
        self.waiting: list[Callable[[], Any]] = []
        self.recording: list[Callable[[], Any]] | None = None

    def put(self, work: Callable[[], Any]) -> None:
        (self.waiting if self.recording is None else self.recording).append(work)


class Severity(enum.Enum):
    ERROR = 1


class FakeTrt:
    """A module like tensorrt and tensorrt_rtx. Its only network is `answer`.

    Attributes:
        broken: names of calls that return None or False; `log_line` is what TensorRT logs then.
        validity: the validity of every header; `headers` are those that were read.
        contexts: the numbers of all contexts, None for those that are destroyed. The GPU holds `contexts_at_most`.
            `events` records what happened to them.
        configs, caches: all that were made.
        tensors: mode, type and shape of each.
    """

    __version__ = "1.7.1"
    TensorIOMode = enum.Enum("TensorIOMode", "INPUT OUTPUT")
    DataType = enum.Enum("DataType", "UINT8 FLOAT HALF")
    ExecutionContextAllocationStrategy = enum.Enum("Strategy", "STATIC ON_PROFILE_CHANGE USER_MANAGED")
    CudaGraphStrategy = enum.Enum("CudaGraphStrategy", "DISABLED WHOLE_GRAPH_CAPTURE")
    EngineValidity = enum.Enum("EngineValidity", "VALID SUBOPTIMAL INVALID")
    EngineInvalidityDiagnostics = enum.IntFlag(
        "Diagnostics",
        "VERSION_MISMATCH UNSUPPORTED_CC OLD_CUDA_DRIVER OLD_CUDA_RUNTIME INSUFFICIENT_GPU_MEMORY MALFORMED_ENGINE "
        "CUDA_ERROR",
    )

    def __init__(self, cuda: FakeCuda, classes: int = 5, profiles: tuple[Any, ...] = SHAPES) -> None:
        self.cuda, self.classes, self.profiles = cuda, classes, profiles
        self.broken: set[str] = set()
        self.log_line = "Error Code 1: it broke"
        self.validity: tuple[Any, int] = (self.EngineValidity.VALID, 0)
        self.headers: list[bytes] = []
        self.contexts: list[int | None] = []
        self.contexts_at_most = 1000
        self.events: list[str] = []
        self.configs: list[FakeRuntimeConfig] = []
        self.caches: list[FakeRuntimeCache] = []
        self.tensors = {
            "images": ("INPUT", "UINT8", (-1, -1, -1, 3)),
            "probabilities": ("OUTPUT", "FLOAT", (-1, classes)),
            "score_map": ("OUTPUT", "FLOAT", (-1, classes, -1, -1)),
        }
        loggers = self._loggers = []

        class ILogger:
            def __init__(self) -> None:
                loggers.append(self)

        self.ILogger = ILogger

    def Runtime(self, logger: Any) -> FakeRuntime:
        return FakeRuntime(self, logger)

    def works(self, name: str) -> Any:
        """True; None, with a line in TensorRT's log, if the call is broken."""
        if name not in self.broken:
            return True
        for logger in self._loggers:
            logger.log(Severity.ERROR, self.log_line)
        return None


class FakeRuntime:
    engine_header_size = 64

    def __init__(self, trt: FakeTrt, logger: Any) -> None:
        assert isinstance(logger, trt.ILogger)
        self.trt = trt

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> Any:
        return self.trt.works("deserialize_cuda_engine") and FakeCudaEngine(self.trt)

    def get_engine_validity(self, buffer: bytes) -> tuple[Any, int]:
        self.trt.headers.append(bytes(buffer))
        return self.trt.validity


class FakeCudaEngine:
    def __init__(self, trt: FakeTrt) -> None:
        self.trt, self.cuda, self.classes, self.profiles = trt, trt.cuda, trt.classes, trt.profiles
        self.num_io_tensors, self.num_optimization_profiles = len(trt.tensors), len(trt.profiles)

    def get_tensor_name(self, index: int) -> str:
        return list(self.trt.tensors)[index]

    def get_tensor_mode(self, name: str) -> Any:
        return self.trt.TensorIOMode[self.trt.tensors[name][0]]

    def get_tensor_dtype(self, name: str) -> Any:
        return self.trt.DataType[self.trt.tensors[name][1]]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.trt.tensors[name][2]

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        assert name == "images"
        return [(*shape, 3) for shape in self.profiles[profile_index]]

    def get_device_memory_size_for_profile_v2(self, profile_index: int) -> int:
        return SCRATCH_BYTES * (profile_index + 1)

    def create_runtime_config(self) -> Any:
        return self.trt.works("create_runtime_config") and FakeRuntimeConfig(self.trt)

    def create_execution_context(self, how: Any) -> Any:
        strategy = how.strategy if isinstance(how, FakeRuntimeConfig) else how
        assert strategy == self.trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if len([number for number in self.trt.contexts if number is not None]) >= self.trt.contexts_at_most:
            return None
        return self.trt.works("create_execution_context") and FakeContext(self)

    def __del__(self) -> None:
        self.trt.events.append("engine destroyed")
        self.cuda.log.append(("destroyed", "engine"))


class FakeRuntimeConfig:
    def __init__(self, trt: Any) -> None:
        self.trt, self.strategy, self.cuda_graph_strategy, self.cache = trt, None, None, None
        trt.configs.append(self)

    def set_execution_context_allocation_strategy(self, strategy: Any) -> None:
        self.strategy = strategy

    def create_runtime_cache(self) -> Any:
        return self.trt.works("create_runtime_cache") and FakeRuntimeCache(self.trt)

    def set_runtime_cache(self, cache: Any) -> bool:
        self.cache = cache
        return bool(self.trt.works("set_runtime_cache"))


class FakeRuntimeCache:
    """Its contents are lines. Every context that is made with it adds one."""

    def __init__(self, trt: Any) -> None:
        self.trt, self.lines = trt, [b"kernels"]
        trt.caches.append(self)

    def deserialize(self, blob: bytes) -> bool:
        if not blob.startswith(b"kernels"):
            return False
        self.lines = blob.split(b"\n")
        return True

    def serialize(self) -> Any:
        return self.trt.works("serialize") and b"\n".join(self.lines)


class FakeContext:
    def __init__(self, engine: FakeCudaEngine) -> None:
        self.engine, self.trt, self.cuda = engine, engine.trt, engine.cuda
        self.number = len(self.trt.contexts)
        self.profile: int | None = None
        self.shape: tuple[int, ...] | None = None
        self.scratch: tuple[int, int] | None = None
        self.addresses: dict[str, int] = {}
        self.trt.contexts.append(self.number)
        config = self.trt.configs[-1] if self.trt.configs else None
        if config is not None and config.cache is not None and b"%d" % self.number not in config.cache.lines:
            config.cache.lines.append(b"%d" % self.number)

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        assert stream_handle in self.cuda.streams
        self.profile, self.shape = profile_index, None
        return bool(self.trt.works("set_optimization_profile_async"))

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert name == "images"
        assert self.profile is not None, "shape before profile"
        least, _, most = self.engine.profiles[self.profile]
        if not all(low <= size <= high for low, size, high in zip((*least, 3), shape, (*most, 3), strict=True)):
            return False
        self.shape = shape
        return bool(self.trt.works("set_input_shape"))

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        assert self.shape is not None
        batch, height, width, _ = self.shape
        shapes = {"probabilities": (batch, self.engine.classes)}
        return shapes.get(name, (batch, self.engine.classes, height // 32, width // 32))

    def set_device_memory(self, memory: int, size: int) -> None:
        self.scratch = (memory, size)

    def set_tensor_address(self, name: str, memory: int) -> bool:
        assert name in self.trt.tensors
        self.addresses[name] = memory
        return bool(self.trt.works("set_tensor_address"))

    def execute_async_v3(self, stream_handle: int) -> bool:
        assert self.addresses.keys() == self.trt.tensors.keys()
        assert self.scratch is not None
        assert self.profile is not None
        assert self.scratch[1] >= SCRATCH_BYTES * (self.profile + 1)
        if not self.trt.works("execute_async_v3"):
            return False
        self.trt.events.append(f"context {self.number} enqueued on {stream_handle}")
        shape, addresses, scratch, blocks = self.shape, dict(self.addresses), self.scratch[0], self.cuda.blocks
        classes, number = self.engine.classes, self.number

        def compute() -> None:
            assert shape is not None
            blocks[scratch][:] = number % 256
            size = int(np.prod(shape))
            results = dict(
                zip(
                    ("probabilities", "score_map"),
                    answer(blocks[addresses["images"]][:size].reshape(shape), classes),
                    strict=True,
                )
            )
            for name, value in results.items():
                if name in addresses:
                    data = value.tobytes()
                    blocks[addresses[name]][: len(data)] = np.frombuffer(data, np.uint8)
            assert (blocks[scratch] == number % 256).all(), "two contexts at once in one block of memory"

        self.cuda.streams[stream_handle].put(compute)
        return True

    def __del__(self) -> None:
        self.trt.events.append(f"context {self.number} destroyed")
        self.cuda.log.append(("destroyed", "context"))
        self.trt.contexts[self.number] = None
