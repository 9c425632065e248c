"""What `vgg-deploy bench` measures: first what each contestant costs by itself, then all of them in contests."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vgg_deploy.artifacts.build_command import refusal
from vgg_deploy.artifacts.kinds import ONNX, kind_of
from vgg_deploy.bench.batch_shape import BatchShape
from vgg_deploy.bench.duration import Pace, in_words
from vgg_deploy.bench.effort import Effort
from vgg_deploy.bench.layer_times import LayerTime, by_layer
from vgg_deploy.cli.bench.contestants import UnopenedContestant
from vgg_deploy.cli.bench.footprint import Footprint, footprint_of
from vgg_deploy.cli.bench.forecast import PROFILED_CALLS, Forecast, reference_pace
from vgg_deploy.cli.bench.pictures import BenchImages, readable_images
from vgg_deploy.cli.bench.workloads import Workloads
from vgg_deploy.cli.tables import notice, progress
from vgg_deploy.errors import UsageError
from vgg_deploy.inference.engine_options import EngineOptions

if TYPE_CHECKING:
    from vgg_deploy.bench.peak import PeakProbe
    from vgg_deploy.bench.result import ContestResult
    from vgg_deploy.inference.engine import Engine, EngineInfo
    from vgg_deploy.network.tensors import Images
    from vgg_deploy.views.protocols import Protocol


@dataclass(frozen=True, slots=True)
class Layers:
    """The time of each layer of a contestant, in batches of one shape."""

    contestant: str
    shape: BatchShape
    times: tuple[LayerTime, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that was measured.

    Attributes:
        infos: describes the contestants' engines, by name.
        pictures: the images that were measured, as text.
        reference: the name of the model that predictions were compared with.
        footprints: by contestant.
        results: of all contestants, one workload after the other.
        layers: of each contestant that its runtime can profile, if requested.
    """

    infos: dict[str, EngineInfo]
    pictures: str
    reference: str
    footprints: dict[str, Footprint]
    results: tuple[ContestResult, ...]
    layers: tuple[Layers, ...]


@dataclass(frozen=True, slots=True)
class OpenContestants:
    """The contestants, opened.

    Attributes:
        engines: by contestant.
        reference: gives the expected answers; None: the first contestant does.
    """

    engines: dict[str, Engine]
    reference: Engine | None

    @property
    def first(self) -> EngineInfo:
        return next(iter(self.engines.values())).info


