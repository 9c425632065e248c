"""vgg-deploy export: which weights it takes, where it writes, and what it refuses."""

from __future__ import annotations

import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
from PIL import Image

from vgg_deploy.artifacts.onnx_file import OnnxFile, read_manifest
from vgg_deploy.network.spec import COMMON_NAMES, CONFIGURATIONS

Command = Callable[..., Any]
Checkpoints = Callable[..., Path]


@pytest.fixture(autouse=True)
def in_a_new_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, where default names and runs/ are looked up."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No network, and no weights downloaded earlier."""

    def no_network(*_arguments: Any, **_options: Any) -> None:
        raise URLError("Name or service not known")

    import torch.hub

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    monkeypatch.setattr(torch.hub, "urlopen", no_network)


@pytest.fixture
def foreign_checkpoint(random_weights: Callable[..., Any], narrow_spec: Callable[..., Any], tmp_path: Path) -> Path:
    """A checkpoint of configuration A without any metadata."""
    from safetensors.torch import save_file

    path = tmp_path / "foreign.safetensors"
    save_file(random_weights(narrow_spec("A")), path)
    return path


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_the_default_name_is_that_of_the_configuration(
    configuration: str, narrow_checkpoint: Checkpoints, vgg_deploy_command: Command, in_a_new_folder: Path
) -> None:
    done = vgg_deploy_command("export", "--weights", str(narrow_checkpoint(configuration)))
    assert done.code == 0, done.err
    assert done.err == ""
    name = f"{COMMON_NAMES[configuration]}.onnx"
    assert [path.name for path in in_a_new_folder.iterdir()] == [name]
    size = (in_a_new_folder / name).stat().st_size / 1e6
    assert (
        done.out
        == f"{name}: configuration {configuration}, 5 classes, float32, images 1 x 64 x 64 x 3, {size:.1f} MB\n"
    )


def test_options_reach_the_file(narrow_checkpoint: Checkpoints, vgg_deploy_command: Command, tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    arguments = ("--dynamic", "--fp16", "--score-map", "--features", "-o", str(path))
    done = vgg_deploy_command("export", "--weights", str(narrow_checkpoint("C")), *arguments)
    assert done.code == 0, done.err
    manifest = read_manifest(path)
    assert manifest.outputs == ("probabilities", "score_map", "features")
    assert manifest.precision.arithmetic == "float16"
    assert str(manifest.shapes) == "1.. x 64.. x 64.. x 3"
    assert "1.. x 64.. x 64.. x 3" in done.out
    assert done.err.count("\n") == 1
    assert "not measured" in done.err


def test_the_folders_of_the_output_are_made(
    narrow_checkpoint: Checkpoints, vgg_deploy_command: Command, in_a_new_folder: Path
) -> None:
    done = vgg_deploy_command("export", "--weights", str(narrow_checkpoint("A")), "-o", "new/models/a.onnx")
    assert done.code == 0, done.err
    assert read_manifest(in_a_new_folder / "new/models/a.onnx").spec is not None


def test_an_output_that_cannot_be_written_fails_in_one_line(
    narrow_checkpoint: Checkpoints, vgg_deploy_command: Command, tmp_path: Path
) -> None:
    done = vgg_deploy_command("export", "--weights", str(narrow_checkpoint("A")), "-o", str(tmp_path))
    assert done.code == 1
    assert done.err == f"Error: cannot write {tmp_path}: it is a folder; name a file\n"


def test_the_checkpoint_itself_is_not_overwritten(narrow_checkpoint: Checkpoints, vgg_deploy_command: Command) -> None:
    weights = narrow_checkpoint("A")
    before = weights.read_bytes()
    link = weights.with_suffix(".onnx")
    link.symlink_to(weights)
    for output, reason in ((link, "would overwrite the checkpoint"), (weights, "has the ending of a checkpoint")):
        done = vgg_deploy_command("export", "--weights", str(weights), "-o", str(output))
        assert done.code == 2
        assert reason in done.err
        assert weights.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--fp16", "--calibration", "."), "no image in this folder"),
        (("--weights", "none.safetensors"), "none.safetensors: no such checkpoint"),
        (("--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225"), "--mean 123.675,116.280,103.530"),
        (("--mean", "0,0,0", "--std", "0.5"), "units of 0..255"),
        (("--std", "58.4"), "--std requires --mean"),
        (("--mean", "1,2"), "is not R,G,B"),
        (("--normalization", "torchvision", "--mean", "100"), "its own mean and std"),
        (("--normalization", "torchvision"), "leave out the normalization, or give the same"),
        (("--arch", "E"), "configuration A, which contradicts --arch E"),
        (("--labels", "none.txt"), "cannot read the labels file none.txt"),
    ],
)
def test_bad_use_exits_with_2_and_writes_nothing(
    arguments: tuple[str, ...],
    reason: str,
    narrow_checkpoint: Checkpoints,
    vgg_deploy_command: Command,
    in_a_new_folder: Path,
) -> None:
    weights = () if "--weights" in arguments else ("--weights", str(narrow_checkpoint("A")))
    done = vgg_deploy_command("export", *weights, *arguments)
    assert done.code == 2, done.out
    assert reason in done.err
    assert "Traceback" not in done.err
    assert not list(in_a_new_folder.iterdir())


