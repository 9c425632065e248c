"""The same weights are read from every container, and what is taken is said; from the file's content alone."""

from __future__ import annotations

import argparse
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from tests.train.network.test_foreign import as_torchvision, torchvision_network
from train.network.checkpoint import Checkpoint, read
from vgg_deploy.artifacts.kinds import CHECKPOINT, kind_of
from vgg_deploy.errors import CheckpointError, UsageError
from vgg_deploy.network.classes import ClassName, numbered_classes
from vgg_deploy.network.manifest import PAPER_NORMALIZATION
from vgg_deploy.network.spec import NetworkSpec
from vgg_deploy.network.weight_facts import WeightFacts

PAPER = WeightFacts(normalization=PAPER_NORMALIZATION)
NAMES = ["cat", "dog", "eel", "fox", "gnu"]


@pytest.fixture
def weights(
    narrow_spec: Callable[..., NetworkSpec], random_weights: Callable[..., dict[str, Tensor]]
) -> dict[str, Tensor]:
    """A narrow A with the paper's names; 5 classes."""
    return random_weights(narrow_spec("A"))


@pytest.fixture
def state(narrow_spec: Callable[..., NetworkSpec], weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same network with torchvision's names."""
    return as_torchvision(narrow_spec("A"), weights)


def prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def same(checkpoint: Checkpoint, weights: dict[str, Tensor]) -> bool:
    return checkpoint.weights.keys() == weights.keys() and all(
        torch.equal(checkpoint.weights[name], tensor) for name, tensor in weights.items()
    )


def reading(tmp_path: Path, saved: Any, **facts: Any) -> Checkpoint:
    (tmp_path / "w.pth").unlink(missing_ok=True)  # the weights of an earlier reading are mapped from that file
    torch.save(saved, tmp_path / "w.pth")
    return read(tmp_path / "w.pth", WeightFacts(normalization=PAPER_NORMALIZATION, **facts))


def notice_with(checkpoint: Checkpoint, text: str) -> str:
    found = [notice for notice in checkpoint.notices if text in notice]
    assert len(found) == 1, checkpoint.notices
    return found[0]


# What a file is


@pytest.mark.parametrize("ending", ["", ".pt", ".safetensors", ".bin", ".onnx", ".weights", ".tar", ".PTH"])
@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_the_ending_has_no_say(kind: str, ending: str, tmp_path: Path, weights: dict[str, Tensor]) -> None:
    path = tmp_path / f"w{ending}"
    if kind == "safetensors":
        safetensors.torch.save_file(weights, path)
    else:
        torch.save(weights, path, _use_new_zipfile_serialization=kind == "zip")
    assert same(read(path, PAPER), weights)


@pytest.mark.parametrize("first", [0x50, 0x80, 0x7B])
def test_safetensors_whose_first_byte_looks_like_another_kind_are_read(
    first: int, tmp_path: Path, weights: dict[str, Tensor]
) -> None:
    path = tmp_path / "w"
    data = safetensors.torch.save(weights)
    size = int.from_bytes(data[:8], "little")  # of the header, which may end in spaces
    spaces = (first - size) % 256
    path.write_bytes((size + spaces).to_bytes(8, "little") + data[8 : 8 + size] + b" " * spaces + data[8 + size :])
    assert path.read_bytes()[0] == first
    assert same(read(path, PAPER), weights)


@pytest.mark.parametrize(
    ("start", "what"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer; fetch the file itself with git lfs pull"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes"),
        (b"\x1f\x8b\x08", "compressed by gzip; unpack it"),
        (b"<!DOCTYPE html><html>404 Not Found</html>\n", "a web page or XML; download the file again"),
        (bytes(257) + b"ustar\x0000", "a tar archive; unpack it"),
    ],
)
def test_a_file_of_another_kind_is_named_with_the_remedy(start: bytes, what: str, tmp_path: Path) -> None:
    path = tmp_path / "vgg.pth"
    path.write_bytes(start + bytes(500))
    with pytest.raises(CheckpointError) as raised:
        read(path, PAPER)
    assert f"{path} cannot be read as a checkpoint: it is {what}" in str(raised.value)


