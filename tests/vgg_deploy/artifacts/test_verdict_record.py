"""A verdict is recorded in a file's own manifest, and nothing else of the file changes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from tests.vgg_deploy.artifacts.damage import changed, values, without_digests
from vgg_deploy.artifacts.integrity import examine
from vgg_deploy.artifacts.onnx_file import OnnxFile
from vgg_deploy.artifacts.plan import PlanManifest, read_plan, sidecar_of, write_plan
from vgg_deploy.artifacts.verdict_record import content_digest, verdict_line, write_verdict
from vgg_deploy.errors import OutputError, UsageError
from vgg_deploy.files import Source, sha256_of
from vgg_deploy.network.manifest import MANIFEST_KEY
from vgg_deploy.network.shapes import Profile
from vgg_deploy.network.verdict import Verdict

VERDICT = Verdict("2026-11-25", Source("best.safetensors", "ab" * 32), (1, 2, 3), "openvino 2026.4")
LATER = Verdict("2026-12-01", Source("best.safetensors", "ab" * 32), (1, 2), "onnxruntime 1.32")
LINE = "verified on 2026-11-25 against best.safetensors: 1 2 3 (openvino 2026.4)"
DATA = b"what TensorRT wrote"


@pytest.fixture
def plan(file: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """`plan(**fields)` -> a plan that stands for one that was built from the `model.onnx` beside it."""

    def write(**fields: Any) -> Path:
        onnx_path = tmp_path / "model.onnx"
        if not onnx_path.exists():
            file()
        manifest = OnnxFile(onnx_path).manifest
        assert manifest is not None
        assert manifest.spec is not None
        profile = Profile((64,), (1, 64, 64), (4, 64, 64), (8, 64, 64))
        known: dict[str, Any] = {
            "backend": "tensorrt-rtx",
            "version": "1.7.1.116",
            "compute_capabilities": (),
            "hardware_compatibility": "none",
            "profiles": (profile,),
            "layers": {layer.name: "float32" for layer in manifest.spec.weight_layers},
            "layers_from": "declared",
            "plan": Source("model.plan", hashlib.sha256(DATA).hexdigest()),
            "onnx": Source.of(onnx_path),
            "build_seconds": 1.25,
            "command": "vgg-deploy build model.onnx -o model.plan",
            "manifest": manifest.with_(shapes=profile.shapes),
        }
        path = tmp_path / "model.plan"
        write_plan(path, DATA, PlanManifest(**{**known, **fields}))
        return path

    return write


def edited(path: Path, change: Callable[[dict[str, Any]], Any]) -> tuple[str, ...]:
    """The contradictions of a plan after `change` has edited the JSON of its sidecar."""
    sidecar = sidecar_of(path)
    data = json.loads(sidecar.read_text(encoding="utf-8"))
    change(data)
    sidecar.write_text(json.dumps(data), encoding="utf-8")
    return examine(path).contradictions


def line_of(path: Path) -> str | None:
    """The text of a file's verdict."""
    line = verdict_line(path)
    return None if line is None else line.text


# --- ONNX files


@pytest.mark.parametrize("external", [False, True], ids=["one file", "external data"])
def test_an_onnx_file_keeps_everything_but_the_verdict(external: bool, file: Callable[..., Path]) -> None:
    path = file(external_data=external, half=True)
    before, weights = onnx.load(path), {file: sha256_of(file) for file in OnnxFile(path).external_files}
    path.chmod(0o640)
    write_verdict(path, VERDICT)
    write_verdict(path, LATER)
    write_verdict(path, VERDICT)
    after, manifest = onnx.load(path), OnnxFile(path).manifest
    assert manifest is not None
    assert manifest.verdict == dataclasses.replace(VERDICT, content=content_digest(path))
    assert path.stat().st_mode & 0o777 == 0o640
    assert {file: sha256_of(file) for file in OnnxFile(path).external_files} == weights
    assert bool(weights) is external
    assert [entry.key for entry in after.metadata_props] == [MANIFEST_KEY]
    for model in (before, after):
        del model.metadata_props[:]
    assert after.SerializeToString() == before.SerializeToString()
    assert examine(path).contradictions == ()
    assert line_of(path) == LINE