def test_a_foreign_checkpoint_needs_a_normalization(
    foreign_checkpoint: Path, vgg_deploy_command: Command, in_a_new_folder: Path
) -> None:
    done = vgg_deploy_command("export", "--weights", str(foreign_checkpoint))
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert "--normalization paper" in done.err
    assert "--mean R,G,B" in done.err
    assert not list(in_a_new_folder.iterdir())


def test_a_foreign_checkpoint_with_all_its_facts_has_only_the_line_on_what_was_assumed(
    foreign_checkpoint: Path, vgg_deploy_command: Command, in_a_new_folder: Path
) -> None:
    (in_a_new_folder / "labels.txt").write_text("cat\ndog\nn3\thorse\ncow\nfish\n")
    arguments = ("--normalization", "paper", "--labels", "labels.txt", "--train-scale", "64,128")
    done = vgg_deploy_command("export", "--weights", str(foreign_checkpoint), *arguments)
    assert done.code == 0, done.err
    assert [line.split(":")[0] for line in done.err.splitlines()] == ["assumed"]
    manifest = read_manifest(in_a_new_folder / "vgg11.onnx")
    assert [name.label for name in manifest.classes] == ["cat", "dog", "horse", "cow", "fish"]
    assert manifest.classes[2].id == "n3"
    assert str(manifest.train_scale) == "[64, 128]"
    done = vgg_deploy_command("export", "--weights", str(foreign_checkpoint), "--normalization", "paper")
    assert done.code == 0
    assert ["training scale" in line or "class names" in line for line in done.err.splitlines()] == [True, True, False]


def test_a_damaged_checkpoint_exits_with_1(vgg_deploy_command: Command, narrow_checkpoint: Checkpoints) -> None:
    path = narrow_checkpoint("A")
    path.write_bytes(path.read_bytes()[:2000])
    done = vgg_deploy_command("export", "--weights", str(path))
    assert done.code == 1
    assert done.err.count("\n") == 1
    assert "damaged, cut off" in done.err


@pytest.fixture
def finished_run(narrow_checkpoint: Checkpoints, in_a_new_folder: Path) -> Callable[..., Path]:
    """`finished_run("name", "B")` -> best.safetensors of a run under runs/ that has just finished."""
    from train.runs.metrics import Epoch, Metrics
    from train.runs.run import TrainingRun

    def make(name: str, configuration: str, root: str = "runs", top1: float | None = None) -> Path:
        facts = {
            "data": "cats",
            "validation": {"images": 100, "largest_share": 0.2},
            "recipe": {"spec": {"configuration": configuration}},
        }
        with TrainingRun(in_a_new_folder / root / name, facts) as run:
            narrow_checkpoint(configuration).rename(run.best)
            if top1 is not None:
                metrics = Metrics(1.0, top1, 1.0)
                run.record([Epoch(1, 4, 0.01, metrics, metrics, 12.0, 100.0)])
        return run.best

    return make


