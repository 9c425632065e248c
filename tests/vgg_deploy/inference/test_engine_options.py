"""What engines are opened with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vgg_deploy.errors import UsageError
from vgg_deploy.inference.engine_options import EngineOptions


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        *(
            ({"device": device}, f"device is '{device}'; expected cpu, cuda or cuda:N")
            for device in ("gpu", "", "cpu:1", "cuda:", "cuda:-1", "CUDA")
        ),
        ({"threads": 0}, "threads is 0; expected 1 or more"),
        ({"requests": -1}, "requests is -1; expected 1 or more"),
        ({"threads": 2, "requests": 3}, "requests is 3, but there are 2 threads to share; expected at most one"),
        ({"device": "cuda:0", "allow_bf16": True}, "bfloat16 is available only on CPUs, but device is cuda:0"),
    ],
)
def test_a_value_that_no_engine_accepts_is_refused(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        EngineOptions(**values)


def test_a_stream_gets_two_requests_if_there_are_threads_for_them() -> None:
    def requests(**values: Any) -> int:
        return EngineOptions(requests=None, **values).request_count

    assert requests(threads=2) == requests(device="cpu", threads=8) == 2
    assert requests(device="cpu", threads=1) == 1
    assert requests(device="cuda:0") == 1


def test_one_or_two_images_get_one_request_unless_a_number_is_given() -> None:
    unstated = EngineOptions(requests=None, threads=4)
    assert [unstated.for_images(count).request_count for count in (1, 2, 3)] == [1, 1, 2]
    assert EngineOptions(requests=4, threads=4).for_images(1).request_count == 4


@pytest.mark.parametrize(("device", "kind", "index"), [(None, "cpu", 0), ("cuda", "cuda", 0), ("cuda:3", "cuda", 3)])
def test_a_device_has_a_kind_and_an_index(device: str | None, kind: str, index: int) -> None:
    options = EngineOptions(device=device)
    assert (options.device_kind, options.device_index) == (kind, index)


def test_options_for_another_kind_of_file_are_refused() -> None:
    EngineOptions().check_plan_options(Path("a.onnx"))
    EngineOptions(requests=None).check_onnx_options(Path("a.pt"), "a checkpoint")
    for options in (EngineOptions(trust=True), EngineOptions(cuda_api="pycuda")):
        with pytest.raises(
            UsageError, match=r"a\.onnx is not a TensorRT plan; --trust and --cuda-api apply only to plans"
        ):
            options.check_plan_options(Path("a.onnx"))
    for options in (EngineOptions(allow_bf16=True), EngineOptions(threads=2, requests=2)):
        with pytest.raises(UsageError, match=r"a\.pt is a checkpoint; --requests and --allow-bf16 apply only"):
            options.check_onnx_options(Path("a.pt"), "a checkpoint")