@dataclass(frozen=True, slots=True)
class Measurement:
    """What the options ask for.

    Attributes:
        contestants: the contestants.
        reference: gives the expected answers; None: the first contestant does.
        options: for the machine's peak. If its `requests` is None: one call at a time, except for a protocol.
        workloads: what to time.
        effort: how long.
    """

    contestants: list[UnopenedContestant]
    reference: UnopenedContestant | None
    options: EngineOptions
    workloads: Workloads
    effort: Effort

    def measure(self) -> Report:
        workloads = self.workloads
        pictures = readable_images(list(workloads.paths), workloads.limit)
        results: list[ContestResult] = []
        layers: list[Layers] = []
        with ExitStack() as stack:
            with self._opened(self.options.requests or 1, say=notice) as opened:
                infos = {name: engine.info for name, engine in opened.engines.items()}
                shapes = self._shapes(opened.first)
                for shape in shapes:
                    _check_shape(opened, shape)
                protocol = None if workloads.protocol is None else self._protocol(opened)
                forecast = Forecast(
                    infos=infos,
                    pictures=pictures.pixels,
                    shapes=shapes,
                    protocol=protocol,
                    effort=self.effort,
                    peak=workloads.peak,
                    layers=workloads.layers,
                )
                notice(str(forecast))
                first = shapes[0] if shapes else _crop(opened.first)
                footprints = {contestant.name: self._footprint(contestant, first) for contestant in self.contestants}
                seconds = forecast.seconds(footprints, first, _pace_of_reference(opened, footprints, first))
                notice(f"this takes about {in_words(seconds)}")
                probes = stack.enter_context(self._probes(list(infos.values()) if workloads.peak else []))
                for shape in shapes:
                    results += self._time_batches(opened, shape, pictures.pixels, probes)
                if workloads.layers:
                    profiled = (
                        self._layers(contestant, infos[contestant.name], shape, pictures.pixels)
                        for contestant in self.contestants
                        for shape in shapes
                    )
                    layers = [each for each in profiled if each is not None]
            if protocol is not None:
                with self._opened(self.options.requests, say=lambda _text: None, any_size=True) as opened:
                    results += self._time_protocol(opened, protocol, pictures, probes)
        reference = self.contestants[0].name if self.reference is None else self.reference.name
        return Report(infos, str(pictures), reference, footprints, tuple(results), tuple(layers))

    @contextmanager
    def _opened(
        self, requests: int | None, say: Callable[[str], None], *, any_size: bool = False
    ) -> Iterator[OpenContestants]:
        with ExitStack() as stack:
            engines = {
                contestant.name: stack.enter_context(contestant.open(requests, say, any_size=any_size))
                for contestant in self.contestants
            }
            reference = None
            if self.reference is not None:
                same = [
                    engines[contestant.name] for contestant in self.contestants if contestant.serves_as(self.reference)
                ]
                reference = same[0] if same else stack.enter_context(self.reference.open(1, say))
            yield OpenContestants(engines, reference)

    @contextmanager
    def _probes(self, infos: Sequence[EngineInfo]) -> Iterator[dict[str, PeakProbe]]:
        """Probes of the machine's peak in every precision that an engine computes in."""
        from engines import open_with
        from vgg_deploy.bench.peak import arithmetic, open_best_probe

        options = EngineOptions(device=self.options.device, threads=self.options.threads)
        with ExitStack() as stack:
            probes = {}
            for precision in dict.fromkeys(arithmetic(info) for info in infos if info.plan is None):
                with progress(f"peak in {precision}", None):
                    probe = open_best_probe(open_with, precision, options, say=notice)
                if probe is not None:
                    probes[precision] = stack.enter_context(probe)
            yield probes

    def _shapes(self, info: EngineInfo) -> tuple[BatchShape, ...]:
        workloads = self.workloads
        if workloads.shapes is not None or (workloads.protocol is not None and not workloads.layers):
            return workloads.shapes or ()
        single = _crop(info)
        several = BatchShape(8, single.height, single.width)
        return (single, several) if info.shapes.batch.accepts(8) and not workloads.layers else (single,)

    def _footprint(self, contestant: UnopenedContestant, shape: BatchShape) -> Footprint:
        with progress(f"{contestant.name} by itself", None):
            return footprint_of(contestant, shape, self.options.requests or 1)

    def _layers(
        self, contestant: UnopenedContestant, info: EngineInfo, shape: BatchShape, pictures: Sequence[Images]
    ) -> Layers | None:
        if kind_of(contestant.path) != ONNX or info.device != "cpu":
            notice(f"--layers: no profile of {contestant.name}, which runs in {info.runtime} on {info.device}")
            return None
        from engines import RUNTIMES
        from vgg_deploy.bench.batches import batches_of
        from vgg_deploy.network.tensors import SCORE_MAP

        adapter = importlib.import_module(RUNTIMES[info.runtime.partition(" ")[0]].adapter)
        options = EngineOptions(threads=self.options.threads, allow_bf16=info.bf16)
        batch = batches_of(pictures[: shape.images], shape, info.manifest.rescaling)[0]
        with progress(f"layers of {contestant.name}", None):
            runs = adapter.layer_times(contestant.path, options, batch.images, PROFILED_CALLS)
        return Layers(
            contestant.name, shape, by_layer(runs, info.manifest.spec, shape, score_map=SCORE_MAP in info.outputs)
        )

    def _time_batches(
        self, opened: OpenContestants, shape: BatchShape, pictures: Sequence[Images], probes: dict[str, PeakProbe]
    ) -> list[ContestResult]:
        from vgg_deploy.bench.batches import batches_of
        from vgg_deploy.bench.contest import Terms
        from vgg_deploy.bench.result import time_batches

        if len(pictures) < shape.images:
            notice(f"{shape}: {len(pictures)} images do not fill a batch, so some are repeated; each is compared once")
        batches = batches_of(pictures, shape, opened.first.manifest.rescaling)
        with progress(str(shape), None) as advance:
            terms = Terms(effort=self.effort, probes=probes, progress=advance)
            return time_batches(opened.engines, shape, batches, terms, opened.reference)

    def _protocol(self, opened: OpenContestants) -> Protocol:
        """The protocol to time, which every contestant accepts."""
        from vgg_deploy.inference.compatibility import check_compatible
        from vgg_deploy.views.protocols import choose_protocol

        info = opened.first
        choice = choose_protocol(
            info.manifest,
            self.workloads.protocol,
            self.workloads.scales,
            free_size=info.shapes.free,
            built_for=info.scales,
        )
        for text in choice.notices:
            notice(text)
        for name, engine in opened.engines.items():
            try:
                check_compatible(engine.info, choice.protocol)
            except UsageError as error:
                raise UsageError(f"{name}: {error}") from error
        return choice.protocol

    def _time_protocol(
        self, opened: OpenContestants, protocol: Protocol, pictures: BenchImages, probes: dict[str, PeakProbe]
    ) -> list[ContestResult]:
        from vgg_deploy.bench.contest import Terms
        from vgg_deploy.bench.result import time_protocol

        sizes = {
            path: (pixels.shape[0], pixels.shape[1])
            for path, pixels in zip(pictures.paths, pictures.pixels, strict=True)
        }
        with progress(f"{protocol.name}, {len(sizes)} images", None) as advance:
            terms = Terms(effort=self.effort, probes=probes, progress=advance)
            return time_protocol(opened.engines, sizes, protocol, terms, opened.reference)


def _pace_of_reference(opened: OpenContestants, footprints: dict[str, Footprint], shape: BatchShape) -> Pace | None:
    """The pace of the reference, if there is one: of the contestant that serves as it, or of two calls here."""
    if opened.reference is None:
        return None
    for name, engine in opened.engines.items():
        if engine is opened.reference:
            return reference_pace((footprints[name].first_run_s, footprints[name].second_run_s), shape)
    import numpy as np

    images, seconds = np.full((shape.images, shape.height, shape.width, 3), 127, np.uint8), []
    for _call in range(2):
        began = time.perf_counter()
        opened.reference.run(images)
        seconds.append(time.perf_counter() - began)
    return reference_pace((seconds[0], seconds[1]), shape)


def _crop(info: EngineInfo) -> BatchShape:
    return BatchShape(info.shapes.batch.minimum, info.shapes.height.minimum, info.shapes.width.minimum)


def _check_shape(opened: OpenContestants, shape: BatchShape) -> None:
    """Raises UsageError if a contestant does not accept batches of this shape."""
    for name, engine in opened.engines.items():
        info = engine.info
        if info.plan is not None:
            reason = refusal(info.plan, (shape.images, shape.height, shape.width))
            if reason is not None:
                raise UsageError(f"{name} does not accept shape {shape}: a batch of {reason}")
        elif not info.shapes.accepts(shape.images, shape.height, shape.width):
            hint = "" if info.shapes.free else "; export with --dynamic for other sizes"
            raise UsageError(f"{name} does not accept shape {shape}; it accepts {info.shapes}{hint}")
