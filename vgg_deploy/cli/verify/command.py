"""vgg-deploy verify."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vgg_deploy.artifacts.kinds import CHECKPOINT, kind_of
from vgg_deploy.cli.opening import manifest_of
from vgg_deploy.cli.outputs import STDOUT, check_outputs, output_file, write_text
from vgg_deploy.cli.parameters import engine_options, labels_files
from vgg_deploy.cli.tables import notice
from vgg_deploy.cli.verify.evidence import Evidence, check_witness, evidence_options
from vgg_deploy.cli.verify.proving import Proving
from vgg_deploy.cli.verify.record import record_verdict, refuse_foreign
from vgg_deploy.cli.verify.reference import Opener, opened
from vgg_deploy.cli.verify.report import Printer, as_json
from vgg_deploy.cli.weights import weight_options
from vgg_deploy.errors import (
    ManifestError,
    MissingDependencyError,
    ModelFileError,
    PlanError,
    UsageError,
    VGGDeployError,
)
from vgg_deploy.evaluation.proof import FILE, Proof
from vgg_deploy.files import require_writable
from vgg_deploy.inference.engine_options import EngineOptions
from vgg_deploy.network.weight_facts import WeightFacts

if TYPE_CHECKING:
    from vgg_deploy.network.manifest import Manifest


@click.command("verify")
@click.argument("models", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="MODEL...")
@evidence_options
@click.option("--details", is_flag=True, help="Print the figures behind each proof.")
@click.option("--json", "json_path", metavar="FILE|-", help="Write the report as JSON.")
@click.option("--record", is_flag=True, help="Write the proofs that a file passed into its manifest.")
@engine_options(requests=None, plans=False)
@weight_options
def command(
    models: tuple[Path, ...],
    evidence: Evidence,
    details: bool,
    json_path: str | None,
    record: bool,
    options: EngineOptions,
    facts: WeightFacts,
) -> None:
    """Prove that ONNX files and plans answer as the trained network does.

    Four proofs: 1, the file is what its manifest and its source say. 2, the runtime computes each layer as the file
    says. 3, what the precision costs. 4, the pixels are read as in training. The exit code is 1 if a proof fails.
    """
    from export.proof.answers.proof import Answers
    from export.proof.pipeline.witness import read_witness
    from export.proof.views import read_views

    evidence.check(facts)
    _check_names(models)
    manifests, damage = _manifests(models, options.labels)
    if record:
        refuse_foreign(manifests)
    paths = evidence.sample()
    report = output_file(json_path)
    check_outputs({"--json": report}, (*models, *evidence.files, *labels_files(), *paths))
    for written in (*((report,) if report is not None else ()), *(manifests if record else ())):
        require_writable(written)
    reference = evidence.reference
    witness = None if evidence.expected is None else read_witness(evidence.expected)
    if witness is not None:
        check_witness(witness, evidence.protocol, manifests)
    views = None
    if paths:
        _require_runtime_for_rounding(manifests)
        view_manifest = _view_manifest(manifests, reference, options.labels)
        views = read_views(paths, view_manifest)
        for text in views.unreadable:
            notice(f"skipped {text}")
        if view_manifest.unnamed:
            notice(
                "no accuracy is measured: the network's classes have no names, so folders are not matched to them. "
                "--labels FILE names them"
            )
    opener = Opener(options)
    proofs: list[Proof] = []
    with ExitStack() as stack:
        against = None
        if reference is not None:
            against = stack.enter_context(opened(reference, manifests, opener, facts))
        answers = None
        if views is not None:
            engine, name = (None, "") if against is None else (against.engine, against.path.name)
            answers = Answers(engine, name, views, opener.onnxruntime)
        proving = Proving(
            opener=opener,
            views=views,
            reference=against,
            answers=answers,
            witness=witness,
            protocol=evidence.protocol,
        )
        show = Printer(details=details, quiet=json_path == STDOUT)
        proofs += show.all(reference.name if reference else "", proving.forms())
        for path in models:
            made = show.all(path.name, [damage[path]] if path in damage else proving.of(path))
            proofs += made
            if record and path in manifests:
                record_verdict(path, made, evidence, proving.runtimes.get(path.name))
    if json_path is not None:
        write_text(json_path, as_json(proofs, proving.runtimes))
    if against is not None and against.assumption is not None and witness is None:
        notice(against.assumption)
    if any(proof.failures for proof in proofs):
        raise SystemExit(1)


def _check_names(models: Sequence[Path]) -> None:
    """Raises UsageError if two files have the same name, by which a report tells them apart."""
    first: dict[str, Path] = {}
    for path in models:
        other = first.setdefault(path.name, path)
        if other != path:
            raise UsageError(f"{other} and {path} have the same name, so a report would mix them; verify one at a time")


def _manifests(models: Sequence[Path], labels: str | None) -> tuple[dict[Path, Manifest], dict[Path, Proof]]:
    """The manifests of files, and for each file that cannot be read the proof that fails.

    Raises:
        UsageError: a file does not exist, or a plan has no manifest beside it.
        ModelFileError, ManifestError, PlanError: none of the files can be read.
    """
    manifests: dict[Path, Manifest] = {}
    damage: dict[Path, Proof] = {}
    errors: list[VGGDeployError] = []
    for path in models:
        try:
            manifest = manifest_of(path, labels)
        except (ModelFileError, ManifestError, PlanError) as error:
            errors.append(error)
            damage[path] = Proof(
                number=FILE, artifact=path.name, against="", summary="it cannot be read", failures=(str(error),)
            )
            continue
        if manifest is None:
            raise UsageError(f"{path} has no manifest beside it, so what it computes is unknown; build it again")
        manifests[path] = manifest
    if not manifests:
        raise errors[0]
    return manifests, damage


def _view_manifest(manifests: Mapping[Path, Manifest], reference: Path | None, labels: str | None) -> Manifest:
    """The manifest that decides how views are made: the first that vgg_deploy wrote, since foreign files do not state
    it.
    """
    from export.proof.pipeline.foreign_reference import takes_floats
    from vgg_deploy.artifacts.onnx_file import read_manifest

    described = list(manifests.values())
    if reference is not None and kind_of(reference) != CHECKPOINT and not takes_floats(reference):
        described.append(read_manifest(reference, labels))
    return next((manifest for manifest in described if manifest.spec), described[0])


def _require_runtime_for_rounding(manifests: Mapping[Path, Manifest]) -> None:
    from engines import RUNTIMES
    from export.proof.answers.proof import rounded_too

    if not RUNTIMES["onnxruntime"].installed and any(rounded_too(*item) for item in manifests.items()):
        raise MissingDependencyError("onnxruntime", "cpu", "verifying the rounding of an FP16 file")
