"""Whether this machine can build and run plans, as a line for `doctor`."""

from __future__ import annotations

from engines.trt import backend as backends
from engines.trt.backend import TENSORRT, TENSORRT_RTX
from engines.trt.capability import RTX_GPUS, TURING, rtx_runs_on
from engines.trt.cuda import open_cuda
from engines.trt.gpu import compute_capability
from vgg_deploy.errors import VGGDeployError
from vgg_deploy.install import install_command


def availability(name: str) -> tuple[bool, str]:
    """Whether a backend's plans can run here, and one line: the GPU or the reason, and whether plans can be built.

    Args:
        name: tensorrt or tensorrt-rtx.
    """
    extra = "gpu" if name == TENSORRT else "rtx"
    if name not in backends.installed():
        return False, f"not installed: {install_command(extra)}"
    try:
        backend = backends.load(name)
    except VGGDeployError as error:
        return False, " ".join(str(error).split())
    builds = f"{backend} builds plans here" if backend.is_rtx else f"{backend} is installed"
    if compute_capability() is None:
        needs = "running them needs" if backend.is_rtx else "building and running plans needs"
        return False, f"{builds}; {needs} an NVIDIA GPU, and CUDA shows none (no GPU, or no driver for it)"
    try:
        gpu = open_cuda("cuda-python", 0, extra).gpu
    except VGGDeployError as error:
        return False, f"{builds}; running them: {' '.join(str(error).split())}"
    if name == TENSORRT_RTX and not rtx_runs_on(gpu.capability):
        return False, f"{builds}; it runs plans only on compute capability {RTX_GPUS}, not on {gpu}: use tensorrt"
    if name == TENSORRT and gpu.capability < backends.OLDEST_GPU:
        return False, f"{builds}; it builds and runs plans only on compute capability 7.5 and later, not on {gpu}"
    targeted = ", with build --compute-capability 7.5" if name == TENSORRT_RTX and gpu.capability == TURING else ""
    return True, f"{backend} builds and runs plans on {gpu}{targeted}"
