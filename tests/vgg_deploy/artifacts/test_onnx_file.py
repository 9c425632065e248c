"""ONNX files read without their weights, and files that are damaged, unsafe or foreign."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from engines import open_engine
from export.graph import build_graph
from vgg_deploy.artifacts.description import describe
from vgg_deploy.artifacts.export_options import GraphOptions
from vgg_deploy.artifacts.onnx_file import OnnxFile, read_manifest
from vgg_deploy.artifacts.protobuf import encoded_key
from vgg_deploy.errors import ManifestError, ModelFileError, UsageError
from vgg_deploy.network import records
from vgg_deploy.network.classes import ClassName
from vgg_deploy.network.manifest import MANIFEST_KEY, PAPER_NORMALIZATION, TORCHVISION_NORMALIZATION, Manifest
from vgg_deploy.network.shapes import AxisRange, ShapeRange
from vgg_deploy.network.spec import NetworkSpec

LABELS = "ant\nbee\ncat\n"


def build(spec: NetworkSpec, options: GraphOptions | None = None) -> onnx.ModelProto:
    """A network with random weights, without a manifest."""
    random = np.random.default_rng(0)
    weights = {}
    for layer in spec.weight_layers:
        weights[f"{layer.name}.weight"] = random.normal(size=layer.weight_shape).astype(np.float32)
        weights[f"{layer.name}.bias"] = random.normal(size=layer.out_channels).astype(np.float32)
    return build_graph(spec, weights, TORCHVISION_NORMALIZATION, options or GraphOptions(dynamic=True))


@pytest.fixture
def spec(narrow_spec: Callable[..., NetworkSpec]) -> NetworkSpec:
    return narrow_spec("A", width_divisor=64, crop=32, fc_width=4, classes=3)


@pytest.fixture
def manifest(manifest_for: Callable[..., Manifest], spec: NetworkSpec) -> Manifest:
    return manifest_for(spec)


@pytest.fixture
def ours(tmp_path: Path, spec: NetworkSpec, manifest: Manifest) -> Path:
    """An exported file with its manifest at the end, so a cut-off end is noticed last."""
    model = build(spec)
    model.metadata_props.add(key=MANIFEST_KEY, value=manifest.to_json())
    onnx.save(model, tmp_path / "ours.onnx")
    return tmp_path / "ours.onnx"


def foreign(
    image: tuple[int | str | None, ...] = ("n", "h", "w", 3),
    kind: int = TensorProto.UINT8,
    scores: tuple[int | str | None, ...] = ("n", 3),
    scores_kind: int = TensorProto.FLOAT,
    output: str = "probabilities",
    inputs: int = 1,
) -> onnx.ModelProto:
    """A model from another tool: its posteriors are the mean colour of each image."""
    nodes = [
        helper.make_node("Cast", ["image_0"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "axes"], ["mean"], keepdims=0),
        helper.make_node("Softmax", ["mean"], [output], axis=-1),
    ]
    images = [helper.make_tensor_value_info(f"image_{number}", kind, image) for number in range(inputs)]
    axes = numpy_helper.from_array(np.array([1, 2], np.int64), "axes")
    graph = helper.make_graph(
        nodes, "foreign", images, [helper.make_tensor_value_info(output, scores_kind, scores)], [axes]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def saved(model: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def without_data(model: onnx.ModelProto) -> onnx.ModelProto:
    """The expected header, made with onnx."""
    for tensor in model.graph.initializer:
        for field in ("float", "int32", "string", "int64", "raw", "double", "uint64"):
            tensor.ClearField(f"{field}_data")
    return model


def with_typed_data() -> onnx.ModelProto:
    """Weights in each field that may hold them."""
    model = foreign()
    some: list[tuple[int, Any]] = [
        (TensorProto.FLOAT, [1.5, -2.0]),
        (TensorProto.INT32, [1, -7]),
        (TensorProto.INT64, [1 << 40, -1]),
        (TensorProto.DOUBLE, [0.1, 1e300]),
        (TensorProto.UINT64, [1 << 63, 0]),
        (TensorProto.STRING, [b"ab", b""]),
    ]
    for kind, values in some:
        model.graph.initializer.append(helper.make_tensor(f"of_{kind}", kind, [2], values))
    return model


@pytest.mark.parametrize(
    "options",
    [
        GraphOptions(),
        GraphOptions(dynamic=True),
        GraphOptions(dynamic=True, half=True, float32_layers=frozenset({"fc6"})),
        GraphOptions(dynamic=True, score_map=True, features=True),
    ],
    ids=["fixed", "dynamic", "half", "all outputs"],
)
@pytest.mark.parametrize("configuration", ["A-LRN", "C"])
def test_a_header_is_the_model_without_its_weights(
    configuration: str, options: GraphOptions, tmp_path: Path, spec: NetworkSpec
) -> None:
    path = saved(build(dataclasses.replace(spec, configuration=configuration), options), tmp_path / "model.onnx")
    header = OnnxFile(path).header
    assert header == without_data(onnx.load(path))
    assert header.ByteSize() < path.stat().st_size / 2


def test_weights_in_any_of_their_fields_are_left_out(tmp_path: Path) -> None:
    path = saved(with_typed_data(), tmp_path / "typed.onnx")
    assert OnnxFile(path).header == without_data(onnx.load(path))


def test_a_header_lists_external_data_without_reading_it(tmp_path: Path, spec: NetworkSpec) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(build(spec), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert (tmp_path / "weights.bin").stat().st_size > 0
    assert OnnxFile(path).header == onnx.load(path, load_external_data=False)


def test_a_manifest_has_the_shapes_of_the_file_and_labels_replace_its_names(ours: Path, manifest: Manifest) -> None:
    read = read_manifest(ours)
    assert [name.label for name in read_manifest(ours, LABELS).classes] == ["ant", "bee", "cat"]
    with pytest.raises(UsageError, match="the labels file has 2 labels; the network has 3 classes"):
        read_manifest(ours, "ant\nbee")
    free = ShapeRange(AxisRange(1), AxisRange(32), AxisRange(32))
    assert read == manifest.with_(shapes=free, outputs=("probabilities",))
    assert OnnxFile(ours).manifest == manifest


def test_a_file_cut_off_anywhere_is_refused(ours: Path) -> None:
    data = ours.read_bytes()
    # Every cut in the header and at the end, where fields are short, and a seeded sample of the others.
    cuts = {*range(200), *range(len(data) - 700, len(data))}
    cuts |= set(np.random.default_rng(0).integers(0, len(data), 300).tolist())
    for cut in sorted(cuts):
        ours.write_bytes(data[:cut])
        with pytest.raises(ModelFileError, match=r"ours\.onnx (is|was)"):
            read_manifest(ours)


def test_small_tensors_keep_their_data_on_request(ours: Path) -> None:
    whole = {tensor.name: tensor for tensor in onnx.load(ours).graph.initializer}
    kept = {tensor.name: tensor for tensor in OnnxFile(ours).header_with_small_tensors(200).graph.initializer}
    assert kept.keys() == whole.keys()
    for name, tensor in kept.items():
        assert tensor.raw_data == (whole[name].raw_data if whole[name].ByteSize() < 200 else b"")
        assert list(tensor.dims) == list(whole[name].dims)
    assert 0 < sum(bool(tensor.raw_data) for tensor in kept.values()) < len(kept)
    assert not any(tensor.raw_data for tensor in OnnxFile(ours).header.graph.initializer)


def test_damage_anywhere_is_one_of_our_errors_or_none(ours: Path) -> None:
    data, random = ours.read_bytes(), np.random.default_rng(1)
    for offset in random.integers(0, len(data), 200).tolist():
        damaged = bytearray(data)
        damaged[offset] ^= int(random.integers(1, 256))
        ours.write_bytes(damaged)
        with contextlib.suppress(ModelFileError, ManifestError, UsageError):
            read_manifest(ours)


def test_damage_in_a_header_is_one_of_our_errors_or_leaves_what_onnx_reads_too(tmp_path: Path) -> None:
    data, random = foreign().SerializeToString(), np.random.default_rng(3)
    path = tmp_path / "model.onnx"
    agreed = 0
    for _ in range(1500):
        damaged = bytearray(data)
        damaged[int(random.integers(len(data)))] = int(random.integers(256))
        path.write_bytes(damaged)
        with contextlib.suppress(ModelFileError):
            file = OnnxFile(path)
            with contextlib.suppress(ModelFileError):  # we check nodes less closely
                graph = file.header.graph
                assert [value.element for value in file.outputs] == [
                    value.type.tensor_type.elem_type for value in graph.output
                ]
                assert [value.shape for value in file.outputs] == [
                    tuple(axis.dim_value if axis.dim_value > 0 else None for axis in value.type.tensor_type.shape.dim)
                    for value in graph.output
                ]
                agreed += 1
    assert agreed > 100


def test_a_header_cut_off_anywhere_or_of_other_bytes_is_one_of_our_errors(tmp_path: Path) -> None:
    data, path = foreign().SerializeToString(), tmp_path / "model.onnx"
    for cut in range(len(data)):
        path.write_bytes(data[:cut])
        with pytest.raises(ModelFileError, match=r"model\.onnx "):
            read_manifest(path, LABELS)


def test_names_that_are_not_utf_8_are_kept_or_refused(tmp_path: Path) -> None:
    data = foreign().SerializeToString()
    path = tmp_path / "model.onnx"
    path.write_bytes(data.replace(b"image_0", b"im\xffge_0"))
    assert read_manifest(path, LABELS).outputs == ("probabilities",)
    path.write_bytes(data.replace(b"probabilities", b"prob\xe9bilities"))
    with pytest.raises(ModelFileError, match=r"no output named probabilities; its outputs are prob\\xe9bilities"):
        read_manifest(path, LABELS)


def test_a_manifest_that_is_not_utf_8_is_refused(ours: Path) -> None:
    ours.write_bytes(ours.read_bytes().replace(b'"classes": [{"id": "0"', b'"classes": [{"id": "\xe9"'))
    with pytest.raises(ManifestError, match="its manifest is not JSON"):
        read_manifest(ours)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", r"is empty \(0 bytes\)"),
        (b"\x08", "truncated or damaged: it ends within a number"),
        (b"\xff" * 50, "not an ONNX file"),
        (b"ant\nbee\ncat\n", "not an ONNX file|truncated or damaged"),
        (b"PK\x03\x04" + bytes(200), "not an ONNX file|truncated or damaged"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
            "not an ONNX file|truncated or damaged",
        ),
    ],
)
def test_a_file_that_is_something_else_is_refused(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=rf"model\.onnx .*({reason})"):
        read_manifest(path)


def test_random_bytes_are_refused(tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    for size in [*range(1, 60), 1000, 100_000]:
        (tmp_path / "noise.onnx").write_bytes(random.bytes(size))
        with pytest.raises(ModelFileError, match=r"noise\.onnx is"):
            read_manifest(tmp_path / "noise.onnx")


def test_a_message_of_fields_that_onnx_does_not_know_has_no_nodes(tmp_path: Path) -> None:
    # Valid protobuf: field 90 with five bytes.
    (tmp_path / "other.onnx").write_bytes(b"\xd2\x05\x05hello")
    with pytest.raises(ModelFileError, match="it has no nodes"):
        OnnxFile(tmp_path / "other.onnx")


def test_a_missing_file_or_a_folder_is_bad_use(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"absent\.onnx: no such model"):
        read_manifest(tmp_path / "absent.onnx")
    with pytest.raises(UsageError, match="is not a file; name an ONNX file"):
        read_manifest(tmp_path)


def field(number: int, body: bytes) -> bytes:
    """A protobuf field that is a message."""
    return encoded_key(number, len(body)) + body


def external(model: onnx.ModelProto, location: str) -> onnx.TensorProto:
    """A weight whose data should be in the file `location`."""
    tensor = TensorProto(name="conv1_1.weight", data_type=TensorProto.FLOAT, dims=[1])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    tensor.external_data.add(key="length", value="4")
    return tensor


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file outside the folder of the models."""
    (tmp_path / "models").mkdir()
    (tmp_path / "secret").write_bytes(bytes(4))
    return tmp_path / "secret"


