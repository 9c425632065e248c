"""Checkpoint files: our own, foreign formats, and what is refused."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import pickle
import struct
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from torch import Tensor
from torch.nn import functional

from train.network.checkpoint import read, save
from train.network.model import VGG
from train.network.reference import Reference
from vgg_deploy.artifacts.kinds import CHECKPOINT_SUFFIXES
from vgg_deploy.errors import CheckpointError, ManifestError, OutputError, UsageError
from vgg_deploy.network.classes import ClassName, numbered_classes
from vgg_deploy.network.manifest import (
    PAPER_NORMALIZATION,
    TORCHVISION_NORMALIZATION,
    Manifest,
    Normalization,
    Rescaling,
    TrainScale,
)
from vgg_deploy.network.spec import NetworkSpec
from vgg_deploy.network.weight_facts import WeightFacts

PAPER = WeightFacts(normalization=PAPER_NORMALIZATION)


@pytest.fixture
def weights(
    narrow_spec: Callable[..., NetworkSpec], random_weights: Callable[..., dict[str, Tensor]]
) -> dict[str, Tensor]:
    """A narrow D with the paper's names."""
    return random_weights(narrow_spec("D"))


def written(path: Path, tensors: Any) -> Path:
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(tensors, path)
    else:
        torch.save(tensors, path)
    return path


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# Our own


def test_a_saved_checkpoint_is_read_back_bit_by_bit(
    tmp_path: Path, narrow_spec: Callable[..., NetworkSpec], random_weights: Callable[..., dict[str, Tensor]]
) -> None:
    spec = narrow_spec("A-LRN")
    tensors = random_weights(spec)
    manifest = Manifest(
        classes=tuple(ClassName(f"n{index}", f"größe {index}") for index in range(5)),
        spec=spec,
        normalization=TORCHVISION_NORMALIZATION,
        train_scale=TrainScale(80, 120),
        mirror=False,
        rescaling=Rescaling("bicubic", "nearest"),
        training={"epoch": 3, "top1": 0.5},
    )
    path = tmp_path / "deep" / "best.safetensors"
    save(path, tensors, manifest)
    read_back = read(path)
    assert same(read_back.weights, tensors)
    assert read_back.manifest == manifest
    assert read_back.notices == ()
    assert read_back.source.name == "best.safetensors"
    assert read_back.source.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_facts_that_the_file_states_may_be_left_out_or_repeated(narrow_checkpoint: Callable[..., Path]) -> None:
    path = narrow_checkpoint("A-LRN")
    facts = WeightFacts(
        configuration="A-LRN",
        normalization=PAPER_NORMALIZATION,
        channels="rgb",
        labels="a\nb\nc\nd\ne\n",
        train_scale=TrainScale(100, 200),
    )
    manifest = read(path, facts).manifest
    assert [name.label for name in manifest.classes] == ["a", "b", "c", "d", "e"]
    assert manifest.train_scale == TrainScale(100, 200)
    assert read(path).manifest.classes == numbered_classes(5)


@pytest.mark.parametrize(
    ("facts", "named"),
    [
        (WeightFacts(configuration="A"), "holds configuration A-LRN, which contradicts --arch A"),
        (WeightFacts(normalization=TORCHVISION_NORMALIZATION), "leave out the normalization, or give the same"),
        (WeightFacts(labels="a\nb\n"), "has 2 labels; the network has 5 classes"),
        (WeightFacts(channels="bgr"), "takes RGB, as its manifest states, but --channels bgr is given; leave it out"),
    ],
)
def test_facts_that_contradict_the_file_are_refused(
    facts: WeightFacts, named: str, narrow_checkpoint: Callable[..., Path]
) -> None:
    with pytest.raises(UsageError, match=named):
        read(narrow_checkpoint("A-LRN"), facts)


