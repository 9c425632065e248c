"""Damages the files of trained networks in every way of the table, and prints what the proofs find.

python -m tests.mutants digits-A.safetensors --images digits/val --views 4
python -m tests.mutants vgg16.safetensors --normalization paper --images photos --only "mean + 3" --form fp16
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from tests.mutants.artifacts import FORMS, Network
from tests.mutants.fault import remembered_convolutions
from tests.mutants.kinds import SHORT
from tests.mutants.report import Report
from tests.mutants.trial import Trial
from vgg_deploy.network.manifest import NORMALIZATIONS
from vgg_deploy.network.weight_facts import WeightFacts
from vgg_deploy.views.search import find_images


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__, allow_abbrev=False)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--images", type=Path, required=True, help="folder of real images")
    parser.add_argument("--views", type=int, default=2, metavar="N", help="images that become views")
    parser.add_argument("--calibration", type=int, default=16, metavar="N", help="images that give INT8 ranges")
    parser.add_argument("--normalization", choices=NORMALIZATIONS)
    parser.add_argument("--runtime", action="append", help="default: onnxruntime and openvino")
    parser.add_argument("--form", action="append", choices=FORMS, help="default: all")
    parser.add_argument("--only", action="append", metavar="DAMAGE", help="default: all")
    parser.add_argument("--short", action="store_true", help="only the damages of `kinds.SHORT`")
    parser.add_argument("--no-plan", action="store_true", help="leave out plans and their sidecars")
    parser.add_argument("--json", type=Path, help="write every judgement to this file")
    return parser.parse_args()


def main() -> None:
    arguments = _arguments()
    images = sorted(find_images([str(arguments.images)]))
    step = max(1, len(images) // arguments.calibration)
    facts = WeightFacts(normalization=NORMALIZATIONS.get(arguments.normalization))
    network = Network(arguments.checkpoint, tuple(images[::step][: arguments.calibration]), facts)
    report = Report()
    try:
        with tempfile.TemporaryDirectory() as folder, remembered_convolutions():
            _run(arguments, network, Path(folder), report)
    except KeyboardInterrupt:
        print("Interrupted; this is what was judged until then.")
    print(report.text())
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report.as_json(), indent=1))
    if report.escaped or report.false_alarms:
        raise SystemExit(1)


def _run(arguments: argparse.Namespace, network: Network, folder: Path, report: Report) -> None:
    runtimes = arguments.runtime or ["onnxruntime", "openvino"]
    trial = Trial(network, folder, runtimes, views=arguments.views)
    report.healthy = trial.healthy
    for name in arguments.form or FORMS:
        for judged in trial.form(name, SHORT if arguments.short else arguments.only):
            report.add(judged)
        print(report.progress(name), flush=True)
    if not arguments.no_plan:
        for judged in trial.plan():
            report.add(judged)
        print(report.progress("plan"), flush=True)


if __name__ == "__main__":
    main()
