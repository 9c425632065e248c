"""Dense and multi-crop tests (section 3.2): the cost and the accuracy of each test with the same network.

python -m benchmarks.protocols
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from benchmarks.agreement import AGREEMENT, COLUMNS, ReferenceAnswers, cells
from benchmarks.models import ExportedModels, prepare
from benchmarks.options import setup_options
from benchmarks.ours import EnginePasses
from benchmarks.report import OWN_PROCESSES, SPREAD, Page, Table, canvas, counted, spread
from benchmarks.subject import Setup, measured_network, pictures
from vgg_deploy.bench.contest import Contest, ContestRecord, Terms
from vgg_deploy.bench.effort import Effort
from vgg_deploy.bench.own_process import OwnProcess, UnstartedContestant, in_own_process, start
from vgg_deploy.evaluation.error_rates import NOMINAL_SIZE, ErrorRates, error_rates, evaluate, label_by_folder
from vgg_deploy.evaluation.fusion import fused
from vgg_deploy.inference.engine_options import EngineOptions
from vgg_deploy.network.manifest import Manifest
from vgg_deploy.network.tensors import Floats
from vgg_deploy.views.protocols import Protocol, choose_protocol
from vgg_deploy.views.search import find_images

NAMES = ("center", "dense", "multiscale", "50-crop", "150-crop", "multiscale+150-crop")
BASE = "dense"
CROPS_CHECKED = 1  # images on which crop tests are compared; PyTorch takes half a minute for one


@dataclass(slots=True)
class Tested:
    """A protocol and what was measured of it.

    Attributes:
        record: its passes over the images that are timed.
        agreement: the cells for `COLUMNS`.
        accuracy: on labelled images; None: there are none.
    """

    protocol: Protocol
    record: ContestRecord[Sequence[Path]]
    agreement: tuple[str, str]
    accuracy: ErrorRates | None = None

    @property
    def image_ms(self) -> list[float]:
        return [1000 * seconds for seconds in self.record.image_s]

    def cost(self, manifest: Manifest) -> tuple[int, int]:
        """Views and multiply-accumulates for a landscape photo. Crops that coincide are scored once."""
        assert manifest.spec is not None
        views = self.protocol.views(*NOMINAL_SIZE, manifest.rescaling)
        return len(views), self.protocol.macs(manifest.spec, *NOMINAL_SIZE, manifest.rescaling)


def expected_posteriors(protocols: dict[str, Protocol], paths: list[Path], checkpoint: Path) -> dict[str, Floats]:
    """PyTorch's posteriors [images, classes] by protocol. Crops take it long, so only the first images are computed."""
    few, expected = paths[:CROPS_CHECKED], dict[str, Floats]()
    with OwnProcess(ReferenceAnswers, checkpoint) as reference_answers:
        for name, protocol in protocols.items():
            known = [expected[part.name][: len(few)] for part in protocol.parts if part.name in expected]
            if len(known) > 1:  # a mean of two tests that are already computed
                expected[name] = fused(known)
            else:
                expected[name] = reference_answers(few if name.endswith("-crop") else paths, protocol)
            click.echo(f"{name}: compared", err=True)
    return expected


def _accuracy(
    model: Path, folder: Path, limit: int, protocols: dict[str, Protocol], calibration: list[Path]
) -> dict[str, ErrorRates]:
    """Error rates by protocol, on images that did not calibrate. Runs in a process of its own."""
    from engines import open_engine

    posteriors: dict[str, Floats] = {}
    with open_engine(model, requests=None) as engine:
        manifest = engine.info.manifest
        seen = {path.resolve() for path in calibration}
        paths = [path for path in find_images([str(folder)]) if path.resolve() not in seen]
        sample = label_by_folder(paths, manifest).sample(limit)
        for name, protocol in protocols.items():
            parts = name.split("+")
            if len(parts) > 1:
                posteriors[name] = fused([posteriors[part] for part in parts])
            else:
                posteriors[name] = evaluate(engine, sample.paths, protocol).posteriors
            click.echo(f"{name}: {sample.truth.size} labelled images", err=True)
    return {name: error_rates(rows, sample.truth) for name, rows in posteriors.items()}


def table(tests: dict[str, Tested], models: ExportedModels, method: str) -> Table:
    """A row for each protocol."""
    columns = ("test", "Q", "views", "GMACs an image", f"times {BASE}", "ms an image", f"times {BASE}")
    result = Table("", method, (*columns, *COLUMNS, "top-1 error", "top-5 error"))
    _views, base_macs = tests[BASE].cost(models.manifest)
    for name, test in tests.items():
        views, macs = test.cost(models.manifest)
        longer = [a / b for a, b in zip(test.image_ms, tests[BASE].image_ms, strict=True)]
        accuracy = test.accuracy
        rates = () if accuracy is None else (accuracy.top1, accuracy.top5)
        wrong = [f"{rate:.1%} ± {accuracy.standard_error(rate):.1%}" for rate in rates] if accuracy else ["-", "-"]
        result.rows.append(
            (
                name,
                ", ".join(map(str, test.protocol.scales)),
                str(views),
                f"{macs / 1e9:,.1f}",
                f"{macs / base_macs:.1f}",
                spread(test.image_ms, 0),
                spread(longer, 1),
                *test.agreement,
                *wrong,
            )
        )
    return result


