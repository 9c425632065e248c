"""Runs a plan in two lanes, so that the copies of one request overlap with the computation of another."""

from __future__ import annotations

import dataclasses
import queue
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from engines.trt.check import PlanChecks
from engines.trt.cuda import Cuda
from engines.trt.lane import Lane
from engines.trt.loaded import LoadedPlan
from vgg_deploy.artifacts.build_command import refusal
from vgg_deploy.artifacts.plan import DECLARED, PlanManifest, sidecar_of
from vgg_deploy.errors import EngineError, PlanError, UsageError
from vgg_deploy.files import Source, sha256_of
from vgg_deploy.inference.engine import BaseEngine, EngineInfo, check_bytes
from vgg_deploy.inference.engine_options import EngineOptions
from vgg_deploy.network.label_files import classes_from_labels
from vgg_deploy.network.manifest import Manifest, TrainScale
from vgg_deploy.network.precision import summary
from vgg_deploy.network.shapes import AxisRange, PlanProfiles, Profile, ShapeRange, shapes_of
from vgg_deploy.network.tensors import Floats, Images

LANES = 2  # one copies while the other computes


class TrtEngine(BaseEngine[Lane]):
    """A plan on a GPU; see `vgg_deploy.inference.engine.Engine`.

    Args:
        path: the plan, for messages.
        plan: the plan's manifest, with the profiles of the plan itself.
        loaded: the deserialized plan; closed with the engine.
        cuda: the plan's device.
        notices: what the user should know about the plan.
    """

    def __init__(
        self, path: Path, plan: PlanManifest, loaded: LoadedPlan, cuda: Cuda, notices: Sequence[str] = ()
    ) -> None:
        self._loaded, self._cuda = loaded, cuda
        self._profiles = PlanProfiles(plan.plan.name, plan.profiles, plan.command)
        self._lanes: list[Lane] = []
        self._closing, self._closed = threading.Lock(), False
        # None: the engine is closed. It stays in the queue for every later call.
        self._idle: queue.SimpleQueue[Lane | None] = queue.SimpleQueue()
        notices = (*notices, *loaded.notices, *self._make_lanes())
        for lane in self._lanes:
            self._idle.put(lane)
        declared = ", as declared" if plan.layers_from == DECLARED else ""
        info = EngineInfo(
            runtime=str(loaded.backend),
            device=cuda.device,
            precision=f"{summary(plan.layers)}{declared}" if plan.layers else "the plan's own precision",
            outputs=loaded.tensors.outputs,
            shapes=_shapes(plan.profiles),
            concurrency=len(self._lanes),
            manifest=plan.manifest,
            notices=notices,
            plan=self._profiles,
        )
        super().__init__(path, info, None)  # a call takes its lane from the queue

    def _make_lanes(self) -> list[str]:
        """Makes two lanes, or one if the GPU's memory does not hold two. Returns notices about them."""
        cuda, notices = self._cuda, []
        with cuda.active():
            stream = cuda.stream()
            try:
                sizes = self._loaded.largest_bytes(stream)
            finally:
                cuda.free(stream)
            for _ in range(LANES):
                try:
                    self._lanes.append(Lane(self._loaded, cuda, sizes))
                except EngineError as error:
                    if not self._lanes:
                        raise
                    notices.append(f"requests run one after the other, because there is no memory for two: {error}")
        if not cuda.captures and not self._loaded.backend.is_rtx:
            notices.append(
                "PyCUDA has no CUDA graphs, so kernels are launched one by one; --cuda-api cuda-python has them"
            )
        return notices

    def _check(self, images: Images) -> None:
        check_bytes(images)
        batch, height, width = images.shape[:3]
        reason = refusal(self._profiles, (batch, height, width))
        if reason is not None:
            raise UsageError(f"images is {reason}")

    def _take(self) -> Lane | None:
        lane = self._idle.get()
        if lane is None:
            self._idle.put(None)
        return lane

    def _give_back(self, worker: Lane) -> None:
        self._idle.put(worker)

    def _infer(self, worker: Lane, images: Images) -> Mapping[str, Floats]:
        batch, height, width = images.shape[:3]
        with self._cuda.active():
            return worker.run(images, best_profile(self._profiles.profiles, (batch, height, width)))

    def close(self) -> None:
        """Waits for requests under way, then frees the plan and its lanes."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
            for _ in self._lanes:
                self._idle.get()
            self._idle.put(None)
            # After a failure of the GPU nothing can be freed. The failure has already been reported.
            with suppress(EngineError), self._cuda.active():
                for lane in self._lanes:
                    with suppress(EngineError):
                        lane.close()
                self._loaded.close()


def open_plan(path: Path, options: EngineOptions) -> TrtEngine:
    """Opens a plan; see `engines.open_engine`.

    Raises:
        UsageError: no such plan; without `trust`, a manifest that is missing or describes another plan; labels that are
            missing or do not match the network.
        PlanError: the plan is damaged, of another version, or not for this machine.
        EngineError: CUDA or TensorRT failed.
    """
    checked = PlanChecks(path, options)
    checked.require()
    assert checked.backend is not None
    assert checked.cuda is not None
    with checked.cuda.active():
        sha256 = None if checked.plan is None or checked.changed else checked.plan.plan.sha256
        loaded = LoadedPlan(checked.backend, path, sha256)
        try:
            plan = _completed_manifest(checked, loaded)
            return TrtEngine(path, plan, loaded, checked.cuda, checked.notices)
        except BaseException:
            loaded.close()
            raise


def best_profile(profiles: Sequence[Profile], shape: tuple[int, int, int]) -> int:
    """Index of the profile that suits a shape best: among those that accept it, the one with the largest minimum."""
    accepting = [index for index, profile in enumerate(profiles) if profile.accepts(shape)]
    return max(accepting, key=lambda index: profiles[index].minimum[1:])


def _shapes(profiles: tuple[Profile, ...]) -> ShapeRange:
    """The heights and widths of all profiles, and the batches that every profile accepts, if there are any."""
    overall = shapes_of(profiles)
    least, most = max(profile.minimum[0] for profile in profiles), min(profile.maximum[0] for profile in profiles)
    return dataclasses.replace(overall, batch=AxisRange(least, most)) if least <= most else overall


def _completed_manifest(checked: PlanChecks, loaded: LoadedPlan) -> PlanManifest:
    """The plan's manifest, with the profiles and outputs of the plan itself."""
    path, tensors, labels = checked.path, loaded.tensors, checked.options.labels
    plan = checked.plan or _substitute_manifest(path, loaded)
    if checked.plan is not None and _limits(plan.profiles) != _limits(tensors.profiles):
        if not checked.changed:
            raise PlanError(
                f"{sidecar_of(path)} was edited: its profiles are not those of {path}. Build the plan again: "
                f"{plan.command}"
            )
        plan = dataclasses.replace(plan, profiles=tensors.profiles)
    manifest = plan.manifest
    if labels is not None:
        # A substitute manifest has no spec, and no classes yet.
        manifest = manifest.named(classes_from_labels(labels, tensors.classes))
    elif len(manifest.classes) != tensors.classes:
        raise PlanError(
            f"{sidecar_of(path)} names {len(manifest.classes)} classes, but {path} has {tensors.classes}. Build the "
            f"plan again: {plan.command}"
        )
    return dataclasses.replace(plan, manifest=manifest.with_(shapes=shapes_of(plan.profiles), outputs=tensors.outputs))


def _substitute_manifest(path: Path, loaded: LoadedPlan) -> PlanManifest:
    """A manifest for a plan that is trusted without one. `_completed_manifest` adds the classes."""
    shapes = shapes_of(loaded.tensors.profiles)
    crop = max(shapes.height.minimum, shapes.width.minimum)
    return PlanManifest(
        backend=loaded.backend.name,
        version=loaded.backend.version,
        compute_capabilities=(),
        hardware_compatibility="none",
        profiles=loaded.tensors.profiles,
        layers={},
        layers_from=DECLARED,
        plan=Source(path.name, sha256_of(path)),
        onnx=Source("unknown", ""),
        build_seconds=0.0,
        command="vgg-deploy build",
        manifest=Manifest((), None, None, TrainScale(crop, crop), shapes=shapes),
    )


def _limits(profiles: Sequence[Profile]) -> list[tuple[tuple[int, int, int], tuple[int, int, int]]]:
    return [(profile.minimum, profile.maximum) for profile in profiles]
