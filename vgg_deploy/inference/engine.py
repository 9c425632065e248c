"""What an engine is: anything that turns a batch of images into scores."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt

from vgg_deploy.artifacts.plan import PlanManifest
from vgg_deploy.errors import UsageError
from vgg_deploy.network.manifest import AxisRange, Manifest, ShapeRange
from vgg_deploy.network.precision import FLOAT16, FLOAT32

Images = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

PROBABILITIES, SCORE_MAP, FEATURES = "probabilities", "score_map", "features"
ACTIVATION = "activation/"  # before a layer's name: an output that gives its activation


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
        plan: of a TensorRT plan, its profiles and how it was built.
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
    plan: PlanManifest | None = None
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


class FakeEngine(ContextManaged):
    """An engine for tests that needs no runtime and no weights.

    Args:
        manifest: names the classes; its `shapes` are what is accepted (None: anything from the crop on).
        answer: maps uint8 [n, h, w, 3] to float32 posteriors [n, classes]; by default a soft-max over the brightness of as
            many vertical strips as there are classes, so that the answer depends on content, and mirrors differ.
        score_map: whether to give a score map too, of one row and one column each 32 pixels.
        latency_s: how long each call takes, in seconds.
    """

    def __init__(
        self,
        manifest: Manifest,
        answer: Callable[[Images], Floats] | None = None,
        *,
        score_map: bool = False,
        latency_s: float = 0.0,
        concurrency: int = 1,
    ) -> None:
        edge = AxisRange(manifest.crop)
        self._answer = answer or self._brightness
        self._score_map, self._latency_s = score_map, latency_s
        self.batches: list[tuple[int, ...]] = []  # the shape of every call, for assertions
        self.closed = False
        outputs = (PROBABILITIES, SCORE_MAP) if score_map else (PROBABILITIES,)
        shapes = manifest.shapes or ShapeRange(AxisRange(1), edge, edge)
        self.info = EngineInfo("fake", "cpu", "float32", outputs, shapes, concurrency, manifest)

    def _brightness(self, images: Images) -> Floats:
        strips = np.array_split(images.astype(np.float32), len(self.info.manifest.classes), axis=2)
        brightness = np.stack(
            [strip.mean(axis=(1, 2, 3)) if strip.size else 0 * images[:, 0, 0, 0] for strip in strips], 1
        )
        exponents = np.exp((brightness - brightness.max(axis=1, keepdims=True)) / 32)
        result: Floats = (exponents / exponents.sum(axis=1, keepdims=True)).astype(np.float32)
        return result

    def run(self, images: Images) -> Scores:
        check_images(images, self.info.shapes)
        self.batches.append(images.shape)
        time.sleep(self._latency_s)
        probabilities = self._answer(images)
        if not self._score_map:
            return Scores(probabilities)
        rows, columns = images.shape[1] // 32, images.shape[2] // 32
        grid = images[:, : rows * 32, : columns * 32].reshape(len(images), rows, 32, columns, 32, 3)
        cells = grid.mean(axis=(2, 4, 5), dtype=np.float32)
        weights = np.linspace(1, -1, probabilities.shape[1], dtype=np.float32)
        return Scores(probabilities, cells[:, None] * weights[None, :, None, None])

    def close(self) -> None:
        self.closed = True
