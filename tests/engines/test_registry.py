"""Opening engines: which runtime is chosen, and what is refused."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest

import engines
from engines import RUNTIMES, open_engine
from engines.choice import Choice, choose_runtime, pairing_notices
from vgg_deploy.artifacts.onnx_file import read_manifest
from vgg_deploy.errors import EngineError, ManifestError, MissingDependencyError, ModelFileError, UsageError
from vgg_deploy.inference.engine_options import EngineOptions
from vgg_deploy.network.manifest import Manifest
from vgg_deploy.network.precision import Precision, Quantization
from vgg_deploy.network.tensors import Images

REPOSITORY = Path(__file__).parent.parent.parent


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`without("onnxruntime", ...)`: as if these packages were not installed."""

    def hide(*packages: str) -> None:
        find = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name, *rest: None if name in packages else find(name, *rest)
        )

    return hide


@pytest.fixture(scope="session")
def make_tiny() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_tiny", REPOSITORY / "tests/data/make_tiny.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tiny_model_is_what_its_script_makes(tiny_model: Path, make_tiny: ModuleType) -> None:
    made, stored = make_tiny.tiny_model(), onnx.load(tiny_model)
    made.producer_version = stored.producer_version  # the version changes with every release, the network does not
    assert made == stored
    assert tiny_model.stat().st_size < 20_000


def test_the_tiny_model_and_its_script_need_no_torch(tiny_model: Path) -> None:
    program = (
        "import sys, runpy; sys.modules['torch'] = None; runpy.run_path('tests/data/make_tiny.py')\n"
        "from engines import open_engine; open_engine(sys.argv[1]).close()"
    )
    command = [sys.executable, "-c", program, str(tiny_model)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


def test_auto_chooses_an_installed_runtime_and_says_why(without: Callable[..., None], tiny_model: Path) -> None:
    assert choose_runtime(EngineOptions()).runtime in RUNTIMES
    assert choose_runtime(EngineOptions(runtime="openvino")) == Choice("openvino")
    without("onnxruntime", "ncnn")
    assert choose_runtime(EngineOptions()).runtime == "openvino"
    with open_engine(tiny_model) as engine:
        assert engine.info.runtime.startswith("openvino")
        assert engine.info.notices == ("runtime openvino: ncnn would be faster for this file, but is not installed",)
    with open_engine(tiny_model, runtime="openvino") as engine:
        assert engine.info.notices == ()


def test_auto_computes_bfloat16_in_openvino_alone(without: Callable[..., None], tiny_model: Path) -> None:
    assert choose_runtime(EngineOptions(allow_bf16=True)).runtime == "openvino"
    with pytest.raises(UsageError, match="onnxruntime does not support bfloat16; use --runtime openvino"):
        open_engine(tiny_model, runtime="onnxruntime", allow_bf16=True)
    without("openvino")
    with pytest.raises(MissingDependencyError, match="--allow-bf16 needs openvino"):
        open_engine(tiny_model, allow_bf16=True)


@pytest.mark.parametrize("runtime", list(RUNTIMES))
def test_answers_do_not_depend_on_how_many_requests_share_the_threads(
    runtime: str, tiny_model: Path, images: Images
) -> None:
    with open_engine(tiny_model, runtime=runtime, threads=2) as engine:
        expected = engine.run(images).probabilities
    for threads in (2, 3):
        with (
            open_engine(tiny_model, runtime=runtime, threads=threads, requests=2) as engine,
            ThreadPoolExecutor(4) as pool,
        ):
            for scores in pool.map(engine.run, [images] * 8):
                np.testing.assert_allclose(scores.probabilities, expected, atol=1e-6)


def test_without_any_runtime_the_error_names_the_extra(without: Callable[..., None], tiny_model: Path) -> None:
    without(*RUNTIMES)
    with pytest.raises(MissingDependencyError, match=r"pip install '\.\[cpu\]'"):
        open_engine(tiny_model)
    with pytest.raises(MissingDependencyError, match=r"pip install '\.\[gpu\]'"):
        open_engine(tiny_model, device="cuda")


@pytest.mark.parametrize("runtime", list(RUNTIMES))
def test_a_requested_runtime_that_is_not_installed_names_the_extra(
    runtime: str, without: Callable[..., None], tiny_model: Path
) -> None:
    without(runtime)
    expected = rf"--runtime {runtime} needs {runtime}, which is not installed: pip install '\.\[cpu\]'"
    with pytest.raises(MissingDependencyError, match=expected):
        open_engine(tiny_model, runtime=runtime)


def test_openvino_refuses_cuda(tiny_model: Path) -> None:
    with pytest.raises(UsageError, match="openvino supports cpu only, and device is cuda:1; use --runtime onnxruntime"):
        open_engine(tiny_model, runtime="openvino", device="cuda:1")


@pytest.mark.parametrize("runtime", ["auto", "onnxruntime"])
def test_missing_cuda_is_an_error_and_never_a_silent_fallback_to_the_cpu(runtime: str, tiny_model: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime is built for CUDA")
    with pytest.raises(UsageError, match=r"device cuda:0 needs onnxruntime-gpu.*'\.\[gpu\]'"):
        open_engine(tiny_model, runtime=runtime, device="cuda:0")


def test_cuda_that_fails_to_start_is_an_error_although_onnxruntime_falls_back_to_the_cpu(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: providers)
    monkeypatch.setattr(
        onnxruntime,
        "InferenceSession",
        lambda path, options, providers, **others: session(path, options, providers=["CPUExecutionProvider"], **others),
    )
    with pytest.raises(EngineError, match="could not start CUDA on cuda:0: its CUDA or cuDNN libraries"):
        open_engine(tiny_model, runtime="onnxruntime", device="cuda:0")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("none.onnx", "no such model"),
        ("none.plan", "none.plan: no such plan"),
        ("model.safetensors", "is a checkpoint; export it first: vgg-deploy export --weights"),
    ],
)
def test_files_that_are_not_models_are_refused_with_advice(name: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=reason):
        open_engine(tmp_path / name)
    with pytest.raises(UsageError, match="is not a file"):
        open_engine(tmp_path)


