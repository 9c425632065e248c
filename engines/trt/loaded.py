"""A deserialized plan: its inputs, outputs and profiles, and the execution contexts made from it."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.trt.backend import Backend, listening, logger
from engines.trt.cuda import Stream
from engines.trt.runtime_cache import RuntimeCache, cache_of
from vgg_deploy.errors import EngineError, PlanError
from vgg_deploy.network.shapes import Profile
from vgg_deploy.network.tensors import PROBABILITIES

FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True)
class Tensors:
    """The inputs and outputs of a plan.

    Attributes:
        images: name of the input: uint8 [n, h, w, 3].
        outputs: names of the outputs: float32.
        classes: number of classes.
        profiles: the batches that the plan accepts, in its order. Their scales are not known.
    """

    images: str
    outputs: tuple[str, ...]
    classes: int
    profiles: tuple[Profile, ...]


class LoadedPlan:
    """Owns TensorRT's runtime and engine. Any thread may make contexts while the device is active in it.

    Args:
        backend: the backend that runs the plan.
        path: the plan.
        sha256: the hash that the file must have, because it may have been replaced since the check. None: any.
    """

    def __init__(self, backend: Backend, path: Path, sha256: str | None = None) -> None:
        self.backend, self._path = backend, path
        trt = backend.trt
        with listening(backend) as messages:
            try:
                runtime = trt.Runtime(logger(backend))
                data = path.read_bytes()
                if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
                    raise PlanError(f"{path} was replaced while it was being opened: open it again")
                engine = runtime.deserialize_cuda_engine(data)
            except OSError as error:
                raise PlanError(f"{path} cannot be read: {error.strerror}") from error
            except (TypeError, RuntimeError) as error:  # from pybind11, if TensorRT returned no object
                raise PlanError(f"{backend} cannot load {path}: {messages.reason}") from error
        if engine is None:
            raise PlanError(
                f"{backend} cannot load {path}: {messages.reason}. If the GPU's memory is too small for its "
                f"{len(data) / 1e6:,.0f} MB, build a plan from an FP16 or INT8 file. Otherwise the plan is damaged or "
                "of another version: build it again"
            )
        self._runtime, self._engine, self._lock = runtime, engine, threading.Lock()
        self._runtime_config: Any = None
        self._cache: RuntimeCache | None = None
        self.tensors = _tensors(trt, engine, path)
        if backend.is_rtx:
            self._configure()

    @property
    def notices(self) -> tuple[str, ...]:
        """Notices about the runtime cache."""
        return () if self._cache is None or self._cache.notice is None else (self._cache.notice,)

    def _configure(self) -> None:
        trt, engine = self.backend.trt, self._engine
        runtime_config = engine.create_runtime_config()
        if runtime_config is None:
            raise EngineError(f"{self.backend} returned no runtime configuration")
        runtime_config.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        # TensorRT-RTX runs a new shape with generic kernels while it compiles special ones in the background. Only it
        # knows when those are ready, and records its CUDA graph then. Our own recording would keep the generic ones.
        runtime_config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        self._cache = RuntimeCache(cache_of(self._path), runtime_config)
        self._runtime_config = runtime_config

    def scratch_bytes(self) -> int:
        """Bytes of GPU memory that a running context needs, in the profile that needs most."""
        engine = self._engine
        profiles = range(len(self.tensors.profiles))
        return max(int(engine.get_device_memory_size_for_profile_v2(index)) for index in profiles)

    def new_context(self) -> Any:
        """An `IExecutionContext` without scratch memory of its own."""
        trt, engine, runtime_config = self.backend.trt, self._engine, self._runtime_config
        with self._lock, listening(self.backend) as messages:
            if runtime_config is not None:
                context = engine.create_execution_context(runtime_config)
            else:
                strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
                context = engine.create_execution_context(strategy)
        if context is None:
            raise EngineError(f"{self.backend} cannot make an execution context of {self._path}: {messages.reason}")
        return context

    def set_shape(self, context: Any, profile: int, shape: Sequence[int], stream: Stream) -> dict[str, tuple[int, ...]]:
        """Sets a context's profile and the shape of its images, once and for all. Returns the outputs' shapes."""
        with listening(self.backend) as messages:
            images = self.tensors.images
            done = context.set_optimization_profile_async(profile, stream.handle)
            done = done and context.set_input_shape(images, tuple(shape))
            shapes = {name: tuple(context.get_tensor_shape(name)) for name in self.tensors.outputs} if done else {}
        if not done or any(size < 0 for sizes in shapes.values() for size in sizes):
            size = " x ".join(map(str, shape))
            raise EngineError(f"{self.backend} refuses images of {size} in profile {profile}: {messages.reason}")
        return shapes

    def largest_bytes(self, stream: Stream) -> dict[str, int]:
        """The largest size in bytes, over all profiles, of the images and of each output."""
        context = self.new_context()
        sizes = dict.fromkeys((self.tensors.images, *self.tensors.outputs), 0)
        for index, profile in enumerate(self.tensors.profiles):
            largest = (*profile.maximum, 3)
            outputs = self.set_shape(context, index, largest, stream)
            needed = {self.tensors.images: product(largest)} | {
                name: FLOAT_BYTES * product(shape) for name, shape in outputs.items()
            }
            sizes = {name: max(size, needed[name]) for name, size in sizes.items()}
        return sizes

    def close(self) -> None:
        """Saves the compiled kernels and drops TensorRT's objects, the engine before its runtime."""
        if self._cache is not None:
            self._cache.save()
        self._runtime_config = self._cache = None
        self._engine = None
        self._runtime = None


def product(shape: Sequence[int]) -> int:
    """The number of elements of a shape."""
    count = 1
    for size in shape:
        count *= size
    return count


def _tensors(trt: Any, engine: Any, path: Path) -> Tensors:
    """The inputs and outputs of a plan.

    Raises:
        PlanError: the plan does not take images and return posteriors.
    """
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
    outputs = tuple(name for name in names if name not in inputs)
    expected = "expected one input, uint8 [n, h, w, 3], and float32 outputs that include probabilities [n, classes]"
    received = ", ".join(
        f"{name} {engine.get_tensor_dtype(name).name} {list(engine.get_tensor_shape(name))}" for name in names
    )
    fits = len(inputs) == 1 and PROBABILITIES in outputs
    fits = fits and all(engine.get_tensor_dtype(name) == trt.DataType.FLOAT for name in outputs)
    if fits:
        images, scores = (tuple(engine.get_tensor_shape(name)) for name in (inputs[0], PROBABILITIES))
        fits = engine.get_tensor_dtype(inputs[0]) == trt.DataType.UINT8 and len(images) == 4 and images[3] == 3
        fits = fits and len(scores) == 2 and scores[1] > 0
    if not fits:
        raise PlanError(f"{path} has the tensors {received}; {expected}")
    profiles = []
    for index in range(engine.num_optimization_profiles):
        ends = engine.get_tensor_profile_shape(inputs[0], index)
        least, best, most = ((shape[0], shape[1], shape[2]) for shape in map(tuple, ends))
        profiles.append(Profile((), least, best, most))
    return Tensors(inputs[0], outputs, scores[1], tuple(profiles))