@pytest.mark.parametrize("location", ["../secret", "sub/../../secret", "{absolute}", "link", "folder/secret", ""])
def test_weights_outside_the_models_folder_are_refused(location: str, secret: Path) -> None:
    folder = secret.parent / "models"
    (folder / "link").symlink_to(secret)
    (folder / "folder").symlink_to(secret.parent, target_is_directory=True)
    model = foreign()
    model.graph.initializer.append(external(model, location.format(absolute=secret)))
    with pytest.raises(
        ModelFileError, match=r"is refused: it places the weights of conv1_1\.weight in .*, outside its own folder"
    ):
        read_manifest(saved(model, folder / "model.onnx"), LABELS)


@pytest.mark.parametrize("location", ["a\0b", "x" * 5000, "loop"])
def test_a_location_that_is_not_a_path_is_refused(location: str, secret: Path) -> None:
    folder = secret.parent / "models"
    (folder / "loop").symlink_to("loop")
    model = foreign()
    model.graph.initializer.append(external(model, location))
    with pytest.raises(ModelFileError, match=r"is refused|missing from its folder") as caught:
        read_manifest(saved(model, folder / "model.onnx"), LABELS)
    assert len(str(caught.value)) < 1000 + len(str(folder))


@pytest.mark.parametrize("where", ["node", "subgraph", "function", "sparse"])
def test_weights_that_hide_elsewhere_in_the_model_are_refused_too(where: str, secret: Path) -> None:
    model = foreign()
    tensor = external(model, "../secret")
    constant = helper.make_node("Constant", [], ["hidden"], value=tensor)
    if where == "node":
        model.graph.node.append(constant)
    elif where == "subgraph":
        branch = helper.make_graph([], "branch", [], [], [tensor])
        model.graph.node.append(helper.make_node("If", ["float"], ["x"], then_branch=branch, else_branch=branch))
    elif where == "function":
        function = helper.make_function("d", "f", [], ["hidden"], [constant], [helper.make_opsetid("", 18)])
        model.functions.append(function)
    else:
        model.graph.sparse_initializer.add(values=tensor)
    with pytest.raises(ModelFileError, match="outside its own folder"):
        read_manifest(saved(model, secret.parent / "models" / "model.onnx"), LABELS)


