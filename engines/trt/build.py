"""Builds a TensorRT plan and its manifest from an ONNX file, and proves the types in which the plan computes."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx

from engines.trt import preflight
from engines.trt.backend import Backend, Messages, choose, listening, logger
from engines.trt.build_options import BuildOptions, written_size
from engines.trt.config import check_capabilities, configured, save_timing_cache
from engines.trt.gpu import compute_capability
from engines.trt.inspector import built_types
from engines.trt.parsing import Parsed, layer_types, parse
from engines.trt.profiles import profiles_of, resolve
from engines.trt.progress import Phases, serialized, stoppable
from vgg_deploy.artifacts import onnx_layers
from vgg_deploy.artifacts.kinds import CHECKPOINT_SUFFIXES, PLAN_SUFFIXES
from vgg_deploy.artifacts.onnx_file import OnnxFile
from vgg_deploy.artifacts.plan import BUILT, DECLARED, PlanManifest, write_plan
from vgg_deploy.artifacts.verdict_record import onnx_verdict_line
from vgg_deploy.errors import BuildError, PreflightError, UsageError
from vgg_deploy.files import Source, require_writable
from vgg_deploy.network.label_files import read_labels
from vgg_deploy.network.manifest import Manifest
from vgg_deploy.network.precision import FLOAT16, FLOAT32, INT8, differences, summary
from vgg_deploy.network.shapes import Profile, shapes_of


@dataclass(frozen=True, slots=True)
class Built:
    """A plan that was built.

    Attributes:
        path: the plan.
        manifest: its manifest, which `NAME.plan.json` beside it contains.
        notices: what the user should know: defaults that were not used, TensorRT's warnings, types that are not proved.
    """

    path: Path
    manifest: PlanManifest
    notices: tuple[str, ...]


def build(
    model: str | Path,
    plan: str | Path | None = None,
    options: BuildOptions | None = None,
    *,
    phases: Phases | None = None,
    verbose: Callable[[str], None] | None = None,
) -> Built:
    """Builds a TensorRT plan from an ONNX file, in the file's own types. A plan with other types is not written.

    Args:
        model: the ONNX file.
        plan: the plan to write, with `NAME.plan.json` beside it. None: the model's name with .plan.
        options: backend, shapes and limits; None: the defaults.
        phases: receives TensorRT's progress.
        verbose: receives every line that TensorRT logs.

    Raises:
        UsageError: no such file; options that contradict each other, the model or the backend; no backend is installed.
        ModelFileError, ManifestError: the file is damaged or unsuitable.
        PreflightError: TensorRT would refuse or misread the file. Raised before the build starts.
        BuildError: TensorRT failed, or the plan does not have the precision that the model declares.
        EngineError: the backend is installed but cannot be loaded.
        OutputError: the plan cannot be written; an older plan is left as it was.
        KeyboardInterrupt: Ctrl-C. TensorRT has stopped by then, and nothing is written.
    """
    job, notices = _prepare(Path(model), Path(model).with_suffix(".plan") if plan is None else Path(plan), options)
    with listening(job.backend, verbose) as messages:
        compiled = stoppable(lambda stop: _compile(job, messages, phases, stop))
    verdict = job.manifest.verdict
    if onnx_verdict_line(job.model, job.manifest).holds is False:
        verdict = None
        notices += (
            f"{job.model} was changed since it was {job.manifest.verdict}; the plan does not keep that verdict",
        )
    unproved = [layer for layer in compiled.layers if layer not in compiled.built]
    manifest = PlanManifest(
        backend=job.backend.name,
        version=job.backend.version,
        compute_capabilities=job.options.compute_capabilities if job.backend.is_rtx else (_written(job.gpu),),
        hardware_compatibility=job.options.hardware_compatibility or "none",
        profiles=job.profiles,
        layers={**compiled.layers, **compiled.built},
        layers_from=DECLARED if unproved else BUILT,
        plan=Source(job.plan.name, hashlib.sha256(compiled.data).hexdigest()),
        onnx=Source.of(job.model),
        build_seconds=round(compiled.seconds, 3),
        command=job.options.command(job.model, job.plan),
        manifest=job.manifest.with_(shapes=shapes_of(job.profiles), verdict=verdict),
    )
    write_plan(job.plan, compiled.data, manifest)
    notices += tuple(f"{job.backend.name}: {warning}" for warning in messages.warnings)
    return Built(job.plan, manifest, notices + _type_notices(job, manifest, unproved))


@dataclass(frozen=True, slots=True)
class _Job:
    """A build whose model and options have been checked.

    Attributes:
        options: the options, with the defaults for this model and backend filled in.
        header: the model, with its small tensors only.
        gpu: compute capability of this machine's GPU.
    """

    model: Path
    plan: Path
    manifest: Manifest
    header: onnx.ModelProto
    backend: Backend
    options: BuildOptions
    profiles: tuple[Profile, ...]
    gpu: tuple[int, int] | None

    @property
    def declared(self) -> dict[str, str]:
        """Each layer's type in the model's manifest. For a foreign model: its float32, float16 and int8 nodes."""
        spec = self.manifest.spec
        if spec is not None:
            return {layer.name: self.manifest.precision.of(layer.name) for layer in spec.weight_layers}
        types = onnx_layers.layer_types(self.header)
        return {layer: kind for layer, kind in types.items() if kind in (FLOAT32, FLOAT16, INT8)}

    def check_types(self, types: Mapping[str, str], owner: str) -> None:
        """Raises BuildError if a layer's type differs from the declared one. `owner` names what has the types."""
        declared = self.declared
        different = differences(declared, {layer: types.get(layer, kind) for layer, kind in declared.items()})
        if different is not None:
            ours = self.manifest.spec is not None
            raise BuildError(
                f"{self.model} declares {summary(declared)}, but {owner} has {summary(types)} ({different}). The plan "
                f"was not written: {'export the model again' if ours else 'check its Q/DQ nodes and casts'}"
            )


