"""The paper's multi-scale dense test (section 3.2), from image files to answers.

python -m benchmarks.multiscale
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import click

from benchmarks.agreement import ReferenceAnswers, cells
from benchmarks.models import prepare
from benchmarks.multiscale_page import Extent, ProtocolMeasurements, draw, large_table, prose, samples, small_table
from benchmarks.options import setup_options
from benchmarks.programs import (
    BARE,
    CHECKED,
    LARGE,
    PROTOCOL,
    PYTORCH,
    Paths,
    programs,
    with_bare_loops,
)
from benchmarks.report import Page
from benchmarks.subject import Setup, pictures, verification
from vgg_deploy.bench.contest import Contest, Terms
from vgg_deploy.bench.effort import Effort
from vgg_deploy.bench.own_process import OwnProcess, UnstartedContestant, start
from vgg_deploy.network.classes import ClassName
from vgg_deploy.network.tensors import Floats


def run_contest(
    unstarted: Sequence[UnstartedContestant], terms: Terms, timed: Paths, checked: Paths = (), *, warm: bool = True
) -> tuple[Contest[Paths], dict[str, str]]:
    """Holds a contest in fresh processes. Returns it, and the reason for each program that was not measured.

    Args:
        timed: files that are timed.
        checked: files whose answers are only compared.
        warm: whether warm passes follow the first ones.
    """
    with ExitStack() as stack:
        contestants, reasons = start(stack, unstarted)
        contest = Contest(with_bare_loops(contestants), [timed], terms, [checked] if checked else [])
        contest.first_turns()
        click.echo("first passes: done", err=True)
        if warm:
            contest.take_turns()
            click.echo("warm passes: done", err=True)
    return contest, reasons | {record.name: record.reason for record in contest.records if record.reason}


def first_passes(contests: Sequence[Contest[Paths]]) -> dict[str, list[float]]:
    """Seconds an image in first passes, by program."""
    names = [record.name for record in contests[0].records]
    return {name: [contest[name].first[0].image_s for contest in contests if contest[name].first] for name in names}


def agreements(
    contest: Contest[Paths], expected: Sequence[Floats], classes: Sequence[ClassName]
) -> dict[str, tuple[str, str]]:
    """The cells for `COLUMNS` of each program."""
    return {
        record.name: cells(record.parity(expected, classes))
        for record in contest.running
        if not record.name.endswith(BARE)
    }


@click.command()
@click.option("--count", type=click.IntRange(1), default=5, show_default=True, help="Images in each pass.")
@click.option(
    "--repetitions",
    type=click.IntRange(1),
    default=8,
    show_default=True,
    help="Warm passes in BF16 and INT8. FP32 has half as many, PyTorch a quarter.",
)
@click.option("--first-passes", type=click.IntRange(1), default=2, show_default=True, help="Each in a fresh process.")
@click.option(
    "--large-count", type=click.IntRange(1), default=20, show_default=True, help="Images in each pass at large Q's."
)
@click.option(
    "--large-repetitions", type=click.IntRange(1), default=2, show_default=True, help="Warm passes at large Q's."
)
@setup_options
def main(setup: Setup, **numbers: int) -> None:
    """Time the multi-scale test in each program, compare the answers, and write results/multiscale.{json,md,svg}."""
    extent = Extent(2, 1, 1, 4, 1) if setup.quick else Extent(**numbers)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checked = verification(setup, 2 if setup.quick else CHECKED)
        photos = pictures(setup, folder)
        many = photos.of_different_sizes(extent.large_count)
        drawn = photos.draw(extent.count, (*checked, *many))
        models = prepare(folder, setup, drawn.calibration)
        all_programs, classes = programs(models), models.manifest.classes
        unstarted = [each.contestant(PROTOCOL) for each in all_programs]
        terms = Terms(effort=Effort(repetitions=extent.repetitions), tolerant=True)
        cold = [run_contest(unstarted, terms, drawn.measured, warm=False)[0] for _ in range(extent.first_passes - 1)]
        warm, reasons = run_contest(unstarted, terms, drawn.measured, checked)
        # PyTorch eager takes too long here; the other table has it.
        unstarted = [replace(each.contestant(LARGE), every=1) for each in all_programs if each.name != PYTORCH]
        large_terms = replace(terms, effort=Effort(repetitions=extent.large_repetitions))
        large, large_reasons = run_contest(unstarted, large_terms, many)
        with OwnProcess(ReferenceAnswers, models.checkpoint) as reference_answers:
            expected = [reference_answers(paths, PROTOCOL) for paths in (drawn.measured, checked) if paths]
            expected_large = [reference_answers(many[:CHECKED], LARGE)]
    small_measured = ProtocolMeasurements(
        first_passes([*cold, warm]), warm, agreements(warm, expected, classes), reasons
    )
    large_agreement = agreements(large, expected_large, classes)
    large_measured = ProtocolMeasurements(first_passes([large]), large, large_agreement, large_reasons)
    images = drawn.name, photos.described(len(many))
    methods, details = prose(models.name, images, extent, len(checked))
    page = Page(
        name="multiscale",
        title="The multi-scale dense test, file to answer",
        tables=[
            small_table(all_programs, small_measured, methods[0]),
            large_table(all_programs, large_measured, methods[1]),
        ],
        details=details,
        samples={
            "small": samples(all_programs, small_measured, len(drawn.measured)),
            "large": samples(all_programs, large_measured, len(many)),
        },
        drawing=draw(all_programs, small_measured),
    )
    click.echo(page.write(setup.out))


if __name__ == "__main__":
    main()
