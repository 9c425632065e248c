"""The contest of the multi-scale test: the order of turns, and which times are divided."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxruntime")

from benchmarks.multiscale import first_passes
from benchmarks.multiscale_page import ProtocolMeasurements, large_table, small_table
from benchmarks.ours import CPU_RUNTIMES, EnginePasses
from benchmarks.programs import PROTOCOL, Program, with_bare_loops
from engines import RUNTIMES
from vgg_deploy.bench.contest import Contest, Contestant, Terms
from vgg_deploy.bench.effort import Effort
from vgg_deploy.bench.turns import Turn

PROGRAMS = [
    Program("PyTorch eager", "FP32", None, ()),
    Program("OpenVINO", "INT8", None, ()),
    Program("ncnn", "FP32", EnginePasses, ()),
    Program("OpenVINO", "INT8", EnginePasses, ()),
    Program("absent", "BF16", EnginePasses, ()),
]
PATHS = [Path("a.jpg"), Path("b.jpg")]


class ProgramPlayer:
    """Stands for a contestant's process: notes each turn. It keeps one core and a half busy."""

    def __init__(self, name: str, turns: list[str], seconds: float) -> None:
        self._name, self._turns, self._seconds = name, turns, seconds

    def __call__(self, paths: Sequence[Path], once: bool, bare: bool = False) -> Turn:
        if not once:
            self._turns.append(self._name + (", bare" if bare else ""))
        rows = () if bare else (np.array([[1, 0]] * len(paths), np.float32),)
        return Turn(len(paths), (self._seconds,), 1.5 * self._seconds, rows)


@pytest.fixture
def turns() -> list[str]:
    return []


def held(turns: list[str], repetitions: int) -> Contest[Any]:
    contestants = []
    for program, seconds in zip(PROGRAMS[:4], (12.0, 2.0, 6.0, 1.0), strict=True):
        contestant = program.contestant(PROTOCOL)
        player = ProgramPlayer(program.name, turns, seconds)
        contestants.append(Contestant(program.name, player, contestant.group, contestant.every))
    contest = Contest(with_bare_loops(contestants), [PATHS], Terms(effort=Effort(repetitions=repetitions)))
    contest.hold()
    return contest


def test_the_program_ours_and_the_bare_loop_follow_each_other_and_every_other_time_in_reverse(turns: list[str]) -> None:
    held(turns, 2)
    trio = ["OpenVINO INT8", "vgg-deploy INT8 on OpenVINO", "vgg-deploy INT8 on OpenVINO, bare"]
    single = ["vgg-deploy FP32 on ncnn", "vgg-deploy FP32 on ncnn, bare"]
    assert turns == ["PyTorch eager FP32", *trio, *single, *reversed(trio)]


def test_slow_programs_run_less_often_and_ratios_use_common_repetitions(turns: list[str]) -> None:
    contest = held(turns, 9)
    names = [program.name for program in PROGRAMS[:4]]
    assert [sorted(contest[name].turns) for name in names[:3]] == [[0, 4, 8], list(range(9)), [0, 2, 4, 6, 8]]
    agreement = dict.fromkeys(names, ("2 of 2", "0"))
    measured = ProtocolMeasurements(first_passes([contest]), contest, agreement, {PROGRAMS[4].name: "not installed"})
    rows = {row[0]: row for row in small_table(PROGRAMS, measured, "").rows}
    ours = rows["vgg-deploy INT8 on OpenVINO"]
    assert ours[1:5] == (
        "2.00",
        "12.00 (12.00-12.00); aim 8 reached",
        "2.000 (2.000-2.000); aim 0.97 reached",
        "2.00 (2.00-2.00)",
    )
    assert ours[5].startswith("12.00 ± 0.00 (12.00-12.00); aim 8 reached")
    assert ours[6].startswith("2.000 ± 0.000 ")
    assert ours[7].startswith("1.000 ± 0.000 ")
    assert ours[8:] == ("2 of 2", "0")
    assert rows["vgg-deploy FP32 on ncnn"][3] == "-"  # there is no straightforward program for it
    assert rows["vgg-deploy BF16 on absent"][1] == "not measured: not installed"


def test_the_second_table_shows_the_cores_that_were_busy(turns: list[str]) -> None:
    contest = held(turns, 2)
    agreement = {program.name: ("2 of 2", "0") for program in PROGRAMS[1:4]}
    table = large_table(PROGRAMS, ProtocolMeasurements(first_passes([contest]), contest, agreement, {}), "")
    assert [row[table.columns.index("cores busy")] for row in table.rows[:3]] == [
        "1.50 (1.50-1.50)",
        "1.50",
        "1.50 (1.50-1.50)",
    ]


def test_every_program_of_ours_names_a_runtime_of_the_registry() -> None:
    assert set(CPU_RUNTIMES) == {name for name, each in RUNTIMES.items() if "cpu" in each.devices}
