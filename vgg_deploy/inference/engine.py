"""What an engine is: anything that turns a batch of images into scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self

import numpy as np

from vgg_deploy.errors import UsageError
from vgg_deploy.network.manifest import Manifest
from vgg_deploy.network.precision import FLOAT16, FLOAT32
from vgg_deploy.network.shapes import PlanProfiles, ShapeRange
from vgg_deploy.network.tensors import ACTIVATION, FEATURES, PROBABILITIES, SCORE_MAP, Floats, Images

# Views in a batch: one and its mirror. More did not make networks faster on CPUs, and each view of 384x512 takes about 120 MB;
# and where few images have the same shape, batches of many sizes are many shapes, each of which costs OpenVINO once.
CPU_BATCH = 2
DEVICE_BATCH = 4


@dataclass(frozen=True, slots=True)
class Scores:
    """What one run gives. The arrays belong to the caller.

    Attributes:
        probabilities: float32 [n, classes], the posteriors; each row sums to 1.
        score_map: float32 [n, classes, rows, columns], class scores before the spatial average, where the model gives them.
        features: float32 [n, fc_width], the spatial mean of fc7, where the model gives it.
        activations: outputs of layers, before their ReLU, by the layer's name, where the model gives them.
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
    """What an engine is and takes.

    Attributes:
        runtime: name and version of what computes, such as "onnxruntime 1.20.1".
        device: where, such as "cpu" or "cuda:0".
        precision: the types it really computes in, in words.
        outputs: names of the outputs.
        shapes: the batches it accepts; of a plan, those of all profiles together, of which some may be in none.
        concurrency: how many calls of `run` at once make it faster; more are safe.
        manifest: of the artifact it runs.
        notices: what the user should know of this pairing of file and runtime.
        plan: the profiles of a TensorRT plan; None for all other engines.
        threads: that compute on the CPU; None: not the engine's to say.
        bf16: whether what the file has in floating point is computed in bfloat16.
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
        """float32, float16 or int8: which row of `parity.THRESHOLDS` its answers are held against."""
        declared = self.manifest.precision.lowest
        return FLOAT16 if self.bf16 and declared == FLOAT32 else declared

    @property
    def scales(self) -> tuple[int, ...]:
        """The Q's that a plan was built for; none: any."""
        profiles = () if self.plan is None else self.plan.profiles
        return tuple(sorted({scale for profile in profiles for scale in profile.scales}))


class Engine(Protocol):
    """Runs a network. Safe from several threads; closed by `close` or at the end of a `with` block."""

    @property
    def info(self) -> EngineInfo: ...

    def run(self, images: Images) -> Scores:
        """Scores for uint8 [n, height, width, 3], RGB, as a decoder gives them.

        Raises:
            UsageError: another dtype, or a shape outside `info.shapes`.
            EngineError: the runtime failed.
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


class ContextManaged:
    """`with` for a class that has `close`."""

    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