def in_shards(folder: Path, tensors: dict[str, Tensor]) -> Path:
    """Three shards and their index, as transformers writes them."""
    names = list(tensors)
    places = {name: f"model-{names.index(name) % 3 + 1:05}-of-00003.safetensors" for name in names}
    for place in set(places.values()):
        held = {name: tensors[name] for name in names if places[name] == place}
        safetensors.torch.save_file(held, folder / place, metadata={"format": "pt"})
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    return index


def test_shards_are_read_by_their_index(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    index = in_shards(tmp_path, weights)
    assert kind_of(index) == CHECKPOINT  # for all commands
    first = read(index, PAPER)
    assert same(first, weights)
    weights["fc8.bias"] = weights["fc8.bias"] + 1
    second = read(in_shards(tmp_path, weights), PAPER)
    assert first.source.name == second.source.name == index.name
    assert first.source.sha256 != second.source.sha256  # although the index is the same


def test_an_incomplete_set_of_shards_is_refused(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    index = in_shards(tmp_path, weights)
    shard = tmp_path / "model-00002-of-00003.safetensors"
    with pytest.raises(CheckpointError, match=r"is one of 3 shards; give their index: .*model\.safetensors\.index"):
        read(shard, PAPER)
    whole = shard.read_bytes()
    safetensors.torch.save_file({"conv1_1.weight": weights["conv1_1.weight"]}, shard)
    with pytest.raises(CheckpointError, match=r"00002-of-00003\.safetensors lacks .*, which model.safetensors.index"):
        read(index, PAPER)
    shard.write_bytes(whole[:100])
    with pytest.raises(CheckpointError, match=r"00002-of-00003\.safetensors cannot be read"):
        read(index, PAPER)
    shard.unlink()
    with pytest.raises(CheckpointError, match=r"names 3 shards, but model-00002-of-00003\.safetensors are not beside"):
        read(index, PAPER)


@pytest.mark.parametrize("text", ['{"a": 1}', '{"weight_map": {"w": "../x.pt"}}', '{"weight_map": [1]}', "{", "{} x"])
def test_json_that_is_no_index_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(CheckpointError, match="damaged, cut off, or another format; JSON is expected to be an index"):
        read(tmp_path / "x.json", PAPER)


# The restricted unpickler


@pytest.mark.parametrize(
    "value",
    [
        argparse.Namespace(lr=0.1, model="vgg16", nested=argparse.Namespace(values=[1, 2])),
        *(np.float64(0.93), np.float32(0.5), np.float16(2), np.int64(-3), np.uint8(7), np.bool_(True), np.str_("é")),
    ],
    ids=repr,
)
@pytest.mark.parametrize("zipped", [True, False])
def test_what_training_programs_put_beside_weights_is_read(
    value: Any, zipped: bool, tmp_path: Path, weights: dict[str, Tensor]
) -> None:
    before = torch.serialization.get_safe_globals()
    torch.save({"state_dict": weights, "x": value}, tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    assert same(read(tmp_path / "w.pt", PAPER), weights)
    assert set(torch.serialization.get_safe_globals()) == set(before)  # nothing stays allowed


@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_scalars_of_both_generations_of_numpy_have_their_values(module: bytes, tmp_path: Path) -> None:
    from train.network.unpickling import unpickled

    for value in (np.float64(0.93), np.float32(-1.5), np.int64(-3), np.dtype(">i4").type(5), np.bool_(True)):
        torch.save({"x": value}, tmp_path / "w.pt", _use_new_zipfile_serialization=False)
        data = (tmp_path / "w.pt").read_bytes()
        (tmp_path / "w.pt").write_bytes(data.replace(b"numpy._core.multiarray", module))
        assert unpickled(tmp_path / "w.pt", zipped=False) == {"x": value.item()}


class Caller:
    """Calls something when it is unpickled."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (np.zeros(3), "numpy"),
        (Path("x"), "pathlib"),
        (np.datetime64("2024-01-01"), "numpy.dtype"),
        (Caller(np.dtype, ("O",)), "numpy.dtype"),
        (Caller(np.dtype, ([("a", "O")],)), "numpy.dtype"),
        (Caller(eval, ("1",)), "eval"),
    ],
    ids=["array", "path", "date", "objects", "records", "eval"],
)
def test_nothing_else_is_read(value: Any, named: str, tmp_path: Path, weights: dict[str, Tensor]) -> None:
    torch.save({"state_dict": weights, "x": value}, tmp_path / "w.pt", pickle_module=pickle)
    with pytest.raises(CheckpointError, match=rf"holds more than tensors \(.*{named}.*so it is refused"):
        read(tmp_path / "w.pt", PAPER)


# Where the weights are


@pytest.mark.parametrize("prefix", ["", "vgg.", "encoder.", "model.backbone.0.", "module._orig_mod.net."])
def test_whatever_stands_before_the_convolutions_is_removed(
    prefix: str, tmp_path: Path, weights: dict[str, Tensor], state: dict[str, Tensor]
) -> None:
    for tensors in (weights, state):
        checkpoint = reading(tmp_path, {"anything": prefixed(prefix, tensors)})
        assert same(checkpoint, weights)
        assert len(checkpoint.notices) == 2  # S and the class names


def test_a_checkpoint_of_lightning_is_read(
    tmp_path: Path, weights: dict[str, Tensor], state: dict[str, Tensor]
) -> None:
    saved = {
        "state_dict": prefixed("model.", state) | {"val_acc.tp": torch.zeros(5), "criterion.weight": torch.ones(5)},
        "pytorch-lightning_version": "2.2.0",
        "hyper_parameters": {"lr": np.float64(0.1), "num_classes": 5},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}}],
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.9)}},
    }
    checkpoint = reading(tmp_path, saved)
    assert same(checkpoint, weights)
    notice = notice_with(checkpoint, "passed over")
    assert notice.endswith("because they are no weights of the network: val_acc.tp, criterion.weight")


def averaged(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor + 1 for name, tensor in state.items()}


@pytest.mark.parametrize(
    ("make", "average", "raw"),
    [
        (lambda raw, ema: {"state_dict": raw, "state_dict_ema": ema}, "state_dict_ema", "state_dict"),
        (
            lambda raw, ema: {"model": raw, "model_ema": {"n_averaged": torch.tensor(3)} | prefixed("module.", ema)},
            "model_ema",
            "model",
        ),
        (lambda raw, ema: {"model_state_dict": raw, "ema_state_dict": ema}, "ema_state_dict", "model_state_dict"),
        (lambda raw, ema: {"averaged": ema, "weights": raw}, "averaged", "weights"),
        (
            lambda raw, ema: {"state_dict": prefixed("model.", raw) | prefixed("model_ema.module.", ema)},
            "state_dict.model_ema.module",
            "state_dict.model",
        ),
        (lambda raw, ema: {"state_dict": raw | prefixed("swa_model.", ema)}, "state_dict.swa_model", "state_dict"),
        (
            lambda raw, ema: {"state_dict": ema, "current_model_state": raw, "averaging_state": {"n": torch.ones(1)}},
            "state_dict",
            "current_model_state",
        ),
    ],
    ids=["timm", "torchvision", "ema_state_dict", "averaged", "lightning module", "within a network", "lightning"],
)
def test_of_averaged_and_raw_weights_the_averaged_are_taken_unless_a_key_names_the_others(
    make: Any, average: str, raw: str, tmp_path: Path, weights: dict[str, Tensor], state: dict[str, Tensor]
) -> None:
    saved = make(state, averaged(state))
    checkpoint = reading(tmp_path, saved)
    assert same(checkpoint, averaged(weights))
    notice = notice_with(checkpoint, "sets of weights")
    assert f"holds 2 sets of weights; {average} is taken, because" in notice
    assert notice.endswith(f"(--key takes another: {raw})")
    for key, expected in ((raw, weights), (average, averaged(weights))):
        chosen = reading(tmp_path, saved, key=key)
        assert same(chosen, expected)
        assert not any("sets of weights" in text for text in chosen.notices)
    assert not any("features" in text for text in checkpoint.notices)  # no weight of the other set is passed over


def test_a_key_may_be_a_part_of_a_name_that_one_set_has(
    tmp_path: Path, weights: dict[str, Tensor], state: dict[str, Tensor]
) -> None:
    saved = {"state_dict": prefixed("student.", state) | prefixed("teacher.", averaged(state)), "epoch": 3}
    assert same(reading(tmp_path, saved, key="teacher"), averaged(weights))
    with pytest.raises(
        UsageError,
        match=r"holds 2 sets of weights: state_dict\.student, state_dict\.teacher; say which to take with --key",
    ):
        reading(tmp_path, saved)
    with pytest.raises(
        UsageError, match=r"no set of weights 'mentor'; it holds .*state_dict\.student, state_dict\.tea"
    ):
        reading(tmp_path, saved, key="mentor")
    with pytest.raises(UsageError, match="several sets of weights with 'state_dict'"):
        reading(tmp_path, saved, key="state_dict")


def test_export_takes_a_file_of_any_ending_and_says_which_weights_it_takes(
    tmp_path: Path, state: dict[str, Tensor], vgg_deploy_command: Callable[..., Any]
) -> None:
    from vgg_deploy.artifacts.onnx_file import read_manifest

    path, model = tmp_path / "vgg.weights", tmp_path / "vgg.onnx"
    names = {name: index for index, name in enumerate(NAMES)}
    torch.save({"model": state, "model_ema": averaged(state), "class_to_idx": names}, path)
    words = ("export", "--weights", str(path), "--normalization", "paper", "--dynamic", "-o", str(model))
    done = vgg_deploy_command(*words)
    assert done.code == 0
    assert "model_ema is taken" in done.err
    assert [item.id for item in read_manifest(model).classes] == NAMES
    other = vgg_deploy_command(*words, "--key", "model")
    assert other.code == 0
    assert "is taken" not in other.err
    unknown = vgg_deploy_command(*words, "--key", "ema")
    assert unknown.code == 2
    assert f"{path} has no set of weights 'ema'; it holds these sets of weights: model, model_ema" in unknown.err


def test_a_key_for_a_file_with_one_set_without_a_name_is_refused(
    tmp_path: Path, weights: dict[str, Tensor], narrow_checkpoint: Callable[..., Path]
) -> None:
    with pytest.raises(UsageError, match="holds one set of weights, without a name; leave --key out"):
        reading(tmp_path, weights, key="model")
    with pytest.raises(UsageError, match="holds one set of weights, without a name; leave --key out"):
        read(narrow_checkpoint("A"), WeightFacts(key="model"))


def test_a_loss_on_the_features_of_another_vgg_is_not_the_network(
    tmp_path: Path, weights: dict[str, Tensor], state: dict[str, Tensor]
) -> None:
    other = {name: tensor for name, tensor in averaged(state).items() if name.startswith("features.")}
    checkpoint = reading(tmp_path, {"state_dict": prefixed("loss.vgg.", other) | prefixed("model.", state)})
    assert same(checkpoint, weights)
    notice = notice_with(checkpoint, "sets of weights")
    assert "state_dict.model is taken, because only it has a classifier" in notice


# Buffers


def test_buffers_are_passed_over_and_named_in_one_line(tmp_path: Path) -> None:
    state = dict(torchvision_network("A", batch_norm=True).state_dict())
    plain = reading(tmp_path, state)
    extra = {"total_ops": torch.zeros(1), "mean": torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)}
    checkpoint = reading(tmp_path, {"model": prefixed("net.", state | extra) | {"n_averaged": torch.tensor(3)}})
    assert same(checkpoint, plain.weights)
    assert notice_with(checkpoint, "passed over").endswith(
        "no weights of the network: 8 x num_batches_tracked, total_ops, net.mean = 0.485,0.456,0.406, n_averaged"
    )


def test_a_tensor_of_the_network_that_no_rule_names_is_never_passed_over(
    tmp_path: Path, state: dict[str, Tensor]
) -> None:
    for name in ("extra.weight", "classifier.7.weight", "features.0.mean"):
        with pytest.raises(CheckpointError, match=f"unexpected|lacks|{name}"):
            reading(tmp_path, prefixed("model.", state | {name: torch.zeros(4)}))


# Class names


def classes_of(checkpoint: Checkpoint) -> list[str]:
    return [item.label for item in checkpoint.manifest.classes]


@pytest.mark.parametrize(
    ("beside", "place"),
    [
        ({"class_to_idx": {"fox": 3, "cat": 0, "gnu": 4, "dog": 1, "eel": 2}}, "class_to_idx"),
        ({"class_to_idx": {name: np.int64(index) for index, name in enumerate(NAMES)}}, "class_to_idx"),
        ({"idx_to_class": dict(enumerate(NAMES))}, "idx_to_class"),
        ({"config": {"id2label": {str(index): name for index, name in enumerate(NAMES)}}}, "config.id2label"),
        ({"classes": NAMES}, "classes"),
        ({"meta": {"CLASSES": tuple(NAMES)}}, "meta.CLASSES"),
        ({"names": dict(enumerate(NAMES)), "classes": [0, 1]}, "names"),
        ({"hyper_parameters": {"lr": 0.1, "classes": NAMES}}, "hyper_parameters.classes"),
        ({"args": argparse.Namespace(class_names=NAMES, classes=5)}, "args.class_names"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_class_names_in_the_checkpoint_are_read_and_labels_replace_them(
    beside: dict[str, Any], place: str, tmp_path: Path, weights: dict[str, Tensor]
) -> None:
    checkpoint = reading(tmp_path, {"state_dict": weights, **beside})
    assert checkpoint.manifest.classes == tuple(ClassName(name, name) for name in NAMES)
    assert notice_with(checkpoint, "class names").endswith(
        f"w.pth, from {place}: cat, dog, eel, ... (--labels FILE replaces them)"
    )
    replaced = reading(tmp_path, {"state_dict": weights, **beside}, labels="a\nb\nc\nd\ne\n")
    assert classes_of(replaced) == ["a", "b", "c", "d", "e"]
    assert len(replaced.notices) == 1  # S


def test_class_names_in_the_metadata_of_safetensors_are_read(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file(weights, path, metadata={"classes": json.dumps(NAMES), "other": "{"})
    assert classes_of(read(path, PAPER)) == NAMES


def test_folders_that_are_numbers_keep_the_order_of_the_outputs(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    order = {"0": 0, "1": 1, "10": 2, "2": 3, "3": 4}
    assert classes_of(reading(tmp_path, {"model": weights, "class_to_idx": order})) == list(order)


@pytest.mark.parametrize(
    ("beside", "said"),
    [
        ({"classes": NAMES[:4]}, "its classes has 4 names for 5 classes, so it is ignored"),
        ({"idx_to_class": {0: "cat", 1: "dog", 2: "eel", 3: "fox", 5: "gnu"}}, "has no name for class 4"),
        (
            {"class_to_idx": {"ape": 0, **{name: index for index, name in enumerate(NAMES)}}},
            "its class_to_idx has two names for class 0, 'ape' and 'cat', so it is ignored",
        ),
        ({"idx_to_class": {"0": "ape", **dict(enumerate(NAMES))}}, "has two names for class 0, 'ape' and 'cat'"),
        ({"id2label": {"a": "b"}}, "its id2label does not map names to numbers, or numbers to names"),
        ({"classes": ["", *NAMES[1:]]}, "its classes has an empty name for class 0"),
        (
            {"classes": NAMES, "class_to_idx": {name: index for index, name in enumerate(NAMES[::-1])}},
            "class 0 is 'cat' in its classes and 'gnu' in its class_to_idx, so both are ignored",
        ),
    ],
)
def test_class_names_that_contradict_or_are_incomplete_are_ignored_with_a_notice(
    beside: dict[str, Any], said: str, tmp_path: Path, weights: dict[str, Tensor]
) -> None:
    checkpoint = reading(tmp_path, {"state_dict": weights, **beside})
    assert checkpoint.manifest.classes == numbered_classes(5)
    notice_with(checkpoint, said)
    notice_with(checkpoint, "classes are numbered from 0 (--labels FILE gives names)")


def test_a_name_that_occurs_twice_has_an_id_of_its_own(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    checkpoint = reading(tmp_path, {"state_dict": weights, "classes": ["crane", "b", "c", "crane", "e"]})
    assert [item.id for item in checkpoint.manifest.classes] == ["crane#0", "b", "c", "crane#3", "e"]


def test_placeholders_of_transformers_are_no_names(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    saved = {"model": weights, "id2label": {index: f"LABEL_{index}" for index in range(5)}}
    assert reading(tmp_path, saved).manifest.classes == numbered_classes(5)
