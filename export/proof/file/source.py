"""Proof 1: a file is what its manifest and its source say. Everything in it is derived anew and compared bit for bit.

It shows that nothing changed between the weights and the file. It cannot show that the weights, or what was stated
about them, are right. Nothing here needs torch if the source is an ONNX file.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.proof.file.derivation import Derivation, derive
from export.proof.file.facts import OPTIONAL, Facts, fact_differences, other_network
from export.proof.file.repeated import without_named
from vgg_deploy.artifacts.integrity import Examination, onnx_beside
from vgg_deploy.artifacts.kinds import PLAN_SUFFIXES
from vgg_deploy.artifacts.onnx_file import OnnxFile
from vgg_deploy.artifacts.onnx_format import PRODUCER
from vgg_deploy.artifacts.plan import read_plan
from vgg_deploy.errors import ManifestError, ModelFileError, PlanError, UsageError
from vgg_deploy.evaluation.proof import FILE, Proof, Table
from vgg_deploy.network.manifest import Manifest
from vgg_deploy.network.precision import FLOAT32
from vgg_deploy.network.tensors import Floats
from vgg_deploy.network.weight_facts import NOTHING_STATED, WeightFacts

if TYPE_CHECKING:
    from train.network.checkpoint import Checkpoint

Examine = Callable[[Path], Examination]

_FAILURES = 5  # lines of failures; the others are counted


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceWeights:
    """The weights from which files are derived anew, and what is known about them.

    Attributes:
        kind: checkpoint or reference, its name in reports.
        facts: what it states.
        weights: float32 by name, in FC or convolutional form.
        damage: what is wrong with it, one line each.
    """

    kind: str
    facts: Facts
    weights: Mapping[str, Floats]
    damage: tuple[str, ...] = ()

    @staticmethod
    def from_checkpoint(checkpoint: Checkpoint, facts: WeightFacts = NOTHING_STATED) -> SourceWeights:
        """The weights of a checkpoint, which stays as it is.

        Args:
            checkpoint: from `train.network.checkpoint.read`.
            facts: what the user states, and nothing that was taken from a judged file.
        """
        given = {
            "classes": facts.labels,
            "normalization": facts.normalization,
            "train_scale": facts.train_scale,
            "channels_reversed": facts.channels,
        }
        stated = OPTIONAL if checkpoint.describes_itself else [name for name in given if given[name] is not None]
        return SourceWeights(
            kind="checkpoint",
            facts=Facts(
                name=checkpoint.source.name,
                manifest=checkpoint.manifest,
                stated=frozenset(stated),
                sha256=checkpoint.source.sha256,
                training=checkpoint.describes_itself,
            ),
            weights={name: tensor.numpy() for name, tensor in checkpoint.weights.items()},
        )

    @staticmethod
    def from_onnx(file: OnnxFile, examine: Examine) -> SourceWeights:
        """The weights of an FP32 ONNX file of ours. It is examined first, and derived from its own weights.

        Raises:
            UsageError: the file has no manifest of ours, or is not FP32.
            ManifestError, ModelFileError: the file is damaged, so its weights cannot be read.
        """
        manifest, path = file.manifest, file.path
        if manifest is None or manifest.spec is None or manifest.normalization is None:
            raise UsageError(f"{path} has no vgg_deploy manifest, so no file can be derived from it; give a checkpoint")
        if manifest.precision.lowest != FLOAT32:
            raise UsageError(
                f"{path} is {manifest.precision.lowest}, so the weights that it was made from are lost; give the "
                "checkpoint or an FP32 file"
            )
        damage = _within(path, examine(path))
        weights = {name: values for name, values in file.graph.weights.items() if values.dtype.itemsize == 4}
        shapes: dict[str, tuple[int, ...]] = {}
        for layer in manifest.spec.weight_layers:
            shapes[f"{layer.name}.weight"] = layer.weight_shape
            shapes[f"{layer.name}.bias"] = (layer.out_channels,)
        wrong = [name for name, shape in shapes.items() if name not in weights or weights[name].shape != shape]
        if wrong:
            raise ModelFileError(f"{path} does not hold {wrong[0]} of its network in float32; export it again")
        damage += _lines(derive(file, manifest, weights))
        return SourceWeights(
            kind="reference",
            facts=Facts(
                name=path.name,
                manifest=manifest,
                sha256=None if manifest.source is None else manifest.source.sha256,
            ),
            weights={name: weights[name] for name in shapes},
            damage=tuple(dict.fromkeys(damage)),
        )


def prove_source(path: Path, source: SourceWeights | None, examine: Examine) -> Proof:
    """Judges one ONNX file or plan: alone, and against the source of its weights.

    Args:
        path: the file. Of a plan, the ONNX file from which it was built is judged, if it lies beside it.
        source: of the weights; None: the file is only compared with its manifest and its digests.
        examine: `vgg_deploy.artifacts.integrity.examine`.

    Raises:
        UsageError: no such file.
    """
    start = time.perf_counter()
    try:
        judgement = _plan(path, source, examine) if path.suffix in PLAN_SUFFIXES else _onnx(path, source, examine)
    except (ManifestError, ModelFileError, PlanError) as error:
        judgement = _Judgement(summary="it cannot be read", failures=[str(error)])
    return Proof(
        number=FILE,
        artifact=path.name,
        against="its manifest" if source is None else source.facts.name,
        summary=judgement.summary,
        shown=judgement.shown or bool(judgement.failures),
        failures=_shortened(judgement.failures),
        tables=judgement.tables,
        figures=judgement.figures,
        seconds=time.perf_counter() - start,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judgement:
    """What was found out about a file; see `Proof`. All failures are listed."""

    summary: str
    shown: bool = True
    failures: list[str] = field(default_factory=list)
    tables: tuple[Table, ...] = ()
    figures: Mapping[str, Any] = field(default_factory=dict)


def _onnx(path: Path, source: SourceWeights | None, examine: Examine) -> _Judgement:
    file = OnnxFile(path)
    manifest = file.manifest
    if manifest is None and file.producer != PRODUCER:
        return _Judgement(summary="it has no vgg_deploy manifest", shown=False)
    examination = examine(path)
    failures = _within(path, examination)
    if manifest is None:
        return _Judgement(summary="its manifest is missing", failures=failures)
    if manifest.spec is None or manifest.normalization is None:
        failures.append("its manifest does not name its network and normalization; export it again")
        return _Judgement(summary="its manifest is incomplete", failures=failures)
    if source is None:
        return _alone(examination, failures)
    facts, derivation = _compared(file, manifest, source)
    static = without_named(failures, derivation.tensors)
    found = [*(f"{source.facts.name}: {line}" for line in source.damage), *facts, *_lines(derivation), *static]
    return _Judgement(
        summary=_count(found, source.kind) if found else _equal(derivation.compared, manifest, source.kind),
        failures=found,
        tables=_tables(derivation, source, examination),
        figures={
            "source": source.facts.name,
            "source_sha256": source.facts.sha256,
            "source_damage": list(source.damage),
            "assumed": list(source.facts.assumed),
            "facts": facts,
            "graph": list(derivation.graph),
            "tensors": [difference.text for difference in derivation.tensors],
            "tensors_compared": derivation.compared,
            "values_compared": derivation.values,
            **_static_figures(examination),
        },
    )


def _alone(examination: Examination, failures: list[str]) -> _Judgement:
    """The judgement of a file without a source. Without digests, nothing shows that its weights are its own."""
    if failures:
        summary = _count(failures, "manifest")
    elif examination.recorded:
        summary = f"{examination.tensors} tensors and the graph are as exported"
    else:
        summary = "graph fits; weights need --reference CKPT"
    return _Judgement(
        summary=summary, shown=examination.recorded, failures=failures, figures=_static_figures(examination)
    )


def _compared(file: OnnxFile, manifest: Manifest, source: SourceWeights) -> tuple[list[str], Derivation]:
    """What the manifest states differently from the source, and how the file differs from both."""
    other = other_network(manifest, source.facts)
    if other is not None:
        return [f"{other}: they are different networks; give the checkpoint from which it was made"], Derivation()
    return list(fact_differences(manifest, source.facts)), derive(file, manifest, source.weights)


def _plan(path: Path, source: SourceWeights | None, examine: Examine) -> _Judgement:
    """The judgement of a plan: of its sidecar, and of the ONNX file from which it was built."""
    plan = read_plan(path)
    if plan is None:
        return _Judgement(summary="it has no manifest beside it", shown=False)
    examination = examine(path)
    failures, figures = _within(path, examination), _static_figures(examination)
    onnx = onnx_beside(path, plan)
    if failures:
        return _Judgement(summary=_count(failures, "manifest"), failures=failures, figures=figures)
    if onnx is None:
        if source is not None:
            failures += _sidecar_differences(plan.manifest, source)
        return _Judgement(
            summary="tensors unseen: its ONNX file is not beside it", shown=False, failures=failures, figures=figures
        )
    judgement = _onnx(onnx, source, examine)
    return replace(
        judgement,
        failures=[f"{onnx.name}: {line}" for line in judgement.failures],
        figures={**judgement.figures, "onnx": onnx.name},
    )


def _within(path: Path, examination: Examination) -> list[str]:
    """The contradictions of a file, for a report that names the file already."""
    return [line.removeprefix(f"{path}: ") for line in examination.contradictions]


def _sidecar_differences(manifest: Manifest, source: SourceWeights) -> list[str]:
    if manifest.spec is None:
        return []  # of a plan that was built from another tool's ONNX file
    other = other_network(manifest, source.facts)
    return [other] if other is not None else list(fact_differences(manifest, source.facts, shapes=False))


def _lines(derivation: Derivation) -> list[str]:
    """All differences, one line each."""
    layers = {difference.tensor.split(".")[0] for difference in derivation.tensors if difference.share > 0.5}
    lines = [f"{line}; export it again" for line in derivation.graph]
    if derivation.layers and layers >= derivation.layers:
        lines.insert(0, "most weights of every layer differ: give the checkpoint from which it was made")
    return [*lines, *(f"{difference.text}; export it again" for difference in derivation.tensors)]


def _equal(tensors: int, manifest: Manifest, kind: str) -> str:
    if manifest.precision.lowest == FLOAT32:
        return f"{tensors} tensors equal the {kind}'s bit for bit"
    return f"{tensors} tensors follow bit for bit from the {kind}"


def _count(failures: list[str], kind: str) -> str:
    return f"{len(failures)} difference{'s' if len(failures) > 1 else ''} from its {kind}"


def _shortened(failures: list[str]) -> tuple[str, ...]:
    if len(failures) <= _FAILURES:
        return tuple(failures)
    return (*failures[:_FAILURES], f"and {len(failures) - _FAILURES} more")


def _static_figures(examination: Examination) -> dict[str, Any]:
    return {
        "contradictions": list(examination.contradictions),
        "digests_recorded": examination.recorded,
        "digests_compared": examination.tensors,
    }


def _tables(derivation: Derivation, source: SourceWeights, examination: Examination) -> tuple[Table, ...]:
    """What was compared and what was assumed; and all tensors that differ, if there are any."""
    compared = ", ".join(words for name, words in OPTIONAL.items() if name in source.facts.stated)
    assumed = ", ".join(OPTIONAL[name] for name in source.facts.assumed)
    rows = [
        ("tensors", f"{derivation.compared}, with {derivation.values:,} values, bit for bit"),
        ("facts", f"network, {compared}" if compared else "network"),
        ("digests", f"of {examination.tensors} tensors, of the graph and of the manifest")
        if examination.recorded
        else ("digests", "no digests (exported by an older vgg_deploy): derived instead"),
    ]
    if assumed:
        rows.append(("assumed", f"{assumed}: taken from the file, not compared"))
    tables = [Table(f"Compared with {source.facts.name}", ("what", "how"), tuple(rows), (0, 1))]
    if derivation.tensors:
        differing = tuple((difference.tensor, difference.text) for difference in derivation.tensors)
        tables.append(Table("Tensors that differ", ("tensor", "how"), differing, (0, 1)))
    return tuple(tables)