def test_every_place_that_is_stated_for_a_weight_is_looked_at(secret: Path) -> None:
    folder = secret.parent / "models"
    (folder / "weights").write_bytes(bytes(4))
    for first, second in (("weights", "../secret"), ("../secret", "weights")):
        model = foreign()
        tensor = external(model, first)
        tensor.external_data.add(key="location", value=second)
        model.graph.initializer.append(tensor)
        with pytest.raises(ModelFileError, match="outside its own folder"):
            read_manifest(saved(model, folder / "model.onnx"), LABELS)


def test_a_weight_that_comes_in_two_parts_is_one(secret: Path) -> None:
    # Protobuf merges a single field that a file gives twice, here the tensor of a Constant.
    outside, tensor = TensorProto(), TensorProto(name="hidden")
    outside.external_data.add(key="location", value="../secret")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="model.onnx")
    halves = [onnx.AttributeProto(name="value", type=onnx.AttributeProto.TENSOR, t=half) for half in (outside, tensor)]
    attribute = b"".join(half.SerializeToString() for half in halves)
    node = onnx.NodeProto(op_type="Constant", output=["hidden"]).SerializeToString() + field(5, attribute)
    model = foreign().SerializeToString() + field(7, field(1, node))
    path = secret.parent / "models" / "model.onnx"
    path.write_bytes(model)
    assert onnx.load(path, load_external_data=False).graph.node[-1].attribute[0].t.name == "hidden"
    with pytest.raises(ModelFileError, match=r"it places the weights of hidden in '\.\./secret'"):
        read_manifest(path, LABELS)


