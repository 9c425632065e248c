"""What `vgg-deploy bench` measures, in order: what each contestant costs by itself, then all against each other."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vgg_deploy.artifacts.kinds import ONNX, kind_of
from vgg_deploy.cli.bench.entries import Entry
from vgg_deploy.cli.bench.footprint import Footprint, footprint_of
from vgg_deploy.cli.tables import notice, progress
from vgg_deploy.errors import UsageError
from vgg_deploy.inference.engine_options import EngineOptions

if TYPE_CHECKING:
    from vgg_deploy.bench.contest import Contestant, Effort, Result
    from vgg_deploy.bench.layer_times import LayerTime
    from vgg_deploy.bench.peak import PeakProbe
    from vgg_deploy.bench.timing import BatchShape
    from vgg_deploy.inference.engine import Engine, EngineInfo
    from vgg_deploy.network.tensors import Images

SYNTHETIC = 16  # pictures that are made up where there are no images
PROFILED_CALLS = 5


@dataclass(frozen=True, slots=True)
class Layers:
    """Where a contestant's time goes in batches of one shape."""

    contestant: str
    shape: BatchShape
    times: tuple[LayerTime, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """All that was measured.

    Attributes:
        infos: of the contestants' engines, by name.
        pictures: on what was measured, in words.
        reference: against what answers were held, in words.
        footprints: by contestant.
        results: of all contestants in one work after the other.
    """

    infos: dict[str, EngineInfo]
    pictures: str
    reference: str
    footprints: dict[str, Footprint]
    results: tuple[Result, ...]
    layers: tuple[Layers, ...]


@dataclass(frozen=True, slots=True)
class Request:
    """What the options ask for; `shapes` None: the network's crop, one image, and eight where the first model takes them."""

    entries: list[Entry]
    reference: Entry | None
    options: EngineOptions
    shapes: tuple[BatchShape, ...] | None
    protocol: str | None
    scales: tuple[int, ...] | None
    paths: list[Path]
    limit: int
    effort: Effort
    requests: int | None
    layers: bool

    def run(self) -> Report:
        paths, pictures = _readable(self.paths, self.limit)
        results: list[Result] = []
        layers: list[Layers] = []
        with ExitStack() as kept:
            with self._opened(self.requests or 1, say=notice) as (contestants, reference):
                infos = {one.name: one.engine.info for one in contestants}
                shapes = self._shapes(contestants[0].engine.info)
                for shape in shapes:
                    _check_shape(contestants, shape)
                first = shapes[0] if shapes else _crop(contestants[0].engine.info)
                footprints = {entry.name: self._footprint(entry, first) for entry in self.entries}
                probes = kept.enter_context(self._probes([one.engine for one in contestants]))
                for shape in shapes:
                    results += _race(contestants, shape, pictures, self.effort, reference, probes)
                if self.layers:
                    layers = [
                        found
                        for entry in self.entries
                        for shape in shapes
                        if (found := self._layers(entry, infos[entry.name], shape, pictures)) is not None
                    ]
            if self.protocol is not None:
                with self._opened(self.requests, say=lambda _text: None, any_size=True) as (contestants, reference):
                    results += self._race_protocol(contestants, reference, probes, paths, pictures)
        words = (
            f"{len(pictures)} images" if self.paths else f"{len(pictures)} made-up pictures (--images names real ones)"
        )
        against = self.entries[0].name if self.reference is None else self.reference.name
        return Report(infos, words, against, footprints, tuple(results), tuple(layers))

    @contextmanager
    def _opened(
        self, requests: int | None, say: Callable[[str], None], *, any_size: bool = False
    ) -> Iterator[tuple[list[Contestant], Engine | None]]:
        from vgg_deploy.bench.contest import Contestant

        with ExitStack() as stack:
            contestants = [
                Contestant(entry.name, stack.enter_context(entry.open(requests, say, any_size=any_size)))
                for entry in self.entries
            ]
            reference = None
            if self.reference is not None:
                same = [
                    one.engine
                    for one, entry in zip(contestants, self.entries, strict=True)
                    if (entry.path, entry.beside, entry.compiled) == (self.reference.path, self.reference.beside, False)
                    and entry.options.allow_bf16 == self.reference.options.allow_bf16
                ]
                reference = same[0] if same else stack.enter_context(self.reference.open(1))
            yield contestants, reference

    @contextmanager
    def _probes(self, engines: Sequence[Engine]) -> Iterator[dict[str, PeakProbe]]:
        """Of the machine's peak in every precision that an engine computes in."""
        from engines import open_engine
        from vgg_deploy.bench.peak import arithmetic, open_best_probe

        with ExitStack() as stack:
            probes = {}
            for precision in dict.fromkeys(arithmetic(one.info) for one in engines if one.info.plan is None):
                with progress(f"peak in {precision}", None):
                    probe = open_best_probe(
                        open_engine, precision, device=self.options.device, threads=self.options.threads, say=notice
                    )
                if probe is not None:
                    probes[precision] = stack.enter_context(probe)
            yield probes

    def _shapes(self, info: EngineInfo) -> tuple[BatchShape, ...]:
        from vgg_deploy.bench.timing import BatchShape

        if self.shapes is not None or (self.protocol is not None and not self.layers):
            return self.shapes or ()
        one = _crop(info)
        several = BatchShape(8, one.height, one.width)
        return (one, several) if info.shapes.batch.accepts(8) and not self.layers else (one,)

    def _footprint(self, entry: Entry, shape: BatchShape) -> Footprint:
        with progress(f"{entry.name} by itself", None):
            return footprint_of(entry, shape, self.requests or 1)

    def _layers(self, entry: Entry, info: EngineInfo, shape: BatchShape, pictures: Sequence[Images]) -> Layers | None:
        if kind_of(entry.path) != ONNX or info.device != "cpu":
            notice(f"--layers: {entry.name} runs in {info.runtime} on {info.device}, of which there is no profile here")
            return None
        from engines import RUNTIMES
        from vgg_deploy.bench.layer_times import by_layer
        from vgg_deploy.bench.pictures import batches_of
        from vgg_deploy.inference.engine_options import EngineOptions as OpeningOptions
        from vgg_deploy.network.tensors import SCORE_MAP

        home = importlib.import_module(RUNTIMES[info.runtime.partition(" ")[0]].home)
        options = OpeningOptions(threads=self.options.threads, allow_bf16=info.bf16)
        batch = batches_of(pictures[: shape.images], shape, info.manifest.rescaling)[0]
        with progress(f"layers of {entry.name}", None):
            runs = home.layer_times(entry.path, options, batch, PROFILED_CALLS)
        return Layers(entry.name, shape, by_layer(runs, info.manifest.spec, shape, score_map=SCORE_MAP in info.outputs))

    def _race_protocol(
        self,
        contestants: list[Contestant],
        reference: Engine | None,
        probes: dict[str, PeakProbe],
        paths: list[Path],
        pictures: Sequence[Images],
    ) -> list[Result]:
        from vgg_deploy.bench.race import race_protocol
        from vgg_deploy.inference.compatibility import check_compatible
        from vgg_deploy.views.protocols import choose_protocol

        info = contestants[0].engine.info
        choice = choose_protocol(
            info.manifest, self.protocol, self.scales, free_size=info.shapes.free, built_for=info.scales
        )
        for text in choice.notices:
            notice(text)
        for one in contestants:
            try:
                check_compatible(one.engine.info, choice.protocol)
            except UsageError as error:
                raise UsageError(f"{one.name}: {error}") from error
        sizes = [(picture.shape[0], picture.shape[1]) for picture in pictures]
        with progress(f"{choice.protocol.name}, {len(paths)} images", None) as advance:
            return race_protocol(
                contestants,
                paths,
                sizes,
                choice.protocol,
                self.effort,
                reference=reference,
                probes=probes,
                progress=advance,
            )


def _race(
    contestants: list[Contestant],
    shape: BatchShape,
    pictures: Sequence[Images],
    effort: Effort,
    reference: Engine | None,
    probes: dict[str, PeakProbe],
) -> list[Result]:
    from vgg_deploy.bench.pictures import batches_of
    from vgg_deploy.bench.race import race

    if len(pictures) < shape.images:
        notice(f"{shape}: there are {len(pictures)} images, which fill a batch by repetition; each is compared once")
    batches = batches_of(pictures, shape, contestants[0].engine.info.manifest.rescaling)
    with progress(str(shape), None) as advance:
        return race(
            contestants,
            shape,
            batches,
            effort,
            pictures=len(pictures),
            reference=reference,
            probes=probes,
            progress=advance,
        )


def _crop(info: EngineInfo) -> BatchShape:
    from vgg_deploy.bench.timing import BatchShape

    return BatchShape(info.shapes.batch.minimum, info.shapes.height.minimum, info.shapes.width.minimum)


def _check_shape(contestants: Sequence[Contestant], shape: BatchShape) -> None:
    """Raises UsageError where a contestant does not take batches of this shape."""
    from vgg_deploy.artifacts.build_command import refusal

    for one in contestants:
        info = one.engine.info
        if info.plan is not None:
            reason = refusal(info.plan, (shape.images, shape.height, shape.width))
            if reason is not None:
                raise UsageError(f"shape {shape} is not for {one.name}, as a batch {reason}")
        elif not info.shapes.accepts(shape.images, shape.height, shape.width):
            hint = "" if info.shapes.free else "; export with --dynamic for other sizes"
            raise UsageError(f"shape {shape} is not for {one.name}, which takes {info.shapes}{hint}")


def _readable(paths: list[Path], limit: int) -> tuple[list[Path], list[Images]]:
    """The images that can be read, and their pixels; made-up pictures where there are no images."""
    import random

    from vgg_deploy.bench.pictures import smooth_pictures
    from vgg_deploy.errors import ImageError
    from vgg_deploy.views.images import decode

    if not paths:
        notice("no --images: measured and compared on made-up pictures, whose answers mean little")
        return [], smooth_pictures(SYNTHETIC)
    if limit < len(paths):
        notice(f"measuring on {limit} of {len(paths)} images, a seeded sample (--limit)")
        paths = sorted(random.Random(0).sample(paths, limit))
    kept, pictures = [], []
    for path in paths:
        try:
            pictures.append(decode(path))
            kept.append(path)
        except ImageError as error:
            notice(f"passed over {path}: {error}")
    if not kept:
        raise ImageError(f"none of {len(paths)} images could be read")
    return kept, pictures
