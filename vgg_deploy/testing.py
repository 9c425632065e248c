"""A fake engine, to test programs that use vgg_deploy without a runtime or weights."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from vgg_deploy.errors import EngineError
from vgg_deploy.inference.context_managed import ContextManaged
from vgg_deploy.inference.engine import EngineInfo, Scores, check_images
from vgg_deploy.network.manifest import Manifest
from vgg_deploy.network.shapes import AxisRange, ShapeRange
from vgg_deploy.network.tensors import PROBABILITIES, SCORE_MAP, Floats, Images


class FakeEngine(ContextManaged):
    """An engine without a runtime or weights. It records the shape of each call in `batches`, and `close` in `closed`.

    Args:
        manifest: names the classes. The engine accepts its `shapes`; if they are None, every size from the crop up.
        answer: maps uint8 [n, h, w, 3] to float32 posteriors [n, classes]. By default: the soft-max over the brightness
            of one vertical strip per class, so that posteriors depend on the content, and mirrored images give others.
        score_map: whether to give a score map too, with a row and a column per 32 pixels.
        latency_s: how long each call takes, in seconds.
        concurrency: see `EngineInfo`.
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
        # [n, height, width / classes, 3] each
        strips = np.array_split(images.astype(np.float32), len(self.info.manifest.classes), axis=2)
        means = [strip.mean(axis=(1, 2, 3)) if strip.size else 0 * images[:, 0, 0, 0] for strip in strips]  # [n] each
        brightness = np.stack(means, 1)  # [n, classes]
        exponents = np.exp((brightness - brightness.max(axis=1, keepdims=True)) / 32)
        result: Floats = (exponents / exponents.sum(axis=1, keepdims=True)).astype(np.float32)
        return result

    def run(self, images: Images) -> Scores:
        """See `Engine.run`. An exception of `answer` passes through."""
        if self.closed:
            raise EngineError("this fake engine was closed; open it again")
        check_images(images, self.info.shapes)
        self.batches.append(images.shape)
        time.sleep(self._latency_s)
        probabilities = self._answer(images)
        if not self._score_map:
            return Scores(probabilities)
        rows, columns = images.shape[1] // 32, images.shape[2] // 32
        grid = images[:, : rows * 32, : columns * 32].reshape(len(images), rows, 32, columns, 32, 3)
        cells = grid.mean(axis=(2, 4, 5), dtype=np.float32)  # [n, rows, columns]
        weights = np.linspace(1, -1, probabilities.shape[1], dtype=np.float32)  # [classes]
        return Scores(probabilities, cells[:, None] * weights[None, :, None, None])

    def close(self) -> None:
        self.closed = True