def _prepare(model: Path, plan: Path, options: BuildOptions | None) -> tuple[_Job, tuple[str, ...]]:
    options = options or BuildOptions()
    if model.suffix in CHECKPOINT_SUFFIXES:
        raise UsageError(f"{model} is a checkpoint; export it first: vgg-deploy export --weights {model} --dynamic")
    if model.suffix in PLAN_SUFFIXES:
        raise UsageError(f"{model} is already a plan; give the ONNX file from which it was built")
    file = OnnxFile(model)
    manifest = file.effective_manifest(read_labels(options.labels))
    _check_output(model, plan, options.timing_cache)
    gpu = compute_capability()
    backend = choose(options.backend, gpu)
    options.check_for(backend.name)
    check_capabilities(backend, options.compute_capabilities)
    options, notices = resolve(manifest, dataclasses.replace(options, backend=backend.name))
    if not backend.is_rtx and gpu is None:
        raise BuildError(
            f"{backend} must build on the GPU that will run the plan, and CUDA shows none here: build on a machine "
            "with that GPU, or give --backend tensorrt-rtx, which needs no GPU to build"
        )
    header = file.header_with_small_tensors(preflight.KEPT_BYTES)
    return _Job(model, plan, manifest, header, backend, options, profiles_of(manifest, options), gpu), notices


def _check_output(model: Path, plan: Path, timing_cache: Path | None) -> None:
    """Raises an error about the outputs now, not after a build of several minutes."""
    if plan.suffix in (".onnx", ".json") or (plan.exists() and plan.samefile(model)):
        raise UsageError(f"--output {plan} would overwrite a model or its manifest; give a file that ends in .plan")
    if plan.suffix not in PLAN_SUFFIXES and not plan.is_dir():
        raise UsageError(
            f"--output {plan}: other commands recognize a plan by its extension; give a file that ends in "
            f"{' or '.join(PLAN_SUFFIXES)}"
        )
    require_writable(plan)
    if timing_cache is not None:
        require_writable(timing_cache)


