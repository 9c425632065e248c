"""What comes before the first answer: start-up of the command line, and the first answer of a fresh process.

python -m benchmarks.pipeline
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np

from benchmarks.agreement import COLUMNS, NOTHING, REFERENCE, Judge, cells, compared
from benchmarks.contestant import apart
from benchmarks.models import Models, prepare
from benchmarks.options import setup_options
from benchmarks.report import Table, interleaved, spread, write
from benchmarks.subject import Setup, pictures
from engines import RUNTIMES
from vgg_deploy.artifacts.onnx_file import OnnxFile
from vgg_deploy.bench.timing import paired_ratio
from vgg_deploy.network.tensors import PROBABILITIES, Floats
from vgg_deploy.views.protocols import Protocol

HELP_AIM_S = 0.4
FIRST_ANSWER_AIM = 1.2

# What a user would write: arguments are the model, the image and Q. The whole image, as `--protocol dense --no-flip` scores it.
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
sys.modules["openvino_telemetry"] = None  # its import would send an event to its maker (2026.4)
import openvino
model = openvino.Core().compile_model(sys.argv[1], "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
print(model([images])["probabilities"][0].tolist())
""",
    "ncnn": _DECODE
    + """
import json
import ncnn
import os
wanted = json.load(open(sys.argv[1] + ".json"))
net = ncnn.Net()
net.opt.num_threads = os.cpu_count()
net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
net.opt.use_bf16_packed = net.opt.use_bf16_storage = False
net.load_param(sys.argv[1] + ".param")
net.load_model(sys.argv[1] + ".bin")
height, width = images.shape[1:3]
pixels = ncnn.Mat.from_pixels(images[0], ncnn.Mat.PixelType.PIXEL_RGB, width, height)
pixels.substract_mean_normalize(wanted["mean"], [1 / each for each in wanted["std"]])
extractor = net.create_extractor()
extractor.input(wanted["image"], pixels)
print(np.array(extractor.extract(wanted["output"])[1]).tolist())
""",
}


def _in_ncnns_form(model: Path) -> None:
    """What the bare script of ncnn opens, beside the ONNX file: it does not take that itself."""
    from engines.ncnn.engine import in_ncnns_order
    from engines.ncnn.translation import translate

    graph = OnnxFile(model).graph
    network = translate(graph)
    Path(f"{model}.param").write_text(network.text)
    with Path(f"{model}.bin").open("wb") as file:
        for weight in in_ncnns_order(network, graph.weights):
            file.write(weight.tobytes())
    told = {
        "mean": network.mean,
        "std": network.std,
        "image": network.image,
        "output": network.outputs[PROBABILITIES],
    }
    Path(f"{model}.json").write_text(json.dumps(told))


def _run(*arguments: str) -> tuple[float, str]:
    """Seconds and output of a Python process."""
    began = time.perf_counter()
    ended = subprocess.run([sys.executable, *arguments], check=True, capture_output=True, text=True)
    return time.perf_counter() - began, ended.stdout


def _wanted(checkpoint: Path, image: Path, scale: int) -> Floats:
    """What is right of the whole image at Q, posteriors [1, classes]."""
    return Judge(checkpoint)([image], Protocol("dense", (scale,), None, False))


def start_up(repetitions: int) -> tuple[tuple[str, ...], list[float]]:
    """Time of `vgg-deploy --help`, beside the bare interpreter: a row of the table, and the samples."""
    _run("-m", "vgg_deploy", "--help")
    ours, bare = interleaved(repetitions, lambda: _run("-m", "vgg_deploy", "--help")[0], lambda: _run("-c", "pass")[0])
    median = statistics.median(ours)
    aim = f"under {HELP_AIM_S} s {'reached' if median < HELP_AIM_S else 'missed'}"
    longer = f"{paired_ratio(ours, bare)[0]:.1f} (the bare interpreter)"
    return ("start-up, vgg-deploy --help", spread(ours, 2, " s"), longer, aim, *NOTHING), ours


