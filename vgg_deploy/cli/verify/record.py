"""Keeps the proofs that a file passed in its manifest."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path

from vgg_deploy.artifacts.kinds import ONNX, kind_of
from vgg_deploy.cli.tables import notice
from vgg_deploy.cli.verify.evidence import Evidence
from vgg_deploy.errors import UsageError
from vgg_deploy.evaluation.proof import PIPELINE, Proof
from vgg_deploy.files import Source
from vgg_deploy.network.manifest import Manifest
from vgg_deploy.network.verdict import Verdict


def refuse_foreign(manifests: Mapping[Path, Manifest]) -> None:
    """Raises UsageError if one of the ONNX files has no manifest of ours, in which a verdict could be kept."""
    for path, manifest in manifests.items():
        if kind_of(path) == ONNX and manifest.spec is None:
            raise UsageError(f"{path} has no vgg_deploy manifest, so a verdict has no place in it; leave out --record")


def record_verdict(path: Path, proofs: Sequence[Proof], evidence: Evidence, runtime: str | None) -> None:
    """Writes a verdict into a file's manifest if no proof failed.

    An older verdict of the same content, reference and runtime keeps its proofs. Any other is replaced. A notice says
    so if it had proofs that were not made this time.

    Args:
        path: an ONNX file or a plan.
        proofs: all that were made of it.
        evidence: what they judged the file by.
        runtime: the runtime that ran it; None: none did.
    """
    from vgg_deploy.artifacts.onnx_file import read_manifest
    from vgg_deploy.artifacts.verdict_record import content_digest, recorded_verdict, write_verdict

    older = recorded_verdict(path)
    if any(proof.failures for proof in proofs):
        stays = "" if older is None else f". Its older record stays: {older}"
        notice(f"{path}: nothing is recorded, because a proof failed{stays}")
        return
    passed = tuple(proof.number for proof in proofs if proof.passed)
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    expected = evidence.expected
    second = expected is not None and expected != evidence.against and PIPELINE in passed
    verdict = Verdict(
        date=date,
        against=Source.of(evidence.against),
        proofs=passed,
        runtime=runtime or "not run",
        witness=Source.of(expected) if second and expected is not None else None,
        content=content_digest(path),
    )
    verdict = write_verdict(path, verdict if older is None else verdict.with_older(older))
    notice(f"{path}: recorded, {verdict}")
    if older is not None and set(older.proofs) - set(verdict.proofs):
        notice(f"{path}: this replaces a record of other content, reference or runtime: {older}")
    if kind_of(path) == ONNX and read_manifest(path).digests is None:
        notice(
            f"{path}: it has no digests, as files of older versions, so only its SHA-256 identified it, and the record "
            "changed that. Build its plans again"
        )
