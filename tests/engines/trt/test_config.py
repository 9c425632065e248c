"""Settings for TensorRT only, tested with TensorRT-RTX, whose interface has them too."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engines.trt.backend import TENSORRT, Backend, Messages, listening, logger
from engines.trt.build import build
from engines.trt.build_options import BuildOptions
from engines.trt.config import configured, save_timing_cache
from engines.trt.parsing import Parsed, parse
from vgg_deploy.errors import BuildError, OutputError, UsageError
from vgg_deploy.network.shapes import Profile

# TensorRT-RTX has timing caches only for compatibility with TensorRT, and warns about it.
pytestmark = pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX:DeprecationWarning")

PROFILE = Profile((64,), (1, 64, 64), (2, 64, 85), (2, 128, 128))


@pytest.fixture
def tensorrt(rtx: Backend) -> Backend:
    """TensorRT-RTX in the place of TensorRT."""
    return dataclasses.replace(rtx, name=TENSORRT)


@pytest.fixture
def parsed(rtx: Backend, model: Callable[..., Path]) -> Iterator[Parsed]:
    with listening(rtx):
        yield parse(rtx, rtx.trt.Builder(logger(rtx)), model())


class RecordingBuilder:
    """A builder whose configuration records its calls and gives prepared answers."""

    def __init__(self, builder: Any, **answers: Any) -> None:
        self._builder = builder
        self.config = Config(builder.create_builder_config(), answers)

    def create_builder_config(self) -> Any:
        return self.config

    def __getattr__(self, name: str) -> Any:
        return getattr(self._builder, name)


class Config:
    def __init__(self, config: Any, answers: dict[str, Any]) -> None:
        self.__dict__.update(config=config, answers=answers, calls={})

    def __setattr__(self, name: str, value: Any) -> None:
        self.calls[name] = value

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            self.calls[name] = (*arguments, *options.values())
            return self.answers[name] if name in self.answers else getattr(self.config, name)(*arguments, **options)

        return call


@pytest.mark.parametrize(
    ("asked", "level"), [("ampere+", "AMPERE_PLUS"), ("same", "SAME_COMPUTE_CAPABILITY"), ("none", None), (None, None)]
)
def test_hardware_compatibility_is_set_if_requested(
    asked: str | None, level: str | None, tensorrt: Backend, parsed: Parsed
) -> None:
    recording = dataclasses.replace(parsed, builder=RecordingBuilder(parsed.builder))
    config = configured(tensorrt, recording, BuildOptions(hardware_compatibility=asked), [PROFILE], Messages())
    level_set = config.calls.get("hardware_compatibility_level")
    assert level_set == (None if level is None else getattr(tensorrt.trt.HardwareCompatibilityLevel, level))


def test_limits_and_verbosity_are_set(tensorrt: Backend, parsed: Parsed) -> None:
    recording = dataclasses.replace(parsed, builder=RecordingBuilder(parsed.builder))
    config = configured(tensorrt, recording, BuildOptions(workspace=1 << 30), [PROFILE], Messages())
    trt = tensorrt.trt
    assert config.calls["set_memory_pool_limit"] == (trt.MemoryPoolType.WORKSPACE, 1 << 30)
    assert config.calls["profiling_verbosity"] == trt.ProfilingVerbosity.DETAILED
    assert "set_timing_cache" not in config.calls


def test_a_timing_cache_is_created_or_read(tensorrt: Backend, parsed: Parsed, tmp_path: Path) -> None:
    path = tmp_path / "new" / "timing.cache"
    config = configured(tensorrt, parsed, BuildOptions(timing_cache=path), [PROFILE], Messages())
    save_timing_cache(config, path)
    stored = path.read_bytes()
    assert stored
    recording = dataclasses.replace(parsed, builder=RecordingBuilder(parsed.builder))
    again = configured(tensorrt, recording, BuildOptions(timing_cache=path), [PROFILE], Messages())
    assert again.calls["create_timing_cache"] == (stored,)
    assert [item.name for item in path.parent.iterdir()] == ["timing.cache"]


@pytest.mark.parametrize("answers", [{"create_timing_cache": None}, {"set_timing_cache": False}])
def test_a_timing_cache_of_another_gpu_is_not_written_over(
    answers: dict[str, Any], tensorrt: Backend, parsed: Parsed, tmp_path: Path
) -> None:
    path = tmp_path / "t"
    path.write_bytes(b"of another GPU")
    recording = dataclasses.replace(parsed, builder=RecordingBuilder(parsed.builder, **answers))
    with pytest.raises(
        BuildError, match=r"t is not a timing cache of tensorrt .* for this GPU: .*\. Give another file"
    ):
        configured(tensorrt, recording, BuildOptions(timing_cache=path), [PROFILE], Messages())
    assert path.read_bytes() == b"of another GPU"


def test_a_timing_cache_that_cannot_be_read_or_written_is_one_line(
    tensorrt: Backend, parsed: Parsed, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="cannot read the timing cache"):
        configured(tensorrt, parsed, BuildOptions(timing_cache=tmp_path), [PROFILE], Messages())
    config = configured(tensorrt, parsed, BuildOptions(timing_cache=tmp_path / "t"), [PROFILE], Messages())
    with pytest.raises(OutputError, match="it is a folder"):
        save_timing_cache(config, tmp_path)


def test_a_refused_profile_is_an_error_with_the_reason(tensorrt: Backend, parsed: Parsed) -> None:
    wrong = dataclasses.replace(PROFILE, optimum=(9, 64, 64))
    with (
        listening(tensorrt) as messages,
        pytest.raises(BuildError, match=r"refuses the profile Q=64: .*kMIN|refuses.*profile"),
    ):
        configured(tensorrt, parsed, BuildOptions(), [PROFILE, wrong], messages)


def test_a_refused_compute_capability_is_an_error(rtx: Backend, parsed: Parsed) -> None:
    recording = dataclasses.replace(parsed, builder=RecordingBuilder(parsed.builder, set_compute_capability=False))
    with pytest.raises(BuildError, match=r"refuses compute capability 8\.9"):
        configured(rtx, recording, BuildOptions(compute_capabilities=("8.9",)), [PROFILE], Messages())


def test_a_build_of_tensorrt_writes_its_gpu_and_its_timing_cache(
    tensorrt: Backend, model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole build for TensorRT, in which TensorRT-RTX takes its place."""
    monkeypatch.setattr("engines.trt.build.choose", lambda *_: tensorrt)
    monkeypatch.setattr("engines.trt.build.compute_capability", lambda: (8, 9))
    monkeypatch.setattr("engines.trt.build.built_types", lambda *_: {})
    options = BuildOptions(scales=(64,), timing_cache=tmp_path / "t", hardware_compatibility="ampere+")
    built = build(model(int8=True), options=options)
    assert (built.manifest.backend, built.manifest.compute_capabilities) == ("tensorrt", ("8.9",))
    assert built.manifest.hardware_compatibility == "ampere+"
    assert (tmp_path / "t").is_file()
    assert "--timing-cache" in built.manifest.command
    assert not any("RTX: whether" in text for text in built.notices)
