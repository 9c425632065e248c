"""From an ONNX file to a TensorRT plan and its manifest, with proof of the types in which it computes."""

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
from vgg_deploy.errors import BuildError, PreflightError, UsageError
from vgg_deploy.files import Source, require_writable
from vgg_deploy.network.classes import read_labels
from vgg_deploy.network.manifest import Manifest
from vgg_deploy.network.precision import FLOAT16, FLOAT32, INT8, differences, summary
from vgg_deploy.network.shapes import Profile, shapes_of


@dataclass(frozen=True, slots=True)
class Built:
    """What was built.

    Attributes:
        path: the plan.
        manifest: what stands in `NAME.plan.json` beside it.
        notices: what the user should know: defaults that were dropped, TensorRT's warnings, what could not be proved.
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
    """Builds a TensorRT plan of an ONNX file, in the file's own types; one that computes in others is not written.

    Args:
        model: the ONNX file.
        plan: the plan to write, with `NAME.plan.json` beside it; None: the model's name with .plan.
        options: backend, shapes and limits; None: the defaults.
        phases: is told how far TensorRT is.
        verbose: is given every line that TensorRT logs.

    Raises:
        UsageError: no such file; options that contradict each other, the model or the backend; no backend is installed.
        ModelFileError, ManifestError: the file is damaged, or not one that we can feed.
        PreflightError: what TensorRT would refuse or misread, found before anything is built.
        BuildError: TensorRT failed, or the plan does not have the precision that the model declares.
        EngineError: the backend is installed but cannot be loaded.
        OutputError: the plan cannot be written; an older one stays as it was.
        KeyboardInterrupt: Ctrl-C, after TensorRT has stopped; nothing is written.
    """
    job, notices = _prepare(Path(model), Path(model).with_suffix(".plan") if plan is None else Path(plan), options)
    with listening(job.backend, verbose) as messages:
        made = stoppable(lambda stop: _compile(job, messages, phases, stop))
    untold = [layer for layer in made.layers if layer not in made.built]
    manifest = PlanManifest(
        backend=job.backend.name,
        version=job.backend.version,
        compute_capabilities=job.options.compute_capabilities if job.backend.is_rtx else (_written(job.gpu),),
        hardware_compatibility=job.options.hardware_compatibility or "none",
        profiles=job.profiles,
        layers={**made.layers, **made.built},
        layers_from=DECLARED if untold else BUILT,
        plan=Source(job.plan.name, hashlib.sha256(made.data).hexdigest()),
        onnx=Source.of(job.model),
        build_seconds=round(made.seconds, 3),
        command=job.options.command(job.model, job.plan),
        manifest=job.manifest.with_(shapes=shapes_of(job.profiles)),
    )
    write_plan(job.plan, made.data, manifest)
    notices += tuple(f"{job.backend.name}: {warning}" for warning in messages.warnings)
    return Built(job.plan, manifest, notices + _reservations(job, manifest, untold))


@dataclass(frozen=True, slots=True)
class _Job:
    """A request, checked, with its defaults.

    Attributes:
        options: with every default that applies to this model and backend.
        header: the model with its small tensors.
        gpu: compute capability of the GPU that is there.
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
        """The type of each layer, from the model's manifest; where it has none, from its nodes, if it is float32, float16 or int8."""
        spec = self.manifest.spec
        if spec is not None:
            return {layer.name: self.manifest.precision.of(layer.name) for layer in spec.weight_layers}
        types = onnx_layers.layer_types(self.header)
        return {layer: kind for layer, kind in types.items() if kind in (FLOAT32, FLOAT16, INT8)}

    def check_types(self, found: Mapping[str, str], whose: str) -> None:
        """Raises BuildError where a layer's type is known and is not the declared one."""
        declared = self.declared
        different = differences(declared, {layer: found.get(layer, kind) for layer, kind in declared.items()})
        if different is not None:
            ours = self.manifest.spec is not None
            raise BuildError(
                f"{self.model} declares {summary(declared)}; {whose} types are {summary(found)} ({different}): the plan was not "
                f"written; {'export the model again' if ours else 'its Q/DQ nodes or casts are not what they seem'}"
            )


def _prepare(model: Path, plan: Path, asked: BuildOptions | None) -> tuple[_Job, tuple[str, ...]]:
    options = asked or BuildOptions()
    if model.suffix in CHECKPOINT_SUFFIXES:
        raise UsageError(
            f"{model} is a checkpoint: vgg-deploy export --weights {model} --dynamic makes an ONNX file of it"
        )
    if model.suffix in PLAN_SUFFIXES:
        raise UsageError(f"{model} is a plan already; name the ONNX file that it was built from")
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
            f"{backend} builds on the GPU that the plan is for, and CUDA shows none here: build there, or give "
            "--backend tensorrt-rtx, which needs no GPU to build"
        )
    header = file.header_with_small_tensors(preflight.KEPT_BYTES)
    return _Job(model, plan, manifest, header, backend, options, profiles_of(manifest, options), gpu), notices