def rewritten(path: Path, change: Callable[[dict[str, Tensor], dict[str, str]], object]) -> Path:
    """One of our checkpoints, with changed tensors or metadata."""
    with safetensors.safe_open(path, framework="pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(tensors, metadata)
    safetensors.torch.save_file(tensors, path, metadata=metadata)
    return path


@pytest.mark.parametrize(
    ("change", "error", "named"),
    [
        (lambda t, m: t.pop("conv2_1.bias"), CheckpointError, "lacks conv2_1.bias"),
        (lambda t, m: t.update(extra=torch.zeros(1)), CheckpointError, "unexpected extra"),
        (lambda t, m: t.clear(), CheckpointError, "lacks conv1_1.bias, .* and .* more"),
        (
            lambda t, m: t.update({"fc6.bias": torch.zeros(3)}),
            CheckpointError,
            r"fc6.bias has shape \[3\]; expected \[24\]",
        ),
        (lambda t, m: t["fc7.weight"].fill_(torch.nan), CheckpointError, "fc7.weight holds NaN .*diverged"),
        (lambda t, m: m.update(vgg_deploy="{}"), ManifestError, "version None"),
        (lambda t, m: m.update(vgg_deploy="no json"), ManifestError, "not JSON"),
        (
            lambda t, m: m.update(vgg_deploy=json.dumps({**json.loads(m["vgg_deploy"]), "spec": None})),
            CheckpointError,
            "lacks the network or the normalization",
        ),
    ],
)
def test_a_checkpoint_that_was_tampered_with_is_refused(
    change: Any, error: type[Exception], named: str, narrow_checkpoint: Callable[..., Path]
) -> None:
    path = rewritten(narrow_checkpoint("A"), change)
    with pytest.raises(error, match=named) as raised:
        read(path)
    assert path.name in str(raised.value)


def test_a_failed_save_leaves_the_older_checkpoint(
    narrow_checkpoint: Callable[..., Path], weights: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = narrow_checkpoint("A")
    before, manifest = path.read_bytes(), read(path).manifest

    def full(tensors: object, file: Path, metadata: object) -> None:
        Path(file).write_bytes(b"half")
        raise safetensors.SafetensorError(f"I/O error: No space left on device (os error {errno.ENOSPC})")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(OutputError, match="the disk is full"):
        save(path, weights, manifest)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.skipif(sys.platform == "win32", reason="this system has no limit of file sizes")
def test_a_write_that_fails_midway_is_one_line_and_leaves_nothing(
    tmp_path: Path, weights: dict[str, Tensor], narrow_checkpoint: Callable[..., Path]
) -> None:
    import resource

    manifest = read(narrow_checkpoint("D")).manifest
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(OutputError, match=r"cannot write .*w\.safetensors: .*File too large"):
            save(tmp_path / "folder" / "w.safetensors", weights, manifest)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list((tmp_path / "folder").iterdir()) == []


# Foreign


@pytest.mark.parametrize(
    ("ending", "dtype"),
    [
        *((ending, torch.float32) for ending in CHECKPOINT_SUFFIXES),
        *((ending, dtype) for ending in (".safetensors", ".pt") for dtype in (torch.float16, torch.bfloat16)),
        (".pth", torch.float64),
    ],
)
def test_every_format_and_float_type_is_read_as_float32(
    ending: str, dtype: torch.dtype, tmp_path: Path, weights: dict[str, Tensor]
) -> None:
    stored = {name: value.to(dtype) for name, value in weights.items()}
    checkpoint = read(written(tmp_path / f"w{ending}", stored), PAPER)
    assert same(checkpoint.weights, {name: value.to(torch.float32) for name, value in stored.items()})
    assert all(value.is_contiguous() for value in checkpoint.weights.values())
    assert checkpoint.manifest.normalization == PAPER_NORMALIZATION


def test_the_older_pickle_format_of_torch_is_read(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    path = tmp_path / "w.pth"
    torch.save(weights, path, _use_new_zipfile_serialization=False)
    assert same(read(path, PAPER).weights, weights)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda w: {"state_dict": w},
        lambda w: {"model": w, "epoch": 74, "lr": 1e-4, "args": {"arch": "vgg16"}, "best": torch.tensor(0.5)},
        lambda w: {"model_state_dict": {f"module.{name}": value for name, value in w.items()}},
        lambda w: {"state_dict": {f"model.{name}": value for name, value in w.items()}},
        lambda w: {"model": {"state_dict": w}},
        lambda w: {f"module.{name}": value for name, value in w.items()},
    ],
    ids=["state_dict", "model among others", "module. within", "lightning", "twice", "module. bare"],
)
def test_weights_are_found_under_the_keys_of_training_programs(
    wrap: Callable[[dict[str, Tensor]], Any], tmp_path: Path, weights: dict[str, Tensor]
) -> None:
    assert same(read(written(tmp_path / "w.pt", wrap(weights)), PAPER).weights, weights)


def test_parameters_with_gradients_and_views_are_read(tmp_path: Path, narrow_spec: Callable[..., NetworkSpec]) -> None:
    network = VGG(narrow_spec("A"))
    state = dict(network.named_parameters())
    assert same(read(written(tmp_path / "w.pt", state), PAPER).weights, network.state_dict())
    path = written(
        tmp_path / "t.pt",
        {name: value.detach().t().contiguous().t() if value.ndim == 2 else value for name, value in state.items()},
    )
    assert same(read(path, PAPER).weights, network.state_dict())


def test_without_a_normalization_foreign_weights_are_refused_with_the_choices(
    tmp_path: Path, weights: dict[str, Tensor]
) -> None:
    with pytest.raises(UsageError, match="does not state the normalization of its pixels") as raised:
        read(written(tmp_path / "w.pt", weights))
    for choice in (
        "--normalization paper",
        "torchvision",
        "unit",
        "tf",
        "raw",
        "--mean R,G,B",
        "--std R,G,B",
        "0..255",
    ):
        assert choice in str(raised.value)
    assert raised.value.exit_code == 2


def test_facts_that_foreign_weights_do_not_state_are_assumed_with_a_notice(
    tmp_path: Path, weights: dict[str, Tensor]
) -> None:
    path = written(tmp_path / "w.pt", weights)
    checkpoint = read(path, PAPER)
    assert checkpoint.manifest.train_scale == TrainScale(73, 73)  # 64 * 256 / 224
    assert checkpoint.manifest.classes == numbered_classes(5)
    scale, labels = checkpoint.notices
    assert "73 is assumed (--train-scale" in scale
    assert "--labels FILE" in labels
    facts = WeightFacts(
        configuration="D", normalization=PAPER_NORMALIZATION, labels="a\nb\nc\nd\ne\n", train_scale=TrainScale(64, 96)
    )
    stated = read(path, facts)
    assert stated.notices == ()
    assert stated.manifest.train_scale == TrainScale(64, 96)
    assert [name.label for name in stated.manifest.classes] == ["a", "b", "c", "d", "e"]


@pytest.mark.parametrize(
    ("facts", "named"),
    [
        (
            WeightFacts(configuration="E", normalization=PAPER_NORMALIZATION),
            "holds configuration D, which contradicts --arch E",
        ),
        (WeightFacts(normalization=PAPER_NORMALIZATION, labels="a\nb\n"), "has 2 labels; the network has 5 classes"),
    ],
)
def test_facts_that_contradict_foreign_weights_are_refused(
    facts: WeightFacts, named: str, tmp_path: Path, weights: dict[str, Tensor]
) -> None:
    with pytest.raises(UsageError, match=named):
        read(written(tmp_path / "w.safetensors", weights), facts)


@torch.no_grad()
def test_a_network_that_takes_bgr_gives_the_same_scores_for_rgb_once_it_is_read(
    tmp_path: Path, weights: dict[str, Tensor], narrow_spec: Callable[..., NetworkSpec]
) -> None:
    normalization = Normalization((123.0, 117.0, 104.0), (1.5, 1.0, 0.5))
    facts = WeightFacts(normalization=normalization, channels="bgr")
    path = written(tmp_path / "caffe.pt", weights)
    checkpoint = read(path, facts)
    assert not checkpoint.describes_itself
    assert checkpoint.manifest.channels_reversed
    assert not read(path, PAPER).manifest.channels_reversed

    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    pixels[..., 0] //= 4
    caffe = VGG(narrow_spec("D"))
    caffe.load_state_dict(weights)
    bgr = torch.from_numpy(pixels[..., ::-1].copy()).float()  # [n, h, w, 3]
    blue_first = ((bgr - torch.tensor([104.0, 117.0, 123.0])) / torch.tensor([0.5, 1.0, 1.5])).permute(0, 3, 1, 2)
    expected = functional.softmax(caffe(blue_first), dim=1).numpy()
    assert np.allclose(Reference(checkpoint, form="fc").run(pixels).probabilities, expected, atol=1e-5)
    wrong = read(path, WeightFacts(normalization=normalization))
    assert not np.allclose(Reference(wrong, form="fc").run(pixels).probabilities, expected, atol=1e-2)


def test_a_mean_in_caffes_order_is_noticed(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    path = written(tmp_path / "caffe.pt", weights)
    notices = read(path, WeightFacts(normalization=Normalization((103.939, 116.779, 123.68)), channels="bgr")).notices
    assert "103.939,116.779,123.68 looks like B,G,R, as Caffe writes it; --mean is R,G,B" in notices[-1]
    assert not any("B,G,R" in text for text in read(path, PAPER).notices)


def test_only_the_user_can_state_that_a_network_is_a_lrn(
    tmp_path: Path, narrow_spec: Callable[..., NetworkSpec], random_weights: Callable[..., dict[str, Tensor]]
) -> None:
    spec = narrow_spec("A-LRN")
    path = written(tmp_path / "w.pt", random_weights(spec))
    assert read(path, WeightFacts(configuration="A-LRN", normalization=PAPER_NORMALIZATION)).manifest.spec == spec
    assert read(path, PAPER).manifest.spec == narrow_spec("A")


# Damaged files and files with code


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.marker),))