def test_the_newest_finished_run_is_the_default_and_is_printed(
    finished_run: Callable[..., Path], vgg_deploy_command: Command, in_a_new_folder: Path
) -> None:
    finished_run("z-older", "A", top1=0.9)
    newest = finished_run("a-newer", "B", top1=0.75)
    other = finished_run("other", "D", root="elsewhere")
    done = vgg_deploy_command("export")
    assert done.code == 0, done.err
    path = newest.relative_to(in_a_new_folder)
    assert done.err == f"newest finished run: {path}, top-1 75.00% on cats, less than a minute old\n"
    assert (in_a_new_folder / "vgg13.onnx").is_file()
    done = vgg_deploy_command("export", "--runs", "elswhere")
    assert done.code == 2
    assert "--runs elswhere: no such folder; name the folder of your runs, or give --weights" in done.err
    done = vgg_deploy_command("export", "--runs", "elsewhere")
    path = other.relative_to(in_a_new_folder)
    assert done.err == f"newest finished run: {path}, top-1 unknown on cats, less than a minute old\n"


def test_a_run_that_learned_nothing_is_refused_unless_it_is_named(
    finished_run: Callable[..., Path], vgg_deploy_command: Command, in_a_new_folder: Path
) -> None:
    finished_run("a", "A", top1=0.05)
    done = vgg_deploy_command("export")
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        "Error: the newest finished run learned nothing: runs/a/best.safetensors, top-1 5.00% of 100 images, of which "
        "20.00% are one class. Train again with another --lr or --init, or take it anyway: "
        "--weights runs/a/best.safetensors\n"
    )
    assert not list(in_a_new_folder.glob("*.onnx"))
    assert vgg_deploy_command("export", "--weights", "runs/a/best.safetensors").code == 0


def test_beside_a_run_that_learned_nothing_one_that_learned_is_named(
    finished_run: Callable[..., Path], vgg_deploy_command: Command
) -> None:
    finished_run("good", "A", top1=0.8)
    finished_run("deep", "E", top1=0.9)
    finished_run("dead", "A", top1=0.2)
    done = vgg_deploy_command("export", "--arch", "A")
    assert done.code == 2
    assert "--weights runs/good/best.safetensors learned (top-1 80.00% on cats, less than a minute old)" in done.err


