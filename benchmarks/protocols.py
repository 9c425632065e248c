"""Dense against multi-crop (section 3.2): what each test costs the same network, and what accuracy it buys.

python -m benchmarks.protocols
"""

from __future__ import annotations

import statistics
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from benchmarks.agreement import COLUMNS, REFERENCE, Judge, cells, compared
from benchmarks.contestant import HOW, Contestant, apart
from benchmarks.models import Models, prepare
from benchmarks.options import setup_options
from benchmarks.ours import Stream
from benchmarks.report import Table, canvas, spread, write
from benchmarks.subject import Setup, network, pictures
from vgg_deploy.evaluation.error_rates import NOMINAL_SIZE, ErrorRates, error_rates, evaluate, fused, label_by_folder
from vgg_deploy.evaluation.parity import Parity
from vgg_deploy.network.manifest import Manifest
from vgg_deploy.network.tensors import Floats
from vgg_deploy.views.images import find_images
from vgg_deploy.views.protocols import Protocol, choose_protocol

NAMES = ("center", "dense", "multiscale", "50-crop", "150-crop", "multiscale+150-crop")
BASE = "dense"
CROPS_CHECKED = 1  # images on which crop tests are compared: PyTorch takes half a minute for one


@dataclass(slots=True)
class Tested:
    """A protocol and what was measured of it.

    Attributes:
        seconds: of all images, one of each repetition.
        answers: posteriors of each pass over the images that are timed.
        parity: of the pass that was furthest off.
        accuracy: on labelled images, where there are some.
    """

    protocol: Protocol
    seconds: list[float] = field(default_factory=list)
    answers: list[Floats] = field(default_factory=list)
    parity: Parity | None = None
    accuracy: ErrorRates | None = None

    def cost(self, manifest: Manifest) -> tuple[int, int]:
        """Views and multiply-accumulates of a landscape photo; crops that fall together are scored once."""
        assert manifest.spec is not None
        views = self.protocol.views(*NOMINAL_SIZE, manifest.rescaling)
        return len(views), self.protocol.macs(manifest.spec, *NOMINAL_SIZE, manifest.rescaling)


def check(tests: dict[str, Tested], paths: list[Path], models: Models) -> None:
    """Fills the parity in: of whole images on all that are timed, of crops, which take PyTorch long, on the first ones."""
    few, wanted = paths[:CROPS_CHECKED], dict[str, Floats]()
    with Contestant(Judge, models.checkpoint) as judge:
        for name, test in tests.items():
            known = [wanted[part.name][: len(few)] for part in test.protocol.parts if part.name in wanted]
            if len(known) > 1:  # a mean of two tests that were done
                wanted[name] = fused(known)
            else:
                wanted[name] = judge(few if name.endswith("-crop") else paths, test.protocol)
            rows = [each[: len(wanted[name])] for each in test.answers]
            test.parity = compared(wanted[name], rows, models.manifest.classes)
            click.echo(f"{name}: compared", err=True)


def _accuracy(
    model: Path, folder: Path, limit: int, protocols: dict[str, Protocol], calibration: list[Path]
) -> dict[str, ErrorRates]:
    """Errors by protocol, on images that did not calibrate; a mean of two protocols is that of their posteriors. In a process of its own."""
    from engines import open_engine

    posteriors: dict[str, Floats] = {}
    with open_engine(model, requests=None) as engine:
        manifest = engine.info.manifest
        seen = {path.resolve() for path in calibration}
        paths = [path for path in find_images([str(folder)]) if path.resolve() not in seen]
        sample = label_by_folder(paths, manifest.classes).sample(limit)
        for name, protocol in protocols.items():
            parts = name.split("+")
            if len(parts) > 1:
                posteriors[name] = fused([posteriors[part] for part in parts])
            else:
                posteriors[name] = evaluate(engine, sample.paths, protocol).posteriors
            click.echo(f"{name}: {sample.truth.size} labelled images", err=True)
    return {name: error_rates(rows, sample.truth) for name, rows in posteriors.items()}


