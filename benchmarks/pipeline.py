"""What comes before the first answer: start-up of the command line, and the first answer of a fresh process.

python -m benchmarks.pipeline
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np

from benchmarks.models import prepare
from benchmarks.options import setup_options
from benchmarks.report import Figure, write
from benchmarks.subject import Setup, pictures
from vgg_deploy.timing import interleaved, paired_ratio

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
posteriors = session.run(["probabilities"], {"images": images})[0][0]
print(posteriors.argmax(), posteriors.max())
""",
    "openvino": _DECODE
    + """
sys.modules["openvino_telemetry"] = None  # its import would send an event to its maker (2026.4)
import openvino
model = openvino.Core().compile_model(sys.argv[1], "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
posteriors = model([images])["probabilities"][0]
print(posteriors.argmax(), posteriors.max())
""",
}


def _run(*arguments: str) -> tuple[float, str]:
    """Seconds and output of a Python process."""
    began = time.perf_counter()
    ended = subprocess.run([sys.executable, *arguments], check=True, capture_output=True, text=True)
    return time.perf_counter() - began, ended.stdout


def start_up(repetitions: int) -> Figure:
    """Time of `vgg-deploy --help`, beside the bare interpreter."""
    _run("-m", "vgg_deploy", "--help")
    ours, bare = interleaved(repetitions, lambda: _run("-m", "vgg_deploy", "--help")[0], lambda: _run("-c", "pass")[0])
    median = statistics.median(ours)
    return Figure(
        "start-up, vgg-deploy --help",
        f"{median:.2f} s ({paired_ratio(ours, bare)[0]:.1f}x the bare interpreter)",
        f"under {HELP_AIM_S} s",
        tuple(ours),
    )


def first_answer(what: str, model: Path, runtime: str, image: Path, scale: int, repetitions: int) -> Figure:
    """Time of `vgg-deploy infer` on one image, beside a bare script of the same runtime; the posteriors must be the same."""
    infer = ["-m", "vgg_deploy", "infer", str(image), "--engine", str(model), "--runtime", runtime, "--csv", "-"]
    infer += ["--protocol", "dense", "--scales", str(scale), "--no-flip", "--top", "1"]
    script = ("-c", BARE[runtime], str(model), str(image), str(scale))
    # The first of each does not count: it reads files that then lie in memory.
    ours = float(_run(*infer)[1].splitlines()[1].split(",")[-1])
    theirs = float(_run(*script)[1].split()[1])
    if not np.isclose(ours, theirs, atol=1e-4):
        raise ValueError(f"{what}: the posterior is {ours} by infer and {theirs} by the bare script")
    infer_s, bare_s = interleaved(repetitions, lambda: _run(*infer)[0], lambda: _run(*script)[0])
    ratio, low, high = paired_ratio(infer_s, bare_s)
    return Figure(
        f"first answer of a fresh process, {what}",
        f"{statistics.median(infer_s):.2f} s, {ratio:.2f}x ({low:.2f}-{high:.2f}) the bare script's",
        f"within {FIRST_ANSWER_AIM}x",
        tuple(infer_s),
    )


@click.command()
@click.option("--repetitions", default=9, show_default=True)
@setup_options
def main(setup: Setup, repetitions: int) -> None:
    """Measure start-up and write benchmarks/results/pipeline.{json,md}."""
    repetitions = 1 if setup.quick else repetitions
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photos = pictures(setup, folder)
        image = photos.spread(1)[0]
        models = prepare(folder, setup, photos.others([image]))
        scale = models.manifest.train_scale.middle
        figures: list[Figure] = []
        for figure in (
            start_up(repetitions),
            first_answer("FP32 in ONNX Runtime", models.float32, "onnxruntime", image, scale, repetitions),
            first_answer("INT8 in OpenVINO", models.int8["tensorrt"], "openvino", image, scale, repetitions),
        ):
            click.echo(f"{figure.name}: {figure.value}", err=True)
            figures.append(figure)
    setting = (
        f"{models.words}; one of {photos.words}, whole at Q={scale}. The bare script imports Pillow and the runtime, decodes, opens the "
        "file and runs it once; its answer is the same. Medians of "
        f"{repetitions} interleaved repetitions, each in a fresh process with the files in the page cache, with the lowest and the highest "
        "ratio of a pair. Throughput, the bare engine loop and memory: [multiscale](multiscale.md) and [growth](growth.md)."
    )
    click.echo(write("pipeline", "Start-up", setting, figures, out=setup.out))


if __name__ == "__main__":
    main()