def test_graphs_within_graphs_are_looked_through_however_deep_they_are(secret: Path) -> None:
    node = helper.make_node("Constant", [], ["hidden"], value=external(foreign(), "../secret")).SerializeToString()
    for _ in range(2000):  # an If in an If; onnx itself gives up after 30
        node = field(5, field(6, field(1, node)))
    path = secret.parent / "models" / "model.onnx"
    path.write_bytes(foreign().SerializeToString() + field(7, field(1, node)))
    with pytest.raises(ModelFileError, match="outside its own folder"):
        read_manifest(path, LABELS)


def test_weights_in_a_folder_below_the_models_are_accepted(secret: Path) -> None:
    folder = secret.parent / "models"
    (folder / "sub").mkdir()
    (folder / "sub" / "weights").write_bytes(bytes(4))
    model = foreign()
    model.graph.initializer.append(external(model, "sub/weights"))
    assert len(read_manifest(saved(model, folder / "model.onnx"), LABELS).classes) == 3


def test_missing_weights_are_named(tmp_path: Path, spec: NetworkSpec) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(build(spec), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(
        ModelFileError, match=r"keeps its weights in weights\.bin, which is missing from its folder; copy"
    ):
        OnnxFile(path)


def test_a_foreign_model_that_takes_bytes_is_accepted_with_labels(tmp_path: Path) -> None:
    path = saved(foreign(), tmp_path / "foreign.onnx")
    manifest = read_manifest(path, LABELS)
    assert manifest.classes == tuple(ClassName(name, name) for name in LABELS.split())
    assert manifest.spec is None
    assert manifest.normalization is None
    assert manifest.shapes == ShapeRange(AxisRange(1), AxisRange(1), AxisRange(1))
    assert manifest.outputs == ("probabilities",)


def test_a_foreign_model_of_fixed_size_states_its_crop(tmp_path: Path) -> None:
    path = saved(foreign(image=(2, 48, 48, 3)), tmp_path / "foreign.onnx")
    manifest = read_manifest(path, LABELS)
    assert manifest.shapes == ShapeRange(AxisRange(2, 2), AxisRange(48, 48), AxisRange(48, 48))
    assert manifest.crop == 48


@pytest.mark.parametrize("free", [-1, 0, None])
def test_a_free_axis_may_be_written_in_any_way(free: int | str | None, tmp_path: Path) -> None:
    path = saved(foreign(image=(free, free, free, 3), scores=(free, 3)), tmp_path / "foreign.onnx")
    assert read_manifest(path, LABELS).shapes == ShapeRange(AxisRange(1), AxisRange(1), AxisRange(1))


def test_a_foreign_model_without_labels_asks_for_them(tmp_path: Path) -> None:
    path = saved(foreign(), tmp_path / "foreign.onnx")
    with pytest.raises(UsageError, match="no vgg_deploy manifest, so its 3 classes have no names: give --labels FILE"):
        read_manifest(path)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (
            foreign(kind=TensorProto.FLOAT, image=("n", 3, 224, 224)),
            r"its input is float \[\?, 3, 224, 224\], so its normalization",
        ),
        (foreign(kind=TensorProto.FLOAT), r"its input is float \[\?, \?, \?, 3\]"),
        (foreign(image=("n", 3, "h", "w")), r"its input is uint8 \[\?, 3, \?, \?\]"),
        (foreign(image=("n", "h", "w", "c")), r"its input is uint8 \[\?, \?, \?, \?\]"),
        (foreign(image=("n", 224, 320, 3)), "it only takes images of 224 rows and 320 columns; expected square images"),
        (foreign(inputs=2), "it has 2 inputs; expected one, uint8"),
        (foreign(output="logits"), r"it has no output named probabilities; its outputs are logits"),
        (
            foreign(scores=("n", "classes")),
            r"its output probabilities is float \[\?, \?\]; expected float32 \[n, classes\]",
        ),
        (foreign(scores_kind=TensorProto.FLOAT16), r"its output probabilities is float16 \[\?, 3\]"),
    ],
    ids=lambda value: "" if isinstance(value, onnx.ModelProto) else value[:40],
)
def test_a_foreign_model_that_cannot_be_fed_is_refused_with_the_reason(
    model: onnx.ModelProto, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelFileError, match=rf"foreign\.onnx has no vgg_deploy manifest, and {reason}"):
        read_manifest(saved(model, tmp_path / "foreign.onnx"), LABELS)


