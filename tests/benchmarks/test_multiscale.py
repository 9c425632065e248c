"""How the contest of the multi-scale test is run: who plays when, and what is divided by what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxruntime")

from benchmarks import multiscale
from benchmarks.multiscale import Line, table, warm_passes
from benchmarks.ours import Stream
from vgg_deploy.evaluation.parity import compare
from vgg_deploy.network.classes import numbered_classes


class Recorder:
    """Stands for a `Contestant`: notes each turn."""

    def __init__(self, name: str, turns: list[str], seconds: float) -> None:
        self._name, self._turns, self._seconds = name, turns, seconds

    def __call__(self, _paths: Any, bare: bool = False) -> tuple[float, Any]:
        self._turns.append(self._name + (", bare" if bare else ""))
        return self._seconds, 0.0 if bare else np.array([[1, 0]], np.float32)


@pytest.fixture
def turns() -> list[str]:
    return []


@pytest.fixture
def lines(turns: list[str]) -> list[Line]:
    made = [
        Line("PyTorch eager", "FP32", (None,)),
        Line("OpenVINO", "INT8", (None,)),
        Line("ncnn", "FP32", (Stream,)),
        Line("OpenVINO", "INT8", (Stream,)),
        Line("absent", "BF16", (Stream,), reason="not installed"),
    ]
    for line, seconds in zip(made[:4], (12.0, 2.0, 6.0, 1.0), strict=True):
        line.contestant = Recorder(line.name, turns, seconds)  # type: ignore[assignment]
        line.first = [2 * seconds]
    return made


def test_the_program_ours_and_the_bare_loop_follow_each_other_and_every_other_time_in_reverse(
    lines: list[Line], turns: list[str]
) -> None:
    warm_passes(lines, [Path("a.jpg")], 2)
    trio = ["OpenVINO INT8", "vgg-deploy INT8 on OpenVINO", "vgg-deploy INT8 on OpenVINO, bare"]
    single = ["vgg-deploy FP32 on ncnn", "vgg-deploy FP32 on ncnn, bare"]
    assert turns == ["PyTorch eager FP32", *trio, *single, *reversed(trio)]


def test_those_that_take_long_play_less_often_and_ratios_are_of_common_repetitions(lines: list[Line]) -> None:
    warm_passes(lines, [Path("a.jpg")], 9)
    assert [sorted(line.warm) for line in lines[:3]] == [[0, 4, 8], list(range(9)), [0, 2, 4, 6, 8]]
    row = np.array([[1, 0]], np.float32)
    for line in lines[:4]:
        line.parity = compare(row, row, ["a"], numbered_classes(2))
    found = {row[0]: row for row in table(lines, 1).rows}
    ours = found["vgg-deploy INT8 on OpenVINO"]
    assert ours[1:5] == (
        "0.50",
        "12.00 (12.00-12.00); aim 8 reached",
        "2.000 (2.000-2.000); aim 0.97 reached",
        "1.00 (1.00-1.00)",
    )
    assert ours[5].startswith("12.00 ± 0.00 (12.00-12.00); aim 8 reached")
    assert ours[6].startswith("2.000 ± 0.000 ")
    assert ours[7].startswith("1.000 ± 0.000 ")
    assert ours[8:] == ("1 of 1", "0")
    assert found["vgg-deploy FP32 on ncnn"][3] == "-"  # nobody writes a program of their own for it
    assert found["vgg-deploy BF16 on absent"][1] == "not measured: not installed"


def test_every_program_of_ours_names_a_runtime_of_the_registry() -> None:
    from engines import RUNTIMES

    assert set(multiscale.CPU_RUNTIMES) == {name for name, each in RUNTIMES.items() if "cpu" in each.devices}
