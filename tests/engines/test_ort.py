"""ONNX Runtime: what differs from other engines. test_contract.py has the rest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from vgg_deploy.cores import usable_cores
from vgg_deploy.errors import EngineError
from vgg_deploy.network.tensors import Images

onnxruntime = pytest.importorskip("onnxruntime")

from engines import open_engine  # noqa: E402
from engines.ort import availability  # noqa: E402


def test_it_gives_the_answers_of_a_plain_session(tiny_model: Path, images: Images) -> None:
    session = onnxruntime.InferenceSession(str(tiny_model), providers=["CPUExecutionProvider"])
    expected = dict(zip(("probabilities", "score_map", "features"), session.run(None, {"images": images}), strict=True))
    with open_engine(tiny_model, runtime="onnxruntime") as engine:
        scores = engine.run(images)
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(scores, name), value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("threads", [1, None])
def test_the_requested_number_of_threads_is_used(
    threads: int | None, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options_seen, session = [], onnxruntime.InferenceSession

    def recording(path: str, options: onnxruntime.SessionOptions, **rest: object) -> onnxruntime.InferenceSession:
        options_seen.append(options)
        return session(path, options, **rest)

    monkeypatch.setattr(onnxruntime, "InferenceSession", recording)
    with open_engine(tiny_model, runtime="onnxruntime", threads=threads):
        assert options_seen[0].intra_op_num_threads == (threads or usable_cores())
        assert not options_seen[0].enable_mem_pattern
    with open_engine(tiny_model, runtime="onnxruntime", threads=6, requests=3) as engine:
        assert options_seen[1].intra_op_num_threads == 4  # three callers and three shared workers
        assert engine.info.concurrency == 3


def test_a_failed_run_is_an_engine_error_of_one_line(
    tiny_model: Path, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object) -> None:
        raise RuntimeError("bad allocation\nand a trace")

    session = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime,
        "InferenceSession",
        lambda *arguments, **rest: type("S", (session,), {"run": fail})(*arguments, **rest),
    )
    with (
        open_engine(tiny_model, runtime="onnxruntime") as engine,
        pytest.raises(EngineError, match=r"tiny\.onnx failed on 8 x 45 x 70 x 3: onnxruntime \S+: bad allocation$"),
    ):
        engine.run(images)


@pytest.mark.parametrize(
    ("runtime", "precision"),
    [("onnxruntime", "float16, computed in float32 between casts"), ("openvino", "float16, computed in float32")],
)
def test_fp16_on_the_cpu_is_reported_as_computed_in_fp32(
    runtime: str, precision: str, tiny_model: Path, tmp_path: Path
) -> None:
    pytest.importorskip(runtime)
    model = onnx.load(tiny_model)
    entry = model.metadata_props[0]
    entry.value = entry.value.replace('"arithmetic": "float32"', '"arithmetic": "float16"')
    path = tmp_path / "half.onnx"
    onnx.save(model, path)
    with open_engine(str(path), runtime=runtime) as engine:
        assert engine.info.precision == precision


def test_availability_names_the_version_or_says_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert availability("cpu") == f"onnxruntime {onnxruntime.__version__}"
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(EngineError, match="this onnxruntime supports CPUs only"):
        availability("cuda")
