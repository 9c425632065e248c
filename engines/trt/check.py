"""Checks a plan before it is deserialized: a plan runs native code, and can fail in many ways."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from engines.trt import backend as backends
from engines.trt.backend import TENSORRT, Backend, listening, logger
from engines.trt.capability import capability_problem, dotted
from engines.trt.cuda import Cuda, open_cuda
from engines.trt.gpu import compute_capability
from vgg_deploy.artifacts.build_command import model_named_in, relocated_command, with_changed_options
from vgg_deploy.artifacts.plan import BACKENDS, PlanManifest, mismatch, read_plan, seal_problem, sidecar_of
from vgg_deploy.errors import ManifestError, PlanError, UsageError, VGGDeployError
from vgg_deploy.inference.engine_options import EngineOptions
from vgg_deploy.network.precision import summary


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check of a plan.

    Attributes:
        name: what was checked.
        passed: None if the check was not possible.
        text: the result in one line.
        error: the error to raise if it did not pass.
    """

    name: str
    passed: bool | None
    text: str
    error: VGGDeployError | None = None


class PlanChecks:
    """Checks a plan step by step. An attribute stays None until the step that finds it has passed."""

    def __init__(self, path: Path, options: EngineOptions) -> None:
        self.path, self.options = path, options
        self.plan: PlanManifest | None = None
        self.changed = False
        self.backend: Backend | None = None
        self.cuda: Cuda | None = None
        self.notices: list[str] = []

    def require(self) -> None:
        """Raises the error of the first check that does not pass."""
        for check in self.checks():
            if check.error is not None:
                raise check.error

    def checks(self) -> Iterator[Check]:
        """The result of each check, in order.

        Raises:
            UsageError: no such plan.
        """
        if not self.path.is_file():
            read_plan(self.path)  # raises, with the reason
        for name, check in (
            ("manifest", self._manifest),
            ("contents", self._contents),
            ("GPU", self._gpu),
            ("backend", self._backend),
            ("version", self._version),
            ("compute capability", self._capability),
            ("header", self._header),
        ):
            try:
                text = check()
            except _NotCheckableError as missing:
                yield Check(name, None, f"cannot be checked without {missing}")
            except VGGDeployError as error:
                yield Check(name, False, " ".join(str(error).split()), error)
            else:
                yield Check(name, True, text)

    def _manifest(self) -> str:
        path, sidecar = self.path, sidecar_of(self.path)
        try:
            plan, reason = read_plan(path), f"{sidecar} does not exist"
        except ManifestError as error:
            plan, reason = None, str(error)
        if plan is not None:
            # Messages use the current names of the files.
            command = relocated_command(plan.command, path, plan.onnx.name)
            self.plan = plan = replace(plan, plan=replace(plan.plan, name=path.name), command=command)
            backend = plan.backend
            if self.options.runtime not in ("auto", backend):
                raise UsageError(f"{path} is a {backend} plan, and only {backend} runs it; leave --runtime out")
            different = plan.manifest.type_difference(plan.layers)  # `build` never writes such a plan
            if different is not None:
                raise PlanError(
                    f"{sidecar} was edited and contradicts itself: {different}. Build the plan again: {command}"
                )
            edited = seal_problem(path)
            if edited is not None:
                if not self.options.trust:
                    raise PlanError(f"{edited}. --trust runs it anyway")
                self.notices.append(f"trusted although {edited}")
            return (
                f"{sidecar.name}: from {plan.onnx.name}, {len(plan.manifest.classes)} classes, {summary(plan.layers)}"
            )
        if not self.options.trust:
            raise UsageError(
                f"{path} has no usable manifest ({reason}): copy the two files together, or build the plan again. A "
                "plan runs native code, so without a manifest it needs --trust, and --labels FILE"
            )
        if self.options.labels is None:
            raise UsageError(
                f"{path} has no usable manifest ({reason}), so its classes have no names: give --labels FILE"
            )
        self.notices.append(f"trusted without a manifest ({reason}): its version and GPU were not checked")
        return f"none ({reason}); trusted"

    def _contents(self) -> str:
        if self.plan is None:
            raise _NotCheckableError("the manifest")
        try:
            reason = mismatch(self.path, self.plan)
        except OSError as error:
            raise PlanError(f"{self.path} cannot be read: {error.strerror}") from error
        if reason is None:
            return f"as built, SHA-256 {self.plan.plan.sha256[:12]}..."
        if not self.options.trust:
            raise UsageError(f"a plan runs native code, so a changed one needs --trust: {reason}")
        self.changed = True
        self.notices.append(f"trusted although it does not match its manifest: {reason}")
        return "changed since it was built; trusted"

    def _gpu(self) -> str:
        path, options = self.path, self.options
        if compute_capability() is None:
            raise PlanError(
                f"{path} needs an NVIDIA GPU, and CUDA shows none here (no GPU, or no driver for it): "
                + run_instead(path, self.plan)
            )
        name = options.runtime if self.plan is None else self.plan.backend
        self.cuda = open_cuda(options.cuda_api, options.device_index, "gpu" if name == TENSORRT else "rtx")
        return f"{self.cuda.device}: {self.cuda.gpu}"

    def _backend(self) -> str:
        self.backend = backends.load(self._backend_name())
        return str(self.backend)

    def _backend_name(self) -> str:
        if self.plan is not None:
            return self.plan.backend
        if self.options.runtime in BACKENDS:
            return self.options.runtime
        if not self.options.trust:
            raise _NotCheckableError("the manifest")
        names = backends.installed()
        if len(names) == 1:
            return names[0]
        raise UsageError(
            f"{self.path} has no manifest, so its backend is unknown: give --runtime tensorrt or --runtime tensorrt-rtx"
        )

    def _version(self) -> str:
        if self.plan is None or self.backend is None:
            raise _NotCheckableError("the manifest" if self.plan is None else "the backend")
        plan, here = self.plan, self.backend.version
        if plan.version != here:
            raise PlanError(
                f"{plan.plan.name} was built by {plan.backend} {plan.version}, but {here} is installed. A plan runs "
                f"only in its own version: pip install {plan.backend}=={plan.version}, or build it again: "
                f"{plan.command}"
            )
        return f"built by {here}, the installed version"

    def _capability(self) -> str:
        if self.plan is None or self.cuda is None:
            raise _NotCheckableError("the manifest" if self.plan is None else "a GPU")
        problem = capability_problem(self.plan, self.cuda.gpu)
        if problem is not None:
            raise PlanError(problem)
        return f"it was built for {self.cuda.gpu}"

    def _header(self) -> str:
        if self.backend is None or self.cuda is None:
            raise _NotCheckableError("the backend" if self.backend is None else "a GPU")
        if not self.backend.is_rtx:
            return "tensorrt checks it when it loads the plan"
        with self.cuda.active(), listening(self.backend) as messages:
            trt = self.backend.trt
            runtime = trt.Runtime(logger(self.backend))
            with self.path.open("rb") as file:
                header = file.read(runtime.engine_header_size)
            validity, bits = runtime.get_engine_validity(header)
        if validity == trt.EngineValidity.INVALID:
            raise PlanError(self._invalidity(bits, messages.reason))
        if validity == trt.EngineValidity.SUBOPTIMAL:
            self.notices.append(
                f"{self.backend} reports that {self.path.name} may run slower than possible on this GPU"
            )
            return "valid, but may run slower than possible"
        return "valid"

    def _invalidity(self, bits: int, reason: str) -> str:
        """What TensorRT-RTX's diagnostic bits mean and what to do, in one line; `reason` if no bit is set."""
        assert self.backend is not None
        assert self.cuda is not None
        again, here = "build it again", dotted(self.cuda.gpu.capability)
        targeted = f"{again} with --compute-capability {here}"
        if self.plan is not None:
            again += f": {self.plan.command}"
            targeted = (
                f"build it for this GPU: {with_changed_options(self.plan.command, {'--compute-capability': here})}"
            )
        kinds = self.backend.trt.EngineInvalidityDiagnostics
        meanings = (
            (kinds.MALFORMED_ENGINE, f"it is damaged, or not a tensorrt-rtx plan; {again}"),
            (kinds.VERSION_MISMATCH, f"another version built it; {again}"),
            (kinds.UNSUPPORTED_CC, f"it was not built for {self.cuda.gpu}; {targeted}"),
            (
                kinds.OLD_CUDA_DRIVER,
                "the NVIDIA driver is too old for it; install a newer one (nvidia-smi shows the version)",
            ),
            (kinds.OLD_CUDA_RUNTIME, f"it was built with a newer CUDA than the installed one; {again}"),
            (
                kinds.INSUFFICIENT_GPU_MEMORY,
                f"the GPU has too little memory; lower --max-batch or --scales and {again}",
            ),
            (kinds.CUDA_ERROR, "CUDA does not work here; nvidia-smi shows whether the driver answers"),
        )
        causes = [meaning for kind, meaning in meanings if bits & int(kind)]
        return f"{self.backend} cannot run {self.path}: {'; '.join(causes) or reason}"


class _NotCheckableError(Exception):
    """A check is not possible; the text names what is missing."""


def run_instead(path: Path, plan: PlanManifest | None) -> str:
    """Advice on how to run the network without this plan."""
    name = "" if plan is None else Path(plan.onnx.name).name  # an edited sidecar may name a file elsewhere, or none
    if plan is None or not name:
        return "run the ONNX file from which it was built"
    onnx_beside_plan = path.with_name(name)
    if onnx_beside_plan.is_file():
        return f"run the ONNX file beside it: vgg-deploy infer IMAGES --engine {shlex.quote(str(onnx_beside_plan))}"
    recorded = model_named_in(plan.command)
    onnx = recorded if recorded is not None and Path(recorded).is_file() else name
    return f"run the ONNX file from which it was built: vgg-deploy infer IMAGES --engine {shlex.quote(onnx)}"
