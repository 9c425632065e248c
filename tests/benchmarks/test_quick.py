"""Each benchmark runs from beginning to end; no figure is judged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["single", "shapes", "multiscale", "protocols", "growth", "pipeline", "pairing"])
def test_a_benchmark_runs_without_data_and_writes_where_it_is_told(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("openvino")
    pytest.importorskip("torch")
    environment = {key: value for key, value in os.environ.items() if key != "VGG_DEPLOY_TEST_DATA"}
    command = [sys.executable, "-m", f"benchmarks.{name}", "--quick", "--width-divisor", "8", "--out", str(tmp_path)]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr
    record = json.loads((tmp_path / f"{name}.json").read_text())
    text = (tmp_path / f"{name}.md").read_text()
    assert "generated pictures" in text
    assert "width / 8" in text
    assert record["machine"]["cores"]
    assert str(ROOT) not in text + json.dumps(record)
    if f"({name}.svg)" in text:
        assert (tmp_path / f"{name}.svg").read_bytes().startswith(b"<?xml")


def test_what_is_tried_quickly_does_not_replace_the_results() -> None:
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
