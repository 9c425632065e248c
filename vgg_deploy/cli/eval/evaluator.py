"""Scores labelled images with one model after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vgg_deploy.cli.eval.evaluated_models import EvaluatedModels
from vgg_deploy.cli.eval.report import Row
from vgg_deploy.cli.parameters import batch_option, gathered
from vgg_deploy.cli.tables import notice, once, progress
from vgg_deploy.inference.context_managed import ContextManaged

if TYPE_CHECKING:
    from vgg_deploy.evaluation.error_rates import Evaluation, LabelledImages
    from vgg_deploy.inference.engine import Engine, EngineInfo
    from vgg_deploy.views.protocols import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationOptions:
    """Which images are scored, and how.

    Attributes:
        limit: size of a seeded sample, balanced by class. None: all images.
        batch: largest number of views in a call. None: the default of `predict`.
        cache: file of known posteriors. None: every image is computed.
    """

    limit: int | None
    batch: int | None
    cache: Path | None

    def sample(self, images: LabelledImages) -> LabelledImages:
        """The images to score."""
        return images if self.limit is None else images.sample(self.limit)


# The command receives `evaluation`, a `EvaluationOptions`.
evaluation_options = gathered(
    "evaluation",
    EvaluationOptions,
    click.option(
        "--limit", type=click.IntRange(1), metavar="N", help="Test on a seeded sample of N images, balanced by class."
    ),
    batch_option,
    click.option(
        "--cache",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Keep posteriors in this file. After an interruption, the same command continues from it.",
    ),
)


class Evaluator(ContextManaged):
    """Scores images with models, and reports what failed.

    Raises:
        OutputError: the cache cannot be opened.
    """

    def __init__(self, images: LabelledImages, options: EvaluationOptions) -> None:
        from vgg_deploy.evaluation.posterior_cache import PosteriorCache

        self._images, self._options = images, options
        self._cache = None if options.cache is None else PosteriorCache(options.cache)
        self._say_failure = once(notice)

    def evaluate(self, models: EvaluatedModels, protocols: Sequence[Sequence[Protocol]]) -> list[list[Evaluation]]:
        """The evaluations of each model, under its own protocols."""
        evaluations = []
        for index, own in enumerate(protocols):
            model = "" if self._cache is None else models.fingerprint(index)
            with models.engine(index) as engine:
                evaluations.append([self._evaluate(engine, models.names[index], model, protocol) for protocol in own])
        return evaluations

    def _evaluate(self, engine: Engine, name: str, model: str, protocol: Protocol) -> Evaluation:
        from vgg_deploy.evaluation.error_rates import evaluate

        paths, title = self._images.paths, f"{name}: {protocol.name}"
        with progress(title, len(paths)) as advance:
            evaluation = evaluate(
                engine, paths, protocol, cache=self._cache, model=model, batch=self._options.batch, progress=advance
            )
        failed = len(evaluation.failures)
        cached = len(paths) - failed - evaluation.computed
        if cached:
            notice(f"{title}: {cached} of {len(paths)} images come from {self._options.cache}")
        for failure in evaluation.failures:
            self._say_failure(f"failed: {failure.path}: {failure.reason}")
        if failed:
            notice(f"{title}: {failed} of {len(paths)} images failed and are not counted")
        return evaluation

    def close(self) -> None:
        if self._cache is not None:
            self._cache.close()


def rows_of(
    models: EvaluatedModels, evaluations: Sequence[Sequence[Evaluation]], images: LabelledImages, *, paper: bool
) -> list[Row]:
    """The rows of each model, then of all models fused. With `paper`, each has the paper's row for the same test."""
    rows = [
        _row((name,), (info,), (evaluation,), images, paper=paper)
        for name, info, own in zip(models.names, models.infos, evaluations, strict=True)
        for evaluation in own
    ]
    if len(models.names) > 1:
        for together in zip(*evaluations, strict=True):
            rows.append(_row(models.names, models.infos, together, images, paper=paper))
    return rows


def _row(
    names: Sequence[str],
    infos: Sequence[EngineInfo],
    evaluations: Sequence[Evaluation],
    images: LabelledImages,
    *,
    paper: bool,
) -> Row:
    from vgg_deploy.evaluation.error_rates import error_rates
    from vgg_deploy.evaluation.fusion import fused
    from vgg_deploy.evaluation.paper import paper_row

    posteriors = fused([evaluation.posteriors for evaluation in evaluations])  # [n, classes]
    manifests, protocols = [info.manifest for info in infos], [evaluation.protocol for evaluation in evaluations]
    return Row(
        tuple(names),
        tuple(evaluations),
        error_rates(posteriors, images.truth),
        paper_row(manifests, protocols) if paper else None,
    )