def first_answer(
    what: str, model: Path, runtime: str, image: Path, wanted: Floats, models: Models, repetitions: int
) -> tuple[tuple[str, ...], list[float]]:
    """Time of `vgg-deploy infer` on one image, beside a bare script of the same runtime: a row of the table, and the samples.

    Args:
        wanted: what is right of the image, posteriors [1, classes].
    """
    classes, scale = models.manifest.classes, str(models.manifest.train_scale.middle)
    infer = ["-m", "vgg_deploy", "infer", str(image), "--engine", str(model), "--runtime", runtime, "--json", "-"]
    infer += ["--protocol", "dense", "--scales", scale, "--no-flip", "--top", str(len(classes))]
    script = ("-c", BARE[runtime], str(model), str(image), scale)
    place = {name.id: index for index, name in enumerate(classes)}
    answers: tuple[list[Floats], list[Floats]] = ([], [])

    def ours() -> float:
        seconds, written = _run(*infer)
        top = {place[each["id"]]: each["probability"] for each in json.loads(written)["top"]}
        answers[0].append(np.array([[top[index] for index in range(len(classes))]], np.float32))
        return seconds

    def theirs() -> float:
        seconds, written = _run(*script)
        answers[1].append(np.array([json.loads(written)], np.float32))
        return seconds

    ours(), theirs()  # the first of each does not count: it reads files that then lie in memory
    infer_s, bare_s = interleaved(repetitions, ours, theirs)
    if not np.allclose(answers[0], answers[1], atol=1e-4):
        raise ValueError(f"{what}: infer and the bare script give other posteriors")
    ratio, low, high = paired_ratio(infer_s, bare_s)
    row = (
        f"first answer of a fresh process, {what}",
        spread(infer_s, 2, " s"),
        f"{ratio:.2f} ({low:.2f}-{high:.2f})",
        f"within {FIRST_ANSWER_AIM} {'reached' if ratio <= FIRST_ANSWER_AIM else 'missed'}",
        *cells(compared(wanted, answers[0], classes)),
    )
    return row, infer_s


@click.command()
@click.option("--repetitions", default=9, show_default=True)
@setup_options
def main(setup: Setup, repetitions: int) -> None:
    """Measure start-up and write benchmarks/results/pipeline.{json,md}."""
    repetitions = 1 if setup.quick else repetitions
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        drawn = pictures(setup, folder).draw(1)
        (image,) = drawn.measured
        models = prepare(folder, setup, drawn.calibration)
        scale = models.manifest.train_scale.middle
        wanted = apart(_wanted, models.checkpoint, image, scale)
        table = Table("", ("what", "time", "times the bare script's", "aim", *COLUMNS))
        samples: dict[str, list[float]] = {}

        def add(row: tuple[str, ...], times: list[float]) -> None:
            table.rows.append(row)
            samples[row[0]] = times
            click.echo(": ".join(row[:3]), err=True)

        add(*start_up(repetitions))
        for what, model, runtime in (
            ("FP32 in ONNX Runtime", models.float32, "onnxruntime"),
            ("FP32 in ncnn", models.float32, "ncnn"),
            ("INT8 in OpenVINO", models.int8["tensorrt"], "openvino"),
        ):
            if not RUNTIMES[runtime].installed:
                click.echo(f"{what} is not measured: it is not installed", err=True)
                continue
            if runtime == "ncnn":
                _in_ncnns_form(model)
            add(*first_answer(what, model, runtime, image, wanted, models, repetitions))
    setting = (
        f"{models.words}; {drawn.words}, whole at Q={scale}. The bare script imports Pillow and the runtime, decodes, opens the "
        "file and runs it once; its answer is the same. ncnn's opens the same network in ncnn's own form, which it was written in before. Medians of "
        f"{repetitions} interleaved repetitions, each in a fresh process with the files in the page cache, with the lowest and the highest; "
        f"ratios are of pairs. Agreement and max dp: with {REFERENCE} on the same view, of the answer that was furthest off. Throughput, the "
        "bare engine loop and memory: [multiscale](multiscale.md) and [growth](growth.md)."
    )
    click.echo(write("pipeline", "Start-up", setting, tables=[table], samples=samples, out=setup.out))


if __name__ == "__main__":
    main()
