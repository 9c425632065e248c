"""Decodes image files into the pixels of their views, in threads that run ahead of the engine."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from pathlib import Path

from vgg_deploy.errors import ImageError
from vgg_deploy.inference.compatibility import view_refusal
from vgg_deploy.inference.engine import EngineInfo
from vgg_deploy.network.manifest import Rescaling
from vgg_deploy.network.tensors import Images
from vgg_deploy.views.images import decode_reduced, rescale
from vgg_deploy.views.protocols import Protocol
from vgg_deploy.views.view import View


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """A decoded image as views, or the reason why there are none.

    Attributes:
        path: the image file.
        size: its height and width, upright.
        views: each with its pixels, uint8 [h, w, 3], not mirrored yet: a view and its mirror share them.
        failure: why the image cannot be scored; None if it can.
    """

    path: Path
    size: tuple[int, int] = (0, 0)
    views: tuple[tuple[View, Images], ...] = ()
    failure: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation:
    """How image files become views. Call it with a path; it is thread-safe.

    Attributes:
        protocol: which views.
        rescaling: filter and rounding.
        max_view_pixels: an image that would be rescaled to more pixels is a failure.
        reduced_decoding: whether large JPEGs are decoded at a reduced size.
        info: states which views the engine accepts. An image with any other view is a failure.
    """

    protocol: Protocol
    rescaling: Rescaling
    max_view_pixels: int
    reduced_decoding: bool
    info: EngineInfo

    def __call__(self, path: Path) -> PreparedImage:
        try:
            image = decode_reduced(path, max(self.protocol.scales) if self.reduced_decoding else None)
            height, width = image.size
            views = self.protocol.views(height, width, self.rescaling)
            rescaled = {
                scale: rescale(image.pixels, scale, self.rescaling, self.max_view_pixels, image.size)
                for scale in {view.short_side for view in views}
            }
            cut = tuple((view, view.cut(rescaled[view.short_side], self.rescaling)) for view in views)
            for _view, pixels in cut:
                reason = view_refusal(self.info, pixels.shape[0], pixels.shape[1])
                if reason is not None:
                    raise ImageError(reason)
        except ImageError as error:
            return PreparedImage(path, failure=str(error))
        return PreparedImage(path, (height, width), cut)


def prepare_ahead(
    pool: Executor, prepare: Callable[[Path], PreparedImage], paths: Iterator[Path], ahead: int
) -> Iterator[PreparedImage]:
    """Yields prepared images in the order of their paths. Up to `ahead` more are in preparation or ready."""
    queued: deque[Future[PreparedImage]] = deque()
    for path in paths:
        queued.append(pool.submit(prepare, path))
        if len(queued) > ahead:
            yield queued.popleft().result()
    while queued:
        yield queued.popleft().result()