@pytest.mark.parametrize(
    ("keywords", "reason"),
    [
        ({"runtime": "onnxruntime"}, "is a TensorRT plan, and onnxruntime runs ONNX files: leave the runtime out"),
        ({"runtime": "tflite"}, "runtime is 'tflite'; expected auto, onnxruntime, openvino, ncnn, tensorrt, "),
        ({"device": "cpu"}, "runs on NVIDIA GPUs: leave the device out, or give cuda or cuda:N. On the CPU, run the"),
        ({"threads": 2}, "runs on a GPU, and --threads applies to CPUs only; leave it out"),
        ({}, "has no usable manifest .* --trust"),
    ],
)
def test_options_that_a_plan_does_not_take_are_refused(keywords: dict[str, Any], reason: str, tmp_path: Path) -> None:
    path = tmp_path / "model.engine"
    path.write_bytes(b"a plan")
    with pytest.raises(UsageError, match=reason):
        open_engine(path, **keywords)


def test_each_kind_of_file_refuses_the_options_of_the_other(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"tiny.onnx is not a TensorRT plan; --trust and --cuda-api"):
        open_engine(tiny_model, trust=True)
    with pytest.raises(UsageError, match=r"a.plan is a TensorRT plan; --requests and --allow-bf16"):
        open_engine(tmp_path / "a.plan", allow_bf16=True)


def test_a_plan_backend_or_an_unknown_runtime_is_refused_for_an_onnx_file(tiny_model: Path) -> None:
    expected = "tensorrt runs plans, not ONNX files; build one: vgg-deploy build MODEL.onnx --backend tensorrt"
    with pytest.raises(UsageError, match=expected):
        open_engine(tiny_model, runtime="tensorrt")
    with pytest.raises(UsageError, match="runtime is 'tflite'; expected auto, onnxruntime, openvino, ncnn"):
        open_engine(tiny_model, runtime="tflite")


