"""Answers of the user's own pipeline: what a file of them may be, and what comparing them with a file's shows."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engines import open_engine
from export.proof.pipeline.comparison import limits_of
from export.proof.pipeline.misreadings import explained
from export.proof.pipeline.proof import prove_witness
from export.proof.pipeline.witness import Witness, read_witness
from tests.export.conftest import picture
from vgg_deploy.errors import UsageError
from vgg_deploy.evaluation.proof import PIPELINE, Proof
from vgg_deploy.inference.engine import Engine
from vgg_deploy.network.classes import ClassName
from vgg_deploy.network.manifest import (
    NORMALIZATIONS,
    PAPER_NORMALIZATION,
    TORCHVISION_NORMALIZATION,
    Manifest,
    Normalization,
    TrainScale,
)
from vgg_deploy.network.shapes import AxisRange, ShapeRange
from vgg_deploy.testing import FakeEngine
from vgg_deploy.views.protocols import Protocol

NAMES = ("tench", "church", "golf ball")
CLASSES = tuple(ClassName(f"n0000000{index}", name) for index, name in enumerate(NAMES))
ROWS = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]], np.float32)  # two images
PIXELS = np.stack([picture(32, 32, seed) for seed in (1, 2)])

Save = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """`save(images=..., probabilities=...)` -> an .npz file; by default two exact images and their probabilities."""

    def write(**changes: Any) -> Path:
        arrays = {"images": PIXELS, "probabilities": ROWS, **changes}
        np.savez(tmp_path / "w.npz", **{name: value for name, value in arrays.items() if value is not None})
        return tmp_path / "w.npz"

    return write


def fake(rows: np.ndarray | None = None, *, fixed: bool = False) -> FakeEngine:
    """An engine of three classes that takes images from 32x32 on. It answers with `rows`, one after the other."""
    edge = AxisRange(32, 32) if fixed else AxisRange(32)
    manifest = Manifest(CLASSES, None, None, TrainScale(32, 32), shapes=ShapeRange(AxisRange(1), edge, edge))
    remaining = iter(ROWS if rows is None else rows)
    return FakeEngine(manifest, lambda images: np.stack([next(remaining) for _image in images]))


def test_exact_images_and_probabilities_are_read(save: Save) -> None:
    witness = read_witness(save())
    assert witness.exact
    assert witness.names == ("image 0", "image 1")
    np.testing.assert_allclose(np.exp(witness.logarithms), ROWS)
    np.testing.assert_array_equal(np.stack(witness.images), PIXELS)


def test_logits_become_logarithms_of_posteriors_without_overflow(save: Save) -> None:
    logits = np.log(ROWS) + np.array([[5000.0], [-3.0]])
    witness = read_witness(save(probabilities=None, logits=logits))
    np.testing.assert_allclose(np.exp(witness.logarithms), ROWS, rtol=1e-5)


def test_images_of_different_sizes_are_numbered(save: Save) -> None:
    numbered = {f"image_{index}": picture(32, 40 + index, index) for index in range(11)}
    rows = np.repeat(ROWS[:1], 11, axis=0)
    witness = read_witness(save(images=None, probabilities=rows, **numbered))
    assert [image.shape[1] for image in witness.images] == list(range(40, 51))  # not in the order of their names


@pytest.mark.parametrize("beside", [True, False])
def test_paths_are_relative_to_the_file_or_else_to_the_current_folder(
    beside: bool, save: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    folder = tmp_path if beside else other
    for name in ("a.png", "b.png"):
        Image.fromarray(PIXELS[0]).save(folder / name)
    monkeypatch.chdir(other)
    witness = read_witness(save(images=None, paths=np.array(["a.png", "b.png"])))
    assert not witness.exact
    assert [path.resolve() for path in witness.paths] == [folder / "a.png", folder / "b.png"]


def csv_file(tmp_path: Path, text: str) -> Path:
    for name in ("a.png", "b.png"):
        Image.fromarray(PIXELS[0]).save(tmp_path / name)
    (tmp_path / "w.csv").write_text(text, encoding="utf-8")
    return tmp_path / "w.csv"


@pytest.mark.parametrize(
    "header", ["", "path,tench,church,golf ball\n", "\ufeffpath,n00000000,n00000001,n00000002\n", "file,0,1,2\n"]
)
def test_csv_is_read_with_or_without_a_line_of_names(header: str, tmp_path: Path) -> None:
    witness = read_witness(csv_file(tmp_path, f"{header}a.png,0.7,0.2,0.1\n\nb.png,0.1,0.3,0.6\n"))
    np.testing.assert_allclose(np.exp(witness.logarithms), ROWS)
    assert [path.name for path in witness.paths] == ["a.png", "b.png"]
    assert len(witness.columns) == (3 if header else 0)


def test_columns_are_ordered_by_name_and_the_proof_says_so(tmp_path: Path) -> None:
    path = csv_file(tmp_path, "path,church,Golf_Ball,n00000000\na.png,0.2,0.1,0.7\nb.png,0.3,0.6,0.1\n")
    proof = prove_witness(fake(), read_witness(path), "m.onnx", Protocol("dense", (32,), None, False))
    assert proof.passed
    assert proof.against == "w.csv (columns ordered by name)"
    assert proof.figures["columns_reordered"] is True


def test_names_that_are_not_the_models_are_refused_with_both_lists(save: Save) -> None:
    witness = read_witness(save(classes=np.array(["tench", "chain saw", "church"])))
    with pytest.raises(UsageError) as refusal:
        witness.ordered(CLASSES)
    text = str(refusal.value)
    assert "names the classes tench, chain saw, church; the model has n00000000, n00000001, n00000002" in text
    assert "Not of the model: chain saw. Without a column: n00000002" in text


def test_a_class_named_twice_is_refused(save: Save) -> None:
    witness = read_witness(save(classes=np.array(["tench", "church", "church"])))
    with pytest.raises(UsageError, match="Without a column: n00000002"):
        witness.ordered(CLASSES)


def test_labels_that_occur_twice_are_no_obstacle_in_the_models_order(save: Save) -> None:
    cranes = (ClassName("crane#0", "crane"), ClassName("tench", "tench"), ClassName("crane#2", "crane"))
    witness = read_witness(save(classes=np.array(["crane", "tench", "crane"])))
    assert not witness.ordered(cranes)[1]


def test_another_number_of_classes_is_refused(save: Save) -> None:
    with pytest.raises(UsageError, match="answers for 3 classes, and the model has 2"):
        read_witness(save()).ordered(CLASSES[:2])


FLAT = np.full((2, 3), 1 / 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"probabilities": ROWS[:1]}, "2 images and 1 row of probabilities"),
        ({"probabilities": ROWS[0]}, r"probabilities is float32 \[3\]; expected numbers \[n, classes\]"),
        ({"probabilities": ROWS[:, :1]}, "at least two classes"),
        ({"probabilities": ROWS.astype(str)}, "expected numbers"),
        ({"probabilities": ROWS.astype(np.float16)}, "float16, whose rounding hides"),
        ({"probabilities": np.log(ROWS)}, "row 0 of probabilities .* looks like logits: name it logits"),
        ({"probabilities": ROWS * [[1], [7]]}, "row 1 of probabilities .* looks like logits"),
        ({"probabilities": ROWS * 100}, "looks like percent: divide by 100"),
        ({"probabilities": np.full((2, 3), 0.9)}, "looks like the outputs of a sigmoid"),
        ({"probabilities": ROWS * [[1], [np.nan]]}, "row 1 of probabilities has NaN or infinity"),
        ({"probabilities": None, "logits": ROWS * np.inf}, "row 0 of logits has NaN or infinity"),
        ({"probabilities": None, "logits": ROWS}, "looks like probabilities; name it probabilities"),
        ({"logits": ROWS}, "has probabilities and logits; give one"),
        ({"probabilities": None}, "has no answers, only images"),
        ({"images": None}, "has no images; give one of paths, images and image_0"),
        ({"paths": np.array(["a", "b"])}, "has paths and images; give one"),
        ({"image_0": PIXELS[0]}, "has images and image_0 ...; give one"),
        ({"images": None, "image_0": PIXELS[0], "image_2": PIXELS[1]}, "has 2 images, but no image_1"),
        ({"images": None, "image_0": PIXELS, "image_1": PIXELS}, r"image_0 is uint8 \[2, 32, 32, 3\]; .* \[h, w, 3\]"),
        ({"images": PIXELS / 255.0}, r"images is float64 \[2, 32, 32, 3\]; expected uint8 \[n, h, w, 3\]"),
        ({"images": PIXELS.transpose(0, 3, 1, 2)}, r"images is uint8 \[2, 3, 32, 32\]"),
        ({"images": PIXELS[0]}, r"images is uint8 \[32, 32, 3\]"),
        ({"images": PIXELS[:0], "probabilities": ROWS[:0]}, "images is empty; give at least one"),
        ({"images": (PIXELS / 255).astype(np.uint8)}, "no pixel is above 1"),
        ({"images": None, "paths": np.array(["a.png", "b.png"])}, "2 of 2 images that do not exist, such as 'a.png'"),
        ({"images": None, "paths": np.array([])}, "paths is float64"),
        ({"images": None, "paths": np.array([], str), "probabilities": ROWS[:0]}, "has no images"),
        ({"images": None, "paths": np.array([Path("a")])}, "Objects are refused, since reading them runs code"),
        ({"images": np.array([PIXELS[0], PIXELS[1][:9]], object)}, "images of different sizes as image_0, image_1"),
        ({"labels": np.array([1, 2])}, "has labels; expected paths or images, and probabilities or logits"),
        ({"classes": np.array(["a", "b"])}, "names 2 classes and has answers for 3"),
        ({"classes": np.array([0, 1, 2])}, "classes is int64"),
    ],
)
def test_a_wrong_npz_file_is_refused_in_plain_words(changes: dict[str, Any], message: str, save: Save) -> None:
    with pytest.raises(UsageError, match=message) as refusal:
        read_witness(save(**changes))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no images"),
        ("path,a,b\n", "has no images"),
        ("a.png;0.5;0.5\n", "has no images|has 1 column; .* separated by commas"),
        ("a.png,1\n", "has 2 columns"),
        ("a.png,0.5,0.5\nb.png,0.5\n", "line 2 has 2 cells; expected 3"),
        ("a.png,0.5,0.5\nb.png,0.5,high\n", "line 2 has 'high'; expected a probability"),
        ("a.png,0.5,0.5\nb.png,nan,0.5\n", "row 1 of probabilities has NaN"),
        ("a.png,-3.5,8\n", "looks like logits: name it logits in an .npz file"),
        ("a.png,0.5,0.5\nc.png,0.5,0.5\n", "1 of 2 images that do not exist, such as 'c.png'"),
        ('a.png,"0.5,0.5\n', "cannot be read as CSV"),
    ],
)
def test_a_wrong_csv_file_is_refused_in_plain_words(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        read_witness(csv_file(tmp_path, text))


def test_files_that_are_not_answers_are_refused(save: Save, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"expected \.npz or \.csv"):
        read_witness(tmp_path / "w.json")
    with pytest.raises(UsageError, match="no such file of answers"):
        read_witness(tmp_path / "none.npz")
    whole = save().read_bytes()
    for data in (b"", b"PK", whole[:-30], whole.replace(b"\x01\x02\x03", b"\x00\x00\x00")[: len(whole) // 2]):
        (tmp_path / "bad.npz").write_bytes(data)
        with pytest.raises(UsageError, match=r"cannot be read as \.npz"):
            read_witness(tmp_path / "bad.npz")
    damaged = bytearray(whole)
    damaged[300:400] = bytes(100)  # inside the first image; the CRC of the archive tells
    (tmp_path / "bad.npz").write_bytes(damaged)
    with pytest.raises(UsageError, match="images is damaged"):
        read_witness(tmp_path / "bad.npz")
    np.save(tmp_path / "one.npy", ROWS)
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    with pytest.raises(UsageError, match=r"one array without a name; write it with np\.savez"):
        read_witness(tmp_path / "one.npz")


def test_equal_answers_pass_and_the_line_fits(save: Save) -> None:
    steps: list[int] = []
    proof = prove_witness(fake(), read_witness(save()), "m.onnx", progress=lambda: steps.append(1))
    assert (proof.number, proof.passed, proof.against) == (PIPELINE, True, "w.npz")
    assert proof.summary == "2 exact images, max |dp| 0.0e+00; few, no labels"
    assert len(steps) == 2
    assert proof.figures["score_error"] < 1e-6


NAMES = np.array(["tench", "church", "golf ball"])


@pytest.mark.parametrize(
    ("grey", "names", "count", "summary"),
    [
        (0, NAMES, 4, "4 exact images, max |dp| 0.0e+00"),
        (0, None, 4, "4 exact images, max |dp| 0.0e+00; labels not shown"),
        (1, NAMES, 4, "4 exact images, max |dp| 0.0e+00"),
        (2, NAMES, 4, "4 exact images, max |dp| 0.0e+00; grey"),
        (0, NAMES, 1, "1 exact image, max |dp| 0.0e+00; few"),
        (1, None, 1, "1 exact image, max |dp| 0.0e+00; few, grey, no labels"),
    ],
)
def test_what_the_witness_cannot_show_is_said(
    grey: int, names: np.ndarray | None, count: int, summary: str, save: Save
) -> None:
    images = np.stack([picture(32, 32, index) for index in range(count)])
    images[:grey] = images[:grey, :, :, :1]
    rows = np.resize(ROWS, (count, 3))
    given = {} if names is None else {"classes": names}
    witness = read_witness(save(images=images, probabilities=rows, **given))
    proof = prove_witness(fake(rows), witness, "m.onnx")
    assert proof.passed, proof.failures
    assert proof.summary == summary
    assert len(proof.summary) <= 55  # columns beside the name and the verdict
    assert proof.figures["coloured"] == count - grey
    assert proof.figures["labels_shown"] == (names is not None)
    shown = [] if len(proof.tables) == 2 else [row[0] for row in proof.tables[2].rows]
    told = {"other readings": "few", "RGB or BGR": "grey", "the label of each output": "label"}
    assert shown == [what for what, word in told.items() if word in summary]


def off(rows: np.ndarray, by: float) -> np.ndarray:
    """Posteriors whose second class has a score that is higher by `by`."""
    scores = np.log(rows.astype(np.float64)) + np.array([0, by, 0])
    return (np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize(("by", "passes"), [(1e-5, True), (1e-3, False), (0.3, False), (np.nan, False)])
def test_exact_images_find_small_differences(by: float, passes: bool, save: Save) -> None:
    proof = prove_witness(fake(off(ROWS, by)), read_witness(save()), "m.onnx")
    assert proof.passed == passes, proof.failures


def test_a_difference_that_sure_posteriors_hide_is_found(save: Save) -> None:
    sure = np.array([[1.0, 1e-12, 1e-13], [1e-11, 1e-12, 1.0]], np.float32)
    witness = read_witness(save(probabilities=sure))
    assert prove_witness(fake(sure), witness, "m.onnx").passed
    proof = prove_witness(fake(off(sure, 0.5)), witness, "m.onnx")
    assert proof.figures["max_dp"] < 1e-9
    assert re.search(r"score error 0\.0\d+ > 0\.0001", proof.failures[0])


def test_rounded_figures_hide_what_is_below_them_and_the_table_says_so(save: Save) -> None:
    rounded = np.array([[0.9997, 0.0003, 0.0], [0.5, 0.5, 0.0]])
    received = np.array([[0.99969, 0.00031, 1e-7], [0.5, 0.5, 3e-8]], np.float32)
    proof = prove_witness(fake(received), read_witness(save(probabilities=rounded)), "m.onnx")
    assert proof.passed, proof.failures
    assert "rounded: posteriors below 1e-02" in proof.tables[0].title


def test_a_small_difference_is_explained_by_arithmetic_or_a_small_offset(save: Save) -> None:
    proof = prove_witness(fake(off(ROWS, 5e-3)), read_witness(save()), "m.onnx")
    assert "TF32" in proof.failures[1]
    assert "probe" not in proof.failures[1]


def test_a_large_difference_points_to_normalization_and_probe(save: Save) -> None:
    proof = prove_witness(fake(off(ROWS, 3.0)), read_witness(save()), "m.onnx")
    assert "normalization, channel order" in proof.failures[1]
    assert "vgg-deploy probe" in proof.failures[1]


def test_the_order_of_the_classes_is_named(save: Save) -> None:
    proof = prove_witness(fake(ROWS[:, [0, 2, 1]]), read_witness(save()), "m.onnx")
    assert "another order of the classes: column 2 has the answers of class 1, church" in proof.failures[1]


def written(save: Save, tmp_path: Path, rows: np.ndarray = ROWS) -> Witness:
    for name, pixels in zip(("a.png", "b.png"), PIXELS, strict=True):
        Image.fromarray(pixels).save(tmp_path / name)
    return read_witness(save(images=None, paths=np.array(["a.png", "b.png"]), probabilities=rows))


DENSE = Protocol("dense", (32,), None, False)


@pytest.mark.parametrize(
    ("by", "verdict"), [(0.02, None), (0.3, "not clear: another rescaling filter"), (3.0, "normalization, channel")]
)
def test_image_files_pass_what_decoders_differ_by_and_no_more(
    by: float, verdict: str | None, save: Save, tmp_path: Path
) -> None:
    proof = prove_witness(fake(off(ROWS, by)), written(save, tmp_path), "m.onnx", DENSE)
    assert proof.summary.startswith("2 images, dense, max |dp|")
    assert proof.passed == (verdict is None)
    assert verdict is None or verdict in proof.failures[1]


def test_an_image_without_an_answer_fails_the_proof(save: Save, tmp_path: Path) -> None:
    witness = written(save, tmp_path)
    (tmp_path / "a.png").write_bytes(b"no image")
    proof = prove_witness(fake(ROWS[1:]), witness, "m.onnx", DENSE)
    assert len(proof.failures) == 1
    assert "a.png: not an image" in proof.failures[0]
    (tmp_path / "b.png").write_bytes(b"no image")
    proof = prove_witness(fake(), witness, "m.onnx", DENSE)
    assert proof.summary == "none of 2 images has an answer"
    assert len(proof.failures) == 2


def test_a_protocol_for_exact_images_is_refused(save: Save) -> None:
    with pytest.raises(UsageError, match="protocol dense does not apply: leave it out"):
        prove_witness(fake(), read_witness(save()), "m.onnx", DENSE)


def test_images_that_the_model_does_not_take_are_refused(save: Save) -> None:
    witness = read_witness(save(images=np.stack([picture(40, 40, seed) for seed in (1, 2)])))
    with pytest.raises(UsageError, match="image 0 is used as it is, and a view of 40x40 pixels does not fit"):
        prove_witness(fake(fixed=True), witness, "m.onnx")
    proof = prove_witness(fake(off(ROWS, 1.0)), witness, "m.onnx")
    assert "larger than the crop of 32" in proof.failures[1]


@pytest.mark.parametrize("precision", ["float16", "int8"])
@pytest.mark.parametrize("exact", [True, False])
def test_a_lower_precision_widens_the_limits_but_not_to_other_pixels(precision: str, exact: bool) -> None:
    limits, single = limits_of(precision, exact=exact), limits_of("float32", exact=exact)
    for name in ("max_dp", "mean_dp", "divergence"):
        assert getattr(single.parity, name) < getattr(limits.parity, name) <= 1
    assert limits.parity.agreement < single.parity.agreement
    # Pixels in BGR have a score error of 0.29 on easy photos.
    assert single.score_error < limits.score_error < 0.25


def open_ort(path: Path) -> Engine:
    return open_engine(path, runtime="onnxruntime", threads=1)


def judged(path: Path, witness: Witness) -> Proof:
    with open_ort(path) as engine:
        proof = prove_witness(engine, witness, path.name)
    return explained(proof, witness, path, open_ort)


def reverse_first(weights: dict[str, Any]) -> None:
    weights["conv1_1.weight"] = weights["conv1_1.weight"].flip(1).contiguous()


def witness_of(path: Path, pixels: Sequence[np.ndarray], save: Save) -> Witness:
    with open_ort(path) as engine:
        rows = np.concatenate([engine.run(image[None]).probabilities for image in pixels])
    return read_witness(save(images=np.stack(pixels), probabilities=rows))


@pytest.fixture
def views() -> list[np.ndarray]:
    return [picture(64, 64, seed) for seed in range(6)]


Exported = Callable[..., Any]


def test_a_file_agrees_with_the_answers_of_torch_on_exact_images(
    exported: Exported, views: list[np.ndarray], save: Save, tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch")
    from train.network.checkpoint import read
    from train.network.model import VGG

    path = exported("A", dynamic=True).path
    checkpoint = read(next(tmp_path.glob("*.safetensors")))
    assert checkpoint.manifest.spec is not None
    model = VGG(checkpoint.manifest.spec).eval()
    model.load_state_dict(checkpoint.weights)
    x = torch.from_numpy(np.stack(views)).float() - torch.tensor(PAPER_NORMALIZATION.mean)
    with torch.inference_mode():
        logits = model(x.permute(0, 3, 1, 2)).numpy()
    proof = judged(path, read_witness(save(images=np.stack(views), probabilities=None, logits=logits)))
    assert proof.passed, proof.failures
    for figure in ("max_dp", "mean_dp", "divergence", "score_error"):
        assert proof.figures[figure] < proof.figures["limits"][figure] / 3


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("name", ["torchvision", "unit", "tf", "raw"])
def test_the_right_normalization_is_named(
    name: str, half: bool, exported: Exported, views: list[np.ndarray], save: Save
) -> None:
    truth = exported(name="truth.onnx", checkpoint={"manifest": {"normalization": NORMALIZATIONS[name]}}).path
    witness = witness_of(truth, views, save)
    proof = judged(exported(name="wrong.onnx", half=half).path, witness)
    assert not proof.passed
    assert "another reading of the pixels agrees" in proof.failures[-1]
    assert f"--normalization {name} --channels rgb" in proof.failures[-1]
    assert "probe" not in "".join(proof.failures)


def test_a_normalization_that_divides_is_replaced_by_one_that_does_not(
    exported: Exported, views: list[np.ndarray], save: Save
) -> None:
    witness = witness_of(exported(name="truth.onnx").path, views, save)
    manifest = {"normalization": TORCHVISION_NORMALIZATION}
    proof = judged(exported(name="wrong.onnx", checkpoint={"manifest": manifest}).path, witness)
    assert "--normalization paper --channels rgb" in proof.failures[-1]


@pytest.mark.parametrize("external", [False, True])
def test_weights_that_expect_bgr_are_named(
    external: bool, exported: Exported, views: list[np.ndarray], save: Save
) -> None:
    truth = exported(name="truth.onnx", change=reverse_first).path
    proof = judged(exported(name="wrong.onnx", external_data=external).path, witness_of(truth, views, save))
    assert "export with --normalization paper --channels bgr" in proof.failures[-1]


def test_images_in_bgr_are_told_from_weights_in_bgr(exported: Exported, views: list[np.ndarray], save: Save) -> None:
    path = exported(name="model.onnx").path
    witness = witness_of(path, [np.ascontiguousarray(image[..., ::-1]) for image in views], save)
    witness = read_witness(save(images=np.stack(views), probabilities=None, logits=witness.logarithms))
    proof = judged(path, witness)
    assert "the images reach the network in BGR, so give RGB" in proof.failures[-1]
    assert "--mean 103.939,116.779,123.68" in proof.failures[-1]


def test_an_int8_file_is_read_otherwise_too(
    exported: Exported,
    narrow_checkpoint: Callable[..., Path],
    pictures: Path,
    vgg_deploy_command: Callable[..., Any],
    views: list[np.ndarray],
    save: Save,
    tmp_path: Path,
) -> None:
    witness = witness_of(exported(name="truth.onnx", change=reverse_first).path, views, save)
    words = ("--int8", "--calibration", pictures, "-o", tmp_path / "int8.onnx", "--weights", narrow_checkpoint("A"))
    done = vgg_deploy_command("export", *map(str, words))
    assert done.code == 0, done.err
    proof = judged(tmp_path / "int8.onnx", witness)
    assert "--normalization paper --channels bgr" in proof.failures[-1]


def test_if_no_reading_agrees_the_proof_says_so(exported: Exported, views: list[np.ndarray], save: Save) -> None:
    normalization = Normalization((1.0, 200.0, 30.0), (9.0, 10.0, 11.0))
    truth = exported(name="truth.onnx", checkpoint={"manifest": {"normalization": normalization}}).path
    proof = judged(exported(name="wrong.onnx").path, witness_of(truth, views, save))
    assert re.search(r"none of \d+ other readings of the pixels agrees", proof.failures[-1])


def test_a_proof_that_passed_is_not_explained(exported: Exported, views: list[np.ndarray], save: Save) -> None:
    path = exported(name="model.onnx").path
    witness = witness_of(path, views, save)
    with open_ort(path) as engine:
        proof = prove_witness(engine, witness, path.name)

    def refuse(_path: Path) -> Engine:
        raise AssertionError("no engine is needed")

    assert explained(proof, witness, path, refuse) is proof
    failed = dataclasses.replace(proof, failures=("it differs",))
    assert explained(failed, witness, Path("model.plan"), refuse) is failed


@pytest.mark.slow
def test_a_trained_network_passes_with_its_own_pixels_and_a_wrong_mean_is_found(
    test_data: Path, save: Save, tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch")
    from export import export
    from train.network.checkpoint import read
    from train.network.model import VGG
    from vgg_deploy.network.weight_facts import WeightFacts
    from vgg_deploy.views.images import centre_box, decode, rescale

    source = test_data / "vgg16_imagenette_fp16.safetensors"
    right = read(source, WeightFacts(normalization=PAPER_NORMALIZATION))
    assert right.manifest.spec is not None
    model = VGG(right.manifest.spec).eval()
    model.load_state_dict(right.weights)
    pixels = []
    for path in sorted((test_data / "photos").iterdir())[::30]:
        image = rescale(decode(path), 256, right.manifest.rescaling)
        top, left = centre_box(*image.shape[:2], 224)
        pixels.append(image[top : top + 224, left : left + 224])
    x = torch.from_numpy(np.stack(pixels)).float() - torch.tensor(PAPER_NORMALIZATION.mean)
    with torch.inference_mode():
        logits = model(x.permute(0, 3, 1, 2)).numpy()
    witness = read_witness(save(images=np.stack(pixels), probabilities=None, logits=logits))
    mean = tuple(value + 0.1 for value in PAPER_NORMALIZATION.mean)
    wrong = read(source, WeightFacts(normalization=Normalization(mean)))  # type: ignore[arg-type]
    for checkpoint, passes in ((right, True), (wrong, False)):
        path = export(checkpoint, tmp_path / "model.onnx").path
        with open_engine(path, runtime="onnxruntime") as engine:
            proof = prove_witness(engine, witness, path.name)
        assert proof.passed == passes, proof.figures
    assert "slightly wrong mean" in proof.failures[1]