def table(tests: dict[str, Tested], models: Models, count: int) -> Table:
    """A row for each protocol."""
    columns = ("test", "Q", "views", "GMACs an image", f"times {BASE}", "ms an image", f"times {BASE}")
    result = Table("", (*columns, *COLUMNS, "top-1 error", "top-5 error"))
    _views, base_macs = tests[BASE].cost(models.manifest)
    for name, test in tests.items():
        views, macs = test.cost(models.manifest)
        longer = [a / b for a, b in zip(test.seconds, tests[BASE].seconds, strict=True)]
        found = test.accuracy
        rates = () if found is None else (found.top1, found.top5)
        wrong = [f"{rate:.1%} ± {found.standard_error(rate):.1%}" for rate in rates] if found else ["-", "-"]
        assert test.parity is not None
        result.rows.append(
            (
                name,
                ", ".join(map(str, test.protocol.scales)),
                str(views),
                f"{macs / 1e9:,.1f}",
                f"{macs / base_macs:.1f}",
                spread([1000 * seconds / count for seconds in test.seconds], 0),
                spread(longer, 1),
                *cells(test.parity),
                *wrong,
            )
        )
    return result


def draw(tests: dict[str, Tested], models: Models, count: int) -> Any:
    """Bars of ms an image, and errors where there are some."""
    panels = 2 if tests[BASE].accuracy else 1
    with canvas(panels, height=3.0) as (drawing, axes):
        names = list(reversed(tests))
        times = [1000 * statistics.median(tests[name].seconds) / count for name in names]
        axes[0].bar_label(axes[0].barh(names, times, color="tab:blue"), fmt="%.0f", padding=3)
        axes[0].set_title("ms an image")
        axes[0].margins(x=0.15)
        if panels == 2:
            found = [tests[name].accuracy for name in names]
            rates = [100 * each.top1 for each in found if each]
            bars = [100 * each.standard_error(each.top1) for each in found if each]
            axes[1].errorbar(rates, names, xerr=bars, fmt="o", color="tab:blue", capsize=3)
            axes[1].set_title("top-1 error, %, with its standard error")
            axes[1].set_xlim(left=0)
        return drawing


@click.command()
@click.option("--count", default=3, show_default=True, help="Photographs that are timed.")
@click.option("--repetitions", default=3, show_default=True)
@click.option("--limit", default=30, show_default=True, help="Labelled images, as many of each class.")
@setup_options
def main(setup: Setup, count: int, repetitions: int, limit: int) -> None:
    """Time and judge the paper's tests on an INT8 engine, and write results/protocols.{json,md,svg}."""
    count, repetitions, limit = (1, 1, 2) if setup.quick else (count, repetitions, limit)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        drawn = pictures(setup, folder).draw(count)
        paths = drawn.measured
        models = prepare(folder, setup, drawn.calibration)
        tests = {each: Tested(choose_protocol(models.manifest, each, free_size=True).protocol) for each in NAMES}
        model, runtime = models.int8["tensorrt"], {"runtime": "openvino"}
        running = {
            each: stack.enter_context(Contestant(Stream, model, runtime, test.protocol)) for each, test in tests.items()
        }
        for each, contestant in running.items():
            tests[each].answers.append(contestant(paths)[1])
        for _ in range(repetitions):
            for each, contestant in running.items():
                seconds, posteriors = contestant(paths)
                tests[each].seconds.append(seconds)
                tests[each].answers.append(posteriors)
        check(tests, paths, models)
        folder_of_labelled = network(setup).labelled
        if folder_of_labelled is not None:
            protocols = {each: test.protocol for each, test in tests.items()}
            for each, found in apart(_accuracy, model, folder_of_labelled, limit, protocols, drawn.calibration).items():
                tests[each].accuracy = found
    accuracy = tests[BASE].accuracy
    judged = (
        f"Errors: on {accuracy.images} labelled images of 224x224, with their standard errors."
        if accuracy
        else "No errors: there are no labelled images of this network's classes (../shared/data)."
    )
    setting = (
        f"{models.words}, INT8 in OpenVINO. Views and multiply-accumulates: of a photo of {NOMINAL_SIZE[1]}x{NOMINAL_SIZE[0]}, where crops that fall "
        f"together are scored once. Times: {drawn.words}, file to answer, {repetitions} repetitions after a first pass. {HOW} Agreement and max "
        f"dp: with {REFERENCE} under the same test, of the pass that was furthest off, on the images that are timed; of crops on the first "
        f"{CROPS_CHECKED}. {judged}"
    )
    samples = {each: test.seconds for each, test in tests.items()}
    text = write(
        "protocols",
        "Dense and multi-crop tests",
        setting,
        tables=[table(tests, models, len(paths))],
        samples=samples,
        drawing=draw(tests, models, len(paths)),
        out=setup.out,
    )
    click.echo(text)


if __name__ == "__main__":
    main()
