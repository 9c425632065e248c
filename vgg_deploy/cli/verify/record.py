"""Keeps the proofs that a file passed in its manifest."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path

from vgg_deploy.artifacts.kinds import ONNX, kind_of
from vgg_deploy.cli.tables import notice
from vgg_deploy.errors import UsageError
from vgg_deploy.evaluation.proof import Proof
from vgg_deploy.files import Source
from vgg_deploy.network.manifest import Manifest
from vgg_deploy.network.verdict import Verdict


def refuse_foreign(manifests: Mapping[Path, Manifest]) -> None:
    """Raises UsageError if one of the ONNX files has no manifest of ours, in which a verdict could be kept."""
    for path, manifest in manifests.items():
        if kind_of(path) == ONNX and manifest.spec is None:
            raise UsageError(f"{path} has no vgg_deploy manifest, so a verdict has no place in it; leave out --record")


def record_verdict(path: Path, proofs: Sequence[Proof], against: Path, runtime: str | None) -> None:
    """Writes a verdict into a file's manifest if no proof failed.

    Args:
        path: an ONNX file or a plan.
        proofs: all that were made of it.
        against: the reference or, without one, the expected answers.
        runtime: the runtime that ran it; None: none did.
    """
    from vgg_deploy.artifacts.onnx_file import read_manifest
    from vgg_deploy.artifacts.verdict_record import write_verdict

    if any(proof.failures for proof in proofs):
        notice(f"{path}: nothing is recorded, because a proof failed")
        return
    passed = tuple(proof.number for proof in proofs if proof.passed)
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    verdict = Verdict(date, Source.of(against), passed, runtime or "not run")
    write_verdict(path, verdict)
    notice(f"{path}: recorded, {verdict}")
    if kind_of(path) == ONNX and read_manifest(path).digests is None:
        notice(
            f"{path}: it has no digests, as files of older versions, so only its SHA-256 identified it, and the record "
            "changed that. Build its plans again"
        )