@pytest.mark.parametrize(("device", "index"), [(None, 0), ("cuda", 0), ("cuda:3", 3)])
def test_a_plan_is_opened_on_the_requested_device(
    device: str | None, index: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engines.trt import engine as run

    opened: list[tuple[Path, EngineOptions]] = []
    monkeypatch.setattr(run, "open_plan", lambda path, options: opened.append((path, options)))
    keywords: dict[str, Any] = {"labels": "a", "cuda_api": "pycuda", "trust": True, "runtime": "tensorrt"}
    open_engine(tmp_path / "a.plan", device=device, **keywords)
    assert opened == [(tmp_path / "a.plan", EngineOptions(device=device, **keywords))]
    assert opened[0][1].device_index == index


# ---- INT8 files and the runtimes that they were made for ----


@pytest.fixture
def quantized(tiny_model: Path, tmp_path: Path) -> Callable[..., Path]:
    """`quantized(target, layers=("conv1_1",))` -> the tiny model; its manifest says these layers are INT8."""

    def write(target: str, layers: tuple[str, ...] = ("conv1_1",)) -> Path:
        model = onnx.load(tiny_model)
        entry = model.metadata_props[0]
        ranges = dict.fromkeys(layers, (-1.0, 1.0))
        quantization = Quantization(target, layers, (), "minmax", ranges, (), (64,), mirror=True)
        manifest = Manifest.from_json(entry.value, "a test")
        entry.value = manifest.with_(precision=Precision(quantization=quantization)).to_json()
        path = tmp_path / f"{target}.onnx"
        onnx.save(model, path)
        return path

    return write


SLOW = "onnxruntime's CPU kernels run most of them one by one, slower than FP32"


def test_auto_takes_openvino_for_a_file_that_was_quantized_for_tensorrt(quantized: Callable[..., Path]) -> None:
    pytest.importorskip("openvino")
    with open_engine(quantized("tensorrt")) as engine:
        assert engine.info.runtime.startswith("openvino")
        (notice,) = engine.info.notices
    assert notice.startswith("runtime openvino: it runs the INT8 layers of a file made for TensorRT as INT8")


@pytest.mark.parametrize(("amx", "expected"), [(True, "openvino"), (False, "onnxruntime"), (None, "onnxruntime")])
def test_auto_takes_openvino_for_int8_made_for_onnxruntime_only_if_the_cpu_has_amx(
    amx: bool | None, expected: str, quantized: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setattr("engines.choice.amx_in_use", lambda: amx)
    with open_engine(quantized("onnxruntime")) as engine:
        assert engine.info.runtime.startswith(expected)
        assert any(("AMX" in notice) and notice.startswith(f"runtime {expected}: ") for notice in engine.info.notices)


def test_auto_takes_the_faster_runtime_for_each_precision_and_says_why(
    quantized: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setattr("engines.choice.amx_in_use", lambda: False)
    with open_engine(quantized("onnxruntime")) as engine:
        assert engine.info.runtime.startswith("onnxruntime")
        (notice,) = engine.info.notices
    assert notice.startswith("runtime onnxruntime: the file was made for it; without AMX, it was as fast as openvino")
    with open_engine(quantized("tensorrt", ())) as engine:
        assert engine.info.runtime.startswith("ncnn")
        (notice,) = engine.info.notices
    assert notice.startswith("runtime ncnn: its Winograd convolutions were the fastest in floating point")


def test_auto_skips_a_runtime_that_cannot_be_loaded_and_says_why(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ncnn")
    importer = importlib.import_module

    def import_module(name: str) -> Any:
        if name == RUNTIMES["ncnn"].adapter:
            raise ImportError("libgomp")
        return importer(name)

    monkeypatch.setattr(importlib, "import_module", import_module)
    with open_engine(tiny_model) as engine:
        assert engine.info.runtime.startswith("onnxruntime")
        (notice,) = engine.info.notices
    expected = "ncnn would be faster, but cannot run this file: it is installed but cannot be loaded: libgomp"
    assert notice == f"runtime onnxruntime: {expected}"
    with pytest.raises(EngineError, match="ncnn is installed but cannot be loaded: libgomp"):
        open_engine(tiny_model, runtime="ncnn")


@pytest.mark.parametrize("runtime", ["auto", "ncnn"])
def test_ctrl_c_while_a_runtime_is_imported_is_raised(
    runtime: str, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ncnn")

    def import_module(name: str) -> Any:
        raise ImportError(f"initialization of {name} failed") from KeyboardInterrupt()

    monkeypatch.setattr(importlib, "import_module", import_module)
    with pytest.raises(KeyboardInterrupt):
        open_engine(tiny_model, runtime=runtime)


def test_auto_runs_the_graph_of_another_exporter_in_a_runtime_that_accepts_any(tiny_model: Path) -> None:
    foreign = replace(read_manifest(tiny_model), spec=None)
    assert choose_runtime(EngineOptions(), foreign).runtime == "onnxruntime"


@pytest.mark.parametrize("runtime", ["auto", "onnxruntime"])
def test_a_slow_pairing_runs_with_a_notice_of_its_cost_and_the_remedy(
    runtime: str, quantized: Callable[..., Path], without: Callable[..., None], images: Images
) -> None:
    path = quantized("tensorrt")
    if runtime == "auto":
        without("openvino")
    missing = "runtime onnxruntime: openvino would be faster for this file, but is not installed"
    chosen = (missing,) if runtime == "auto" else ()
    with open_engine(path, runtime=runtime) as engine:
        assert engine.info.runtime.startswith("onnxruntime")
        *reasons, notice = engine.info.notices
        engine.run(images)
    assert tuple(reasons) == chosen
    assert SLOW in notice
    assert "VGG-16 took 1.2 times as long as in FP32; openvino takes a quarter of the FP32 time" in notice
    assert (
        "openvino runs them as INT8 (pip install '.[cpu]' in a clone" if runtime == "auto" else "--runtime openvino"
    ) in notice
    assert "export the file with --target onnxruntime" in notice


def test_ncnn_refuses_an_int8_file_and_names_a_runtime_for_it(quantized: Callable[..., Path]) -> None:
    pytest.importorskip("ncnn")
    with pytest.raises(UsageError, match="ncnn does not support INT8 files; use --runtime openvino"):
        open_engine(quantized("tensorrt"), runtime="ncnn")


def test_an_int8_file_on_cuda_has_no_notice(quantized: Callable[..., Path]) -> None:
    manifest = read_manifest(quantized("tensorrt"))
    assert pairing_notices("onnxruntime", EngineOptions(device="cuda:0"), manifest) == ()
    assert choose_runtime(EngineOptions(device="cuda:0"), manifest) == Choice("onnxruntime")


def test_a_truncated_file_is_refused_at_every_length(tiny_model: Path, tmp_path: Path) -> None:
    whole, path = tiny_model.read_bytes(), tmp_path / "cut.onnx"
    for length in (0, 1, 100, 1000, 5000, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises((ModelFileError, ManifestError)):
            open_engine(path)


@pytest.mark.parametrize("runtime", list(RUNTIMES))
def test_a_graph_that_the_runtime_refuses_is_an_engine_error_of_one_line(
    runtime: str, tiny_model: Path, tmp_path: Path
) -> None:
    model = onnx.load(tiny_model)
    next(node for node in model.graph.node if node.name == "conv2_1").op_type = "Unheard"
    path = tmp_path / "strange.onnx"
    onnx.save(model, path)
    with pytest.raises(EngineError, match=f"{runtime} refused {path}") as caught:
        open_engine(path, runtime=runtime)
    assert "\n" not in str(caught.value)


def test_importing_the_registry_imports_no_runtime() -> None:
    program = "import sys, engines; print([name for name in (*engines.RUNTIMES, 'torch') if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=60
    )
    assert ast.literal_eval(done.stdout) == []
    assert engines.RUNTIMES.keys() == {"onnxruntime", "openvino", "ncnn"}
