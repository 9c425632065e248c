"""`vgg-deploy bench` from the command line: refusals before any work, the report, and failures."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

import vgg_deploy
from engines import RUNTIMES
from vgg_deploy.artifacts.onnx_file import read_manifest
from vgg_deploy.artifacts.verdict_record import write_verdict
from vgg_deploy.bench.batch_shape import BatchShape
from vgg_deploy.bench.product import Product
from vgg_deploy.files import Source
from vgg_deploy.network.manifest import Normalization
from vgg_deploy.network.verdict import Verdict
from vgg_deploy.network.weight_facts import WeightFacts

pytest.importorskip("onnxruntime")

ROOT = Path(vgg_deploy.__file__).parent.parent
TINY = ROOT / "tests" / "data" / "tiny.onnx"  # S is 40, the crop 32
QUICK = ("--repetitions", "2", "--threads", "1")


@pytest.fixture(autouse=True)
def small_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's real peak takes seconds to find."""
    monkeypatch.setattr("vgg_deploy.bench.peak.PRODUCTS", (Product(16, 8, 2),))


@pytest.fixture
def bench(vgg_deploy_command: Callable[..., Any]) -> Callable[..., Any]:
    """`bench(*arguments)` runs the command with two repetitions in one thread."""

    def run(*arguments: str | Path, quick: tuple[str, ...] = QUICK) -> Any:
        return vgg_deploy_command("bench", *map(str, arguments), *quick)

    return run


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    random = np.random.default_rng(2)
    (tmp_path / "photos").mkdir()
    for index, size in enumerate([(40, 56), (60, 44), (48, 48)]):
        slope = np.linspace(0, 1, size[1])[None, :, None]
        pixels = (random.integers(0, 256, (*size, 3)) * slope).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{index}.png")
    return tmp_path / "photos"


@pytest.fixture
def changed(tmp_path: Path) -> Callable[..., Path]:
    """`changed(name, how)` is tiny.onnx with fc8's bias changed by `how`."""

    def write(name: str, how: Callable[[np.ndarray], np.ndarray]) -> Path:
        model = onnx.load(TINY)
        for index, tensor in enumerate(model.graph.initializer):
            if tensor.name == "fc8.bias":
                values = how(numpy_helper.to_array(tensor)).astype(np.float32)
                model.graph.initializer[index].CopyFrom(numpy_helper.from_array(values, tensor.name))
        onnx.save(model, tmp_path / name)
        return tmp_path / name

    return write


def fixed(path: Path) -> Path:
    """tiny.onnx for images of 32 x 32, one at a time."""
    model = onnx.load(TINY)
    for axis, size in zip(model.graph.input[0].type.tensor_type.shape.dim, (1, 32, 32, 3), strict=True):
        axis.dim_value = size
    onnx.save(model, path)
    return path


# ---- refusals ----


@pytest.mark.parametrize("text", ["1x32x32,", "1x3x32x32"])
def test_a_wrong_shape_is_bad_use(bench: Callable[..., Any], text: str) -> None:
    done = bench(TINY, "--shapes", text)
    assert done.code == 2
    assert "--shapes" in done.err
    assert "expected NxHxW" in done.err
    assert done.out == ""


def test_a_shape_below_the_crop_names_the_model_that_does_not_accept_it(bench: Callable[..., Any]) -> None:
    done = bench(TINY, "--shapes", "1x40x40,1x31x64")
    assert done.code == 2
    assert "tiny.onnx does not accept shape 1x31x64; it accepts 1.. x 32.. x 32.. x 3" in done.err
    assert done.out == ""


@pytest.mark.parametrize("shape", ["1x40x40", "2x32x32"])
def test_a_model_of_one_size_accepts_no_other(bench: Callable[..., Any], tmp_path: Path, shape: str) -> None:
    done = bench(TINY, fixed(tmp_path / "fixed.onnx"), "--shapes", shape)
    assert done.code == 2
    assert f"fixed.onnx does not accept shape {shape}; it accepts 1 x 32 x 32 x 3; export with --dynamic" in done.err


@pytest.mark.parametrize("peer", ["tensorflow", "onnxruntime,"])
def test_an_unknown_peer_is_bad_use(bench: Callable[..., Any], peer: str) -> None:
    done = bench(TINY, "--against", peer)
    assert done.code == 2
    assert f"expected one or more of torch, torch-compile, {', '.join(RUNTIMES)}" in " ".join(done.err.split())