def draw(tests: dict[str, Tested]) -> Any:
    """Bars of ms an image, and error rates if they were measured."""
    panels = 2 if tests[BASE].accuracy else 1
    with canvas(panels, height=3.0) as (drawing, axes):
        names = list(reversed(tests))
        times = [statistics.median(tests[name].image_ms) for name in names]
        axes[0].bar_label(axes[0].barh(names, times, color="tab:blue"), fmt="%.0f", padding=3)
        axes[0].set_title("ms an image")
        axes[0].margins(x=0.15)
        if panels == 2:
            accuracies = [tests[name].accuracy for name in names]
            rates = [100 * each.top1 for each in accuracies if each]
            bars = [100 * each.standard_error(each.top1) for each in accuracies if each]
            axes[1].errorbar(rates, names, xerr=bars, fmt="o", color="tab:blue", capsize=3)
            axes[1].set_title("top-1 error, %, with its standard error")
            axes[1].set_xlim(left=0)
        return drawing


def prose(network: str, images: str, repetitions: int, labelled: int) -> tuple[str, list[str]]:
    """The method and the details of the page. `labelled`: how many images the error rates come from."""
    method = (
        f"{network}, INT8 in OpenVINO, is timed on {images}, from file to answer, in "
        f"{counted(repetitions, 'repetition')} after a first pass. Views and multiply-accumulates are those of a "
        f"photo of {NOMINAL_SIZE[1]}x{NOMINAL_SIZE[0]}. "
    )
    if labelled:
        method += f"Error rates come from {labelled} labelled images of 224x224; ± is their standard error."
    else:
        method += "Error rates are missing, because there are no labelled images of the network's classes."
    details = [
        f"{OWN_PROCESSES} {SPREAD} Crops that coincide are scored once.",
        f"{AGREEMENT} PyTorch runs the same test. Whole-image tests are compared on all timed photos, and crop tests "
        f"on {counted(CROPS_CHECKED, 'photo')}.",
    ]
    return method, details


@click.command()
@click.option("--count", default=3, show_default=True, help="Photographs that are timed.")
@click.option("--repetitions", default=3, show_default=True)
@click.option("--limit", default=30, show_default=True, help="Labelled images, equally many of each class.")
@setup_options
def main(setup: Setup, count: int, repetitions: int, limit: int) -> None:
    """Time the paper's tests on an INT8 engine, count their errors, and write results/protocols.{json,md,svg}."""
    count, repetitions, limit = (1, 1, 2) if setup.quick else (count, repetitions, limit)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        drawn = pictures(setup, folder).draw(count)
        paths = drawn.measured
        models = prepare(folder, setup, drawn.calibration)
        model, options = models.int8["tensorrt"], EngineOptions(runtime="openvino", requests=None)
        protocols = {each: choose_protocol(models.manifest, each, free_size=True).protocol for each in NAMES}
        unstarted = [
            UnstartedContestant(each, EnginePasses, (model, options, protocol)) for each, protocol in protocols.items()
        ]
        with ExitStack() as stack:
            contestants, reasons = start(stack, unstarted)
            if reasons:
                raise click.ClickException(next(iter(reasons.values())))
            contest = Contest(contestants, [paths], Terms(effort=Effort(repetitions=repetitions)))
            contest.hold()
        expected = expected_posteriors(protocols, paths, models.checkpoint)
        tests = {
            each: Tested(
                protocol, contest[each], cells(contest[each].parity([expected[each]], models.manifest.classes))
            )
            for each, protocol in protocols.items()
        }
        labelled = measured_network(setup).labelled
        if labelled is not None:
            rates = in_own_process(_accuracy, model, labelled, limit, protocols, drawn.calibration)
            for each, accuracy in rates.items():
                tests[each].accuracy = accuracy
    base = tests[BASE].accuracy
    method, details = prose(models.name, drawn.name, repetitions, base.images if base else 0)
    page = Page(
        name="protocols",
        title="Dense and multi-crop tests",
        tables=[table(tests, models, method)],
        details=details,
        samples={each: [len(paths) * seconds for seconds in test.record.image_s] for each, test in tests.items()},
        drawing=draw(tests),
    )
    click.echo(page.write(setup.out))


if __name__ == "__main__":
    main()
