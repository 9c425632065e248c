"""`vgg-deploy eval` from the command line: figures, refusals before any work, interruptions and reports."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

import engines
import vgg_deploy
from vgg_deploy.cli.opening import model_fingerprint, options_for_each
from vgg_deploy.evaluation.error_rates import error_rates, evaluate, label_by_folder
from vgg_deploy.evaluation.fusion import fused
from vgg_deploy.evaluation.paper import ROWS
from vgg_deploy.inference.engine_options import EngineOptions
from vgg_deploy.network.classes import numbered_classes
from vgg_deploy.network.manifest import MANIFEST_KEY, Manifest, TrainScale
from vgg_deploy.network.shapes import AxisRange, ShapeRange
from vgg_deploy.network.spec import NetworkSpec
from vgg_deploy.network.tensors import Images
from vgg_deploy.network.weight_facts import WeightFacts
from vgg_deploy.testing import FakeEngine
from vgg_deploy.views.protocols import PROTOCOLS, choose_protocol

Command = Callable[..., Any]

pytest.importorskip("onnxruntime")

ROOT = Path(vgg_deploy.__file__).parent.parent
TINY = ROOT / "tests" / "data" / "tiny.onnx"  # S is 40, the crop 32
FOLDERS = ("n01440764", "English_springer", "n03000684_chain_saw", "church", "n03888257")
linux = pytest.mark.skipif(sys.platform != "linux", reason="signals differ there")


def picture(seed: int, size: tuple[int, int] = (40, 56)) -> Image.Image:
    random = np.random.default_rng(seed)
    slope = np.linspace(1, random.uniform(0, 1), size[1])[:: (-1) ** seed, None]
    return Image.fromarray((random.integers(0, 256, (*size, 3)) * slope * random.uniform(0, 1, 3)).astype(np.uint8))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three images of each of tiny.onnx's classes."""
    for index, folder in enumerate(FOLDERS):
        (tmp_path / "data" / folder).mkdir(parents=True)
        for number in range(3):
            size = ((40, 56), (60, 44), (48, 48))[number]
            picture(10 * index + number, size).save(tmp_path / "data" / folder / f"{number}.png")
    return tmp_path / "data"


@pytest.fixture
def evaluated(vgg_deploy_command: Command, data: Path) -> Callable[..., Any]:
    """`evaluated(*arguments, engine=(PATH, ...))` runs the command on `data`."""

    def run(*arguments: str | Path, engine: tuple[Path, ...] = (TINY,), folder: Path = data) -> Any:
        opened = [word for path in engine for word in ("--engine", str(path))]
        return vgg_deploy_command("eval", str(folder), *opened, *map(str, arguments))

    return run


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., tuple[Path, ...]]:
    """`fakes(a=engine, b=engine)` makes the files a.onnx and b.onnx, which open as these engines."""

    def make(**known: FakeEngine) -> tuple[Path, ...]:
        def reopened(path: Path, _options: EngineOptions) -> FakeEngine:
            known[Path(path).stem].closed = False
            return known[Path(path).stem]

        paths = tuple(tmp_path / f"{name}.onnx" for name in known)
        for path in paths:
            shutil.copy(TINY, path)
            with path.open("ab") as file:  # one byte string of another field: another file, and the same model
                file.write(b"\x1a" + bytes([len(path.stem)]) + path.stem.encode())
        monkeypatch.setattr(engines, "open_with", reopened)
        return paths

    return make


@pytest.fixture
def manifest() -> Manifest:
    text = next(entry.value for entry in onnx.load(TINY).metadata_props if entry.key == MANIFEST_KEY)
    return Manifest.from_json(text, "tiny.onnx").with_(shapes=None)


def certain(index: int, classes: int = 5) -> Callable[[Images], np.ndarray]:
    """Posteriors that are always for one class."""
    return lambda images: np.tile(np.eye(classes, dtype=np.float32)[index] * 0.6 + 0.4 / classes, (len(images), 1))


