"""The verdict in a file's own manifest: which proofs it passed. Recording one changes nothing else of the file.

A verdict holds a digest of what was verified, so it does not speak for a file that was changed later.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from vgg_deploy.artifacts.kinds import CHECKPOINT, PLAN, kind_of
from vgg_deploy.artifacts.onnx_file import OnnxFile
from vgg_deploy.artifacts.onnx_format import EntryField, ModelField
from vgg_deploy.artifacts.plan import PlanManifest, read_plan, sidecar_of
from vgg_deploy.artifacts.protobuf import Message, encoded_key, fields, mapped
from vgg_deploy.errors import UsageError
from vgg_deploy.files import sha256_of, whole_file
from vgg_deploy.network import records
from vgg_deploy.network.digests import json_digest
from vgg_deploy.network.manifest import MANIFEST_KEY, Manifest
from vgg_deploy.network.verdict import Verdict


@dataclass(frozen=True, slots=True)
class VerdictLine:
    """What reports say about the verdict of a file.

    Attributes:
        text: when and against what it was verified, that it was changed since, or that it never was.
        holds: True if the verdict is about the file as it is now; None if there is no verdict of the file itself, or an
            older one that does not show it; False if the file was changed since.
    """

    text: str
    holds: bool | None


def content_digest(path: Path) -> str:
    """SHA-256 of what a verdict of a file is about, in hexadecimal. Reads the whole file and its external data.

    Of a plan, it is that of its bytes. Of an ONNX file, it covers the tensors, the graph and the manifest, without what
    is recorded in the manifest later.

    Raises:
        UsageError: the file does not exist.
        ModelFileError, ManifestError: the file or its manifest is damaged.
    """
    if kind_of(path) == PLAN:
        return sha256_of(path)
    from vgg_deploy.artifacts.fingerprint import file_digests  # it loads onnx

    return json_digest(records.encode(file_digests(OnnxFile(path))), leave_out=())


def recorded_verdict(path: Path) -> Verdict | None:
    """The verdict of an ONNX file or a plan itself, or None. Raises the errors of `verdict_line`."""
    if kind_of(path) == CHECKPOINT:
        return None
    manifest = read_plan(path) if kind_of(path) == PLAN else OnnxFile(path).manifest
    return None if manifest is None else manifest.verdict


def write_verdict(path: Path, verdict: Verdict) -> Verdict:
    """Replaces the verdict in the manifest of an ONNX file, or in the sidecar of a plan. Returns what was written.

    It is written with the digest of the file's content as it is now. The file is replaced whole or not at all. It keeps
    its tensors, its digests or seal, and its permissions. Its external data are not touched.

    Raises:
        UsageError: the file does not exist, is a checkpoint, or has no manifest.
        ModelFileError, PlanError, ManifestError: the file or its manifest is damaged.
        OutputError: it cannot be written.
    """
    kind = kind_of(path)
    if kind == CHECKPOINT:
        raise UsageError(f"{path} is a checkpoint; a verdict is recorded in an ONNX file or a plan")
    verdict = replace(verdict, content=content_digest(path))
    if kind == PLAN:
        _write_in_sidecar(path, verdict)
    else:
        _write_in_onnx(path, verdict)
    return verdict


def verdict_line(path: Path) -> VerdictLine | None:
    """When and against what a file was verified, or that it never was; None for a checkpoint or a foreign file.

    If the file has a verdict, its content is read and compared with what was verified.

    Raises:
        UsageError: the file does not exist.
        ModelFileError, PlanError, ManifestError: the file or its manifest is damaged.
    """
    kind = kind_of(path)
    if kind == CHECKPOINT:
        return None
    if kind == PLAN:
        plan = read_plan(path)
        return None if plan is None else plan_verdict_line(path, plan)
    manifest = OnnxFile(path).manifest
    return None if manifest is None else onnx_verdict_line(path, manifest)


def onnx_verdict_line(path: Path, manifest: Manifest) -> VerdictLine:
    """The line of `verdict_line` for an ONNX file with this manifest."""
    if manifest.verdict is None:
        return VerdictLine(_never_verified(path), None)
    return _compared(path, manifest.verdict)


def plan_verdict_line(path: Path, plan: PlanManifest) -> VerdictLine:
    """The line of `verdict_line` for a plan: its own verdict, or else that of its ONNX file."""
    if plan.verdict is not None:
        return _compared(path, plan.verdict)
    if plan.manifest.verdict is None:
        return VerdictLine(_never_verified(path), None)
    return VerdictLine(f"its ONNX file was {plan.manifest.verdict}; the plan itself was {_never_verified(path)}", None)


def _compared(path: Path, verdict: Verdict) -> VerdictLine:
    """A verdict, and whether the file is still what it is about."""
    if verdict.content is None:
        return VerdictLine(f"{verdict}, recorded by an older vgg_deploy: later changes do not show", None)
    if content_digest(path) == verdict.content:
        return VerdictLine(str(verdict), True)
    return VerdictLine(f"changed since it was {verdict}; verify it again", False)


def _never_verified(path: Path) -> str:
    """The line of a file without a verdict, with the command that records one."""
    return f"never verified: vgg-deploy verify {shlex.quote(str(path))} --reference CKPT --images DIR --record"


def _write_in_sidecar(path: Path, verdict: Verdict) -> None:
    sidecar = sidecar_of(path)
    if read_plan(path) is None:
        raise UsageError(f"{path} has no {sidecar.name} beside it, so a verdict has no place; build the plan again")
    data = json.loads(sidecar.read_text(encoding="utf-8"))
    changed = json.dumps({**data, "verdict": records.encode(verdict)}, ensure_ascii=False, indent=1) + "\n"
    _replace(sidecar, iter([changed.encode()]))


def _write_in_onnx(path: Path, verdict: Verdict) -> None:
    file = OnnxFile(path)
    if file.manifest is None or file.manifest_json is None:  # read, so that a damaged one is refused
        raise UsageError(f"{path} has no vgg_deploy manifest, so a verdict has no place in it")
    # From the text, because it may have fields that this version does not know.
    data = {**json.loads(file.manifest_json), "verdict": records.encode(verdict)}
    _replace(path, _with_manifest(path, json.dumps(data, ensure_ascii=False)))


def _with_manifest(path: Path, manifest: str) -> Iterator[bytes | memoryview]:
    """The bytes of an ONNX file, part by part, with another manifest in the place of its own."""
    for field, whole, value in fields(mapped(path)):
        if (
            field != ModelField.METADATA
            or not isinstance(value, memoryview)
            or Message(value).text(EntryField.KEY) != MANIFEST_KEY
        ):
            yield whole
    yield _entry(manifest)


def _entry(manifest: str) -> bytes:
    text = manifest.encode()
    key = MANIFEST_KEY.encode()
    entry = encoded_key(EntryField.KEY, len(key)) + key + encoded_key(EntryField.VALUE, len(text)) + text
    return encoded_key(ModelField.METADATA, len(entry)) + entry


def _replace(path: Path, parts: Iterator[bytes | memoryview]) -> None:
    """Replaces a file, through a link to it, and keeps its permissions."""
    target = path.resolve()
    mode = target.stat().st_mode
    with whole_file(target) as temporary, temporary.open("wb") as written:
        for part in parts:
            written.write(part)
    target.chmod(mode)