def test_pytorch_requires_the_weights(bench: Callable[..., Any]) -> None:
    done = bench(TINY, "--against", "torch")
    assert done.code == 2
    assert "--against torch requires the network's weights: give --reference CKPT" in done.err
    done = bench(TINY, "--against", "torch-compile", "--reference", TINY)
    assert done.code == 2
    assert "tiny.onnx is an ONNX file: give a checkpoint" in " ".join(done.err.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--protocol", "multiscale"), "give --images DIR"),
        (("--protocol", "9-crop", "--images", "."), "--protocol is '9-crop'"),
        (("--scales", "40"), "--scales requires --protocol"),
        (("--seconds", "3"), "--repetitions and --seconds exclude each other"),
        (("--plot", "plot.txt"), "--plot is plot.txt; expected a file name that ends in .png"),
        (("--reference", "absent.safetensors"), "absent.safetensors: no such file"),
        (("--images", "absent"), "absent: no such file or folder"),
    ],
)
def test_what_cannot_be_measured_is_refused_at_once(
    bench: Callable[..., Any], arguments: tuple[str, ...], message: str
) -> None:
    done = bench(TINY, *arguments)
    assert done.code == 2
    assert message in " ".join(done.err.split())
    assert done.out == ""


def test_a_missing_model_is_all_that_is_said(bench: Callable[..., Any], tmp_path: Path) -> None:
    done = bench(TINY, tmp_path / "absent.onnx")
    assert (done.code, done.out) == (2, "")
    assert (
        done.err == f"Error: {tmp_path / 'absent.onnx'}: no such model; check the path (vgg-deploy export writes one)\n"
    )


def test_results_are_not_written_over_a_model(bench: Callable[..., Any], changed: Callable[..., Path]) -> None:
    path = changed("model.onnx", lambda bias: bias)
    done = bench(path, "--json", path)
    assert done.code == 2
    assert "would overwrite" in done.err


# ---- the report ----


def test_the_json_has_machine_versions_contestants_and_every_sample(
    bench: Callable[..., Any], photos: Path, changed: Callable[..., Path]
) -> None:
    other = changed("other.onnx", lambda bias: bias + 3.0)  # the soft-max does not see what all classes share
    done = bench(TINY, other, "--shapes", "1x40x48,3x32x32", "--images", photos, "--peak", "--json", "-")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert report["machine"]["usable_cores"] >= 1
    assert {"python", "vgg-deploy", "numpy", "onnxruntime"} <= set(report["versions"])
    assert (report["pictures"], report["reference"], report["passed"]) == ("3 images", "tiny.onnx", True)
    assert [contestant["name"] for contestant in report["contestants"]] == ["tiny.onnx", "other.onnx"]
    for contestant in report["contestants"]:
        assert (contestant["device"], contestant["precision"], contestant["requests"]) == ("cpu", "float32", 1)
        assert contestant["load_s"] > 0
        assert contestant["first_run_s"] > 0
        assert contestant["peak_bytes"] is None or contestant["peak_bytes"] > 10_000_000
    assert [(result["work"], result["contestant"]) for result in report["results"]] == [
        (work, name) for work in ("1x40x48", "3x32x32") for name in ("tiny.onnx", "other.onnx")
    ]
    spec = read_manifest(TINY).spec
    for result in report["results"]:
        shape = BatchShape.parse(result["work"])
        samples = result["samples_ms"]
        assert result["images_per_sample"] == shape.images
        assert len(result["turns_ms_per_image"]) == 2
        assert len(samples) >= 2
        for share, name in ((50, "p50_ms"), (90, "p90_ms"), (99, "p99_ms"), (0, "lowest_ms"), (100, "highest_ms")):
            assert result[name] == pytest.approx(np.percentile(samples, share), abs=1e-3)
        assert result["images_per_s"] == pytest.approx(1000 * shape.images / result["p50_ms"])
        assert result["gflop_per_sample"] == pytest.approx(
            2 * shape.images * spec.macs(shape.height, shape.width) / 1e9
        )
        assert result["gflops_per_s"] == pytest.approx(1000 * result["gflop_per_sample"] / result["p50_ms"])
        assert result["share_of_peak"] == pytest.approx(result["gflops_per_s"] / result["peak"]["gflops_per_s"])
        assert result["peak"]["precision"] == "float32"
        assert (
            result["ratio_to_first"]["lowest"]
            <= result["ratio_to_first"]["median"]
            <= result["ratio_to_first"]["highest"]
        )
        assert result["parity"]["pictures"] == 3
        assert (result["parity"]["agreement"], result["failures"]) == (1, [])
    assert report["layers"] == []