def test_an_input_that_is_a_weight_too_is_none(tmp_path: Path) -> None:
    # Before ONNX 1.3 every initializer was listed among the inputs.
    model = foreign()
    model.graph.input.append(helper.make_tensor_value_info("axes", TensorProto.INT64, [2]))
    assert len(read_manifest(saved(model, tmp_path / "old.onnx"), LABELS).classes) == 3


def test_our_file_without_its_manifest_says_that_it_was_lost(tmp_path: Path, spec: NetworkSpec) -> None:
    path = saved(build(spec), tmp_path / "stripped.onnx")
    with pytest.raises(ModelFileError, match="was written by vgg_deploy, but its manifest is missing"):
        read_manifest(path)
    assert len(read_manifest(path, LABELS).classes) == 3


def test_a_manifest_of_another_version_is_refused(tmp_path: Path, spec: NetworkSpec, manifest: Manifest) -> None:
    model = build(spec)
    model.metadata_props.add(key=MANIFEST_KEY, value=json.dumps({**json.loads(manifest.to_json()), "version": 2}))
    with pytest.raises(ManifestError, match=r"ours\.onnx: .*version 2, but this vgg_deploy reads 1; export it again"):
        read_manifest(saved(model, tmp_path / "ours.onnx"))


def test_a_manifest_of_other_classes_than_the_files_is_refused_with_both_numbers(
    tmp_path: Path, spec: NetworkSpec, manifest_for: Callable[..., Manifest], narrow_spec: Callable[..., NetworkSpec]
) -> None:
    model = build(spec)
    other = manifest_for(narrow_spec("A", classes=7), normalization=PAPER_NORMALIZATION)
    model.metadata_props.add(key=MANIFEST_KEY, value=other.to_json())
    with pytest.raises(ManifestError, match="its manifest names 7 classes, but its output has 3; export it again"):
        read_manifest(saved(model, tmp_path / "ours.onnx"))


