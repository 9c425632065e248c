"""Each benchmark runs from beginning to end. Figures are not judged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.agreement import COLUMNS

ROOT = Path(__file__).parents[2]
NAMES = ("single", "shapes", "multiscale", "protocols", "growth", "pipeline", "pairing")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_runs_without_data_and_shows_the_agreement_of_each_timed_line(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("openvino")
    pytest.importorskip("torch")
    environment = {**os.environ, "VGG_DEPLOY_TEST_DATA": ""}
    command = [sys.executable, "-m", f"benchmarks.{name}", "--quick", "--width-divisor", "4", "--out", str(tmp_path)]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "no shared/data, no VGG_DEPLOY_TEST_DATA and no --images: measuring on generated pictures" in ended.stderr
    record = json.loads((tmp_path / f"{name}.json").read_text())
    text = (tmp_path / f"{name}.md").read_text()
    assert "generated picture" in text
    assert "width / 4" in text
    assert record["machine"]["cores"]
    assert str(ROOT) not in text + json.dumps(record)
    if f"({name}.svg)" in text:
        assert (tmp_path / f"{name}.svg").read_bytes().startswith(b"<?xml")
    for table in record["tables"]:
        assert 1 <= table["method"].count(". ") + 1 <= 5
        if table["title"] == "The worst shape":  # rows of the other table
            continue
        positions = [index for index, column in enumerate(table["columns"]) if column.startswith(COLUMNS)]
        assert len(positions) in (2, 4)
        for row in table["rows"]:
            if "not measured" in row[1] or row[0].startswith("start-up"):
                continue
            cells = [row[position] for position in positions]
            assert all(" of " in cell for cell in cells[::2]), row
            assert all(0 <= float(cell) <= 1 for cell in cells[1::2]), row


def test_a_quick_run_does_not_replace_the_results() -> None:
    import click
    from click.testing import CliRunner

    from benchmarks.options import setup_options
    from benchmarks.report import RESULTS
    from benchmarks.subject import Setup

    seen: list[Setup] = []
    command = click.command()(setup_options(lambda setup: seen.append(setup)))
    for arguments in ([], ["--quick"]):
        assert CliRunner().invoke(command, arguments).exit_code == 0
    assert [setup.out for setup in seen] == [RESULTS, None]