def test_a_file_that_was_edited_after_it_was_verified_is_named_before_it_is_measured(
    bench: Callable[..., Any], tmp_path: Path
) -> None:
    path = Path(shutil.copy(TINY, tmp_path / "model.onnx"))
    write_verdict(path, Verdict("2026-11-25", Source("best.safetensors", "ab" * 32), (1, 2), "openvino 2026.4"))
    line = "verified on 2026-11-25 against best.safetensors: 1 2 (openvino 2026.4)"
    assert f"model.onnx: {line}\n" in bench(path).err
    model = onnx.load(path)
    model.graph.initializer[-1].raw_data = bytes(len(model.graph.initializer[-1].raw_data))
    onnx.save(model, path)
    assert f"model.onnx: changed since it was {line}; verify it again\n" in bench(path).err


def test_the_table_has_each_contestant_in_each_shape(bench: Callable[..., Any], tmp_path: Path) -> None:
    done = bench(TINY, "--against", "onnxruntime", "--plot", tmp_path / "plot.svg", "--layers", "--peak")
    assert done.code == 0, done.err
    assert "generated pictures" in done.err
    assert done.err.count("tiny.onnx: never verified: vgg-deploy verify") == 1
    lines = done.out.splitlines()
    assert "16 generated pictures (give real ones with --images); compared with tiny.onnx" in lines[0]
    rows = [line for line in lines if line.startswith(("tiny.onnx ", "onnxruntime: tiny.onnx "))]
    assert len(rows) == 4  # the footprints, and one shape: with --layers the default is one
    assert all(row.endswith("ok") for row in rows[2:])
    assert "1x32x32, 2 repetitions; images per sample: 1" in lines
    assert any(line.startswith("peak: ") for line in lines)
    assert any("of peak" in line for line in lines)
    assert "tiny.onnx, 1x32x32, by layer" in lines
    assert any(line.startswith("conv1_1") for line in lines)
    assert "<svg" in (tmp_path / "plot.svg").read_text(encoding="utf-8")


def test_without_shapes_the_crop_is_timed_for_one_and_for_eight(bench: Callable[..., Any], tmp_path: Path) -> None:
    done = bench(TINY, "--json", "-")
    assert [result["work"] for result in json.loads(done.out)["results"]] == ["1x32x32", "8x32x32"]
    done = bench(fixed(tmp_path / "fixed.onnx"), "--json", "-")
    assert [result["work"] for result in json.loads(done.out)["results"]] == ["1x32x32"]


def test_a_model_given_twice_shows_the_noise(bench: Callable[..., Any]) -> None:
    done = bench(TINY, TINY, "--shapes", "1x32x32", "--json", "-")
    assert [contestant["name"] for contestant in json.loads(done.out)["contestants"]] == ["tiny.onnx", "tiny.onnx #2"]


def test_a_protocol_is_timed_decode_to_answer(bench: Callable[..., Any], photos: Path) -> None:
    done = bench(TINY, TINY, "--protocol", "multiscale", "--scales", "32,40", "--images", photos, "--json", "-")
    assert done.code == 0, done.err
    first, second = json.loads(done.out)["results"]
    assert first["work"] == "multiscale: whole image at Q=32,40, with mirrors"
    assert first["images_per_sample"] == 3
    assert first["gflop_per_sample"] > 0
    assert second["parity"] == {
        **{"pictures": 3, "agreement": 1, "max_dp": 0},
        **{"mean_dp": 0, "divergence": 0, "flips": []},
    }