def test_our_file_that_was_changed_says_so(tmp_path: Path, manifest: Manifest) -> None:
    model = foreign(kind=TensorProto.FLOAT)
    model.metadata_props.add(key=MANIFEST_KEY, value=manifest.to_json())
    with pytest.raises(ModelFileError, match="was changed after its export: its input is float"):
        read_manifest(saved(model, tmp_path / "ours.onnx"))


def test_reading_leaves_no_file_open(ours: Path) -> None:
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("this system does not list a process's open files")
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a Path would not be shorter
    broken = ours.with_name("broken.onnx")
    broken.write_bytes(ours.read_bytes()[:-900])
    for _ in range(20):
        read_manifest(ours)
        with pytest.raises(ModelFileError):
            read_manifest(broken)
    assert len(os.listdir("/proc/self/fd")) <= before  # noqa: PTH208 - what other tests opened may be closed meanwhile


class Reads:
    """Counts how often a file is mapped and a manifest decoded."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.maps = self.manifests = 0
        map_file, decode = mmap.mmap, records.from_json

        def counted_map(*arguments: Any, **options: Any) -> mmap.mmap:
            self.maps += 1
            return map_file(*arguments, **options)

        def counted_decode(*arguments: Any, **options: Any) -> Any:
            self.manifests += 1
            return decode(*arguments, **options)

        monkeypatch.setattr(mmap, "mmap", counted_map)
        monkeypatch.setattr(records, "from_json", counted_decode)


def test_inspect_maps_a_file_once_and_decodes_its_manifest_once(ours: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = Reads(monkeypatch)
    describe(ours)
    assert (reads.maps, reads.manifests) == (1, 1)


def test_opening_in_ncnn_maps_a_file_once_and_decodes_its_manifest_once(
    ours: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ncnn")
    reads = Reads(monkeypatch)
    with open_engine(ours, runtime="ncnn"):
        assert (reads.maps, reads.manifests) == (1, 1)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("d.safetensors", bytes(20), "is a checkpoint, not an ONNX file; verify takes it as --reference"),
        ("d.pth", b"PK\x03\x04", "is a checkpoint, not an ONNX file"),
        ("photo.png", b"\x89PNG\r\n\x1a\n", "is a picture, not an ONNX file"),
    ],
)
def test_a_checkpoint_and_a_picture_are_named_as_such(name: str, data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ModelFileError, match=message):
        OnnxFile(tmp_path / name)
