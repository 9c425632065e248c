"""`vgg-deploy features`: fc7 as the paper describes images with it, and a linear SVM on top."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

import engines
import vgg_deploy
from vgg_deploy.inference.engine_options import EngineOptions
from vgg_deploy.network.manifest import MANIFEST_KEY, Manifest, Rescaling
from vgg_deploy.testing import FakeEngine
from vgg_deploy.views.images import decode, rescale

Command = Callable[..., Any]

pytest.importorskip("onnxruntime")

ROOT = Path(vgg_deploy.__file__).parent.parent
TINY = ROOT / "tests" / "data" / "tiny.onnx"  # S is 40, the crop 32, fc7 8 wide
SIZES = ((40, 56), (60, 44), (48, 48))


def paint(path: Path, seed: int, colour: tuple[float, float, float], size: tuple[int, int] = (48, 48)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    slope = np.linspace(1, 0.5, size[1])[:, None]
    pixels = np.random.default_rng(seed).integers(150, 256, (*size, 3)) * slope * colour
    Image.fromarray(pixels.astype(np.uint8)).save(path)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Six images in folders that are no classes of the network."""
    for seed in range(6):
        paint(
            tmp_path / "data" / ("owls" if seed % 2 else "kites") / f"{seed}.png",
            seed,
            (1, seed / 6, 0.5),
            SIZES[seed % 3],
        )
    return tmp_path / "data"


@pytest.fixture
def split(tmp_path: Path) -> Path:
    """Red and blue images: train/CLASS/* and val/CLASS/*."""
    for seed in range(24):
        colour = (1.0, 0.2, 0.1) if seed % 2 else (0.1, 0.2, 1.0)
        part = "train" if seed < 16 else "val"
        paint(tmp_path / "split" / part / ("red" if seed % 2 else "blue") / f"{seed}.png", seed, colour)
    return tmp_path / "split"


@pytest.fixture
def describe(vgg_deploy_command: Command, tmp_path: Path) -> Callable[..., Any]:
    """`describe(folder, *arguments)` writes out.npz in tmp_path."""

    def run(folder: Path, *arguments: str | Path, engine: Path = TINY) -> Any:
        output = () if {"-o", "--output"} & set(arguments) else ("-o", tmp_path / "out.npz")
        return vgg_deploy_command("features", str(folder), "--engine", str(engine), *map(str, (*output, *arguments)))

    return run


def directly(path: Path, scales: tuple[int, ...], mirrors: bool, engine: Any) -> np.ndarray:
    """By definition: fc7's spatial mean of each scale and mirror, their mean, at length 1."""
    pixels, rows = decode(path), []
    for scale in scales:
        seen = rescale(pixels, scale, Rescaling())
        for image in (seen, seen[:, ::-1]) if mirrors else (seen,):
            rows.append(engine.run(np.ascontiguousarray(image)[None]).features[0].astype(np.float64))
    mean = np.mean(rows, axis=0)
    return np.asarray(mean / np.linalg.norm(mean))


@pytest.mark.parametrize(
    ("arguments", "scales", "mirrors"),
    [
        ((), (36, 40, 44), True),
        (("--scales", "33,50"), (33, 50), True),
        (("--scales", "64", "--no-flip"), (64,), False),
    ],
    ids=["defaults", "scales", "one"],
)
def test_descriptors_are_fc7_averaged_over_scales_and_mirrors_at_length_1(
    describe: Command, data: Path, tmp_path: Path, arguments: tuple[str, ...], scales: tuple[int, ...], mirrors: bool
) -> None:
    done = describe(data, *arguments, "--threads", "1")
    assert done.code == 0, done.err
    assert done.out == f"{tmp_path / 'out.npz'}: 6 descriptors of 8 dimensions\n"
    with np.load(tmp_path / "out.npz") as arrays:
        paths, folders, descriptors = (arrays[name] for name in ("paths", "folders", "descriptors"))
        assert set(arrays) == {"paths", "folders", "descriptors"}
    assert paths.tolist() == [str(path) for path in sorted(data.rglob("*.png"))]
    assert folders.tolist() == ["kites"] * 3 + ["owls"] * 3
    assert descriptors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(descriptors, axis=1), 1, rtol=1e-6)
    assert np.abs(descriptors[0] - descriptors[3]).max() > 0.01
    with engines.open_engine(TINY, threads=1) as engine:
        for path, row in zip(paths, descriptors, strict=True):
            np.testing.assert_allclose(row, directly(Path(path), scales, mirrors, engine), atol=1e-5)


