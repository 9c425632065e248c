"""Memory that is given back."""

from __future__ import annotations

import ctypes
import os
from types import SimpleNamespace

import pytest

from vgg_deploy.cli.memory import give_back_what_is_freed


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """What glibc is told. Really told, it would stay so for all tests."""
    told: list[tuple[int, int]] = []
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: SimpleNamespace(mallopt=lambda *words: told.append(words)))
    for name in [name for name in os.environ if name.startswith(("MALLOC_", "GLIBC_TUNABLES"))]:
        monkeypatch.delenv(name)
    return told


def test_glibc_is_told_where_onnx_runtime_computes(calls: list[tuple[int, int]]) -> None:
    give_back_what_is_freed("onnxruntime 1.32.0")
    assert calls == [(-3, 65536)]


@pytest.mark.parametrize("runtime", ["openvino 2026.4.1", "tensorrt 11.4", "fake"])
def test_other_runtimes_are_left_as_they_are(runtime: str, calls: list[tuple[int, int]]) -> None:
    give_back_what_is_freed(runtime)
    assert calls == []


@pytest.mark.parametrize("name", ["MALLOC_ARENA_MAX", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"])
def test_a_setting_from_outside_stays(name: str, calls: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "1")
    give_back_what_is_freed("onnxruntime 1.32.0")
    assert calls == []


@pytest.mark.parametrize("failure", [OSError, AttributeError, TypeError])
def test_another_c_library_is_no_matter(failure: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_name: object) -> None:
        raise failure

    monkeypatch.setattr(ctypes, "CDLL", missing)
    give_back_what_is_freed("onnxruntime 1.32.0")
