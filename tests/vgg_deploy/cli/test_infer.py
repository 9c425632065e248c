"""`vgg-deploy infer` from the command line to the files that it writes."""

from __future__ import annotations

import csv
import importlib.machinery
import json
import os
import shutil
import signal
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

import engines
import vgg_deploy
from export.graph import build_graph
from vgg_deploy.artifacts.export_options import GraphOptions
from vgg_deploy.errors import EngineError
from vgg_deploy.inference.prediction import Prediction, predict
from vgg_deploy.network.classes import ClassName
from vgg_deploy.network.manifest import MANIFEST_KEY, PAPER_NORMALIZATION, Manifest
from vgg_deploy.network.spec import NetworkSpec
from vgg_deploy.network.tensors import Images
from vgg_deploy.testing import FakeEngine
from vgg_deploy.views.protocols import choose_protocol

Command = Callable[..., Any]

Files = Callable[..., Path]

WORDS = ("tench", "English springer", "cassette player", "chain saw", "church")
CLASSES = tuple(ClassName(f"n0000000{index}", word) for index, word in enumerate(WORDS))
linux = pytest.mark.skipif(sys.platform != "linux", reason="signals, devices and file names differ there")


@pytest.fixture
def spec(narrow_spec: Callable[..., NetworkSpec]) -> NetworkSpec:
    return narrow_spec("A", width_divisor=64, crop=32, fc_width=8, classes=len(CLASSES))


@pytest.fixture
def manifest(spec: NetworkSpec, manifest_for: Callable[..., Manifest]) -> Manifest:
    """S is 36: the default scales are 32, 36 and 40, since the crop is 32."""
    return manifest_for(spec, classes=CLASSES)