def zipped(path: Path, bomb: Bomb) -> None:
    torch.save({"state_dict": {"conv1_1.weight": torch.zeros(1)}, "bomb": bomb}, path)


def legacy(path: Path, bomb: Bomb) -> None:
    torch.save({"bomb": bomb}, path, _use_new_zipfile_serialization=False)


def plain(protocol: int) -> Callable[[Path, Bomb], None]:
    def write(path: Path, bomb: Bomb) -> None:
        path.write_bytes(pickle.dumps(bomb, protocol))

    return write


@pytest.mark.parametrize(
    "write",
    [zipped, legacy, *(plain(protocol) for protocol in (0, 2, pickle.HIGHEST_PROTOCOL))],
    ids=["zip", "legacy", "pickle 0", "pickle 2", "newest pickle"],
)
def test_code_in_a_pickle_is_refused_and_does_not_run(write: Callable[[Path, Bomb], None], tmp_path: Path) -> None:
    path, marker = tmp_path / "w.pt", tmp_path / "ran"
    write(path, Bomb(marker))
    with pytest.raises(CheckpointError, match=r"w\.pt") as raised:
        read(path, PAPER)
    assert not marker.exists()
    assert len(str(raised.value).splitlines()) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.suppress(Exception):  # the file does run its code if it is trusted
            torch.load(path, weights_only=False)
    assert marker.exists()