def test_metadata_of_others_and_fields_of_a_later_version_stay(file: Callable[..., Path]) -> None:
    path = file()
    model = onnx.load(path)
    (entry,) = model.metadata_props
    entry.value = json.dumps({**json.loads(entry.value), "a later field": [1, 2]})
    model.metadata_props.add(key="theirs", value="kept")
    onnx.save(model, path)
    write_verdict(path, VERDICT)
    entries = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert entries["theirs"] == "kept"
    assert json.loads(entries[MANIFEST_KEY])["a later field"] == [1, 2]


def test_a_link_stays_a_link(file: Callable[..., Path], tmp_path: Path) -> None:
    path, link = file(), tmp_path / "link.onnx"
    link.symlink_to(path)
    write_verdict(link, VERDICT)
    assert link.is_symlink()
    assert line_of(path) == LINE


def test_a_verdict_that_cannot_be_written_leaves_the_file_as_it_was(
    file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = file()
    before = path.read_bytes()

    def full(_self: Path, _target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OutputError, match="the disk is full"):
        write_verdict(path, VERDICT)
    assert path.read_bytes() == before
    assert [name for name in path.parent.iterdir() if name.suffix == ".partial"] == []


def test_a_file_without_a_manifest_and_a_checkpoint_take_no_verdict(
    file: Callable[..., Path], narrow_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    path = file()
    model = onnx.load(path)
    del model.metadata_props[:]
    onnx.save(model, path)
    with pytest.raises(UsageError, match="has no vgg_deploy manifest"):
        write_verdict(path, VERDICT)
    with pytest.raises(UsageError, match="is a checkpoint"):
        write_verdict(narrow_checkpoint(), VERDICT)
    lonely = tmp_path / "lonely.plan"
    lonely.write_bytes(DATA)
    with pytest.raises(UsageError, match=r"has no lonely\.plan\.json beside it"):
        write_verdict(lonely, VERDICT)
    assert [verdict_line(each) for each in (path, narrow_checkpoint(), lonely)] == [None, None, None]


EDITS: dict[str, Callable[[onnx.ModelProto], None]] = {
    "a tensor": values("fc8.bias", lambda bias: bias + 1),
    "the graph": lambda model: model.graph.node[0].attribute[0].MergeFrom(onnx.AttributeProto(i=7)),
    "the manifest": lambda model: setattr(
        model.metadata_props[0], "value", model.metadata_props[0].value.replace('"mirror": true', '"mirror": false')
    ),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
@pytest.mark.parametrize("digests", [True, False], ids=["with digests", "of an older version"])
def test_a_file_that_was_edited_after_it_was_verified_is_named_as_such(
    digests: bool,
    edit: Callable[[onnx.ModelProto], None],
    file: Callable[..., Path],
    vgg_deploy_command: Callable[..., Any],
) -> None:
    path = file()
    if not digests:
        without_digests(path)
    write_verdict(path, VERDICT)
    done = vgg_deploy_command("inspect", str(path))
    assert (done.code, LINE in done.out) == (0, True)
    changed(path, edit)
    line = verdict_line(path)
    assert line is not None
    assert (line.text, line.holds) == (f"changed since it was {LINE}; verify it again", False)
    done = vgg_deploy_command("inspect", str(path))
    assert done.code == 1
    assert f"Error: {path}: changed since it was {LINE}" in done.err
    assert f"changed since it was {LINE}" in done.out
    assert vgg_deploy_command("doctor", str(path)).out.startswith(
        f"no  verdict             changed since it was {LINE}"
    )


def test_edited_external_data_show_too(file: Callable[..., Path]) -> None:
    path = file(external_data=True, checkpoint={"fc_width": 256})
    write_verdict(path, VERDICT)
    (weights,) = OnnxFile(path).external_files
    data = bytearray(weights.read_bytes())
    data[100] ^= 1
    weights.write_bytes(data)
    assert line_of(path) == f"changed since it was {LINE}; verify it again"


def test_a_verdict_without_a_digest_of_the_content_still_reads(file: Callable[..., Path]) -> None:
    path = file()
    write_verdict(path, VERDICT)

    def older(model: onnx.ModelProto) -> None:
        (entry,) = model.metadata_props
        data = json.loads(entry.value)
        del data["verdict"]["content"], data["verdict"]["witness"]
        entry.value = json.dumps(data)

    changed(path, older)
    line = verdict_line(path)
    assert line is not None
    assert (line.text, line.holds) == (f"{LINE}, recorded by an older vgg_deploy: later changes do not show", None)


def test_a_file_that_another_tool_saved_without_a_change_is_still_verified(file: Callable[..., Path]) -> None:
    path = file()
    write_verdict(path, VERDICT)
    before = sha256_of(path)
    changed(path, lambda model: model.graph.node.__getitem__(0).__setattr__("doc_string", "seen"))
    assert sha256_of(path) != before
    assert line_of(path) == LINE


# --- two verdicts of one file


KNOWN = dataclasses.replace(VERDICT, content="cd" * 32)
EXPECTED = Source("expected.npz", "ef" * 32)


def test_a_weaker_verdict_of_the_same_subject_keeps_the_older_proofs_and_their_date() -> None:
    older = dataclasses.replace(KNOWN, proofs=(1, 2, 3, 4), witness=EXPECTED)
    newer = dataclasses.replace(KNOWN, date="2026-12-01", proofs=(1, 3))
    assert newer.with_older(older) == older
    assert str(older) == ("verified on 2026-11-25 against best.safetensors and expected.npz: 1 2 3 4 (openvino 2026.4)")
    stronger = dataclasses.replace(older, date="2026-12-01")
    assert stronger.with_older(KNOWN) == stronger


@pytest.mark.parametrize(
    "other", [{"content": "00" * 32}, {"content": None}, {"against": EXPECTED}, {"runtime": "ncnn 1.0"}]
)
def test_a_verdict_on_another_subject_is_replaced(other: dict[str, Any]) -> None:
    newer = dataclasses.replace(KNOWN, date="2026-12-01", proofs=(1,))
    assert newer.with_older(dataclasses.replace(KNOWN, **other)) == newer
    unwritten = dataclasses.replace(newer, content=None)
    assert unwritten.with_older(dataclasses.replace(KNOWN, content=None)) == unwritten


# --- plans


def test_a_plan_and_its_onnx_file_agree(plan: Callable[..., Path]) -> None:
    path = plan()
    examined = examine(path)
    assert examined.contradictions == ()
    assert examined.recorded
    assert examined.tensors == 23


def test_a_verdict_in_the_onnx_file_or_in_the_sidecar_breaks_neither(plan: Callable[..., Path], tmp_path: Path) -> None:
    path = plan()
    assert line_of(path) == f"never verified: vgg-deploy verify {path} --reference CKPT --images DIR --record"
    write_verdict(tmp_path / "model.onnx", LATER)
    assert examine(path).contradictions == ()
    write_verdict(path, VERDICT)
    assert examine(path).contradictions == ()
    assert examine(path).recorded
    stated = read_plan(path)
    assert stated is not None
    assert stated.verdict == dataclasses.replace(VERDICT, content=hashlib.sha256(DATA).hexdigest())
    assert line_of(path) == LINE
    assert path.read_bytes() == DATA


def test_a_plan_says_that_the_file_it_was_built_from_was_verified(
    plan: Callable[..., Path], file: Callable[..., Path], vgg_deploy_command: Callable[..., Any]
) -> None:
    write_verdict(file(), VERDICT)
    path = plan()
    done = vgg_deploy_command("inspect", str(path))
    assert done.code == 0
    assert f"its ONNX file was {LINE}; the plan itself was never verified" in done.out
    assert "model.plan.json as built, by its seal" in done.out
    write_verdict(path, LATER)
    assert "verdict" in (done := vgg_deploy_command("inspect", str(path))).out
    assert f"{LATER}" in done.out
    assert "its ONNX file was" not in done.out


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.update(version="1.7.1.117"),
        lambda data: data["layers"].update(fc6="float16"),
        lambda data: data["manifest"].update(mirror=False),
        lambda data: data["manifest"]["classes"].reverse(),
        lambda data: data["manifest"]["normalization"].update(mean=[1.0, 2.0, 3.0]),
        lambda data: data.update(seal="0" * 64),
    ],
)
def test_an_edited_sidecar_is_found_and_named(
    change: Callable[[dict[str, Any]], Any], plan: Callable[..., Path]
) -> None:
    path = plan()
    contradictions = edited(path, change)
    assert any(f"{sidecar_of(path)} was edited after it was written" in line for line in contradictions)


def test_the_verdicts_of_a_sidecar_are_outside_its_seal(plan: Callable[..., Path]) -> None:
    verdict = {"date": "2026-11-25", "against": {"name": "a", "sha256": "b"}, "proofs": [1], "runtime": "c"}

    def record(data: dict[str, Any]) -> None:
        data["verdict"] = data["manifest"]["verdict"] = verdict

    assert edited(plan(), record) == ()


def test_an_edited_field_that_the_onnx_file_states_too_is_named_even_without_a_seal(
    plan: Callable[..., Path],
) -> None:
    path = plan()

    def edit(data: dict[str, Any]) -> None:
        del data["seal"]
        data["manifest"]["normalization"]["mean"] = [1.0, 2.0, 3.0]
        data["manifest"]["mirror"] = False

    contradictions = edited(path, edit)
    assert any("the two manifests differ in normalization, mirror" in line for line in contradictions)


def test_a_plan_that_was_built_with_labels_has_other_names_than_its_onnx_file(
    plan: Callable[..., Path], file: Callable[..., Path]
) -> None:
    manifest = OnnxFile(file()).manifest
    assert manifest is not None
    renamed = manifest.with_(classes=manifest.classes[::-1])
    assert "differ in classes" in examine(plan(manifest=renamed)).contradictions[0]
    command = "vgg-deploy build model.onnx -o model.plan --labels names.txt"
    assert examine(plan(manifest=renamed, command=command)).contradictions == ()


def test_a_sidecar_without_a_seal_is_accepted_and_inspect_says_so(
    plan: Callable[..., Path], vgg_deploy_command: Callable[..., Any]
) -> None:
    path = plan()
    assert edited(path, lambda data: data.pop("seal")) == ()
    assert not examine(path).recorded
    done = vgg_deploy_command("inspect", str(path))
    assert done.code == 0
    assert "no seal: built by an older vgg_deploy" in done.out


def test_an_onnx_file_that_was_exported_again_is_not_that_of_the_plan(
    plan: Callable[..., Path], file: Callable[..., Path], tmp_path: Path
) -> None:
    path = plan()
    file(checkpoint={"seed": 3})
    (line,) = examine(path).contradictions
    assert f"{tmp_path / 'model.onnx'} is not the file from which model.plan was built" in line
    (tmp_path / "model.onnx").write_bytes(b"")
    assert "cannot be read" in examine(path).contradictions[0]
    (tmp_path / "model.onnx").unlink()
    alone = examine(path)
    assert alone.contradictions == ()
    assert alone.tensors == 0


@pytest.mark.parametrize(
    ("tensors", "rest"),
    [(("fc8.bias",), "fc8.bias was changed after the export; build"), (("fc7.bias", "fc8.bias"), ", and 1 more")],
)
def test_one_change_of_the_onnx_file_beside_a_plan_is_named_and_the_others_are_counted(
    tensors: tuple[str, ...], rest: str, plan: Callable[..., Path], tmp_path: Path
) -> None:
    path = plan()
    for tensor in tensors:
        changed(tmp_path / "model.onnx", values(tensor, lambda bias: bias + 1))
    (line,) = examine(path).contradictions
    assert rest in line


def test_a_plan_that_was_changed_is_found(plan: Callable[..., Path]) -> None:
    path = plan()
    path.write_bytes(DATA[:-1] + b"!")
    (line,) = examine(path).contradictions
    assert "is not the file that model.plan.json describes" in line


def test_a_plan_that_was_changed_after_it_was_verified_is_named_as_such(
    plan: Callable[..., Path], vgg_deploy_command: Callable[..., Any]
) -> None:
    path = plan()
    write_verdict(path, VERDICT)
    path.write_bytes(DATA[:-1] + b"!")
    assert line_of(path) == f"changed since it was {LINE}; verify it again"
    done = vgg_deploy_command("inspect", str(path))
    assert done.code == 1
    assert f"Error: {path}: changed since it was {LINE}" in done.err


def test_without_digests_the_onnx_file_is_compared_by_its_sha256(
    plan: Callable[..., Path], file: Callable[..., Path], tmp_path: Path
) -> None:
    manifest = OnnxFile(file()).manifest
    assert manifest is not None
    path = plan(manifest=manifest.with_(digests=None))
    assert examine(path).contradictions == ()
    write_verdict(tmp_path / "model.onnx", VERDICT)
    assert "its SHA-256 differs" in examine(path).contradictions[0]