def test_a_checkpoint_and_the_file_exported_from_it_describe_alike(
    describe: Command, data: Path, narrow_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    from export import export
    from train.network.checkpoint import read

    checkpoint = narrow_checkpoint("D", crop=32)
    export(read(checkpoint), tmp_path / "d.onnx", dynamic=True, features=True)
    export(read(checkpoint), tmp_path / "fixed.onnx", features=True)
    descriptors = []
    for engine in (checkpoint, tmp_path / "d.onnx"):
        done = describe(data, engine=engine)
        assert done.code == 0, done.err
        with np.load(tmp_path / "out.npz") as arrays:
            descriptors.append(arrays["descriptors"])
    np.testing.assert_allclose(descriptors[0], descriptors[1], atol=1e-4)
    done = describe(data, engine=tmp_path / "fixed.onnx")
    assert done.code == 0, done.err
    assert "each image is scored by its central crop" in done.err


# ---- the linear SVM ----


def accuracy(out: str) -> tuple[int, int]:
    correct, total = next(part for part in out.splitlines()[-1].split() if "/" in part).split("/")
    return int(correct), int(total)


def test_a_linear_svm_is_fitted_on_train_and_judged_on_val(describe: Command, split: Path, tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    done = describe(split, "--svm")
    assert done.code == 0, done.err
    assert "linear SVM (C=1) on 16 descriptors: 8/8 correct (100.00%)" in done.out
    with np.load(tmp_path / "out.npz") as arrays:
        assert len(arrays["paths"]) == 24
        assert arrays["split"].tolist() == ["train"] * 16 + ["val"] * 8
        assert arrays["folders"].tolist().count("red") == 12
        from sklearn.svm import LinearSVC

        svm = LinearSVC(C=1.0, dual="auto", max_iter=10_000, random_state=0)
        svm.fit(arrays["descriptors"][:16], arrays["folders"][:16])
        assert svm.score(arrays["descriptors"][16:], arrays["folders"][16:]) == 1
    # Labels that are wrong in val are counted as wrong.
    (split / "val" / "red").rename(split / "val" / "was")
    (split / "val" / "blue").rename(split / "val" / "red")
    (split / "val" / "was").rename(split / "val" / "blue")
    assert accuracy(describe(split, "--svm").out) == (0, 8)


def test_broken_images_are_skipped_and_the_exit_code_is_1(describe: Command, split: Path, tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    (split / "train" / "red" / "1.png").write_bytes(b"no image")
    (split / "val" / "red" / "17.png").write_bytes(b"")
    done = describe(split, "--svm")
    assert done.code == 1
    assert len([line for line in done.err.splitlines() if line.startswith("failed: ")]) == 2
    assert accuracy(done.out) == (7, 7)
    assert "on 15 descriptors" in done.out
    with np.load(tmp_path / "out.npz") as arrays:
        assert len(arrays["paths"]) == len(arrays["descriptors"]) == len(arrays["folders"]) == 22
        assert arrays["split"].tolist() == ["train"] * 15 + ["val"] * 7
        assert not any(Path(path).name == "1.png" for path in arrays["paths"])


def test_if_no_image_can_be_described_the_exit_code_is_1(describe: Command, data: Path, tmp_path: Path) -> None:
    for path in data.rglob("*.png"):
        path.write_bytes(b"no image")
    done = describe(data)
    assert done.code == 1
    assert "all 6 images failed, so there is nothing to write" in done.err
    assert not (tmp_path / "out.npz").exists()


# ---- refusals before any work ----


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the batches that engines receive."""
    seen: list[int] = []
    usual = engines.open_with

    def opened(path: Path, options: EngineOptions) -> Any:
        engine = usual(path, options)
        run = engine.run
        engine.run = lambda images: (seen.append(len(images)), run(images))[1]  # type: ignore[attr-defined,func-returns-value]
        return engine

    monkeypatch.setattr(engines, "open_with", opened)
    return seen


def test_the_watch_sees_batches(describe: Command, data: Path, watched: list[int]) -> None:
    assert describe(data).code == 0
    assert sum(watched) == 36


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--svm",), "train: no such folder. --svm fits on DATA/train/CLASS/*"),
        (("--scales", "31"), "scale 31 is below the network's crop of 32"),
        (("--arch", "D"), "leave out --arch, --normalization, --mean, --std, --channels, --train-scale and --key"),
        (("-o", "data/owls/1.png"), "would overwrite the input"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_bad_use_exits_2_before_an_image_is_described(
    describe: Command,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    watched: list[int],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(TINY, "model.onnx")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    done = describe(data, *arguments, engine=Path("model.onnx"))
    assert done.code == 2
    assert done.out == ""
    assert message in " ".join(done.err.split())
    assert watched == []
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_model_without_the_output_exits_2_and_says_how_to_get_it(
    describe: Command, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = next(entry.value for entry in onnx.load(TINY).metadata_props if entry.key == MANIFEST_KEY)
    engine = FakeEngine(Manifest.from_json(text, "tiny.onnx"))
    monkeypatch.setattr(engines, "open_with", lambda _path, _options: engine)
    done = describe(data)
    assert done.code == 2
    assert "tiny.onnx has no output features; export it with --features" in done.err
    assert engine.batches == []


def test_an_output_that_cannot_be_written_is_refused_before_any_work(
    describe: Command, data: Path, tmp_path: Path, watched: list[int]
) -> None:
    (tmp_path / "file").touch()
    for target, reason in ((tmp_path, "it is a folder"), (tmp_path / "file" / "a.npz", "is a file, not a folder")):
        done = describe(data, "-o", target)
        assert done.code == 1
        assert f"cannot write {target}" in done.err
        assert reason in done.err
    assert watched == []


def test_folders_that_no_svm_can_separate_exit_2_before_any_work(
    describe: Command, split: Path, watched: list[int]
) -> None:
    (split / "val" / "red").rename(split / "val" / "green")
    done = describe(split, "--svm")
    assert done.code == 2
    assert "DATA/val has the folder 'green', but DATA/train does not" in done.err
    shutil.rmtree(split / "train" / "red")
    done = describe(split, "--svm")
    assert done.code == 2
    assert "--svm needs images of at least two classes" in done.err
    assert watched == []


def test_without_scikit_learn_the_extra_is_named(
    describe: Command, split: Path, monkeypatch: pytest.MonkeyPatch, watched: list[int]
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    done = describe(split, "--svm")
    assert done.code == 2
    assert "--svm needs scikit-learn, which is not installed: pip install '.[train]'" in done.err
    assert watched == []


@pytest.mark.slow
def test_an_svm_on_the_real_fc7_classifies_new_images(describe: Command, test_data: Path, tmp_path: Path) -> None:
    """Fits on six images of each of three classes, and tests on three."""
    for part, count in (("train", 6), ("val", 3)):
        for folder in sorted((test_data / "imagenette" / part).iterdir())[:3]:
            target = tmp_path / "few" / part / folder.name
            target.mkdir(parents=True)
            for path in sorted(folder.iterdir())[:count]:
                shutil.copy(path, target)
    weights = test_data / "vgg16_imagenette_fp16.safetensors"
    options = ("--svm", "--scales", "224", "--no-flip", "--normalization", "paper")
    done = describe(tmp_path / "few", *options, engine=weights)
    assert done.code == 0, done.err
    right, total = accuracy(done.out)
    assert total == 9
    assert right >= 8
