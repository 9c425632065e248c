"""What an engine is: anything that turns a batch of images into scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar

import numpy as np

from vgg_deploy.errors import EngineError, UsageError, reason_of
from vgg_deploy.inference.context_managed import ContextManaged
from vgg_deploy.network.manifest import Manifest
from vgg_deploy.network.precision import FLOAT16, FLOAT32
from vgg_deploy.network.shapes import PlanProfiles, ShapeRange
from vgg_deploy.network.tensors import ACTIVATION, FEATURES, PROBABILITIES, SCORE_MAP, Floats, Images

# Views in a batch: one and its mirror. Larger batches did not make networks faster on CPUs, and each view of 384x512
# takes about 120 MB. If few images share a shape, batches would also have many sizes. Each is a new shape, and OpenVINO
# is slow on the first run of a shape.
CPU_BATCH = 2
DEVICE_BATCH = 4


@dataclass(frozen=True, slots=True)
class Scores:
    """The result of one run. The arrays belong to the caller.

    Attributes:
        probabilities: float32 [n, classes], the posteriors; each row sums to 1.
        score_map: float32 [n, classes, rows, columns], class scores before the spatial average; None if the model
            has no such output.
        features: float32 [n, fc_width], the spatial mean of fc7; None if the model has no such output.
        activations: each layer's output before its ReLU, by the layer's name; empty if the model has no such outputs.
    """

    probabilities: Floats
    score_map: Floats | None = None
    features: Floats | None = None
    activations: Mapping[str, Floats] = field(default_factory=dict)

    @staticmethod
    def from_outputs(outputs: Mapping[str, Floats]) -> Scores:
        """Sorts a model's outputs by their names."""
        layers = {
            name.removeprefix(ACTIVATION): value for name, value in outputs.items() if name.startswith(ACTIVATION)
        }
        return Scores(outputs[PROBABILITIES], outputs.get(SCORE_MAP), outputs.get(FEATURES), layers)


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What an engine is and which batches it accepts.

    Attributes:
        runtime: name and version of the runtime, such as "onnxruntime 1.20.1".
        device: the device that it runs on, such as "cpu" or "cuda:0".
        precision: describes the types in which it really computes.
        outputs: names of the outputs.
        shapes: the batches it accepts. For a plan: the range that contains all profiles; some shapes in it may be in no
            profile.
        concurrency: the number of concurrent calls of `run` with the highest throughput. More are safe.
        manifest: the manifest of the artifact.
        notices: what the user should know about this file in this runtime.
        plan: the profiles of a TensorRT plan; None for all other engines.
        threads: compute threads on the CPU; None if the engine does not set them.
        bf16: whether the file's floating-point layers are computed in bfloat16.
    """

    runtime: str
    device: str
    precision: str
    outputs: tuple[str, ...]
    shapes: ShapeRange
    concurrency: int
    manifest: Manifest
    notices: tuple[str, ...] = ()
    plan: PlanProfiles | None = None
    bf16: bool = False
    threads: int | None = None

    @property
    def lowest(self) -> str:
        """float32, float16 or int8: the row of `parity.THRESHOLDS` that applies to its answers."""
        declared = self.manifest.precision.lowest
        return FLOAT16 if self.bf16 and declared == FLOAT32 else declared

    @property
    def scales(self) -> tuple[int, ...]:
        """The test scales Q for which a plan was built; empty for engines that take any."""
        profiles = () if self.plan is None else self.plan.profiles
        return tuple(sorted({scale for profile in profiles for scale in profile.scales}))


class Engine(Protocol):
    """Runs a network. Thread-safe; closed by `close` or at the end of a `with` block."""

    @property
    def info(self) -> EngineInfo: ...

    def run(self, images: Images) -> Scores:
        """Scores for uint8 [n, height, width, 3], RGB, as decoded.

        Raises:
            UsageError: another dtype, or a shape outside `info.shapes`.
            EngineError: the runtime failed, or the engine was closed.
        """
        ...

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def check_bytes(images: Images) -> None:
    """Raises UsageError unless `images` is uint8 [n, h, w, 3]."""
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        received = f"{images.dtype} {list(images.shape)}" if isinstance(images, np.ndarray) else type(images).__name__
        raise UsageError(f"images is {received}; expected uint8 [n, height, width, 3], RGB 0..255, not normalized")


def check_images(images: Images, shapes: ShapeRange) -> None:
    """Raises UsageError unless `images` is uint8 [n, h, w, 3] within `shapes`."""
    check_bytes(images)
    batch, height, width = images.shape[:3]
    if not shapes.accepts(batch, height, width):
        hint = "" if shapes.free else "; export with --dynamic for other sizes"
        raise UsageError(f"images is {batch} x {height} x {width} x 3; this model takes {shapes}{hint}")


Worker = TypeVar("Worker")


class BaseEngine(ContextManaged, Generic[Worker]):
    """Base class of engines: `run` checks the images, translates failures, and sorts the outputs.

    A subclass computes in `_infer`, with a worker: a session, a network, or one lane of a GPU. `close` releases the
    worker; calls in progress keep theirs until they end.

    Args:
        name: what runs, for messages; usually the path of its file.
        info: what the engine is.
        worker: passed to each `_infer`.
    """

    def __init__(self, name: object, info: EngineInfo, worker: Worker | None) -> None:
        self._name, self._worker = name, worker
        self.info = info

    def run(self, images: Images) -> Scores:
        """See `Engine.run`."""
        self._check(images)
        worker = self._take()
        if worker is None:
            raise EngineError(f"{self._name} was closed; open it again")
        try:
            outputs = self._infer(worker, images)
        except Exception as error:  # runtimes raise many kinds, without a common root
            reason = str(error) if isinstance(error, EngineError) else f"{self.info.runtime}: {self._reason(error)}"
            raise EngineError(f"{self._name} failed on {' x '.join(map(str, images.shape))}: {reason}") from error
        finally:
            self._give_back(worker)
        return Scores.from_outputs({name: np.asarray(array, dtype=np.float32) for name, array in outputs.items()})

    def close(self) -> None:
        self._worker = None

    def _infer(self, worker: Worker, images: Images) -> Mapping[str, Any]:
        """Arrays by the names of the outputs. They belong to the caller of `run`: no later call may change them."""
        raise NotImplementedError

    def _check(self, images: Images) -> None:
        """Raises UsageError for a batch that the engine does not accept."""
        check_images(images, self.info.shapes)

    def _take(self) -> Worker | None:
        """The worker for one call; None once the engine is closed."""
        return self._worker

    def _give_back(self, worker: Worker) -> None:
        """Returns the worker that `_take` gave."""

    @staticmethod
    def _reason(error: Exception) -> str:
        """The line of a runtime's error that says what happened."""
        return reason_of(error)