@dataclass(frozen=True, slots=True)
class _CompiledPlan:
    """The result of TensorRT's build.

    Attributes:
        data: the plan, in TensorRT's own memory.
        layers: the layers' types in the parsed network.
        built: the types that the built engine reports; a layer may be missing.
        seconds: how long the build took.
    """

    data: memoryview
    layers: dict[str, str]
    built: dict[str, str]
    seconds: float


def _compile(job: _Job, messages: Messages, phases: Phases | None, stop: threading.Event) -> _CompiledPlan:
    """The part of a build that calls TensorRT."""
    trt, began = job.backend.trt, time.perf_counter()
    try:
        builder = trt.Builder(logger(job.backend))
    except TypeError as error:  # from pybind11, if TensorRT returned no object
        raise BuildError(f"{job.backend} cannot build here: {messages.reason}") from error
    parsed = parse(job.backend, builder, job.model)
    layers = _checked_layers(job, parsed, messages)
    config = configured(job.backend, parsed, job.options, job.profiles, messages)
    memory = None if stop.is_set() else serialized(trt, builder, parsed.network, config, phases, stop)
    if memory is None:
        reason = messages.reason + _memory_remedy(messages.reason, job.options)
        raise BuildError(f"{job.backend} failed to build {job.model}: {reason}")
    # TensorRT only warns about profiles that cannot run, and builds the plan anyway.
    impossible = [warning for warning in messages.warnings if "not self-consistent" in warning]
    if impossible:
        raise BuildError(
            f"{job.backend} finds the profiles too large ({impossible[0]}). The plan was not written: give a smaller "
            "--max-batch, smaller --scales or a smaller --max-aspect"
        )
    seconds, data = time.perf_counter() - began, memoryview(memory)
    if job.options.timing_cache is not None:
        save_timing_cache(config, job.options.timing_cache)
    built = {} if job.gpu is None else built_types(job.backend, data, layers)
    job.check_types(built, "the built engine")
    return _CompiledPlan(data, layers, built, seconds)


def _memory_remedy(reason: str, options: BuildOptions) -> str:
    """What to do if TensorRT ran out of memory; empty if it failed for another reason."""
    if not re.search(r"out ?of ?memory|workspace|could not be allocated", reason, re.IGNORECASE):
        return ""
    limit = "" if options.workspace is None else f"a larger --workspace than {written_size(options.workspace)}, "
    return f"; give {limit}a smaller --max-batch, smaller --scales or a smaller --max-aspect"


def _checked_layers(job: _Job, parsed: Parsed, messages: Messages) -> dict[str, str]:
    """The types of the parsed network's layers. Raises PreflightError if the model cannot be built."""
    findings = preflight.of_graph(job.header, job.manifest)
    if job.options.scales is not None:
        findings += preflight.of_profiles(job.header, job.profiles)
    refused = [] if parsed.complete else preflight.of_parser(parsed.parser, job.header, job.backend)
    texts = preflight.texts(findings, refused)
    if not parsed.complete and not texts:
        texts = (f"{job.backend} cannot read it: {messages.reason}",)
    if texts:
        raise PreflightError(str(job.model), texts)
    types = layer_types(job.backend.trt, parsed.network)
    layers = types if job.manifest.spec is None else {layer: types.get(layer, "missing") for layer in job.declared}
    job.check_types(layers, "the parsed network")
    return layers


def _type_notices(job: _Job, manifest: PlanManifest, unproved: list[str]) -> tuple[str, ...]:
    """What a user of the plan should know about its types."""
    notices = []
    if job.gpu is not None and unproved:
        layers = ", ".join(unproved[:3]) + (" and others" if unproved[3:] else "")
        notices.append(
            f"the engine does not report in which type it computes {layers}; the manifest lists the declared types"
        )
    if job.backend.is_rtx and INT8 in manifest.layers.values():
        notices.append(
            "INT8 convolutions may not be faster than FP16 on TensorRT-RTX (its documentation promises INT8 for "
            "weight-only products); compare with an FP16 plan"
        )
    return tuple(notices)


def _written(gpu: tuple[int, int] | None) -> str:
    return "" if gpu is None else ".".join(map(str, gpu))
