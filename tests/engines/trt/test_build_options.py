"""The options of a build, and the command that repeats it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from engines.trt.build_options import BuildOptions, parse_size, written_size
from vgg_deploy.errors import UsageError


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"backend": "onnxruntime"}, "--backend is 'onnxruntime'; expected tensorrt or tensorrt-rtx"),
        ({"max_batch": 0}, "--max-batch is 0; expected 1 or more"),
        ({"max_aspect": 0.9}, "--max-aspect is 0.9; expected the ratio of the long to the short side"),
        ({"max_aspect": float("nan")}, "--max-aspect is nan"),
        ({"workspace": 0}, "--workspace is 0 bytes"),
        ({"hardware_compatibility": "ampere"}, "'ampere'; expected none, ampere+, same"),
        ({"compute_capabilities": ("8.9", "8.9")}, "--compute-capability 8.9,8.9 lists a value twice"),
        ({"backend": "tensorrt", "compute_capabilities": ("8.9",)}, "--compute-capability requires tensorrt-rtx"),
        ({"backend": "tensorrt-rtx", "timing_cache": Path("t")}, "--timing-cache requires tensorrt: "),
        ({"backend": "tensorrt-rtx", "hardware_compatibility": "none"}, "--hardware-compatibility requires tensorrt"),
    ],
)
def test_values_that_no_build_accepts_are_refused(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError) as refused:
        BuildOptions(**fields)
    assert reason in str(refused.value)
    assert "\n" not in str(refused.value)


def test_options_of_one_backend_are_accepted_until_a_backend_is_chosen() -> None:
    options = BuildOptions(timing_cache=Path("t"), hardware_compatibility="same")
    options.check_for("tensorrt")
    with pytest.raises(UsageError):
        options.check_for("tensorrt-rtx")


@pytest.mark.parametrize(
    ("text", "size"), [("4GiB", 4 << 30), ("512MiB", 512 << 20), ("1.5GiB", 3 << 29), ("64 kib", 64 << 10), ("7B", 7)]
)
def test_sizes_have_units(text: str, size: int) -> None:
    assert parse_size(text) == size
    assert parse_size(written_size(size)) == size


@pytest.mark.parametrize("text", ["", "4", "4GB", "-1GiB", "0GiB", "0.3B", "４GiB"])  # noqa: RUF001
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="expected a size with its unit, such as 4GiB or 512MiB"):
        parse_size(text)


def test_the_command_contains_every_option() -> None:
    options = BuildOptions(
        backend="tensorrt",
        scales=(224, 256),
        max_batch=4,
        max_aspect=1.7777777777,
        one_profile=True,
        workspace=512 << 20,
        timing_cache=Path("my cache"),
        hardware_compatibility="ampere+",
        labels=Path("l.txt"),
    )
    arguments = shlex.split(options.command(Path("a model.onnx"), Path("out/a.plan")))
    assert arguments == [
        *("vgg-deploy", "build", "a model.onnx", "-o", "out/a.plan", "--backend", "tensorrt", "--scales", "224,256"),
        *("--max-batch", "4", "--max-aspect", "1.7777777777", "--workspace", "512MiB", "--timing-cache", "my cache"),
        *("--hardware-compatibility", "ampere+", "--labels", "l.txt", "--one-profile"),
    ]
    assert BuildOptions().command(Path("m.onnx"), Path("m.plan")) == "vgg-deploy build m.onnx -o m.plan"
