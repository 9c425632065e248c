"""How an engine is opened: which runtime, on which device, with how many threads."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_CUDA_API = "cuda-python"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """How to open an ONNX file, a TensorRT plan or a checkpoint.

    Attributes:
        runtime: onnxruntime, openvino or ncnn. auto: the fastest that is installed for this file on this machine; `info.notices`
            gives the reason. A plan runs in the backend that built it, tensorrt or tensorrt-rtx.
        device: cpu, cuda or cuda:N. None: the CPU for an ONNX file or a checkpoint, the first GPU for a plan. An engine never
            runs on a device that was not asked for.
        threads: compute threads on the CPU. None: one for each core that this process may use.
        requests: calls of `run` that are computed side by side on the CPU; they share the threads. 1 makes each call as fast as
            possible. More is faster for many calls at once, as `predict` and `evaluate` make them. None: what suits those two.
        allow_bf16: compute floating point in bfloat16 if the CPU can. Answers then change within the thresholds of FP16.
        labels: text of a labels file, for a model without our manifest or in place of its class names.
        cuda_api: which library handles a plan's GPU memory, cuda-python or pycuda.
        trust: open a plan that has no manifest beside it (then `labels` is required), or whose manifest describes another file.
    """

    runtime: str = "auto"
    device: str | None = None
    threads: int | None = None
    requests: int | None = 1
    allow_bf16: bool = False
    labels: str | None = None
    cuda_api: str = DEFAULT_CUDA_API
    trust: bool = False