@pytest.fixture
def model(tmp_path: Path, spec: NetworkSpec, manifest: Manifest) -> Callable[..., Path]:
    """`model(**GraphOptions)` -> an ONNX file with random weights, dynamic by default."""
    pytest.importorskip("onnxruntime")

    def write(**options: Any) -> Path:
        random, weights = np.random.default_rng(0), {}
        for layer in spec.weight_layers:
            shape = layer.weight_shape
            std = (2 / np.prod(shape[1:])) ** 0.5 * {"fc6": 1 / 100, "fc8": 4}.get(layer.name, 1)
            weights[f"{layer.name}.weight"] = random.normal(0, std, shape).astype(np.float32)
            weights[f"{layer.name}.bias"] = random.normal(0, 0.1, layer.out_channels).astype(np.float32)
        graph = build_graph(spec, weights, PAPER_NORMALIZATION, GraphOptions(**{"dynamic": True, **options}))
        graph.metadata_props.add(key=MANIFEST_KEY, value=manifest.to_json())
        onnx.save(graph, tmp_path / "model.onnx")
        return tmp_path / "model.onnx"

    return write


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of five images in three folders, beside a text and a hidden file."""
    random, folder = np.random.default_rng(1), tmp_path / "photos"
    for name, size in {
        "b.png": (40, 60),
        "a.jpg": (40, 40),
        "deep/er/c.png": (90, 45),
        "deep/d.PNG": (33, 33),
        "z.png": (40, 60),
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        colour = random.uniform(0, 1, 3)
        Image.fromarray((random.integers(0, 256, (*size, 3)) * colour).astype(np.uint8)).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden.png").write_text("no image")
    return folder


IN_ORDER = ("a.jpg", "b.png", "z.png", "deep/d.PNG", "deep/er/c.png")


@pytest.fixture
def infer(vgg_deploy_command: Command, model: Files) -> Callable[..., Any]:
    """`infer(*arguments, engine=PATH)` runs the command, by default with a dynamic model."""

    def run(*arguments: str | Path, engine: Path | None = None) -> Any:
        return vgg_deploy_command("infer", *map(str, arguments), "--engine", str(engine or model()), "--threads", "1")

    return run


def records(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def names(results: list[dict[str, Any]], folder: Path) -> tuple[str, ...]:
    return tuple(Path(record["path"]).relative_to(folder).as_posix() for record in results)


# ---- images in, results out ----


def test_a_folder_is_searched_whole_and_results_come_in_sorted_order(infer: Command, photos: Path) -> None:
    finished = infer(photos, "--json", "-")
    assert finished.code == 0, finished.err
    assert names(records(finished.out), photos) == IN_ORDER
    assert "multiscale: whole image at Q=32,36,40, with mirrors; " in finished.err  # crop 32: S - 4, S, S + 4


def test_the_answers_are_those_of_the_python_api(infer: Command, photos: Path, model: Files) -> None:
    finished = infer(photos, "--json", "-", "--protocol", "multiscale", "--scales", "64,32", "--no-flip")
    with engines.open_engine(model()) as engine:
        choice = choose_protocol(engine.info.manifest, "multiscale", (32, 64), False, free_size=True)
        expected = list(predict(engine, [photos / name for name in IN_ORDER], choice.protocol))
    for record, result in zip(records(finished.out), expected, strict=True):
        assert isinstance(result, Prediction)
        assert [entry["id"] for entry in record["top"]] == [name.id for name, _ in result.top(5)]
        probabilities = [entry["probability"] for entry in record["top"]]
        np.testing.assert_allclose(probabilities, [share for _, share in result.top(5)], atol=1e-6)
    assert len({record["top"][0]["probability"] for record in records(finished.out)}) > 1


def test_error_rates_of_a_folder_with_train_and_val_inside_are_refused(infer: Command, photos: Path) -> None:
    for part in ("train", "val"):
        (photos / part / "cat").mkdir(parents=True)
        shutil.copy(photos / "a.jpg", photos / part / "cat" / "1.jpg")
    done = infer(photos, "--check-folders")
    assert done.code == 2
    assert f"{photos} has train/ and val/ inside" in done.err
    assert f"give {photos / 'val'}" in done.err
    assert infer(photos, "--json", "-").code == 0  # answers alone may be of both


def test_text_for_people_goes_to_stdout_and_messages_to_stderr(infer: Command, photos: Path) -> None:
    finished = infer(photos, "--top", "2")
    lines = finished.out.splitlines()
    assert [line.partition(": ")[0] for line in lines] == [str(photos / name) for name in IN_ORDER]
    assert all(line.count("%") == 2 and any(word in line for word in WORDS) for line in lines)
    assert "multiscale" in finished.err


def test_json_and_csv_files_are_written_beside_the_text(infer: Command, photos: Path, tmp_path: Path) -> None:
    json_path, csv_path = tmp_path / "new" / "out.jsonl", tmp_path / "out.csv"
    finished = infer(photos, "--json", json_path, "--csv", csv_path, "--top", "3")
    assert finished.code == 0, finished.err
    assert len(finished.out.splitlines()) == 5
    results = records(json_path.read_text())
    with csv_path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [record["path"] for record in results]
    for row, record in zip(rows, results, strict=True):
        assert [row[f"id_{rank}"] for rank in (1, 2, 3)] == [entry["id"] for entry in record["top"]]
        assert [row[f"label_{rank}"] for rank in (1, 2, 3)] == [entry["label"] for entry in record["top"]]
        assert float(row["probability_1"]) == pytest.approx(record["top"][0]["probability"], abs=1e-7)


def test_csv_on_stdout_is_nothing_but_csv(infer: Command, photos: Path) -> None:
    finished = infer(photos, "--csv", "-", "--top", "99")
    rows = list(csv.reader(finished.out.splitlines()))
    assert len(rows) == 6
    assert {len(row) for row in rows} == {2 + 3 * len(CLASSES)}


def test_labels_replace_the_models_names(infer: Command, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("ä\nb\nc\nd\ne\n", encoding="utf-8")
    finished = infer(photos / "a.jpg", "--json", "-", "--labels", tmp_path / "labels.txt")
    (record,) = records(finished.out)
    assert {entry["label"] for entry in record["top"]} == set("äbcde")


@linux
def test_any_file_name_works(infer: Command, tmp_path: Path) -> None:
    folder = tmp_path / "names"
    folder.mkdir()
    for name in (b"caf\xe9.png", b"line\nbreak.png", b"--json.png"):
        Image.new("RGB", (40, 40)).save(folder / os.fsdecode(name))
    finished = infer(folder, "--json", tmp_path / "out.jsonl", "--csv", tmp_path / "out.csv")
    assert finished.code == 0, finished.err
    file_names = {os.fsencode(Path(record["path"]).name) for record in records((tmp_path / "out.jsonl").read_text())}
    assert file_names == {b"caf\xe9.png", b"line\nbreak.png", b"--json.png"}
    with (tmp_path / "out.csv").open(newline="") as file:
        assert len(list(csv.reader(file))) == 4


# ---- refusals before any work ----


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--scales", "31"), "scale 31 is below the network's crop of 32"),
        (("--top", "0"), "'--top': 0 is not in the range x>=1"),
        (("--json", "-", "--csv", "-"), "cannot both write to stdout"),
        (("--heatmaps", "pictures", "--protocol", "10-crop"), "protocol 10-crop scores other crops; use dense"),
        (("--heatmaps", "pictures"), "needs a model with the output score_map; export it with --score-map"),
        (("--labels", "absent.txt"), "absent.txt: No such file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_bad_use_exits_2_and_says_what_is_expected(
    infer: Command,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    named: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    finished = infer(photos, *arguments)
    assert finished.code == 2
    assert finished.out == ""
    assert named in " ".join(finished.err.split())
    assert "Traceback" not in finished.err
    assert set(tmp_path.rglob("*")) - set(before) <= {tmp_path / "model.onnx"}


def test_a_path_without_images_exits_2_before_any_output_is_opened(
    infer: Command, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos.parent)
    finished = infer("photos", "absent.jpg", "--csv", "out.csv")
    assert finished.code == 2
    assert "absent.jpg: no such file or folder" in finished.err
    assert len(finished.err.splitlines()) == 1
    assert not Path("out.csv").exists()


def test_json_and_csv_in_one_file_exit_2(infer: Command, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos.parent)
    finished = infer("photos", "--json", "out.txt", "--csv", "photos/../out.txt")
    assert finished.code == 2
    assert "--json and --csv both name photos/../out.txt; give each its own file" in finished.err
    assert not Path("out.txt").exists()


@pytest.mark.parametrize(
    ("name", "code", "reason"),
    [
        ("model.pt", 2, "is a checkpoint; export it first: vgg-deploy export --weights"),
        ("model.onnx", 1, "is not an ONNX file"),
    ],
)
def test_a_file_that_is_not_a_model_is_refused_by_its_kind(
    infer: Command, photos: Path, tmp_path: Path, name: str, code: int, reason: str
) -> None:
    (tmp_path / name).write_bytes(b"\xff" * 100)
    finished = infer(photos, "--runtime", "onnxruntime", engine=tmp_path / name)
    assert finished.code == code
    assert reason in finished.err
    found, error = finished.err.splitlines()
    assert found.startswith("found ")
    assert name in error


# ---- images that cannot be scored ----


def test_bad_files_among_good_ones_are_reported_and_the_others_written(
    infer: Command, photos: Path, tmp_path: Path
) -> None:
    (photos / "m_text.jpg").write_text("no image")
    (photos / "n_empty.jpg").write_bytes(b"")
    whole = (photos / "a.jpg").read_bytes()
    (photos / "o_cut.jpg").write_bytes(whole[: len(whole) // 2])
    Image.fromarray(np.zeros((5000, 1, 3), np.uint8)).save(photos / "p_long.png")
    (photos / "q_gone.png").symlink_to("nowhere")
    finished = infer(photos, "--json", "-", "--csv", tmp_path / "out.csv", "--max-view-pixels", "100000")
    assert finished.code == 1
    results = {Path(record["path"]).name: record for record in records(finished.out)}
    reasons = {
        "m_text.jpg": "not an image",
        "n_empty.jpg": "empty (0 bytes)",
        "o_cut.jpg": "truncated",
        "p_long.png": "1x5000 pixels become 32x160000 at a short side of 32: over the limit of 100,000 pixels",
        "q_gone.png": "no such file",
    }
    assert len(results) == 10
    assert {name for name, record in results.items() if "error" in record} == set(reasons)
    for name, reason in reasons.items():
        assert reason in results[name]["error"]
        (line,) = [line for line in finished.err.splitlines() if name in line]
        assert line.startswith(f"failed: {photos / name}: ")
        assert reason in line
    assert "5 images classified, 5 failed" in finished.err
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = {Path(row["path"]).name: row for row in csv.DictReader(file)}
    assert {name for name, row in rows.items() if row["error"]} == set(reasons)
    assert len(rows) == 10


def test_failures_only_exit_1(infer: Command, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_text("no image")
    finished = infer(tmp_path / "bad.jpg", "--check-folders", "--labels", labels_with(tmp_path, tmp_path.name))
    assert finished.code == 1
    assert finished.out == ""
    assert "0 images classified, 1 failed" in finished.err


def labels_with(folder: Path, name: str) -> Path:
    (folder / "labels.txt").write_text(f"{name}\nb\nc\nd\ne\n")
    return folder / "labels.txt"


def test_odd_files_are_read_or_refused_one_by_one(infer: Command, test_data: Path) -> None:
    finished = infer(test_data / "odd", "--json", "-", "--scales", "32")
    assert finished.code == 1
    results = {Path(record["path"]).name: record for record in records(finished.out)}
    assert len(results) == len(list((test_data / "odd").iterdir()))
    refused = {name for name, record in results.items() if "error" in record}
    assert {"broken.png", "truncated_jpeg.jpg", "truncated_image.png", "png_decompression_dos.png"} <= refused
    assert not refused & {"hopper.gif", "hopper_gray.jpg", "pil_sample_cmyk.jpg", "16_bit_noise.tif", "i_trns.png"}
    assert "Traceback" not in finished.err
    assert "Warning" not in finished.err


# ---- protocols ----


def test_a_model_of_one_size_is_scored_by_the_central_crop_with_a_notice(
    infer: Command, photos: Path, model: Files
) -> None:
    finished = infer(photos, "--json", "-", engine=model(dynamic=False))
    assert finished.code == 0, finished.err
    assert len(records(finished.out)) == 5
    assert (
        "the model takes only one size, so each image is scored by its central crop (export with --dynamic"
        in finished.err
    )
    assert "center: central 32x32 crop at Q=36" in finished.err


def foreign_model(path: Path) -> Path:
    """A model without our manifest. Its posteriors are the shares of the colours in an image."""
    nodes = [
        helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["float", "scale"], ["scaled"]),
        helper.make_node("ReduceMean", ["scaled", "axes"], ["mean"], keepdims=0),
        helper.make_node("Softmax", ["mean"], ["probabilities"], axis=-1),
    ]
    constants = [
        helper.make_tensor("scale", TensorProto.FLOAT, [], [20.0]),
        helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2]),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["n", "h", "w", 3])
    scores = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", 3])
    graph = helper.make_graph(nodes, "colours", [images], [scores], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def test_a_foreign_model_runs_with_labels_and_scales(infer: Command, tmp_path: Path) -> None:
    path = foreign_model(tmp_path / "colours.onnx")
    (tmp_path / "labels.txt").write_text("red\ngreen\nblue\n")
    Image.new("RGB", (50, 40), (10, 20, 200)).save(tmp_path / "sky.png")
    labels = ("--labels", tmp_path / "labels.txt")
    assert infer(tmp_path / "sky.png", engine=path).code == 2
    assert "--scales" in infer(tmp_path / "sky.png", *labels, engine=path).err
    finished = infer(tmp_path / "sky.png", *labels, "--scales", "32", "--json", "-", "--top", "1", engine=path)
    assert finished.code == 0, finished.err
    (record,) = records(finished.out)
    assert record["top"][0]["label"] == "blue"
    assert record["top"][0]["probability"] > 0.99


# ---- folders that name classes ----


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    """Ten images in folders named after two of the classes, in two spellings."""
    for folder, colour in (("n00000000_tench", (250, 0, 0)), ("chain saw", (0, 0, 250))):
        (tmp_path / "truth" / folder).mkdir(parents=True)
        for number in range(5):
            Image.new("RGB", (40, 40), colour).save(tmp_path / "truth" / folder / f"{number}.png")
    return tmp_path / "truth"


def fake(monkeypatch: pytest.MonkeyPatch, manifest: Manifest, answer: Callable[[Images], np.ndarray]) -> None:
    """Every model that is opened is a FakeEngine with this answer."""
    monkeypatch.setattr(engines, "open_with", lambda _path, _options: FakeEngine(manifest, answer))


def test_folders_that_name_classes_give_the_errors(
    infer: Command, truth: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Red is tench; blue is taken for an English springer, with chain saw next.
    def answer(images: Images) -> np.ndarray:
        red = (images[:, 0, 0, 0] > 100)[:, None]
        return np.where(red, [0.9, 0.1, 0, 0, 0], [0, 0.6, 0, 0.4, 0]).astype(np.float32)

    fake(monkeypatch, manifest, answer)
    finished = infer(truth, "--check-folders")
    assert finished.code == 0, finished.err
    assert "top-1 5/10 correct (50.00%, error 50.00%), top-5 10/10 correct (100.00%, error 0.00%)" in finished.err


def test_images_that_failed_do_not_shift_the_others_classes(
    infer: Command, truth: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    (truth / "chain saw" / "0.png").write_text("no image")

    def answer(images: Images) -> np.ndarray:
        red = (images[:, 0, 0, 0] > 100)[:, None]
        return np.where(red, [1, 0, 0, 0, 0], [0, 0, 0, 1, 0]).astype(np.float32)

    fake(monkeypatch, manifest, answer)
    finished = infer(truth, "--check-folders")
    assert finished.code == 1
    assert "top-1 9/9 correct" in finished.err


def test_a_folder_of_no_class_exits_2_before_any_image_is_scored(infer: Command, truth: Path) -> None:
    (truth / "chain saw").rename(truth / "chainsaw")
    finished = infer(truth, "--check-folders", "--json", "-")
    assert finished.code == 2
    assert finished.out == ""
    assert "folder 'chainsaw' is not a class of this network; the nearest are chain saw" in finished.err


def test_links_to_images_have_the_class_of_the_folder_that_they_are_in(
    infer: Command, truth: Path, tmp_path: Path
) -> None:
    linked = tmp_path / "linked" / "tench"
    linked.mkdir(parents=True)
    (tmp_path / "pool").mkdir()
    (truth / "chain saw" / "0.png").rename(tmp_path / "pool" / "0123abcd.png")
    (linked / "0.png").symlink_to(tmp_path / "pool" / "0123abcd.png")
    finished = infer(linked, "--check-folders")
    assert finished.code == 0, finished.err
    assert "/1 correct" in finished.err


# ---- heatmaps ----


def test_heatmaps_are_in_the_same_subfolders_as_the_images_and_have_their_sizes(
    infer: Command, photos: Path, model: Files, tmp_path: Path
) -> None:
    finished = infer(photos, "--heatmaps", tmp_path / "new" / "maps", engine=model(score_map=True))
    assert finished.code == 0, finished.err
    pictures = {path.relative_to(tmp_path / "new/maps").as_posix() for path in (tmp_path / "new/maps").rglob("*.*")}
    assert pictures == {f"{name}.png" for name in IN_ORDER}
    for name in IN_ORDER:
        with Image.open(photos / name) as image, Image.open(tmp_path / "new/maps" / f"{name}.png") as picture:
            assert picture.size == image.size
            assert picture.mode == "RGB"


def test_heatmaps_stay_in_their_folder_for_any_path_of_an_image(
    infer: Command, photos: Path, model: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos)
    finished = infer("a.jpg", "deep/../../photos/b.png", "deep", "--heatmaps", "../maps", engine=model(score_map=True))
    assert finished.code == 0, finished.err
    assert {path.relative_to(tmp_path / "maps").as_posix() for path in (tmp_path / "maps").rglob("*.*")} == {
        "a.jpg.png",
        "b.png.png",
        "deep/d.PNG.png",
        "deep/er/c.png.png",
    }
    assert not list(photos.rglob("*.png.png"))


def test_a_heatmap_folder_that_is_a_file_exits_1(infer: Command, photos: Path, model: Files, tmp_path: Path) -> None:
    (tmp_path / "maps").write_text("")
    finished = infer(photos, "--heatmaps", tmp_path / "maps", engine=model(score_map=True))
    assert finished.code == 1
    assert "maps is a file, not a folder" in finished.err


# ---- runtimes and devices ----


def test_an_incomplete_runtime_exits_1_with_what_to_do(
    infer: Command, photos: Path, model: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = model()
    remains = types.ModuleType("onnxruntime")
    remains.__spec__ = importlib.machinery.ModuleSpec("onnxruntime", None)
    monkeypatch.setitem(sys.modules, "onnxruntime", remains)
    monkeypatch.delitem(sys.modules, "engines.ort", raising=False)
    finished = infer(photos, "--runtime", "onnxruntime", engine=path)
    assert finished.code == 1
    assert "onnxruntime is installed but cannot be loaded: its package is incomplete: pip uninstall" in finished.err


def test_an_engine_that_fails_midway_leaves_the_results_before(
    infer: Command, photos: Path, tmp_path: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def answer(images: Images) -> np.ndarray:
        calls.append(images.shape)
        if len(calls) == 4:
            raise EngineError("fake failed on 1 x 2 x 3")
        return np.full((len(images), 5), 0.2, np.float32)

    fake(monkeypatch, manifest, answer)
    options = ("--batch", "1", "--protocol", "dense", "--no-flip")
    finished = infer(photos, "--json", tmp_path / "out.jsonl", *options)
    assert finished.code == 1
    assert finished.err.splitlines()[-1] == "Error: fake failed on 1 x 2 x 3"
    assert names(records((tmp_path / "out.jsonl").read_text()), photos) == IN_ORDER[:3]


# ---- outputs that cannot be written, and interruptions ----


def start(*arguments: str | Path, **options: Any) -> subprocess.Popen[str]:
    root = str(Path(vgg_deploy.__file__).parent.parent)
    return subprocess.Popen(
        [sys.executable, "-m", "vgg_deploy", "infer", *map(str, arguments), "--threads", "1"],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": root},
        **options,
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_exits_1_in_one_line(infer: Command, photos: Path, model: Files, tmp_path: Path) -> None:
    finished = infer(photos, "--csv", "/dev/full")
    assert finished.code == 1
    assert finished.err.splitlines()[-1] == "Error: cannot write /dev/full: the disk is full"
    with Path("/dev/full").open("w") as full:
        process = start(photos, "--engine", model(), "--json", "-", stdout=full)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.splitlines()[-1] == "Error: output: the disk is full"
    assert "Traceback" not in err


@pytest.mark.parametrize("option", ["--json", "--csv"])
def test_an_output_that_is_a_folder_exits_1(infer: Command, photos: Path, tmp_path: Path, option: str) -> None:
    finished = infer(photos, option, tmp_path)
    assert finished.code == 1
    assert finished.err.endswith(f"\nError: cannot write {tmp_path}: Is a directory\n")


@linux
def test_ctrl_c_exits_130_and_what_was_written_is_whole(photos: Path, model: Files, tmp_path: Path) -> None:
    written = tmp_path / "out.jsonl"
    # Thousands of images take seconds, and give more text than the pipe holds.
    arguments = [photos / "b.png", photos / "a.jpg"] * 2000
    process = start(*arguments, "--engine", model(), "--json", written, stdout=subprocess.PIPE)
    assert process.stdout.readline().startswith(str(photos / "b.png"))
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "Interrupted."
    assert "Traceback" not in err
    text = written.read_text()
    assert text.endswith("\n")
    assert 1 <= len(records(text)) < len(arguments)


@linux
def test_a_closed_pipe_exits_141_without_a_message(photos: Path, model: Files) -> None:
    arguments = [photos / "b.png", photos / "a.jpg"] * 2000
    process = start(*arguments, "--engine", model(), "--json", "-", stdout=subprocess.PIPE)
    json.loads(process.stdout.readline())
    process.stdout.close()
    err = process.stderr.read()
    assert process.wait(timeout=60) == 141
    process.stderr.close()
    assert "Traceback" not in err
    assert "Error" not in err


def test_results_do_not_overwrite_an_input(infer: Command, model: Files, photos: Path) -> None:
    engine, image = model(), photos / "a.jpg"
    for option, target in (("--json", engine), ("--csv", image)):
        before = target.read_bytes()
        done = infer(photos, option, target, engine=engine)
        assert done.code == 2
        assert f"{option} would overwrite the input {target}" in done.err
        assert target.read_bytes() == before


@linux
def test_a_picture_of_an_image_with_the_longest_possible_name_is_written(
    infer: Command, model: Files, photos: Path, tmp_path: Path
) -> None:
    name = "x" * (255 - len(".png.png")) + ".png"
    (photos / "b.png").rename(photos / name)
    done = infer(photos, "--heatmaps", tmp_path / "maps", engine=model(score_map=True))
    assert done.code == 0, done.err
    assert (tmp_path / "maps" / f"{name}.png").is_file()


@pytest.mark.parametrize("output", [("--csv", "-"), ()])
def test_names_that_the_terminal_cannot_show_do_not_stop_results(
    output: tuple[str, ...], model: Files, photos: Path
) -> None:
    (photos / "a.jpg").rename(photos / "日本.jpg")
    command = [sys.executable, "-m", "vgg_deploy", "infer", str(photos / "日本.jpg"), "--engine", str(model()), *output]
    done = subprocess.run(command, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "cp1252"}, check=False)
    assert done.returncode == 0, done.stderr
    assert "日本" in done.stdout.decode("utf-8")


def test_telemetry_of_onnxruntime_is_off() -> None:
    pytest.importorskip("onnxruntime")
    script = "import os, engines.ort; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout == "1\n"
    assert done.stderr == ""


# ---- speed ----


def test_the_chosen_runtime_and_the_reason_are_one_line(infer: Command, photos: Path) -> None:
    finished = infer(photos / "b.png")
    (line,) = [line for line in finished.err.splitlines() if line.startswith("runtime ")]
    assert line.partition(":")[0] in [f"runtime {name}" for name in engines.RUNTIMES]
    asked = infer(photos / "b.png", "--runtime", "onnxruntime")
    assert "runtime " not in asked.err.replace("onnxruntime ", "")


def test_reduced_decoding_changes_answers_a_little(infer: Command, tmp_path: Path) -> None:
    x, y = np.meshgrid(np.linspace(0, 6, 1301), np.linspace(0, 4, 907))
    waves = np.stack([np.sin(x), np.cos(y), np.sin(x + y)], axis=2)
    path = tmp_path / "large.jpg"
    Image.fromarray((127 + 120 * waves).astype(np.uint8)).save(path, quality=95)
    whole, reduced = (records(infer(path, "--json", "-", *more).out)[0] for more in ((), ("--reduced-decoding",)))
    expected = {entry["id"]: entry["probability"] for entry in whole["top"]}
    differences = [abs(entry["probability"] - expected[entry["id"]]) for entry in reduced["top"]]
    assert 0 < max(differences) < 0.02