def test_the_refusal_of_code_names_the_code_and_what_to_do(tmp_path: Path) -> None:
    zipped(tmp_path / "w.pt", Bomb(tmp_path / "ran"))
    with pytest.raises(CheckpointError, match=r"\(posix\.mkdir\).*|\(nt\.mkdir\).*") as raised:
        read(tmp_path / "w.pt", PAPER)
    assert "could run code, so it is refused" in str(raised.value)
    assert "state_dict()" in str(raised.value)


def test_a_pickled_module_is_refused_with_its_class(tmp_path: Path, narrow_spec: Callable[..., NetworkSpec]) -> None:
    torch.save(VGG(narrow_spec("A")), tmp_path / "whole.pt")
    with pytest.raises(
        CheckpointError, match=r"holds more than tensors \(train\.network\.model\.VGG\).*state_dict\(\)"
    ):
        read(tmp_path / "whole.pt", PAPER)


def test_a_torchscript_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "script.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, but its files are still in use
        torch.jit.script(torch.nn.Linear(2, 2)).save(str(path))
    with pytest.raises(CheckpointError, match=r"is a TorchScript archive.*state_dict\(\)"):
        read(path, PAPER)


@pytest.mark.parametrize("share", [0.01, 0.3, 0.999])
@pytest.mark.parametrize("kind", ["w.pt", "legacy.pt", "w.safetensors", "ours.safetensors"])
def test_a_truncated_checkpoint_is_refused(
    kind: str, share: float, tmp_path: Path, weights: dict[str, Tensor], narrow_checkpoint: Callable[..., Path]
) -> None:
    path = tmp_path / kind
    if kind == "ours.safetensors":
        path = narrow_checkpoint("D")
    elif kind == "legacy.pt":
        torch.save(weights, path, _use_new_zipfile_serialization=False)
    else:
        written(path, weights)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(CheckpointError, match="damaged, cut off") as raised:
        read(path, PAPER)
    assert path.name in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 1000,
        np.random.default_rng(0).bytes(3000),
        struct.pack("<Q", 10) + b'{"a": true',
    ],
    ids=["empty", "zeros", "random", "bad header"],
)
def test_a_file_that_is_not_a_checkpoint_is_refused(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=r"cannot be read.*damaged, cut off, or"):
        read(tmp_path / name, PAPER)


def test_another_zip_archive_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w.pt", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(CheckpointError, match="not a PyTorch checkpoint"):
        read(tmp_path / "w.pt", PAPER)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ([torch.zeros(2)], "holds a list; expected a state_dict"),
        (torch.zeros(2), "holds a Tensor; expected a state_dict"),
        ({"epoch": 3}, "holds no tensors"),
        ({}, "holds no tensors"),
        ({"state_dict": {}}, "holds no tensors"),
        ({"encoder.weight": torch.zeros(2)}, "has tensors named encoder.weight"),
    ],
)
def test_a_pickle_without_weights_of_a_vgg_is_refused(content: Any, named: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=named):
        read(written(tmp_path / "w.pt", content), PAPER)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_weights_that_are_not_finite_are_refused_with_their_name(
    bad: float, name: str, tmp_path: Path, weights: dict[str, Tensor]
) -> None:
    weights["conv4_2.weight"][1, 2, 0, 1] = bad
    with pytest.raises(CheckpointError, match=r"conv4_2\.weight holds NaN or infinity"):
        read(written(tmp_path / name, weights), PAPER)


def test_a_path_that_is_not_a_checkpoint_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"absent\.pt: no such checkpoint"):
        read(tmp_path / "absent.pt", PAPER)
    with pytest.raises(UsageError, match="is not a file; name a checkpoint"):
        read(tmp_path, PAPER)
    (tmp_path / "w.onnx").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"w\.onnx cannot be read.*An ONNX file or a plan is no checkpoint"):
        read(tmp_path / "w.onnx", PAPER)