@pytest.mark.usefixtures("offline")
def test_arch_selects_the_newest_run_of_that_configuration(
    finished_run: Callable[..., Path], vgg_deploy_command: Command, in_a_new_folder: Path
) -> None:
    older = finished_run("older", "A")
    finished_run("newer", "B")
    done = vgg_deploy_command("export", "--arch", "A")
    assert done.code == 0, done.err
    assert done.err.startswith(f"newest finished run: {older.relative_to(in_a_new_folder)}, ")
    done = vgg_deploy_command("export", "--arch", "E")
    assert done.code == 1
    assert done.err.startswith("no finished run of configuration E in runs/; using torchvision's ImageNet weights\n")


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("arguments", [(), ("--weights", "imagenet"), ("--arch", "A")])
def test_without_a_run_torchvisions_weights_are_used_and_offline_the_error_is_one_line(
    arguments: tuple[str, ...], vgg_deploy_command: Command, in_a_new_folder: Path
) -> None:
    pytest.importorskip("torchvision")
    done = vgg_deploy_command("export", *arguments)
    assert done.code == 1
    lines = done.err.splitlines()
    if "--weights" not in arguments:
        which = " of configuration A" if "--arch" in arguments else ""
        assert lines[0] == f"no finished run{which} in runs/; using torchvision's ImageNet weights"
    errors = [line for line in lines if line.startswith("Error: ")]
    assert errors == lines[-1:]
    assert "cannot download https://download.pytorch.org/models/vgg1" in errors[0]
    assert "Name or service not known" in errors[0]
    assert "--weights FILE" in errors[0]
    assert not list(in_a_new_folder.glob("*.onnx"))


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sensitivity", "--calibration", "none"), "none: no such file or folder"),
        (("export", "--fp16", "--calibration", "none"), "none: no such file or folder"),
        (("export", "--int8", "--calibration", "data"), "must not calibrate it: give data/train"),
        (("sensitivity", "--calibration", "data"), "must not calibrate it: give data/train"),
        (("export", "-o", "vgg16.pth"), "--output vgg16.pth has the ending of a checkpoint"),
        (("export", "-o", "data"), "it is a folder; name a file"),
    ],
)
def test_what_else_is_wrong_is_said_before_half_a_gigabyte_is_downloaded(
    arguments: tuple[str, ...], message: str, vgg_deploy_command: Command, in_a_new_folder: Path
) -> None:
    for part in ("train", "val"):
        (in_a_new_folder / "data" / part / "cat").mkdir(parents=True)
        Image.new("RGB", (40, 40)).save(in_a_new_folder / "data" / part / "cat" / "1.png")
    done = vgg_deploy_command(*arguments, "--weights", "imagenet")
    assert done.code in (1, 2)
    assert message in " ".join(done.err.split())
    assert "download" not in done.err


@pytest.mark.usefixtures("offline")
def test_torchvision_has_no_weights_for_c_and_a_lrn(vgg_deploy_command: Command) -> None:
    pytest.importorskip("torchvision")
    for configuration in ("C", "A-LRN"):
        done = vgg_deploy_command("export", "--weights", "imagenet", "--arch", configuration)
        assert done.code == 2
        assert f"no ImageNet weights for {configuration}" in done.err


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("arguments", [("--normalization", "paper"), ("--mean", "120"), ("--train-scale", "384")])
def test_facts_that_torchvisions_weights_state_cannot_be_changed(
    arguments: tuple[str, str], vgg_deploy_command: Command
) -> None:
    pytest.importorskip("torchvision")
    done = vgg_deploy_command("export", "--weights", "imagenet", *arguments)
    assert done.code == 2
    assert "have their own normalization and S" in done.err


def test_calibration_reports_what_it_measured_and_skips_unreadable_images(
    narrow_checkpoint: Checkpoints, vgg_deploy_command: Command, pictures: Path, in_a_new_folder: Path
) -> None:
    (pictures / "broken.jpg").write_bytes(b"no picture")
    arguments = ("--fp16", "--dynamic", "--calibration", str(pictures))
    done = vgg_deploy_command("export", "--weights", str(narrow_checkpoint("D")), *arguments)
    assert done.code == 0, done.err
    lines = done.err.splitlines()
    assert lines[0].startswith(f"skipped {pictures / 'broken.jpg'}: ")
    assert lines[1].startswith("largest activation ")
    assert len(lines) == 2
    measured = read_manifest(in_a_new_folder / "vgg16.onnx").precision.largest_activations
    assert len(measured) == 16


def test_an_older_export_is_replaced(
    narrow_checkpoint: Checkpoints, vgg_deploy_command: Command, in_a_new_folder: Path
) -> None:
    weights = str(narrow_checkpoint("A"))
    assert vgg_deploy_command("export", "--weights", weights, "--fp16").code == 0
    assert vgg_deploy_command("export", "--weights", weights).code == 0
    assert [path.name for path in in_a_new_folder.iterdir()] == ["vgg11.onnx"]
    assert OnnxFile(in_a_new_folder / "vgg11.onnx").header.graph.initializer[1].data_type == 1  # float32
