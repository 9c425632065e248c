"""Programs that answer image files by the multi-scale dense test: what a user would write, and ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from benchmarks.models import ExportedModels
from benchmarks.ours import CPU_RUNTIMES, EnginePasses
from benchmarks.straightforward import onnxruntime_session, openvino_model, program, pytorch
from vgg_deploy.bench.contest import Contestant
from vgg_deploy.bench.own_process import OwnProcess, UnstartedContestant
from vgg_deploy.inference.engine_options import EngineOptions
from vgg_deploy.views.protocols import Protocol

Paths = Sequence[Path]

PROTOCOL = Protocol("multiscale", (224, 256, 288), None, True)
LARGE = Protocol("multiscale", (256, 384, 512), None, True)  # larger Q's and many sizes: few views share a shape
PYTORCH = "PyTorch eager FP32"

# Against PyTorch eager, on two cores with AVX-512 VNNI; and against the straightforward program or the bare loop.
AIMS = {"FP32": 2.2, "BF16": 4.0, "INT8": 8.0}
SAME = 0.97
# The number of labelled images on which answers are also compared, and of images that the second table compares.
CHECKED = 4
# A program runs in every N-th repetition only. Passes in FP32 take twice as long as others, and PyTorch's three times.
EVERY = {PYTORCH: 4, "FP32": 2}
BARE = ", bare"


@dataclass(frozen=True, slots=True)
class Program:
    """A program that answers image files.

    Attributes:
        runtime: the runtime that computes, by its name in tables.
        precision: FP32, BF16 or INT8.
        make, arguments: a function that returns the player of its turns, and its arguments without the protocol.
    """

    runtime: str
    precision: str
    make: Any
    arguments: tuple[Any, ...]

    @property
    def ours(self) -> bool:
        return self.make is EnginePasses

    @property
    def straightforward(self) -> str:
        """The straightforward program on the same runtime.

        The two differ by a few per cent, so they run directly after one another.
        """
        return f"{self.runtime} {self.precision}"

    @property
    def name(self) -> str:
        return f"vgg-deploy {self.precision} on {self.runtime}" if self.ours else self.straightforward

    def contestant(self, protocol: Protocol) -> UnstartedContestant:
        every = EVERY.get(self.name, EVERY.get(self.precision, 1))
        last = protocol if self.ours else protocol.scales
        return UnstartedContestant(
            self.name, self.make, (*self.arguments, last), group=self.straightforward, every=every
        )


def programs(models: ExportedModels) -> list[Program]:
    """The programs. All others are compared with the first."""
    network, tensorrt, onnxruntime = models.float32, models.int8["tensorrt"], models.int8["onnxruntime"]

    def theirs(runtime: str, precision: str, make: Any, *arguments: Any) -> Program:
        return Program(runtime, precision, program, (make, arguments))

    def own(runtime: str, precision: str, path: Path, allow_bf16: bool = False) -> Program:
        options = EngineOptions(runtime=runtime, requests=None, allow_bf16=allow_bf16)
        return Program(CPU_RUNTIMES[runtime], precision, EnginePasses, (path, options))

    ort, ov = CPU_RUNTIMES["onnxruntime"], CPU_RUNTIMES["openvino"]
    return [
        theirs("PyTorch eager", "FP32", pytorch, models.checkpoint),
        theirs(ort, "FP32", onnxruntime_session, network),
        theirs(ov, "FP32", openvino_model, network, "f32"),
        theirs(ov, "BF16", openvino_model, network, "bf16"),
        theirs(ort, "INT8", onnxruntime_session, onnxruntime),
        theirs(ov, "INT8", openvino_model, tensorrt, "f32"),
        *(own(runtime, "FP32", network) for runtime in CPU_RUNTIMES),
        own("openvino", "BF16", network, allow_bf16=True),
        own("onnxruntime", "INT8", onnxruntime),
        own("openvino", "INT8", tensorrt),
    ]


def with_bare_loops(contestants: Sequence[Contestant[Paths]]) -> list[Contestant[Paths]]:
    """The contestants by group, and after each of ours a bare loop over the batches that it made, in its process."""
    grouped = []
    for group in dict.fromkeys(contestant.group for contestant in contestants):
        for contestant in contestants:
            if contestant.group != group:
                continue
            grouped.append(contestant)
            if contestant.name.startswith("vgg-deploy"):
                bare = partial(cast(OwnProcess, contestant.play), bare=True)
                grouped.append(replace(contestant, name=contestant.name + BARE, play=bare))
    return grouped
