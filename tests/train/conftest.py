"""Fixtures of the training tests: a data folder with two classes that a tiny network can tell apart."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """make(train=8, val=4, size=(40, 48)) -> a new data folder of noise around dark grey and around light grey."""

    def make(train: int = 8, val: int = 4, size: tuple[int, int] = (40, 48)) -> Path:
        root, random = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
        for split, count in (("train", train), ("val", val)):
            for name, level in (("dark", 40), ("light", 200)):
                folder = root / split / name
                folder.mkdir(parents=True)
                for number in range(count):
                    pixels = random.integers(level - 30, level + 30, (*size, 3)).astype(np.uint8)
                    Image.fromarray(pixels).save(folder / f"{number:02}.png")
        return root

    return make


@pytest.fixture(scope="session")
def one_torch_thread() -> Iterator[None]:
    """For tiny networks: on a busy machine, threads would wait for each other longer than a step takes."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., tuple[int, str, str]]:
    """run(*arguments) -> exit code, stdout and stderr of python -m train in an empty folder. Strings are split."""
    from train.__main__ import command
    from vgg_deploy.cli.entry import run_command

    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        parts = [each.split() if isinstance(each, str) else [str(each)] for each in arguments]
        monkeypatch.setattr(sys, "argv", ["train", *itertools.chain(*parts)])
        with pytest.raises(SystemExit) as caught:
            run_command(command, "python -m train")
        captured = capsys.readouterr()
        assert isinstance(caught.value.code, int)
        return caught.value.code, captured.out, captured.err

    return run
