"""Whether a plan runs on a GPU, by its manifest and the rules of its backend, and how to build one that does."""

from __future__ import annotations

from engines.trt.backend import TENSORRT, TENSORRT_RTX
from engines.trt.cuda import Gpu
from vgg_deploy.artifacts.build_command import with_changed_options
from vgg_deploy.artifacts.plan import PlanManifest

AMPERE, TURING = (8, 0), (7, 5)
_RTX_DEFAULT = ((8, 0), (8, 6), (8, 9))  # and 12.x: the default targets of TensorRT-RTX 1.7
RTX_GPUS = "8.0, 8.6, 8.9 and 12.x, and 7.5 if built for it"


def capability_problem(plan: PlanManifest, gpu: Gpu) -> str | None:
    """Why a plan does not run on a GPU, and the command for a plan that does; None if it runs."""
    return _rtx_problem(plan, gpu) if plan.backend == TENSORRT_RTX else _tensorrt_problem(plan, gpu)


def rtx_runs_on(capability: tuple[int, int]) -> bool:
    """Whether TensorRT-RTX can build plans for a GPU at all."""
    return capability == TURING or _is_default(capability)


def _rtx_problem(plan: PlanManifest, gpu: Gpu) -> str | None:
    name, wanted = plan.plan.name, dotted(gpu.capability)
    if not rtx_runs_on(gpu.capability):
        options = {"--backend": TENSORRT, "--compute-capability": None}
        return (
            f"{name} is a tensorrt-rtx plan, which runs on compute capability {RTX_GPUS}; this GPU is {gpu}. Build "
            f"it for tensorrt on this machine: {with_changed_options(plan.command, options)}"
        )
    targets = plan.compute_capabilities
    if not targets and _is_default(gpu.capability):
        return None
    # Kernels for 12.0 run on every 12.x.
    if wanted in targets or (gpu.capability[0] == 12 and "12.0" in targets):
        return None
    built = f"compute capability {', '.join(targets)}" if targets else "compute capability 8.0 and later, except 9.0"
    remedy = with_changed_options(plan.command, {"--compute-capability": ",".join((*targets, wanted))})
    return f"{name} was built for {built}; this GPU is {gpu}. Build it for both: {remedy}"


def _tensorrt_problem(plan: PlanManifest, gpu: Gpu) -> str | None:
    built = plan.compute_capabilities
    if plan.hardware_compatibility == "ampere+":
        if gpu.capability >= AMPERE:
            return None
        return (
            f"{plan.plan.name} runs on compute capability 8.0 and later; this GPU is {gpu}. Build it on this machine: "
            + with_changed_options(plan.command, {"--hardware-compatibility": None})
        )
    if not built or dotted(gpu.capability) in built:
        return None
    remedy = f"Build it on this machine: {plan.command}"
    if gpu.capability >= AMPERE and all(_parsed(capability) >= AMPERE for capability in built):
        shared = with_changed_options(plan.command, {"--hardware-compatibility": "ampere+"})
        remedy += f", or build one plan for both: {shared}"
    return (
        f"{plan.plan.name} was built on compute capability {', '.join(built)} and runs only there; "
        f"this GPU is {gpu}. {remedy}"
    )


def dotted(capability: tuple[int, int]) -> str:
    """(8, 9) -> 8.9."""
    return f"{capability[0]}.{capability[1]}"


def _is_default(capability: tuple[int, int]) -> bool:
    return capability in _RTX_DEFAULT or capability[0] == 12


def _parsed(capability: str) -> tuple[int, int]:
    major, _, minor = capability.partition(".")
    return int(major), int(minor or 0)
