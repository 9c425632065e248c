"""A lane runs one request at a time: a stream, its buffers, and an execution context for each shape."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from typing import Any

import numpy as np

from engines.trt.backend import listening
from engines.trt.cuda import Cuda, CudaGraph, Memory, Stream
from engines.trt.loaded import FLOAT_BYTES, LoadedPlan, product
from vgg_deploy.errors import EngineError
from vgg_deploy.network.tensors import Floats, Images

SHAPES = 16  # how many shapes keep their context and graph: enough for three scales, upright and flat
_MIN_BYTES = 256  # TensorRT's alignment; allocated for a network that needs no scratch memory


class Lane:
    """Runs one request at a time. Use it only while its device is active.

    Its contexts never run at the same time, so they share one block of scratch memory. The first run of a shape is
    eager. The second is recorded as a CUDA graph, and later ones replay it.

    Args:
        loaded: the plan.
        cuda: the device.
        sizes: the largest size of each tensor in bytes; see `LoadedPlan.largest_bytes`.
    """

    def __init__(self, loaded: LoadedPlan, cuda: Cuda, sizes: Mapping[str, int]) -> None:
        self._loaded, self._cuda = loaded, cuda
        # TensorRT-RTX records graphs itself.
        self._captures = cuda.captures and not loaded.backend.is_rtx
        self._shapes: OrderedDict[tuple[int, ...], ShapedContext] = OrderedDict()
        with ExitStack() as stack:
            self._stream = cuda.stream()
            stack.callback(cuda.free, self._stream)
            self._event = cuda.event()
            stack.callback(cuda.free, self._event)
            self._host, self._device = {}, {}
            for name, size in sizes.items():
                self._host[name] = cuda.pin(size, f"{name} on the host")
                stack.callback(cuda.free, self._host[name])
                self._device[name] = cuda.allocate(size, f"the largest {name}")
                stack.callback(cuda.free, self._device[name])
            scratch = max(loaded.scratch_bytes(), _MIN_BYTES)
            self._scratch = cuda.allocate(scratch, "the network's scratch memory")
            stack.callback(cuda.free, self._scratch)
            self._owned = stack.pop_all()

    def run(self, images: Images, profile: int) -> dict[str, Floats]:
        """Computes the outputs for uint8 [n, h, w, 3] in a profile. The caller owns them.

        Raises:
            EngineError: CUDA or TensorRT failed. The shape's context is dropped.
        """
        cuda, stream, name = self._cuda, self._stream, self._loaded.tensors.images
        context = self._context_for(images.shape, profile)
        try:
            pinned = self._host[name]
            np.copyto(pinned.array[: images.size].reshape(images.shape), images)  # bytes -> [n, h, w, 3]
            cuda.upload(self._device[name], pinned, images.size, stream)
            self._execute(context)
            for output, shape in context.outputs.items():
                cuda.download(self._host[output], self._device[output], FLOAT_BYTES * product(shape), stream)
            cuda.record(self._event, stream)
            cuda.wait(self._event)  # for this lane only; the other continues
        except EngineError:
            self._drop(images.shape)
            raise
        return {output: self._copy(output, shape) for output, shape in context.outputs.items()}

    def close(self) -> None:
        """Frees graphs, contexts, memory and the stream. The lane must be idle."""
        for shape in list(self._shapes):
            self._release(shape)
        self._owned.close()

    def _context_for(self, shape: tuple[int, ...], profile: int) -> ShapedContext:
        if shape in self._shapes:
            self._shapes.move_to_end(shape)
            return self._shapes[shape]
        while len(self._shapes) >= SHAPES:
            self._release(next(iter(self._shapes)))
        try:
            context = self._new_context(shape, profile)
        except EngineError:
            if not self._shapes:
                raise
            # The contexts of other shapes may fill the GPU's memory.
            for other in list(self._shapes):
                self._release(other)
            context = self._new_context(shape, profile)
        self._shapes[shape] = context
        return context

    def _new_context(self, shape: tuple[int, ...], profile: int) -> ShapedContext:
        return ShapedContext(self._loaded, profile, shape, self._stream, self._scratch, self._device)

    def _execute(self, context: ShapedContext) -> None:
        if context.graph is None and context.runs > 0 and self._captures:
            try:
                context.graph = self._cuda.capture(self._stream, context.enqueue)
            except EngineError:
                self._captures = False  # this plan's kernels cannot be recorded, so they are launched one by one
        if context.graph is not None:
            self._cuda.launch(context.graph, self._stream)
        else:
            context.enqueue()
        context.runs += 1

    def _copy(self, output: str, shape: tuple[int, ...]) -> Floats:
        memory = self._host[output].array[: FLOAT_BYTES * product(shape)]  # uint8 [bytes]
        copy: Floats = memory.view(np.float32).reshape(shape).copy()  # [n, classes], [n, classes, rows, cols] ...
        return copy

    def _drop(self, shape: tuple[int, ...]) -> None:
        """After a failure: waits for work under way, then drops the shape's context. Further errors are ignored."""
        with suppress(EngineError):
            self._cuda.record(self._event, self._stream)
            self._cuda.wait(self._event)
        with suppress(EngineError):
            self._release(shape)

    def _release(self, shape: tuple[int, ...]) -> None:
        context = self._shapes.pop(shape)
        graph, context.graph = context.graph, None
        try:
            if graph is not None:
                self._cuda.free(graph)
        finally:
            context.close()


class ShapedContext:
    """An execution context for one shape. Profile and addresses never change, so a recorded graph stays valid.

    Attributes:
        outputs: the shape of each output.
        graph: the recorded graph, if there is one.
        runs: how often it has run.
    """

    def __init__(
        self,
        loaded: LoadedPlan,
        profile: int,
        shape: tuple[int, ...],
        stream: Stream,
        scratch: Memory,
        device: Mapping[str, Memory],
    ) -> None:
        self._loaded, self._stream = loaded, stream
        self.graph: CudaGraph | None = None
        self.runs = 0
        context = loaded.new_context()
        self.outputs = loaded.set_shape(context, profile, shape, stream)
        context.set_device_memory(scratch.address, scratch.size)
        with listening(loaded.backend) as messages:
            refused = [name for name, memory in device.items() if not context.set_tensor_address(name, memory.address)]
        if refused:
            raise EngineError(f"{loaded.backend} refuses the memory of {', '.join(refused)}: {messages.reason}")
        self._context: Any = context

    def enqueue(self) -> None:
        """Puts the network's work into the stream."""
        context = self._context
        with listening(self._loaded.backend) as messages:
            done = context.execute_async_v3(self._stream.handle)
        if not done:
            raise EngineError(f"{self._loaded.backend} failed to run: {messages.reason}")

    def close(self) -> None:
        """Destroys the context. Nothing else refers to it."""
        self._context = None
