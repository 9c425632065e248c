"""A fake machine with a plan, its manifest, a GPU and a backend."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines.trt import backend as backends
from engines.trt import check
from engines.trt.backend import Backend
from engines.trt.check import Check, PlanChecks
from tests.engines.trt.fake_gpu import SHAPES, FakeCuda, FakeTrt
from vgg_deploy.artifacts.plan import PlanManifest, sidecar_of
from vgg_deploy.errors import EngineError, ManifestError, MissingDependencyError, PlanError, UsageError
from vgg_deploy.files import Source
from vgg_deploy.inference.engine_options import EngineOptions
from vgg_deploy.network.classes import ClassName
from vgg_deploy.network.manifest import Manifest, TrainScale
from vgg_deploy.network.shapes import Profile, shapes_of
from vgg_deploy.network.tensors import Images

COMMAND = "vgg-deploy build vgg11.onnx -o vgg11.plan --scales 32,64 --max-batch 4 --max-aspect 2"
RTX = f"{COMMAND} --backend tensorrt-rtx"
PROFILES = tuple(Profile((scale,), *shapes) for scale, shapes in zip((32, 64), SHAPES, strict=True))


def described(backend: str, **changes: Any) -> PlanManifest:
    classes = tuple(ClassName(str(index), word) for index, word in enumerate(("ant", "bee", "cat", "dog", "eel")))
    manifest = Manifest(classes, None, None, TrainScale(32, 64), shapes=shapes_of(PROFILES))
    fields: dict[str, Any] = {
        "backend": backend,
        "version": "1.7.1",
        "compute_capabilities": ("8.9",),
        "hardware_compatibility": "none",
        "profiles": PROFILES,
        "layers": {"conv1_1": "int8", "fc8": "float16"},
        "layers_from": "declared",
        "plan": Source("vgg11.plan", "0"),
        "onnx": Source("vgg11.onnx", "0"),
        "build_seconds": 1.0,
        "command": COMMAND,
        "manifest": manifest,
    }
    return PlanManifest(**{**fields, **changes})


def noise(*shape: int, seed: int = 0) -> Images:
    return np.random.default_rng((seed, *shape)).integers(0, 256, (*shape, 3), dtype=np.uint8)


class Machine:
    """A plan in a folder, and a machine with a GPU, cuda-python and one backend, all fakes."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = folder / "vgg11.plan"
        self.path.write_bytes(b"a plan" * 20)
        self.cuda: FakeCuda | Exception = FakeCuda()
        self.trt = FakeTrt(self.cuda)  # type: ignore[arg-type]
        self.capability: tuple[int, int] | None = (8, 9)
        self.installed: tuple[str, ...] = ("tensorrt-rtx",)
        self.asked: list[tuple[str, int, str]] = []
        monkeypatch.setattr(backends, "_loggers", {})
        monkeypatch.setattr(backends, "load", self._load)
        monkeypatch.setattr(backends, "installed", lambda: self.installed)
        monkeypatch.setattr(check, "open_cuda", self._open_cuda)
        monkeypatch.setattr(check, "compute_capability", lambda: self.capability)

    def _load(self, name: str) -> Backend:
        if name not in self.installed:
            raise MissingDependencyError(name, "gpu", f"backend {name}")
        return Backend(name, self.trt)

    def _open_cuda(self, api: str, index: int, extra: str) -> FakeCuda:
        self.asked.append((api, index, extra))
        if isinstance(self.cuda, Exception):
            raise self.cuda
        return self.cuda

    def describe(self, backend: str = "tensorrt-rtx", **changes: Any) -> PlanManifest:
        plan = described(backend, **{"plan": Source.of(self.path), "command": RTX, **changes})
        sidecar_of(self.path).write_text(plan.to_json(), encoding="utf-8")
        return plan

    def checks(self, **options: Any) -> dict[str, Check]:
        return {check.name: check for check in PlanChecks(self.path, EngineOptions(**options)).checks()}

    def problem(self, **options: Any) -> Exception:
        """The error that stops the plan from running."""
        with pytest.raises((UsageError, PlanError, EngineError, ManifestError)) as caught:
            PlanChecks(self.path, EngineOptions(**options)).require()
        assert "\n" not in str(caught.value)
        return caught.value