def test_the_peak_is_sought_once_for_shapes_and_a_protocol(
    bench: Callable[..., Any], photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vgg_deploy.bench import peak

    sought: list[str] = []
    find = peak.open_best_probe

    def counting(open_with: Any, precision: str, *arguments: Any, **keywords: Any) -> Any:
        sought.append(precision)
        return find(open_with, precision, *arguments, **keywords)

    monkeypatch.setattr(peak, "open_best_probe", counting)
    done = bench(TINY, "--shapes", "1x32x32", "--protocol", "dense", "--images", photos, "--peak", "--json", "-")
    assert done.code == 0, done.err
    assert sought == ["float32"]
    assert [result["peak"]["precision"] for result in json.loads(done.out)["results"]] == ["float32"] * 2


def test_the_peak_is_not_measured_unless_asked_and_the_table_has_no_column_for_it(
    bench: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def sought(*_arguments: Any, **_keywords: Any) -> None:
        raise AssertionError("the peak was measured")

    monkeypatch.setattr("vgg_deploy.bench.peak.open_best_probe", sought)
    done = bench(TINY, "--shapes", "1x32x32")
    assert done.code == 0, done.err
    assert "peak: " not in done.out
    assert "of peak" not in done.out
    (header,) = [line for line in done.out.splitlines() if "first run ms" in line]
    assert header.split()[-6:] == ["images/s", "GFLOP/s", "speedup", "agreement", "max", "|dp|"]
    (result,) = json.loads(bench(TINY, "--shapes", "1x32x32", "--json", "-").out)["results"]
    assert (result["peak"], result["share_of_peak"]) == (None, None)
    assert result["gflops_per_s"] > 0


@pytest.mark.parametrize(
    ("arguments", "quick", "what"),
    [
        (("--shapes", "1x32x32"), QUICK, "speed on 1x32x32 (2 repetitions)\n"),
        (("--shapes", "1x32x32"), ("--seconds", "0.1"), "speed on 1x32x32 (0.1 s, at least 3 repetitions)\n"),
        (
            ("--shapes", "1x32x32", "--protocol", "dense", "--peak"),
            QUICK,
            "speed on 1x32x32 and dense over 3 images (2 repetitions each); the machine's peak\n",
        ),
    ],
)
def test_what_will_be_measured_and_how_long_it_takes_is_said_first(
    bench: Callable[..., Any], photos: Path, arguments: tuple[str, ...], quick: tuple[str, ...], what: str
) -> None:
    done = bench(TINY, "--images", photos, *arguments, quick=quick)
    assert done.code == 0, done.err
    assert f"measures tiny.onnx: loading and memory, then {what}" in done.err
    assert re.search(r"^this takes about \d+ s$", done.err, re.MULTILINE)


def test_images_that_are_repeated_to_fill_a_batch_are_compared_once(bench: Callable[..., Any], photos: Path) -> None:
    done = bench(TINY, "--shapes", "8x32x32,2x32x32", "--images", photos, "--json", "-")
    assert "8x32x32: 3 images do not fill a batch, so some are repeated; each is compared once" in " ".join(
        done.err.split()
    )
    assert [result["parity"]["pictures"] for result in json.loads(done.out)["results"]] == [3, 3]


def test_images_that_fail_to_decode_are_skipped_and_named(bench: Callable[..., Any], photos: Path) -> None:
    (photos / "broken.png").write_bytes(b"no picture")
    done = bench(TINY, "--shapes", "1x32x32", "--protocol", "dense", "--images", photos, "--json", "-")
    assert done.code == 0, done.err
    assert "broken.png: not an image, or damaged at its beginning" in done.err
    report = json.loads(done.out)
    assert report["pictures"] == "3 images"
    assert report["results"][1]["images_per_sample"] == 3


def test_no_image_that_decodes_is_a_failure(bench: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    done = bench(TINY, "--images", tmp_path / "a.png")
    assert done.code == 1
    assert "none of the 1 images could be read" in done.err


# ---- failures ----


def test_a_model_that_disagrees_is_marked_and_exits_1(
    bench: Callable[..., Any], changed: Callable[..., Path], photos: Path
) -> None:
    other = changed("other.onnx", lambda bias: bias[::-1] * 9)
    arguments = (TINY, other, "--shapes", "1x40x40", "--images", photos)
    done = bench(*arguments)
    assert done.code == 1
    rows = [line for line in done.out.splitlines() if line.startswith("other.onnx ")]
    assert rows[-1].endswith("FAILED")
    assert "FAILED other.onnx, 1x40x40: max_dp " in done.out
    report = json.loads(bench(*arguments, "--json", "-").out)
    assert report["passed"] is False
    assert [bool(result["failures"]) for result in report["results"]] == [False, True]


def test_a_flip_of_a_near_tie_among_few_images_is_reported_and_is_not_a_failure(
    bench: Callable[..., Any], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vgg_deploy.evaluation.parity import THRESHOLDS

    model = onnx.load(TINY)
    classes = len(read_manifest(TINY).classes)
    paths = []
    for name, best in (("one.onnx", 0), ("other.onnx", 1)):
        for index, tensor in enumerate(model.graph.initializer):
            if tensor.name == "fc8.weight":
                zeros = np.zeros_like(numpy_helper.to_array(tensor))
                model.graph.initializer[index].CopyFrom(numpy_helper.from_array(zeros, tensor.name))
            if tensor.name == "fc8.bias":
                values = np.zeros(classes, np.float32)
                values[best] = 1e-6
                model.graph.initializer[index].CopyFrom(numpy_helper.from_array(values, tensor.name))
        onnx.save(model, tmp_path / name)
        paths.append(tmp_path / name)
    done = bench(*paths, "--shapes", "1x32x32", "--images", photos, "--limit", "1")
    assert done.code == 0, done.out
    (line, *_others) = [line for line in done.out.splitlines() if line.startswith("flipped in other.onnx, 1x32x32: ")]
    assert "by a margin of " in line
    assert float(line.split()[-1]) < THRESHOLDS["float32"].max_dp


def test_requests_without_an_onnx_file_are_refused(
    bench: Callable[..., Any], narrow_checkpoint: Callable[..., Path]
) -> None:
    done = bench(narrow_checkpoint("A"), "--requests", "1")
    assert done.code == 2
    assert "--requests applies to ONNX files on the CPU, but every MODEL is a checkpoint: leave it out" in " ".join(
        done.err.split()
    )


def test_nan_is_a_failure_and_null_in_json(bench: Callable[..., Any], changed: Callable[..., Path]) -> None:
    broken = changed("broken.onnx", lambda bias: bias * math.nan)
    done = bench(broken, "--shapes", "1x40x40", "--json", "-", "--runtime", "onnxruntime")  # ncnn refuses such weights
    assert done.code == 1
    (result,) = json.loads(done.out)["results"]
    assert (result["parity"]["max_dp"], result["parity"]["agreement"]) == (None, None)
    assert "max_dp is nan" in result["failures"]


def test_a_checkpoint_is_the_reference_and_a_contestant(
    bench: Callable[..., Any], narrow_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    from export import export
    from train.network.checkpoint import read

    path = narrow_checkpoint("A")
    export(read(path), tmp_path / "a.onnx", dynamic=True)
    arguments = ("--shapes", "1x64x80", "--against", "torch", "--json", "-")
    done = bench(tmp_path / "a.onnx", "--reference", path, *arguments)
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert report["reference"] == path.name
    assert [contestant["name"] for contestant in report["contestants"]] == ["a.onnx", f"torch: {path.name}"]
    assert report["results"][1]["parity"]["max_dp"] == 0
    done = bench(tmp_path / "a.onnx", "--reference", narrow_checkpoint("A", 1), *arguments)
    assert done.code == 1


def test_a_foreign_reference_is_read_with_the_facts_of_the_model_and_what_it_lacks_is_a_notice(
    bench: Callable[..., Any], random_weights: Callable[..., Any], narrow_spec: Callable[..., Any], tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    from export import export
    from train.network.checkpoint import read

    path, facts = tmp_path / "foreign.safetensors", WeightFacts(normalization=Normalization((100.0, 110.0, 120.0)))
    save_file(random_weights(narrow_spec("A")), path)
    export(read(path, facts), tmp_path / "a.onnx", dynamic=True)
    done = bench(tmp_path / "a.onnx", "--reference", path, "--shapes", "1x64x80", "--json", "-")
    assert done.code == 0, done.err
    assert " ".join(done.err.split()).count(f"foreign.safetensors: {path} has no class names") == 1


def test_pytorch_refuses_a_gpu_that_it_does_not_see(
    bench: Callable[..., Any], narrow_checkpoint: Callable[..., Path]
) -> None:
    path = narrow_checkpoint("A")
    done = bench(path, "--reference", path, "--device", "cuda:63")
    assert done.code == 2
    assert "device is cuda:63; PyTorch sees" in done.err


def test_torch_compile_without_a_compiler_is_one_line(
    bench: Callable[..., Any], narrow_checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    done = bench(TINY, "--against", "torch-compile", "--reference", narrow_checkpoint("A"))
    assert done.code == 1
    assert "Error: torch.compile needs a C++ compiler" in done.err.splitlines()[-1]
