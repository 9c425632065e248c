"""Start-up of the command line, and the first answer of a fresh process.

python -m benchmarks.pipeline
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.agreement import AGREEMENT, COLUMNS, NOTHING, ReferenceAnswers, cells
from benchmarks.models import prepare
from benchmarks.options import setup_options
from benchmarks.report import SPREAD, Page, Table, counted, spread
from benchmarks.subject import Setup, pictures
from engines import RUNTIMES
from vgg_deploy.artifacts.onnx_file import OnnxFile
from vgg_deploy.bench.contest import Contest, Contestant, Terms
from vgg_deploy.bench.effort import Effort
from vgg_deploy.bench.own_process import OwnProcess
from vgg_deploy.bench.turns import Turn
from vgg_deploy.network.classes import ClassName
from vgg_deploy.network.tensors import PROBABILITIES, Floats
from vgg_deploy.views.protocols import Protocol

HELP_AIM_S = 0.4
FIRST_ANSWER_AIM = 1.2

# What a user would write. Arguments: the model, the image and Q. The whole image is scored, as by `--protocol dense
# --no-flip`.
_DECODE = """
import sys
import numpy as np
from PIL import Image
image = Image.open(sys.argv[2]).convert("RGB")
short, scale = min(image.size), int(sys.argv[3])
images = np.asarray(image.resize([side * scale // short for side in image.size], Image.Resampling.BILINEAR))[None]
"""
BARE = {
    "onnxruntime": _DECODE
    + """
import onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1])
print(session.run(["probabilities"], {"images": images})[0][0].tolist())
""",
    "openvino": _DECODE
    + """
sys.modules["openvino_telemetry"] = None  # importing openvino would send an event to its vendor (2026.4)
import openvino
model = openvino.Core().compile_model(sys.argv[1], "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
print(model([images])["probabilities"][0].tolist())
""",
    "ncnn": _DECODE
    + """
import json
import ncnn
import os
network = json.load(open(sys.argv[1] + ".json"))
net = ncnn.Net()
net.opt.num_threads = os.cpu_count()
net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
net.opt.use_bf16_packed = net.opt.use_bf16_storage = False
net.load_param(sys.argv[1] + ".param")
net.load_model(sys.argv[1] + ".bin")
height, width = images.shape[1:3]
pixels = ncnn.Mat.from_pixels(images[0], ncnn.Mat.PixelType.PIXEL_RGB, width, height)
pixels.substract_mean_normalize(network["mean"], [1 / each for each in network["std"]])
extractor = net.create_extractor()
extractor.input(network["image"], pixels)
print(np.array(extractor.extract(network["output"])[1]).tolist())
""",
}


def _write_ncnn_form(model: Path) -> None:
    """Writes the network in ncnn's own form beside the ONNX file, which bare ncnn cannot open."""
    from engines.ncnn.engine import in_ncnn_order
    from engines.ncnn.translation import translate

    graph = OnnxFile(model).graph
    network = translate(graph)
    Path(f"{model}.param").write_text(network.text)
    with Path(f"{model}.bin").open("wb") as file:
        for weight in in_ncnn_order(network, graph.weights):
            file.write(weight.tobytes())
    names = {
        "mean": network.mean,
        "std": network.std,
        "image": network.image,
        "output": network.outputs[PROBABILITIES],
    }
    Path(f"{model}.json").write_text(json.dumps(names))


def _run(*arguments: str) -> tuple[float, str]:
    """Seconds and output of a Python process."""
    began = time.perf_counter()
    ended = subprocess.run([sys.executable, *arguments], check=True, capture_output=True, text=True)
    return time.perf_counter() - began, ended.stdout


def _help(_task: None, _once: bool) -> Turn:
    return Turn(1, (_run("-m", "vgg_deploy", "--help")[0],))


def _interpreter(_task: None, _once: bool) -> Turn:
    return Turn(1, (_run("-c", "pass")[0],))


@dataclass(frozen=True, slots=True)
class FirstAnswer:
    """The first answer of a fresh process to one image, by `vgg-deploy infer` or by a bare script."""

    model: Path
    runtime: str
    scale: int
    classes: tuple[ClassName, ...]

    def infer(self, image: Path, _once: bool) -> Turn:
        """A turn of `vgg-deploy infer`."""
        arguments = ["infer", str(image), "--engine", str(self.model), "--runtime", self.runtime, "--json", "-"]
        arguments += ["--protocol", "dense", "--scales", str(self.scale), "--no-flip", "--top", str(len(self.classes))]
        seconds, written = _run("-m", "vgg_deploy", *arguments)
        top = {each["id"]: each["probability"] for each in json.loads(written)["top"]}
        return Turn(1, (seconds,), answers=(np.array([[top[name.id] for name in self.classes]], np.float32),))

    def script(self, image: Path, _once: bool) -> Turn:
        """A turn of the bare script."""
        seconds, written = _run("-c", BARE[self.runtime], str(self.model), str(image), str(self.scale))
        return Turn(1, (seconds,), answers=(np.array([json.loads(written)], np.float32),))


def _row(what: str, contest: Contest[Any], of: str, aim: float) -> tuple[str, ...]:
    """The first four cells: the contest's first contestant beside the second."""
    ours, bare = contest.records
    ratio = bare.ratio_to(ours)
    reached = "reached" if ratio.median <= aim else "missed"
    longer = f"{ratio.median:.2f} ({ratio.lowest:.2f}-{ratio.highest:.2f}){of}"
    return what, spread(ours.image_s, 2, " s"), longer, f"within {aim:g} {reached}"


def start_up(terms: Terms) -> tuple[tuple[str, ...], list[float]]:
    """Time of `vgg-deploy --help`, beside the bare interpreter: a row of the table, and the samples."""
    contest: Contest[None] = Contest([Contestant("--help", _help), Contestant("bare", _interpreter)], [None], terms)
    contest.hold()
    ours_s = contest.records[0].image_s
    _what, figure, longer, _aim = _row("", contest, " (the bare interpreter)", math.inf)
    aim = f"under {HELP_AIM_S} s {'reached' if statistics.median(ours_s) < HELP_AIM_S else 'missed'}"
    return ("start-up, vgg-deploy --help", figure, longer, aim, *NOTHING), ours_s


def first_answer(
    what: str, first: FirstAnswer, image: Path, expected: Floats, terms: Terms
) -> tuple[tuple[str, ...], list[float]]:
    """Time of `vgg-deploy infer` on one image, beside the bare script: a row of the table, and the samples.

    The first run of each is not counted. It brings the files into the page cache.

    Args:
        expected: PyTorch's posteriors of the image, [1, classes].
    """
    contest = Contest([Contestant("infer", first.infer), Contestant("script", first.script)], [image], terms)
    contest.hold()
    ours, bare = contest.records
    if not np.allclose(ours.answers[0], bare.answers[0], atol=1e-4):
        raise ValueError(f"{what}: infer and the bare script give different posteriors")
    title = f"first answer of a fresh process, {what}"
    return (
        *_row(title, contest, "", FIRST_ANSWER_AIM),
        *cells(ours.parity([expected], first.classes)),
    ), ours.image_s


def prose(network: str, images: str, scale: int, repetitions: int) -> tuple[str, list[str]]:
    """The method and the details of the page."""
    method = (
        f"{network} classifies {images}, whole at Q={scale}, in a fresh process. It is compared with a bare script "
        "that imports Pillow and the runtime, decodes the image, opens the file and runs it once; both give the same "
        f"answer. The two take turns in {counted(repetitions, 'repetition')}, with the files in the page cache."
    )
    details = [
        f"{SPREAD} The bare script for ncnn opens the same network in ncnn's own form, written beforehand.",
        AGREEMENT,
        "Throughput, the bare engine loop and memory: [multiscale](multiscale.md) and [growth](growth.md).",
    ]
    return method, details


@click.command()
@click.option("--repetitions", default=9, show_default=True)
@setup_options
def main(setup: Setup, repetitions: int) -> None:
    """Measure start-up, and write results/pipeline.{json,md}."""
    terms = Terms(effort=Effort(repetitions=1 if setup.quick else repetitions))
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        drawn = pictures(setup, folder).draw(1)
        (image,) = drawn.measured
        models = prepare(folder, setup, drawn.calibration)
        scale = models.manifest.train_scale.middle
        with OwnProcess(ReferenceAnswers, models.checkpoint) as reference_answers:
            expected = reference_answers([image], Protocol("dense", (scale,), None, False))
        method, details = prose(models.name, drawn.name, scale, 1 if setup.quick else repetitions)
        table = Table("", method, ("measurement", "time", "times the bare script", "aim", *COLUMNS))
        samples: dict[str, list[float]] = {}

        def add(row: tuple[str, ...], times: list[float]) -> None:
            table.rows.append(row)
            samples[row[0]] = times
            click.echo(": ".join(row[:3]), err=True)

        add(*start_up(terms))
        for what, model, runtime in (
            ("FP32 in ONNX Runtime", models.float32, "onnxruntime"),
            ("FP32 in ncnn", models.float32, "ncnn"),
            ("INT8 in OpenVINO", models.int8["tensorrt"], "openvino"),
        ):
            if not RUNTIMES[runtime].installed:
                click.echo(f"{what} is not measured: {runtime} is not installed", err=True)
                continue
            if runtime == "ncnn":
                _write_ncnn_form(model)
            add(
                *first_answer(what, FirstAnswer(model, runtime, scale, models.manifest.classes), image, expected, terms)
            )
    page = Page(name="pipeline", title="Start-up", tables=[table], details=details, samples=samples)
    click.echo(page.write(setup.out))


if __name__ == "__main__":
    main()
