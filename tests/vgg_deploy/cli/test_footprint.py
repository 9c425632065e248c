"""What an engine costs in its own process."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from vgg_deploy.bench.batch_shape import BatchShape
from vgg_deploy.cli.bench.contestants import UnopenedContestant
from vgg_deploy.cli.bench.footprint import footprint_of
from vgg_deploy.errors import EngineError
from vgg_deploy.inference.engine_options import EngineOptions

pytest.importorskip("onnxruntime")

TINY = Path(__file__).parents[2] / "data" / "tiny.onnx"
OPTIONS = EngineOptions(runtime="onnxruntime", threads=1)


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read in another way there")
def test_memory_is_that_of_the_engine_alone_whatever_its_parent_holds() -> None:
    held = np.ones(400_000_000, np.uint8)
    footprint = footprint_of(UnopenedContestant("tiny", TINY, OPTIONS), BatchShape(1, 32, 32))
    assert held[-1] == 1
    assert footprint.peak_bytes is not None
    assert 10_000_000 < footprint.peak_bytes < 300_000_000
    assert footprint.load_s > 0
    assert footprint.first_run_s > 0


def test_a_failure_is_one_line_with_the_name(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"^lost failed in its own process: .*absent.onnx: no such model; check"):
        footprint_of(UnopenedContestant("lost", tmp_path / "absent.onnx", OPTIONS), BatchShape(1, 32, 32))
