"""PyTorch through torch.compile as an engine."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from train.network.checkpoint import read
from train.network.compiled import CompiledReference
from train.network.reference import Reference
from vgg_deploy.errors import EngineError


@pytest.mark.parametrize(("any_size", "dynamic"), [(False, False), (True, None)])
def test_each_shape_has_a_compiled_version_unless_any_size_is_requested(
    any_size: bool, dynamic: bool | None, narrow_checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    modes: list[object] = []

    def recording(function: Callable[..., object], **options: object) -> Callable[..., object]:
        modes.append(options["dynamic"])
        return function

    monkeypatch.setattr(torch, "compile", recording)
    monkeypatch.setattr(shutil, "which", lambda _name: "/usr/bin/c++")
    path = narrow_checkpoint("A")
    with CompiledReference(read(path), any_size=any_size) as compiled, Reference(read(path)) as reference:
        for width in range(64, 75):
            images = np.full((1, 64, width, 3), width, np.uint8)
            difference = compiled.run(images).probabilities - reference.run(images).probabilities
            assert np.abs(difference).max() < 1e-6
    assert modes == [dynamic]


def test_without_a_compiler_one_line_says_what_to_do(
    narrow_checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(EngineError, match=r"torch.compile needs a C\+\+ compiler.*looked for no-such-compiler.*g\+\+"):
        CompiledReference(read(narrow_checkpoint("A")))


def test_an_error_of_the_compiler_is_one_line(
    narrow_checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    def broken(_function: object, **_options: object) -> object:
        def call(_pixels: object) -> None:
            raise RuntimeError("\nCppCompileError: C++ compile error\n\nCommand: ...\n")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    monkeypatch.setattr(shutil, "which", lambda _name: "/usr/bin/c++")
    expected = (
        r"^the PyTorch engine failed on 1 x 64 x 64 x 3: torch.compile failed: CppCompileError: C\+\+ compile error"
    )
    engine = CompiledReference(read(narrow_checkpoint("A")))
    with engine, pytest.raises(EngineError, match=expected):
        engine.run(np.zeros((1, 64, 64, 3), np.uint8))
    with pytest.raises(EngineError, match="closed"):
        engine.run(np.zeros((1, 64, 64, 3), np.uint8))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++"))), reason="there is no C++ compiler")
def test_the_compiled_engine_gives_the_answers_of_the_reference(narrow_checkpoint: Callable[..., Path]) -> None:
    path = narrow_checkpoint("A")
    random = np.random.default_rng(0)
    with CompiledReference(read(path)) as compiled, Reference(read(path)) as reference:
        assert compiled.info.outputs == ("probabilities",)
        for shape in ((1, 64, 80, 3), (2, 96, 70, 3)):
            images = random.integers(0, 256, shape, dtype=np.uint8)
            difference = compiled.run(images).probabilities - reference.run(images).probabilities
            assert np.abs(difference).max() < 1e-5