def report(done: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(done.out)
    return rows


# ---- figures ----


def test_every_protocols_row_has_the_figures_of_a_direct_computation(evaluated: Command, data: Path) -> None:
    done = evaluated("--protocol", "all", "--json", "-", "--threads", "1")
    assert done.code == 0, done.err
    rows = report(done)
    assert [row["protocol"] for row in rows] == list(PROTOCOLS)
    images = label_by_folder(sorted(data.rglob("*.png")), engines.open_engine(TINY).info.manifest.classes)
    with engines.open_engine(TINY, threads=1) as engine:
        for row in rows:
            protocol = choose_protocol(engine.info.manifest, row["protocol"], free_size=True).protocol
            expected = error_rates(evaluate(engine, images.paths, protocol).posteriors, images.truth)
            assert (row["scales"], row["mirror"]) == ([list(protocol.scales)], [protocol.mirror])
            assert (row["images"], row["failed"]) == (15, 0)
            for name, rate in (("top1", expected.top1), ("top5", expected.top5)):
                assert row[f"{name}_error"] == pytest.approx(rate)
                assert row[f"{name}_standard_error"] == pytest.approx((rate * (1 - rate) / 15) ** 0.5)
            assert row["ms_per_image"] > 0
            assert row["images_per_s"] == pytest.approx(1000 / row["ms_per_image"])
    assert [row["views"] for row in rows] == [1, 2, 6, 10, 144, 50, 150, 156]
    assert {row["top1_error"] for row in rows} != {0.0}


def test_the_error_is_that_of_the_answers(
    evaluated: Command, fakes: Callable[..., tuple[Path, ...]], manifest: Manifest
) -> None:
    (path,) = fakes(a=FakeEngine(manifest, certain(1)))
    done = evaluated("--protocol", "dense", engine=(path,))
    assert done.code == 0, done.err
    header, _line, row = done.out.splitlines()
    assert " ".join(header.split()) == "engine protocol Q views images top-1 error top-5 error ms/image images/s"
    assert row.split()[:5] == ["a.onnx", "dense", "40", "2", "15"]
    # 3 of 15 are right: sqrt(0.8 * 0.2 / 15).
    assert "80.00 ± 10.33 %  0.00 ± 0.00 %" in row


def test_the_fused_row_is_the_mean_of_the_posteriors(evaluated: Command, data: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.onnx"
    model = onnx.load(TINY)
    for tensor in model.graph.initializer:
        if tensor.name == "fc8.weight":
            values = onnx.numpy_helper.to_array(tensor)[::-1].copy()
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    onnx.save(model, other)
    assert other.read_bytes() != TINY.read_bytes()
    done = evaluated("--protocol", "dense", "10-crop", "--json", "-", engine=(TINY, other))
    assert done.code == 0, done.err
    rows = report(done)
    assert [(row["engines"], row["protocol"]) for row in rows] == [
        (names, protocol)
        for names in (["tiny.onnx"], ["other.onnx"], ["tiny.onnx", "other.onnx"])
        for protocol in ("dense", "10-crop")
    ]
    first, second, both = rows[::2]
    assert both["views"] == first["views"] + second["views"]
    assert both["ms_per_image"] == pytest.approx(first["ms_per_image"] + second["ms_per_image"])
    assert both["scales"] == [[40], [40]]
    posteriors = []
    for path in (TINY, other):
        with engines.open_engine(path) as engine:
            images = label_by_folder(sorted(data.rglob("*.png")), engine.info.manifest.classes)
            protocol = choose_protocol(engine.info.manifest, "dense", free_size=True).protocol
            posteriors.append(evaluate(engine, images.paths, protocol).posteriors)
    assert np.abs(posteriors[0] - posteriors[1]).max() > 0.01
    expected = error_rates(fused(posteriors), images.truth)
    assert (both["top1_error"], both["top5_error"]) == (pytest.approx(expected.top1), pytest.approx(expected.top5))


def test_fused_networks_have_their_own_scales(
    evaluated: Command, fakes: Callable[..., tuple[Path, ...]], manifest: Manifest
) -> None:
    wide = manifest.with_(train_scale=TrainScale(40, 60), mirror=False)
    paths = fakes(a=FakeEngine(manifest), b=FakeEngine(wide))
    done = evaluated("--json", "-", engine=paths)
    by_test = {(*row["engines"], row["protocol"]): row for row in report(done)}
    assert by_test["a.onnx", "b.onnx", "multiscale"]["scales"] == [[36, 40, 44], [40, 50, 60]]
    assert by_test["a.onnx", "b.onnx", "multiscale"]["mirror"] == [True, False]
    table = evaluated(engine=paths).out
    assert "36,40,44 + 40,50,60" in table
    assert "fused: a.onnx + b.onnx" in table


def test_a_checkpoint_and_the_files_exported_from_it_have_the_same_figures(
    evaluated: Command, narrow_checkpoint: Callable[..., Path], tmp_path: Path, manifest: Manifest
) -> None:
    from export import export
    from train.network.checkpoint import read

    checkpoint = narrow_checkpoint("B", crop=32, manifest={"classes": manifest.classes})
    model = tmp_path / "b.onnx"
    export(read(checkpoint), model, dynamic=True)
    protocols = ("--protocol", "multiscale,10-crop", "--json", "-", "--threads", "1")
    done = evaluated(*protocols, engine=(checkpoint, model))
    assert done.code == 0, done.err
    figures = [[(row["top1_error"], row["top5_error"]) for row in report(done)[at : at + 2]] for at in (0, 2, 4)]
    assert figures[0] == figures[1] == figures[2]
    if engines.RUNTIMES["openvino"].installed:
        # --runtime is for the ONNX file; the checkpoint stays with PyTorch.
        done = evaluated(*protocols, "--runtime", "openvino", engine=(model, checkpoint))
        assert done.code == 0, done.err
        assert [(row["top1_error"], row["top5_error"]) for row in report(done)[:2]] == figures[0]


# ---- protocols and scales ----


@pytest.mark.parametrize(
    "arguments",
    [
        ("--protocol", "dense", "10-crop", "center"),
        ("--protocol", "dense,10-crop,center,dense"),
        ("--protocol", "dense", "--protocol", "10-crop", "--protocol", "center"),
    ],
    ids=" ".join,
)
def test_protocols_are_given_in_a_row_with_commas_or_again(
    evaluated: Command, fakes: Command, manifest: Manifest, arguments: tuple[str, ...]
) -> None:
    done = evaluated(*arguments, "--json", "-", engine=fakes(a=FakeEngine(manifest)))
    assert done.code == 0, done.err
    assert sorted(row["protocol"] for row in report(done)) == ["10-crop", "center", "dense"]


@pytest.mark.parametrize(
    ("scales", "expected"),
    [
        ((), {"dense": [40], "multiscale": [36, 40, 44]}),
        (("--scales", "64"), {"dense": [64]}),
        (("--scales", "64,32"), {"multiscale": [32, 64]}),
    ],
)
def test_without_protocols_the_number_of_scales_decides(
    evaluated: Command, fakes: Command, manifest: Manifest, scales: tuple[str, ...], expected: dict[str, list[int]]
) -> None:
    done = evaluated(*scales, "--json", "-", engine=fakes(a=FakeEngine(manifest)))
    assert done.code == 0, done.err
    assert {row["protocol"]: row["scales"][0] for row in report(done)} == expected


def fixed(manifest: Manifest) -> Manifest:
    edge = AxisRange(32, 32)
    return manifest.with_(shapes=ShapeRange(AxisRange(1), edge, edge))


def test_a_model_of_one_size_is_tested_by_central_crops_with_a_notice(
    evaluated: Command, fakes: Command, manifest: Manifest
) -> None:
    paths = fakes(a=FakeEngine(fixed(manifest)), b=FakeEngine(manifest))
    for engine in (paths[:1], paths):
        done = evaluated("--json", "-", engine=engine)
        assert done.code == 0, done.err
        assert {row["protocol"] for row in report(done)} == {"center"}
        assert "a model that takes only one size is tested on central crops" in done.err


def test_all_means_every_protocol_that_the_model_takes(evaluated: Command, fakes: Command, manifest: Manifest) -> None:
    done = evaluated("--protocol", "all", "--json", "-", engine=fakes(a=FakeEngine(fixed(manifest))))
    assert done.code == 0, done.err
    assert [row["protocol"] for row in report(done)] == ["center", "10-crop", "144-crop", "50-crop", "150-crop"]
    assert len([line for line in done.err.splitlines() if line.startswith("left out: a.onnx: protocol ")]) == 3
    done = evaluated("--protocol", "all", "--scales", "40,48", "--json", "-", engine=fakes(a=FakeEngine(manifest)))
    assert {row["protocol"] for row in report(done)} == {"multiscale", "144-crop", "150-crop", "multiscale+150-crop"}
    assert "left out: a.onnx: protocol dense takes one scale, but 2 were given" in done.err
    done = evaluated("--protocol", "all", "--scales", "31", engine=fakes(a=FakeEngine(manifest)))
    assert done.code == 2
    assert "scale 31 is below the network's crop of 32" in done.err.splitlines()[-1]


def test_mirrors_can_be_left_out(evaluated: Command, fakes: Command, manifest: Manifest) -> None:
    engine = FakeEngine(manifest)
    done = evaluated("--protocol", "50-crop", "--no-flip", "--json", "-", engine=fakes(a=engine))
    assert report(done)[0]["mirror"] == [False]
    assert report(done)[0]["views"] == 25


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--protocol", "dense", "multscale"), "--protocol is 'multscale'; expected center, dense, multiscale"),
        (
            ("--protocol", "multiscale,10-crop", "--scales", "40,48"),
            "a.onnx: protocol 10-crop takes one scale, but 2 were",
        ),
        (("--limit", "0"), "'--limit': 0 is not in the range"),
        (("--json", "-", "--csv", "-"), "--json - and --csv - cannot both write to stdout"),
        (("--json", "out", "--csv", "new/../out"), "--json and --csv both name"),
        (("--json", "out.png", "--plot", "out.png"), "--json and --plot both name out.png"),
        (("--json", "out", "--cache", "out"), "--json and --cache both name out"),
        (("--plot", "plot.jpeg"), "--plot is plot.jpeg; expected a file name that ends in .png, .svg, .pdf"),
        (("--train-scale", "40"), "a.onnx is an ONNX file, and its manifest states how the network was trained"),
        (("more",), "expected one folder of labelled images, received"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_bad_use_exits_2_before_an_image_is_scored_and_leaves_nothing(
    evaluated: Command,
    fakes: Command,
    manifest: Manifest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    engine = FakeEngine(manifest)
    paths = fakes(a=engine)
    before = set(tmp_path.rglob("*"))
    cache = () if "--cache" in arguments else ("--cache", "cache")
    done = evaluated(*arguments, *cache, engine=paths)
    assert done.code == 2
    assert done.out == ""
    assert message in " ".join(done.err.split())
    assert "Traceback" not in done.err
    assert engine.batches == []
    assert set(tmp_path.rglob("*")) == before


def test_a_protocol_that_a_model_of_one_size_cannot_take_exits_2(
    evaluated: Command, fakes: Command, manifest: Manifest
) -> None:
    paths = fakes(a=FakeEngine(manifest), b=FakeEngine(fixed(manifest)))
    done = evaluated("--protocol", "center", "multiscale+150-crop", engine=paths)
    assert done.code == 2
    assert "Error: b.onnx: protocol multiscale+150-crop scores whole images, but this model takes only one" in done.err


def test_crops_that_one_of_several_engines_does_not_take_exit_2_before_an_image_is_scored(
    evaluated: Command, fakes: Command, manifest: Manifest
) -> None:
    edge = AxisRange(40, 100)
    first, second = FakeEngine(manifest), FakeEngine(manifest.with_(shapes=ShapeRange(AxisRange(1), edge, edge)))
    done = evaluated("--protocol", "dense", "10-crop", engine=fakes(a=first, b=second))
    assert done.code == 2
    assert "Error: b.onnx: protocol 10-crop: " in done.err
    assert "a view of 32x32 pixels does not fit: the model takes" in done.err
    assert first.batches == []


# ---- labels ----


def test_a_folder_of_no_class_exits_2_with_the_nearest_names(
    evaluated: Command, fakes: Command, manifest: Manifest, data: Path
) -> None:
    (data / "church").rename(data / "chruch")
    engine = FakeEngine(manifest)
    done = evaluated(engine=fakes(a=engine))
    assert done.code == 2
    assert done.err.splitlines()[-1].startswith(
        "Error: folder 'chruch' is not a class of this network; the nearest are church"
    )
    assert engine.batches == []


def test_a_limit_is_a_balanced_sample_and_a_larger_one_is_all(evaluated: Command, data: Path) -> None:
    for number in range(20):
        picture(number).save(data / "church" / f"more{number}.png")
    for limit, images in ((10, 10), (999, 35)):
        done = evaluated("--protocol", "center", "--limit", str(limit), "--json", "-")
        assert done.code == 0, done.err
        assert report(done)[0]["images"] == images
    again = [report(evaluated("--limit", "10", "--json", "-"))[0]["top1_error"] for _ in range(2)]
    assert again[0] == again[1]


def test_a_class_with_two_folders_gives_a_notice(evaluated: Command, data: Path) -> None:
    assert "are the same class" not in evaluated("--protocol", "center").err
    for part in ("first", "second"):
        shutil.copytree(data / "church", data / part / "church")
    shutil.rmtree(data / "church")
    done = evaluated("--protocol", "center", "--json", "-")
    assert done.code == 0, done.err
    expected = f"{data / 'first' / 'church'} and {data / 'second' / 'church'} are the same class"
    assert expected in done.err
    assert report(done)[0]["images"] == 18
    # A sample may hold images of only one of the two.
    assert expected in evaluated("--protocol", "center", "--limit", "1").err


def test_a_folder_with_train_and_val_inside_is_refused_and_val_is_named(
    evaluated: Command, data: Path, tmp_path: Path
) -> None:
    for part in ("train", "val"):
        shutil.copytree(data / "church", data / part / "church")
    done = evaluated("--protocol", "center")
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        f"Error: {data} has train/ and val/ inside, and the figures would count the images of the training too: "
        f"give {data / 'val'}\n"
    )


def test_classes_named_train_and_val_are_no_parts_of_a_set(evaluated: Command, data: Path) -> None:
    for name in ("train", "val"):
        shutil.copytree(data / "church", data / name)
    assert "is not a class" in evaluated("--protocol", "center").err  # so it went on to look for the classes


def test_labels_name_the_classes_of_a_model_that_has_other_names(
    evaluated: Command, data: Path, tmp_path: Path
) -> None:
    (data / "church").rename(data / "kirche")
    (tmp_path / "labels.txt").write_text("n01440764\nEnglish springer\nchain saw\nkirche\nn03888257\n")
    done = evaluated("--labels", tmp_path / "labels.txt", "--json", "-")
    assert done.code == 0, done.err
    assert report(done)[0]["images"] == 15


# ---- several engines ----


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("order", "class 3 is n03028079 in a.onnx and n03888257 in b.onnx. Networks with different classes"),
        ("fewer", "a.onnx has 5 classes and b.onnx has 6, so they cannot be fused"),
    ],
)
def test_networks_of_other_classes_are_refused_before_the_first_is_run(
    evaluated: Command, fakes: Command, manifest: Manifest, data: Path, change: str, message: str
) -> None:
    # Of the classes that differ there is no image: the labels alone would not tell.
    shutil.rmtree(data / "church")
    shutil.rmtree(data / "n03888257")
    *same, church, parachute = manifest.classes
    changed = {"order": (*same, parachute, church), "fewer": (*manifest.classes, type(church)("n07777777", "cannon"))}[
        change
    ]
    spec = NetworkSpec("A", 64, 32, 8, len(changed))
    first, second = FakeEngine(manifest), FakeEngine(manifest.with_(classes=changed, spec=spec))
    done = evaluated(engine=fakes(a=first, b=second))
    assert done.code == 2
    assert message in done.err
    assert len(done.err.splitlines()) == 1
    assert first.batches == second.batches == []


def test_an_engine_that_cannot_be_opened_is_noticed_before_the_first_is_run(evaluated: Command, tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(TINY.read_bytes()[:-500])
    done = evaluated("--json", tmp_path / "out.json", engine=(TINY, tmp_path / "broken.onnx"))
    assert done.code == 1
    assert "broken.onnx is truncated or damaged" in done.err
    assert not (tmp_path / "out.json").exists()


def test_engines_with_the_same_file_name_are_named_by_their_paths(evaluated: Command, tmp_path: Path) -> None:
    paths = tuple(tmp_path / run / "best.onnx" for run in ("one", "two"))
    for path in paths:
        path.parent.mkdir()
        shutil.copy(TINY, path)
    done = evaluated("--protocol", "center", "--json", "-", engine=paths)
    assert [row["engines"] for row in report(done)] == [[str(paths[0])], [str(paths[1])], [str(path) for path in paths]]
    done = evaluated(engine=(paths[0], paths[1].parent.parent / "one" / "best.onnx"))
    assert done.code == 2
    assert "best.onnx is given twice" in done.err


def test_of_several_engines_one_is_open_at_a_time_and_none_in_the_end(
    evaluated: Command, fakes: Command, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[FakeEngine] = []
    ran: list[int] = []

    def answer(images: Images) -> np.ndarray:
        ran.append(sum(not engine.closed for engine in opened))
        return certain(0)(images)

    def open_with(_path: Path, _options: EngineOptions) -> FakeEngine:
        opened.append(FakeEngine(manifest, answer))
        return opened[-1]

    paths = fakes(a=FakeEngine(manifest), b=FakeEngine(manifest))
    monkeypatch.setattr(engines, "open_with", open_with)
    done = evaluated(engine=paths)
    assert done.code == 0, done.err
    assert set(ran) == {1}
    assert all(engine.closed for engine in opened)


# ---- images that cannot be scored ----


def test_broken_images_are_reported_and_the_rest_counted(
    evaluated: Command, fakes: Command, manifest: Manifest, data: Path, tmp_path: Path
) -> None:
    (data / "church" / "0.png").write_bytes(b"no image")
    (data / "English_springer" / "1.png").write_bytes(b"")
    (data / "English_springer" / "2.png").unlink()
    (data / "English_springer" / "2.png").symlink_to("nowhere")
    paths = fakes(a=FakeEngine(manifest, certain(1)))
    for cache in ((), ("--cache", tmp_path / "cache"), ("--cache", tmp_path / "cache")):
        done = evaluated("--protocol", "dense,center", "--json", tmp_path / "out.json", *cache, engine=paths)
        assert done.code == 1
        failed = [line for line in done.err.splitlines() if line.startswith("failed: ")]
        assert len(failed) == 3
        assert f"failed: {data / 'church' / '0.png'}: not an image, or damaged at its beginning" in failed
        assert "a.onnx: dense: 3 of 15 images failed and are not counted" in done.err
        header, _line, *rows = done.out.splitlines()
        assert header.split()[4:6] == ["images", "failed"]
        assert [row.split()[4:6] for row in rows] == [["12", "3"], ["12", "3"]]
        for row in json.loads((tmp_path / "out.json").read_text()):
            assert (row["images"], row["failed"]) == (12, 3)
            assert row["top1_error"] == pytest.approx(11 / 12)


def test_an_image_that_one_of_several_engines_cannot_score_is_missing_from_the_mean_only(
    evaluated: Command, fakes: Command, manifest: Manifest, data: Path
) -> None:
    Image.new("RGB", (48, 48)).save(data / "church" / "0.png")

    def refuses_black(images: Images) -> np.ndarray:
        rows = certain(1)(images)
        rows[(images == 0).all(axis=(1, 2, 3))] = np.nan
        return rows

    paths = fakes(a=FakeEngine(manifest, certain(1)), b=FakeEngine(manifest, refuses_black))
    done = evaluated("--protocol", "dense", "--json", "-", engine=paths)
    assert done.code == 1
    assert [(row["images"], row["failed"]) for row in report(done)] == [(15, 0), (14, 1), (14, 1)]
    assert "the model gave NaN:" in done.err


@pytest.mark.parametrize("form", ["--json", "--csv", "table", "--plot"])
def test_if_every_image_fails_there_are_no_figures_and_it_exits_1(
    evaluated: Command, data: Path, tmp_path: Path, form: str
) -> None:
    for path in data.rglob("*.png"):
        path.write_bytes(b"no image")
    output = {"table": (), "--plot": ("--plot", tmp_path / "plot.png")}.get(form, (form, "-"))
    done = evaluated("--protocol", "dense", *output)
    assert done.code == 1
    assert "Traceback" not in done.err
    assert "nan" not in done.out.lower()
    if form == "--json":
        (row,) = report(done)
        assert (row["images"], row["failed"], row["top1_error"], row["ms_per_image"]) == (0, 15, None, None)


# ---- the cache ----


def known(done: Any) -> list[tuple[int, int]]:
    """How many images of how many came from the cache, for each line that states it."""
    lines = [line.rsplit(": ", 1)[1].split() for line in done.err.splitlines() if " images come from " in line]
    return [(int(line[0]), int(line[2])) for line in lines]


def figures(done: Any) -> list[Any]:
    return [
        {key: value for key, value in row.items() if key.startswith(("top", "images", "failed"))}
        for row in report(done)
    ]


def without_cost(rows: list[Any]) -> list[Any]:
    return [{key: value for key, value in row.items() if key != "images_per_s"} for row in rows]


def test_two_models_of_one_cache_are_not_mixed_up(
    evaluated: Command, fakes: Command, manifest: Manifest, tmp_path: Path
) -> None:
    paths = fakes(a=FakeEngine(manifest, certain(0)), b=FakeEngine(manifest, certain(4)))
    arguments = ("--protocol", "dense", "--cache", tmp_path / "cache", "--json", "-")
    alone = [evaluated(*arguments, engine=(path,)) for path in paths]
    assert [known(done) for done in alone] == [[], []]
    both = evaluated(*arguments, engine=paths)
    assert known(both) == [(15, 15), (15, 15)]
    assert figures(both)[:2] == figures(alone[0]) + figures(alone[1])


def test_weights_beside_an_onnx_file_are_part_of_its_fingerprint(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(onnx.load(TINY), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    before = model_fingerprint(path)
    assert model_fingerprint(path) == before
    weights = bytearray((tmp_path / "weights.bin").read_bytes())
    weights[0] ^= 1
    (tmp_path / "weights.bin").write_bytes(weights)
    assert model_fingerprint(path) != before


def test_a_file_that_is_not_a_cache_is_refused_before_an_image_is_scored(
    evaluated: Command, fakes: Command, manifest: Manifest, tmp_path: Path
) -> None:
    engine = FakeEngine(manifest)
    cache = tmp_path / "cache"
    cache.write_bytes(b"no cache at all" * 100)
    before = cache.read_bytes()
    done = evaluated("--cache", cache, engine=fakes(a=engine))
    assert done.code == 1
    assert "cannot be used as a cache: file is not a database; name another file" in done.err
    assert engine.batches == []
    assert cache.read_bytes() == before


SLOW = """
import sys
import numpy as np
import engines
from vgg_deploy.testing import FakeEngine

opened = engines.open_with
engines.open_with = lambda path, options: FakeEngine(opened(path, options).info.manifest, latency_s=0.1)
from vgg_deploy.cli import main

main()
"""


@pytest.fixture
def stopped(data: Path, tmp_path: Path) -> Callable[[signal.Signals], tuple[int, str]]:
    """`stopped(signal)` stops a slow test once three images are in the cache. Gives its exit code and messages."""

    def run(how: signal.Signals) -> tuple[int, str]:
        command = [sys.executable, "-c", SLOW, "eval", str(data), "--engine", str(TINY), "--protocol", "dense,10-crop"]
        process = subprocess.Popen(
            [*command, "--cache", str(tmp_path / "cache"), "--json", str(tmp_path / "out.json"), "--batch", "1"],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            cwd=tmp_path,
        )
        # 15 images of 2 views take 3 seconds and 150 crops 15; some of them are in the file after one second.
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and entries(tmp_path / "cache") < 3:
            time.sleep(0.05)
        process.send_signal(how)
        _, err = process.communicate(timeout=60)
        assert not (tmp_path / "out.json").exists()
        assert not list(tmp_path.glob("*.partial"))
        assert 3 <= entries(tmp_path / "cache") < 30
        return process.returncode, err

    return run


@linux
def test_ctrl_c_exits_130_and_what_was_computed_is_in_the_cache(stopped: Callable[..., tuple[int, str]]) -> None:
    code, err = stopped(signal.SIGINT)
    assert code == 130
    assert err.splitlines()[-1] == "Interrupted."
    assert "Traceback" not in err


@linux
def test_after_a_kill_the_same_command_computes_only_the_rest(
    evaluated: Command, fakes: Command, tmp_path: Path, stopped: Callable[..., tuple[int, str]]
) -> None:
    code, _err = stopped(signal.SIGKILL)
    assert code == -signal.SIGKILL
    before = entries(tmp_path / "cache")
    rest = FakeEngine(engines.open_engine(TINY).info.manifest)
    fakes(tiny=rest)
    arguments = ("--protocol", "dense", "10-crop", "--json", "-", "--batch", "1")
    done = evaluated(*arguments, "--cache", tmp_path / "cache")
    assert done.code == 0, done.err
    assert sum(count for count, _images in known(done)) == before
    assert entries(tmp_path / "cache") == 30
    warm_up = (2 if before < 15 else 0) + 10  # an image for each protocol that is not known whole
    assert len(rest.batches) == warm_up + 15 * (2 + 10) - min(before, 15) * 2 - max(before - 15, 0) * 10
    assert without_cost(figures(done)) == without_cost(figures(evaluated(*arguments)))


def entries(cache: Path) -> int:
    import sqlite3

    if not cache.exists():
        return 0
    file = sqlite3.connect(f"file:{cache}?mode=ro", uri=True)
    try:
        return int(file.execute("SELECT count(*) FROM posteriors").fetchone()[0])
    except sqlite3.OperationalError:  # not made yet
        return 0
    finally:
        file.close()


# ---- reports ----


def test_json_csv_and_a_plot_are_written_beside_the_table(
    evaluated: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    json_path, csv_path, plot = tmp_path / "new" / "out.json", tmp_path / "out.csv", tmp_path / "plot.PNG"
    done = evaluated("--protocol", "center,dense", "--json", json_path, "--csv", csv_path, "--plot", plot)
    assert done.code == 0, done.err
    assert len(done.out.splitlines()) == 4
    rows = json.loads(json_path.read_text())
    with csv_path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["protocol"] for line in lines] == ["center", "dense"]
    for row, line in zip(rows, lines, strict=True):
        assert list(row) == list(line)
        assert (line["engines"], line["scales"]) == ("tiny.onnx", "40")
        assert float(line["top1_error"]) == pytest.approx(row["top1_error"])
        assert float(line["ms_per_image"]) == pytest.approx(row["ms_per_image"])
    with Image.open(plot) as image:
        assert image.size[0] > 400


@pytest.mark.parametrize(("name", "begin"), [("a.svg", b"<?xml"), ("a.pdf", b"%PDF")])
def test_the_name_of_a_plot_gives_its_format(
    evaluated: Command, fakes: Command, manifest: Manifest, tmp_path: Path, name: str, begin: bytes
) -> None:
    pytest.importorskip("matplotlib")
    paths = fakes(a=FakeEngine(manifest, certain(0)), b=FakeEngine(manifest, certain(1)))
    done = evaluated("--plot", tmp_path / name, engine=paths)
    assert done.code == 0, done.err
    assert (tmp_path / name).read_bytes().startswith(begin)
    if name.endswith("svg"):
        text = (tmp_path / name).read_text()
        assert all(words in text for words in ("a.onnx", "b.onnx", "fused: a.onnx + b.onnx", "multiscale"))
        assert "10^" not in text  # milliseconds as people write them


def test_csv_on_stdout_is_nothing_but_csv(evaluated: Command) -> None:
    done = evaluated("--csv", "-", "--protocol", "multiscale")
    (row,) = csv.DictReader(done.out.splitlines())
    assert (row["scales"], row["mirror"], row["images"]) == ("36,40,44", "True", "15")


@pytest.mark.parametrize("option", ["--json", "--csv", "--plot", "--cache"])
def test_an_output_that_cannot_be_written_is_noticed_before_an_image_is_scored(
    evaluated: Command, fakes: Command, manifest: Manifest, tmp_path: Path, option: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.png").mkdir()
    engine = FakeEngine(manifest)
    paths = fakes(a=engine)
    for target in (tmp_path / "file" / "out.png", tmp_path / "folder.png", tmp_path / ("x" * 300 + ".png")):
        done = evaluated(option, target, engine=paths)
        assert done.code == 1, done.err
        assert len(done.err.splitlines()[-1]) < 700
        assert done.err.splitlines()[-1].startswith("Error: ")
        assert str(target) in done.err
        assert engine.batches == []
    assert {path.name for path in tmp_path.iterdir()} == {"file", "folder.png", "a.onnx", "data"}


@pytest.mark.parametrize("option", ["--json", "--csv", "--plot", "--cache"])
def test_no_output_overwrites_an_input(evaluated: Command, tmp_path: Path, data: Path, option: str) -> None:
    model = tmp_path / "model.onnx"
    shutil.copy(TINY, model)
    (tmp_path / "link.png").symlink_to(model)
    targets = [data / "church" / "0.png", tmp_path / "link.png", *([] if option == "--plot" else [model])]
    for target in targets:
        before = target.read_bytes()
        done = evaluated(option, target, engine=(model,))
        assert done.code == 2
        assert "would overwrite the input" in done.err
        assert target.read_bytes() == before


def test_a_plot_without_matplotlib_names_the_extra_before_an_image_is_scored(
    evaluated: Command, fakes: Command, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = FakeEngine(manifest)
    paths = fakes(a=engine)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = evaluated("--plot", tmp_path / "plot.png", engine=paths)
    assert done.code == 2
    assert "--plot needs matplotlib, which is not installed: pip install '.[train]'" in done.err
    assert engine.batches == []


def test_files_are_written_though_the_reader_of_stdout_has_left(data: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "vgg_deploy", "eval", str(data), "--engine", str(TINY), "--protocol", "center"]
    process = subprocess.Popen(
        [*command, "--json", str(tmp_path / "out.json")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
    )
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) == 141
    assert b"Traceback" not in err
    assert len(json.loads((tmp_path / "out.json").read_text())) == 1


def test_names_that_the_terminal_cannot_show_do_not_stop_the_table(data: Path, tmp_path: Path) -> None:
    model = tmp_path / "网络.onnx"
    shutil.copy(TINY, model)
    done = subprocess.run(
        [sys.executable, "-m", "vgg_deploy", "eval", str(data), "--engine", str(model), "--protocol", "center"],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "cp1252", "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "网络.onnx" in done.stdout.decode("utf-8")


# ---- the paper's figures ----


def full_width(configuration: str) -> Manifest:
    from vgg_deploy.network.manifest import PAPER_NORMALIZATION

    return Manifest(numbered_classes(1000), NetworkSpec(configuration), PAPER_NORMALIZATION, TrainScale(256, 512))


def test_the_papers_row_stands_beside_ours_with_the_difference(
    evaluated: Command, fakes: Command, tmp_path: Path
) -> None:
    for folder in ("0", "1", "2", "999"):
        (tmp_path / "numbered" / folder).mkdir(parents=True)
        picture(int(folder), (30, 40)).save(tmp_path / "numbered" / folder / "a.png")
    paths = fakes(**{name: FakeEngine(full_width(name), certain(2, 1000)) for name in ("D", "E")})
    arguments = ("--protocol", "dense", "multiscale", "center", "--paper")
    done = evaluated(*arguments, "--json", "-", engine=paths, folder=tmp_path / "numbered")
    assert done.code == 0, done.err
    assert "50,000 images of ILSVRC-2012's validation set; this test has 4 images" in done.err
    rows = {(*row["engines"], row["protocol"]): row for row in report(done)}
    expected = {
        ("D.onnx", "dense"): 3,
        ("E.onnx", "dense"): 3,
        ("D.onnx", "multiscale"): 4,
        ("E.onnx", "multiscale"): 4,
    }
    expected["D.onnx", "E.onnx", "multiscale"] = 6  # type: ignore[index]
    assert {key: row["paper_table"] for key, row in rows.items() if row["paper_table"]} == expected
    fused = rows["D.onnx", "E.onnx", "multiscale"]
    (paper,) = (row for row in ROWS if row.table == 6 and len(row.networks) == 2 and row.protocol == "multiscale")
    assert fused["paper_top1_error"] == pytest.approx(paper.top1 / 100)
    assert fused["top1_minus_paper"] == pytest.approx(0.75 - paper.top1 / 100)
    assert fused["top5_minus_paper"] == pytest.approx(fused["top5_error"] - paper.top5 / 100)
    table = evaluated(*arguments, engine=paths[:1], folder=tmp_path / "numbered").out.splitlines()
    (line,) = (line for line in table if " dense " in line)
    assert "75.00 ± 21.65 %" in line
    assert "Table 3  25.6 %  8.1 %  +49.4, " in line
    (line,) = (line for line in table if " center " in line)
    assert line.split()[-4:] == ["-", "-", "-", "-"]


def test_a_network_that_the_paper_does_not_have_gives_a_notice_with_the_differences(
    evaluated: Command, fakes: Command, manifest: Manifest
) -> None:
    done = evaluated("--paper", "--protocol", "dense", engine=fakes(a=FakeEngine(manifest)))
    assert done.code == 0, done.err
    (line,) = (line for line in done.err.splitlines() if "a.onnx is not one of the paper's networks" in line)
    assert "crop is 32, not 224" in line
    assert "classes is 5, not 1000" in line
    assert "layers" not in line


def test_without_paper_its_figures_are_left_out(evaluated: Command, fakes: Command, manifest: Manifest) -> None:
    done = evaluated("--json", "-", engine=fakes(a=FakeEngine(manifest)))
    assert {row["paper_table"] for row in report(done)} == {None}
    assert "ILSVRC" not in done.err


# ---- options for some kinds of engines ----


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--runtime", "onnxruntime"), "is a checkpoint, which PyTorch runs; leave out --runtime"),
        (("--trust",), "--trust and --cuda-api apply only to plans"),
        (("--device", "cuda:63"), "device is cuda:63; PyTorch sees"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_options_that_a_checkpoint_does_not_take_are_refused(
    evaluated: Command,
    narrow_checkpoint: Callable[..., Path],
    manifest: Manifest,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    checkpoint = narrow_checkpoint("A", crop=32, manifest={"classes": manifest.classes})
    done = evaluated(*arguments, engine=(checkpoint,))
    assert done.code == 2
    assert message in done.err


def test_an_option_reaches_only_the_engines_that_take_it_if_some_do() -> None:
    nothing = WeightFacts()
    plan, model, checkpoint = Path("a.plan"), Path("b.onnx"), Path("c.pth")
    options = EngineOptions(runtime="openvino", threads=3, cuda_api="pycuda", trust=True)
    of_plan, of_model, of_checkpoint = options_for_each([plan, model, checkpoint], options, nothing)
    assert (of_plan.runtime, of_plan.threads, of_plan.cuda_api, of_plan.trust) == ("auto", None, "pycuda", True)
    assert (of_model.runtime, of_model.threads, of_model.cuda_api, of_model.trust) == (
        "openvino",
        3,
        "cuda-python",
        False,
    )
    assert (of_checkpoint.runtime, of_checkpoint.threads, of_checkpoint.trust) == ("auto", 3, False)
    # If no engine takes an option, all keep it, and opening refuses it.
    for path in (plan, model, checkpoint):
        assert options_for_each([path], options, nothing) == [options]
    other, _plan = options_for_each([model, plan], EngineOptions(runtime="tensorrt"), nothing)
    assert other.runtime == "auto"


@pytest.mark.slow
def test_real_weights_classify_real_images(evaluated: Command, test_data: Path, tmp_path: Path) -> None:
    weights, labels = test_data / "vgg16_imagenette_fp16.safetensors", test_data / "imagenette_labels.txt"
    folder = test_data / "imagenette" / "val"
    facts = ("--normalization", "paper", "--labels", labels, "--limit", "10", "--json", "-")
    done = evaluated("--protocol", "center", "dense", *facts, engine=(weights,), folder=folder)
    assert done.code == 0, done.err
    for row in report(done):
        assert row["images"] == 10
        assert row["top1_error"] <= 0.2
        assert row["top5_error"] == 0