def _check_output(model: Path, plan: Path, timing_cache: Path | None) -> None:
    """Raises now what would otherwise be raised after a build of minutes."""
    if plan.suffix in (".onnx", ".json") or (plan.exists() and plan.samefile(model)):
        raise UsageError(f"--output {plan}: a plan is not written over a model; name a file that ends in .plan")
    if plan.suffix not in PLAN_SUFFIXES and not plan.is_dir():
        raise UsageError(
            f"--output {plan}: infer, inspect and doctor know a plan by its ending; name a file that ends in {' or '.join(PLAN_SUFFIXES)}"
        )
    require_writable(plan)
    if timing_cache is not None:
        require_writable(timing_cache)


@dataclass(frozen=True, slots=True)
class _Compiled:
    """What TensorRT made.

    Attributes:
        data: the plan, in TensorRT's own memory.
        layers: the layers' types in the parsed network.
        built: those of which the engine itself tells.
        seconds: how long it took.
    """

    data: memoryview
    layers: dict[str, str]
    built: dict[str, str]
    seconds: float


def _compile(job: _Job, messages: Messages, phases: Phases | None, stop: threading.Event) -> _Compiled:
    """Everything for which TensorRT is called."""
    trt, began = job.backend.trt, time.perf_counter()
    try:
        builder = trt.Builder(logger(job.backend))
    except TypeError as error:  # pybind11, where the backend gave no object
        raise BuildError(f"{job.backend} cannot build here: {messages.reason}") from error
    parsed = parse(job.backend, builder, job.model)
    layers = _checked_layers(job, parsed, messages)
    config = configured(job.backend, parsed, job.options, job.profiles, messages)
    memory = None if stop.is_set() else serialized(trt, builder, parsed.network, config, phases, stop)
    if memory is None:
        raise BuildError(
            f"{job.backend} failed to build {job.model}: {messages.reason}{_lower(messages.reason, job.options)}"
        )
    # TensorRT only warns of profiles that cannot be run, and builds the plan.
    impossible = [warning for warning in messages.warnings if "not self-consistent" in warning]
    if impossible:
        raise BuildError(
            f"{job.backend} finds the profiles too large ({impossible[0]}); the plan was not written: give a smaller --max-batch, "
            "smaller --scales or a smaller --max-aspect"
        )
    seconds, data = time.perf_counter() - began, memoryview(memory)
    if job.options.timing_cache is not None:
        save_timing_cache(config, job.options.timing_cache)
    built = {} if job.gpu is None else built_types(job.backend, data, layers)
    job.check_types(built, "the built engine's")
    return _Compiled(data, layers, built, seconds)


def _lower(reason: str, options: BuildOptions) -> str:
    """What to do where TensorRT had too little memory; nothing where it failed for another reason."""
    if not re.search(r"out ?of ?memory|workspace|could not be allocated", reason, re.IGNORECASE):
        return ""
    limit = "" if options.workspace is None else f"a larger --workspace than {written_size(options.workspace)}, "
    return f"; give {limit}a smaller --max-batch, smaller --scales or a smaller --max-aspect"


def _checked_layers(job: _Job, parsed: Parsed, messages: Messages) -> dict[str, str]:
    """The types of the parsed network's layers, if nothing stands against building it."""
    found = preflight.of_graph(job.header, job.manifest)
    if job.options.scales is not None:
        found += preflight.of_profiles(job.header, job.profiles)
    refused = [] if parsed.complete else preflight.of_parser(parsed.parser, job.header, job.backend)
    texts = preflight.texts(found, refused)
    if not parsed.complete and not texts:
        texts = (f"{job.backend} cannot read it: {messages.reason}",)
    if texts:
        raise PreflightError(str(job.model), texts)
    types = layer_types(job.backend.trt, parsed.network)
    layers = types if job.manifest.spec is None else {layer: types.get(layer, "missing") for layer in job.declared}
    job.check_types(layers, "the parsed network's")
    return layers


def _reservations(job: _Job, manifest: PlanManifest, untold: list[str]) -> tuple[str, ...]:
    """What a user of the plan should know of its types."""
    notices = []
    if job.gpu is not None and untold:
        notices.append(
            f"the engine does not tell in what type it computes {', '.join(untold[:3])}{' and others' if untold[3:] else ''}: "
            "the precision of these is what the network declares"
        )
    if job.backend.is_rtx and INT8 in manifest.layers.values():
        notices.append(
            "INT8 convolutions on TensorRT-RTX: whether they run faster is unproven (its documents promise INT8 for weight-only "
            "products); measure it against an FP16 plan"
        )
    return tuple(notices)


def _written(gpu: tuple[int, int] | None) -> str:
    return "" if gpu is None else ".".join(map(str, gpu))
