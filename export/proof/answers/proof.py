"""Proof 3: what a file's precision costs end to end, and whether its runtime answers as the file says.

The caller opens the engines: files with `engines.open_engine`, a checkpoint with `train.network.reference`. With an
ONNX file as reference nothing here needs torch.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from export.float16 import rounding_copy
from export.proof.answers.fidelity import Fidelity, fidelity_of
from export.proof.layers.simulation import Simulation
from export.proof.views import ComparisonViews
from vgg_deploy.artifacts.kinds import PLAN_SUFFIXES
from vgg_deploy.errors import UsageError, counted
from vgg_deploy.evaluation.accuracy_drop import AccuracyDrop, accuracy_drop
from vgg_deploy.evaluation.parity import THRESHOLDS, Flip, Parity, compare, looser, posteriors
from vgg_deploy.evaluation.proof import ANSWERS, Proof, Table
from vgg_deploy.inference.engine import Engine
from vgg_deploy.network.manifest import Manifest
from vgg_deploy.network.precision import FLOAT32
from vgg_deploy.network.spec import NetworkSpec
from vgg_deploy.network.tensors import Floats

OpenEngine = Callable[[Path], Engine]
Progress = Callable[[], None]

_PRICE = "the price of the precision is too high: keep layers in floating point, or calibrate on images like these"


def _silent() -> None:
    """No progress."""


@dataclass(frozen=True, slots=True)
class AnswerComparison:
    """An engine's posteriors beside those of the reference.

    Attributes:
        name: what was compared.
        precision: the row of the thresholds that applies.
        parity: the figures.
        drops: of top-1 and top-5 accuracy; empty unless the images' folders name their classes.
    """

    name: str
    precision: str
    parity: Parity
    drops: tuple[AccuracyDrop, ...] = ()

    @property
    def failures(self) -> tuple[str, ...]:
        """The limits that are exceeded, as text."""
        return self.parity.failures(THRESHOLDS[self.precision])

    def as_json(self) -> dict[str, Any]:
        """The figures as plain JSON values."""
        fields = dataclasses.asdict(self)
        fields["parity"] = {"views": fields["parity"].pop("view_count"), **fields["parity"]}
        return {**fields, "failures": list(self.failures)}


class Answers:
    """Compares the answers of files with those of one reference, on the same views.

    Args:
        reference: the engine whose answers count as correct. None: answers are only compared with the exact evaluation
            of their file.
        name: its name in reports.
        views: the views on which files are compared.
        open_rounding: opens an ONNX file in a runtime that keeps pairs of casts; see `export.float16.rounding_copy`.
    """

    def __init__(self, reference: Engine | None, name: str, views: ComparisonViews, open_rounding: OpenEngine) -> None:
        self._reference, self._name, self._views, self._open_rounding = reference, name, views, open_rounding
        self._posteriors: dict[bool, Floats] = {}

    def _expected(self, reference: Engine, free: bool, progress: Progress) -> Floats:
        if free not in self._posteriors:
            self._posteriors[free] = posteriors(reference, self._views.chosen(free), progress)
        return self._posteriors[free]

    def steps(self, path: Path, engine: Engine) -> int:
        """How often `file` calls its `progress`."""
        few = len(self._views.few(engine.info.shapes.free))
        if self._reference is None:
            return few
        free = _both_free(engine, self._reference)
        runs = 1 + rounded_too(path, engine.info.manifest) + (free not in self._posteriors)
        return few + runs * len(self._views.chosen(free))

    def form(self, reference: Engine, other: Engine, name: str, progress: Progress = _silent) -> Proof:
        """Compares the reference with another form of the same weights, on the crops."""
        begin = time.perf_counter()
        expected = posteriors(other, self._views.crops, progress)  # [views, classes]
        names = [view.name for view in self._views.crops]
        received = self._expected(reference, False, progress)  # [views, classes]
        parity = compare(expected, received, names, reference.info.manifest.classes)
        return self._proof(self._name, name, [AnswerComparison(self._name, FLOAT32, parity)], None, begin)

    def file(self, path: Path, engine: Engine, simulation: Simulation | None, progress: Progress = _silent) -> Proof:
        """Compares an exported file or a plan with the reference, and with its own exact evaluation.

        An FP16 file is compared again with all activations rounded to FP16.

        Args:
            path: the file.
            engine: runs it.
            simulation: its exact answers on `ComparisonViews.few`; None: they are unknown.
            progress: called after each view of each engine.
        """
        begin = time.perf_counter()
        fidelity = None if simulation is None else self._fidelity(engine, simulation, progress)
        comparisons = [] if self._reference is None else self._comparisons(path, engine, self._reference, progress)
        return self._proof(path.name, self._name, comparisons, fidelity, begin)

    def _fidelity(self, engine: Engine, simulation: Simulation, progress: Progress) -> Fidelity:
        received = posteriors(engine, self._views.few(engine.info.shapes.free), progress)  # [views, classes]
        return fidelity_of(engine.info, simulation, received)

    def _comparisons(self, path: Path, engine: Engine, reference: Engine, progress: Progress) -> list[AnswerComparison]:
        manifest = engine.info.manifest
        name = f"{path.name} in bfloat16" if engine.info.bf16 else path.name
        comparisons = [self._compare(reference, engine, name, engine.info.lowest, progress)]
        if rounded_too(path, manifest):
            with tempfile.TemporaryDirectory() as folder:
                copy = Path(folder) / "model.onnx"
                onnx.save(rounding_copy(onnx.load(path)), copy)
                with self._open_rounding(copy) as rounding:
                    rounded = f"{path.name}, activations rounded"
                    lowest = manifest.precision.lowest
                    comparisons.append(self._compare(reference, rounding, rounded, lowest, progress))
        return comparisons

    def _compare(
        self, reference: Engine, engine: Engine, name: str, precision: str, progress: Progress
    ) -> AnswerComparison:
        free = _both_free(engine, reference)
        views, expected = self._views.chosen(free), self._expected(reference, free, progress)  # [views, classes]
        received = posteriors(engine, views, progress)  # [views, classes]
        parity = compare(expected, received, [view.name for view in views], reference.info.manifest.classes)
        truth = self._views.truth
        drops: tuple[AccuracyDrop, ...] = ()
        if truth is not None:
            before, after = self._views.by_image(expected), self._views.by_image(received)  # [images, classes]
            drops = tuple(accuracy_drop(before, after, truth, k) for k in (1, 5))
        return AnswerComparison(name, looser(precision, reference.info.lowest), parity, drops)

    def _proof(
        self,
        artifact: str,
        against: str,
        comparisons: Sequence[AnswerComparison],
        fidelity: Fidelity | None,
        begin: float,
    ) -> Proof:
        failures = [] if fidelity is None else list(fidelity.failures)
        for comparison in comparisons:
            if comparison.failures:
                failures.append(f"{comparison.name} ({comparison.precision}): {'; '.join(comparison.failures)}")
        return Proof(
            number=ANSWERS,
            artifact=artifact,
            against=against,
            summary=_summary(comparisons, fidelity),
            shown=bool(comparisons or fidelity),
            failures=tuple(failures),
            tables=tuple(_tables(comparisons)) + (() if fidelity is None else (fidelity.table,)),
            figures={
                "comparisons": [comparison.as_json() for comparison in comparisons],
                "exact_evaluation": None if fidelity is None else fidelity.as_json(),
            },
            seconds=time.perf_counter() - begin,
        )


def _both_free(engine: Engine, reference: Engine) -> bool:
    return engine.info.shapes.free and reference.info.shapes.free


def _summary(comparisons: Sequence[AnswerComparison], fidelity: Fidelity | None) -> str:
    if not comparisons:
        return "nothing to compare with" if fidelity is None else f"as evaluated exactly to {fidelity.max_dp:.1e}"
    parity, drops = comparisons[0].parity, comparisons[0].drops
    if comparisons[0].precision == FLOAT32:
        return f"max |dp| {parity.max_dp:.1e} on {counted(parity.view_count, 'view')}"
    cost = str(drops[0]) if drops else f"on {counted(parity.view_count, 'view')}"
    return f"mean |dp| {parity.mean_dp:.1e}, {cost}"


def _tables(comparisons: Sequence[AnswerComparison]) -> list[Table]:
    rows = [
        (
            comparison.name,
            str(comparison.parity.view_count),
            f"{comparison.parity.max_dp:.1e}",
            f"{comparison.parity.mean_dp:.1e}",
            f"{comparison.parity.divergence:.1e}",
            f"{comparison.parity.agreement:.2%}",
            "FAILED" if comparison.failures else "ok",
        )
        for comparison in comparisons
    ]
    if not comparisons:
        return []
    columns = ("answers of", "views", "max |dp|", "mean |dp|", "divergence", "agreement", "")
    tables = [Table("posteriors beside the reference", columns, tuple(rows))]
    drops = [(comparison.name, str(drop)) for comparison in comparisons for drop in comparison.drops]
    if drops:
        tables.append(Table("accuracy beside the reference", ("answers of", "change"), tuple(drops), (0, 1)))
    flips = [_flip_row(comparison.name, flip) for comparison in comparisons for flip in comparison.parity.flips]
    if flips:
        flip_columns = ("answers of", "view", "reference", "now", "lead")
        tables.append(Table("views whose most probable class changed", flip_columns, tuple(flips), (0, 1, 2, 3)))
    return tables


def _flip_row(name: str, flip: Flip) -> tuple[str, ...]:
    return (name, flip.view, flip.reference.label, flip.candidate.label, f"{flip.margin:.2g}")


def check_same_network(path: Path, manifest: Manifest, reference: Manifest) -> None:
    """Raises UsageError if a file has another network than its reference. It skips files without our manifest."""
    if manifest.spec is None or reference.spec is None or manifest.spec == reference.spec:
        return
    names = (field.name for field in dataclasses.fields(NetworkSpec) if field.compare)
    name = next(name for name in names if getattr(manifest.spec, name) != getattr(reference.spec, name))
    received, expected = getattr(manifest.spec, name), getattr(reference.spec, name)
    raise UsageError(
        f"{path} has {name} {received}, but the reference has {expected}: they are different networks; give the "
        "reference from which the file was made"
    )


def advice(proof: Proof, file: Proof) -> Proof:
    """The proof of answers, with what to do if the price of the precision is all that is wrong.

    Args:
        proof: of `Answers.file`.
        file: proof 1 of the same file.
    """
    exact = proof.figures.get("exact_evaluation")
    faithful = exact is not None and all(
        difference <= limit for difference, limit in zip(exact["differences"], exact["limits"], strict=True)
    )
    lower = any(comparison["precision"] != FLOAT32 for comparison in proof.figures.get("comparisons", ()))
    if not (proof.failures and lower and faithful and file.passed):
        return proof
    return dataclasses.replace(proof, failures=(*proof.failures, _PRICE))


def all_use_fine_grid(manifests: Mapping[Path, Manifest]) -> bool:
    """Whether all files use the fine grid. If so, a reference in PyTorch has to use it too.

    Raises:
        UsageError: only some of them do, so no single reference gives the same posteriors.
    """
    fine = {path: manifest.spec is not None and manifest.spec.fine for path, manifest in manifests.items()}
    if len(set(fine.values())) > 1:
        fine_file = next(path for path in fine if fine[path])
        raise UsageError(f"{fine_file} was exported with --fine and other files were not; verify them separately")
    return any(fine.values())


def rounded_too(path: Path, manifest: Manifest) -> bool:
    """Whether a file is also compared with rounded activations, because CPU runtimes compute FP16 in FP32."""
    return manifest.precision.arithmetic == "float16" and path.suffix not in PLAN_SUFFIXES
