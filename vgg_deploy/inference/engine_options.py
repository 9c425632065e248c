"""How an engine is opened: which runtime, on which device, with how many threads."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from vgg_deploy.cores import usable_cores
from vgg_deploy.errors import UsageError

DEFAULT_CUDA_API = "cuda-python"

# Two requests keep the cores busy while one of them waits between layers, or for a thread that image decoding delays.
# VGG-16 on two cores: as fast as one call with two threads on an idle machine, 20 % faster on a busy one.
STREAMING_REQUESTS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """How to open an ONNX file, a TensorRT plan or a checkpoint.

    Attributes:
        runtime: onnxruntime, openvino or ncnn. auto: the fastest one installed for this file on this machine;
            `info.notices` gives the reason. A plan runs in the backend that built it, tensorrt or tensorrt-rtx.
        device: cpu, cuda or cuda:N. None: the CPU for an ONNX file or a checkpoint, the first GPU for a plan. An engine
            never runs on another device.
        threads: compute threads on the CPU. None: one for each core that this process may use.
        requests: calls of `run` that are computed in parallel on the CPU, sharing the threads. 1 gives each call the
            lowest latency. More give a higher throughput of concurrent calls, such as those of `predict` and
            `evaluate`. None: the number that suits those two.
        allow_bf16: compute floating point in bfloat16 if the CPU supports it. Predictions then change within the
            thresholds of FP16.
        labels: the text of a labels file, for a model without our manifest or to replace its class names.
        cuda_api: the library that manages a plan's GPU memory, cuda-python or pycuda.
        trust: open a plan that has no manifest beside it (then `labels` is required), or whose manifest describes
            another file.

    Raises:
        UsageError: a value that no engine accepts.
    """

    runtime: str = "auto"
    device: str | None = None
    threads: int | None = None
    requests: int | None = 1
    allow_bf16: bool = False
    labels: str | None = None
    cuda_api: str = DEFAULT_CUDA_API
    trust: bool = False

    def __post_init__(self) -> None:
        if self.device is not None and not re.fullmatch(r"cpu|cuda(:\d+)?", self.device, re.ASCII):
            raise UsageError(f"device is {self.device!r}; expected cpu, cuda or cuda:N")
        if self.threads is not None and self.threads < 1:
            raise UsageError(f"threads is {self.threads}; expected 1 or more")
        if self.requests is not None and self.requests < 1:
            raise UsageError(f"requests is {self.requests}; expected 1 or more")
        if self.device_kind == "cpu" and self.request_count > self.total_threads:
            raise UsageError(
                f"requests is {self.requests}, but there are {self.total_threads} threads to share; "
                "expected at most one request per thread"
            )
        if self.allow_bf16 and self.device_kind != "cpu":
            raise UsageError(f"bfloat16 is available only on CPUs, but device is {self.device}: leave out --allow-bf16")

    @property
    def device_kind(self) -> str:
        """cpu or cuda; cpu if no device is given."""
        return (self.device or "cpu").partition(":")[0]

    @property
    def device_index(self) -> int:
        """Index of the GPU; 0 if none is given."""
        return int((self.device or "").partition(":")[2] or 0)

    @property
    def total_threads(self) -> int:
        """Compute threads of all requests together."""
        return self.threads or usable_cores()

    @property
    def request_count(self) -> int:
        """`requests`. If it is None: `STREAMING_REQUESTS` on a CPU with that many threads, otherwise 1."""
        if self.requests is not None:
            return self.requests
        return min(STREAMING_REQUESTS, self.total_threads) if self.device_kind == "cpu" else 1

    def for_images(self, count: int) -> EngineOptions:
        """These options. For one or two images, which may be a single view, `requests` of None becomes 1."""
        return replace(self, requests=1) if self.requests is None and count < 3 else self

    def check_plan_options(self, path: Path) -> None:
        """Raises UsageError if options are set that apply only to TensorRT plans. `path` is another file."""
        if self.trust or self.cuda_api != DEFAULT_CUDA_API:
            raise UsageError(f"{path} is not a TensorRT plan; --trust and --cuda-api apply only to plans")

    def check_onnx_options(self, path: Path, kind: str) -> None:
        """Raises UsageError if options are set that apply only to ONNX files. `kind` says what `path` is instead."""
        if self.allow_bf16 or (self.requests or 1) > 1:
            raise UsageError(f"{path} is {kind}; --requests and --allow-bf16 apply only to ONNX files")
