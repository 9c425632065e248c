"""What is known about a TensorRT plan without TensorRT: its sidecar, `NAME.plan.json` beside `NAME.plan`.

A plan stays as TensorRT wrote it, so other tools can load it too. Everything that we add is in the sidecar.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vgg_deploy.artifacts.kinds import PLAN, require_file
from vgg_deploy.errors import ManifestError, PlanError
from vgg_deploy.files import Source, sha256_of, whole_file
from vgg_deploy.network import records
from vgg_deploy.network.digests import json_digest
from vgg_deploy.network.manifest import Manifest
from vgg_deploy.network.shapes import Profile
from vgg_deploy.network.verdict import Verdict

PLAN_VERSION = 1
VERSION_KEY = "plan_version"  # `version` is the version of the backend
BACKENDS = ("tensorrt", "tensorrt-rtx")
DECLARED, BUILT = "declared", "built"


@dataclass(frozen=True, slots=True)
class PlanManifest:
    """The manifest of a plan.

    Attributes:
        backend: tensorrt or tensorrt-rtx.
        version: the version of the backend that built the plan. No other version can run it.
        compute_capabilities: for TensorRT, that of the GPU on which the plan was built. For TensorRT-RTX, those for
            which it was built; none if RTX chose (8.0 and later, except 9.0).
        hardware_compatibility: none, ampere+ or same; TensorRT only.
        profiles: in the plan's order.
        layers: the type of each layer with weights: float32, float16 or int8.
        layers_from: the source of `layers`. declared: the parsed network; built: the engine, on a GPU.
        plan: name and fingerprint of the plan itself.
        onnx: name and fingerprint of the ONNX file from which the plan was built.
        build_seconds: how long the build took.
        command: the command that builds the plan again.
        manifest: the manifest of the ONNX file, with the shapes of all profiles together. Its verdict is that of the
            ONNX file when the plan was built.
        verdict: the proofs that `verify --record` saw the plan itself pass.
        seal: SHA-256 of the sidecar without its seal and its verdicts; None for an older sidecar. `to_json` computes
            it.
    """

    backend: str
    version: str
    compute_capabilities: tuple[str, ...]
    hardware_compatibility: str
    profiles: tuple[Profile, ...]
    layers: Mapping[str, str]
    layers_from: str
    plan: Source
    onnx: Source
    build_seconds: float
    command: str
    manifest: Manifest
    verdict: Verdict | None = None
    seal: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise ManifestError(f"backend is {self.backend!r}; expected {' or '.join(BACKENDS)}")
        if not re.fullmatch(r"[0-9]+(\.[0-9a-z]+)*", self.version):  # it becomes part of commands that users paste
            raise ManifestError(f"version is {self.version!r:.40}; expected numbers with dots, such as 10.16.1.11")
        if self.layers_from not in (DECLARED, BUILT):
            raise ManifestError(f"layers_from is {self.layers_from!r}; expected {DECLARED} or {BUILT}")
        if not self.profiles:
            raise ManifestError("the plan has no profile")
        if not _is_plain(self.command):
            raise ManifestError(f"command is {self.command!r:.80}; expected one vgg-deploy build command")

    def to_json(self) -> str:
        """The sidecar's text, sealed.

        Raises:
            ManifestError: a number is NaN or infinite.
        """
        data = json.loads(records.to_json(self, PLAN_VERSION, key=VERSION_KEY))
        return json.dumps({**data, "seal": _seal(data)}, ensure_ascii=False, indent=1)

    @staticmethod
    def from_json(text: str, where: str) -> PlanManifest:
        """Reads what `to_json` wrote; `where` names the sidecar in messages.

        Raises:
            ManifestError: the text is not JSON or has another version, or a field is missing or has the wrong type.
        """
        return records.from_json(PlanManifest, text, PLAN_VERSION, where, key=VERSION_KEY)


def _is_plain(command: str) -> bool:
    """Whether a shell would run one build command and nothing else. Users paste it from messages."""
    try:
        tokens = shlex.split(command)
    except ValueError:  # an unclosed quotation
        return False
    return tokens[:2] == ["vgg-deploy", "build"] and shlex.join(tokens) == command


def _seal(sidecar: Mapping[str, Any]) -> str:
    manifest = sidecar.get("manifest")
    if isinstance(manifest, dict):
        manifest = {key: value for key, value in manifest.items() if key != "verdict"}
    return json_digest({**sidecar, "manifest": manifest}, leave_out=("seal", "verdict"))


def seal_problem(plan: Path) -> str | None:
    """Why the sidecar of a plan is not as it was written; None if it is, or if it has no seal, as older ones."""
    sidecar = sidecar_of(plan)
    data = json.loads(sidecar.read_text(encoding="utf-8"))
    if data.get("seal") in (None, _seal(data)):
        return None
    return (
        f"{sidecar} was edited after it was written (its seal differs), so what it says of the plan may be wrong; "
        f"build the plan again: {data.get('command')}"
    )


def sidecar_of(plan: Path) -> Path:
    """vgg16.plan -> vgg16.plan.json."""
    return plan.with_name(f"{plan.name}.json")


def write_plan(plan: Path, data: bytes | memoryview, manifest: PlanManifest) -> None:
    """Writes a plan and its `NAME.plan.json`. If one of them cannot be written, an older pair stays unchanged.

    Raises:
        OutputError: the disk is full, the folder is read-only, or `plan` is a folder.
    """
    with whole_file(sidecar_of(plan)) as description:
        description.write_text(manifest.to_json() + "\n", encoding="utf-8")
        with whole_file(plan) as temporary, temporary.open("wb") as file:
            file.write(data)


def read_plan(plan: Path) -> PlanManifest | None:
    """The manifest of a plan, or None if it has none. Does not check that they belong together; see `mismatch`.

    Raises:
        UsageError: the plan does not exist, or is a folder.
        PlanError: the plan is empty.
        ManifestError: another tool wrote the sidecar, or it is damaged.
    """
    require_file(plan, PLAN)
    if plan.stat().st_size == 0:
        raise PlanError(f"{plan} is empty (0 bytes); build it again")
    sidecar = sidecar_of(plan)
    try:
        text = sidecar.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        raise ManifestError(f"{sidecar} is not UTF-8 text; another tool wrote it, or it is damaged") from None
    except OSError as error:
        raise ManifestError(f"{sidecar} cannot be read: {error.strerror}") from error
    return PlanManifest.from_json(text, str(sidecar))


def mismatch(plan: Path, manifest: PlanManifest) -> str | None:
    """Why a plan does not match its manifest; None if it does."""
    if sha256_of(plan) == manifest.plan.sha256:
        return None
    return (
        f"{plan} is not the file that {sidecar_of(plan).name} describes (its SHA-256 differs): it was truncated, "
        f"edited, or built again by another tool; build it again: {manifest.command}"
    )
