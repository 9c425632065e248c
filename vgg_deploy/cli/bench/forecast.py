"""What `vgg-deploy bench` is about to measure, and about how long that will take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vgg_deploy.bench.batch_shape import BatchShape
from vgg_deploy.bench.duration import Pace, batches_s, passes_s
from vgg_deploy.bench.effort import LEAST_REPETITIONS, Effort
from vgg_deploy.cli.bench.footprint import Footprint
from vgg_deploy.errors import counted

if TYPE_CHECKING:
    from vgg_deploy.inference.engine import EngineInfo
    from vgg_deploy.network.tensors import Images
    from vgg_deploy.views.protocols import Protocol

DECODING_S = 0.01  # of a photo
PROFILED_CALLS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """The measurement that is about to begin.

    Attributes:
        infos: describes the contestants' engines, by name.
        pictures: the images, uint8 [h, w, 3].
        shapes, protocol: the workloads.
        effort: how long each workload is measured.
        peak, layers: whether the machine's peak and the layers are measured too.
    """

    infos: Mapping[str, EngineInfo]
    pictures: Sequence[Images]
    shapes: tuple[BatchShape, ...]
    protocol: Protocol | None
    effort: Effort
    peak: bool
    layers: bool

    def __str__(self) -> str:
        works = [str(shape) for shape in self.shapes]
        if self.protocol is not None:
            works.append(f"{self.protocol.name} over {counted(len(self.pictures), 'image')}")
        effort = self.effort
        how_long = (
            f"{effort.seconds:g} s, at least {LEAST_REPETITIONS} repetitions"
            if effort.repetitions is None
            else counted(effort.repetitions, "repetition")
        )
        extras = [text for wanted, text in ((self.peak, "the machine's peak"), (self.layers, "layers")) if wanted]
        order = "each by itself, then in turns" if len(self.infos) > 1 else "loading and memory, then speed"
        return (
            f"measures {', '.join(self.infos)}: {order} on {' and '.join(works)} "
            f"({how_long}{' each' if len(works) > 1 else ''})" + "".join(f"; {text}" for text in extras)
        )

    def seconds(
        self, footprints: Mapping[str, Footprint], measured: BatchShape, reference: Pace | None = None
    ) -> float:
        """About how long it takes from now on, when each contestant has been measured by itself.

        Args:
            footprints: by contestant.
            measured: the batch shape of the footprints.
            reference: a reference that answers each workload once, if there is one.
        """
        paces = [Pace(_pixels(measured), each.first_run_s, each.second_run_s) for each in footprints.values()]
        loading_s = sum(each.load_s for each in footprints.values())
        search_s, probes_s = self._peak_s(paces, measured) if self.peak else (0.0, 0.0)
        total = search_s
        for shape in self.shapes:
            work, batches = _pixels(shape), -(-len(self.pictures) // shape.images)
            total += batches_s(paces, work, batches, self.effort, probes_s=probes_s)
            if reference is not None:
                total += reference.first_seconds(work) + (batches - 1) * reference.seconds(work)
            if self.layers:
                total += loading_s + sum((1 + PROFILED_CALLS) * pace.seconds(work) for pace in paces)
        if self.protocol is not None:
            work, decoding_s = self._pass_pixels(self.protocol), DECODING_S * len(self.pictures)
            total += loading_s + passes_s(paces, work, self.effort, decoding_s=decoding_s, probes_s=probes_s)
            total += 0.0 if reference is None else reference.seconds(work)
        return total

    def _pass_pixels(self, protocol: Protocol) -> int:
        """The pixels of all views of all images."""
        rescaling = next(iter(self.infos.values())).manifest.rescaling
        total = 0
        for pixels in self.pictures:
            height, width = pixels.shape[:2]
            for view in protocol.views(height, width, rescaling):
                rows, columns = view.size(height, width, rescaling)
                total += rows * columns
        return total

    def _peak_s(self, paces: Sequence[Pace], measured: BatchShape) -> tuple[float, float]:
        """Seconds of the search for the fastest products, and of the probes in one repetition.

        The products are taken to run as fast as the contestants of their precision.
        """
        from vgg_deploy.bench.peak import PRODUCTS, RUNTIMES, SEARCH_CALLS, arithmetic

        search, probes = {}, {}
        for info, pace in zip(self.infos.values(), paces, strict=True):
            spec = info.manifest.spec
            if spec is None or info.plan is not None:
                continue
            precision, rate = arithmetic(info), measured.gflop(spec) / pace.call_s
            runtimes = len(RUNTIMES.get(precision, ("onnxruntime",)))
            search[precision] = sum(product.gflop for product in PRODUCTS) / rate * SEARCH_CALLS * runtimes
            probes[precision] = max(product.gflop for product in PRODUCTS) / rate
        return sum(search.values()), sum(probes.values())


def _pixels(shape: BatchShape) -> int:
    """The time of a fully convolutional network is nearly in proportion to the pixels."""
    return shape.images * shape.height * shape.width


def reference_pace(run_s: tuple[float, float], measured: BatchShape) -> Pace:
    """The pace of a reference, from the seconds of two calls on a batch."""
    return Pace(_pixels(measured), *run_s)
