"""Each command that searches folders says in one line on stderr what it passed over."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import vgg_deploy

pytest.importorskip("onnxruntime")

TINY = Path(vgg_deploy.__file__).parent.parent / "tests" / "data" / "tiny.onnx"
LINE = "found 5 images; passed over 2 .txt, 1 hidden .jpg; cannot read 1 .dng: convert them to JPEG, PNG or TIFF"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A class folder of tiny.onnx with five images, two of them known by their content alone, and other files."""
    folder = tmp_path / "data" / "church"
    folder.mkdir(parents=True)
    for seed, name in enumerate(("a.png", "b.mpo", "c.jfif", "scan.jpg.1", "noending")):
        pixels = np.random.default_rng(seed).integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name, format="PNG" if name == "a.png" else "JPEG")
    for name in ("1.txt", "2.txt", ".a.jpg", "raw.dng"):
        (folder / name).write_bytes(b"x")
    return tmp_path / "data"


@pytest.mark.parametrize(
    "command",
    ["infer {data} --engine {model}", "eval {data} --engine {model}", "features {data} --engine {model} -o {out}"],
)
def test_a_command_says_what_it_passed_over(
    data: Path, tmp_path: Path, vgg_deploy_command: Callable[..., Any], command: str
) -> None:
    words = command.format(data=data, model=TINY, out=tmp_path / "out.npz").split()
    result = vgg_deploy_command(*words, "--runtime", "onnxruntime")
    assert result.code == 0, result.err
    assert result.err.splitlines().count(LINE) == 1
    assert "passed over" not in result.out


def test_bench_says_what_it_passed_over(data: Path, vgg_deploy_command: Callable[..., Any]) -> None:
    result = vgg_deploy_command(
        *("bench", str(TINY), "--images", str(data), "--protocol", "dense", "--limit", "1", "--runtime", "onnxruntime")
    )
    assert result.err.splitlines().count(LINE) == 1, result.err
