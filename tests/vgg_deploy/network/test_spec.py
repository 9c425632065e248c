"""Table 1 as data: parameters, MACs, sizes and receptive fields match the paper's figures and PyTorch."""

from __future__ import annotations

import pytest

from vgg_deploy.errors import UsageError
from vgg_deploy.network.spec import CONFIGURATIONS, TABLE_1, NetworkSpec, stacked_3x3_weights

PARAMETERS = {
    "A": 132_863_336,
    "A-LRN": 132_863_336,
    "B": 133_047_848,
    "C": 133_638_952,
    "D": 138_357_544,
    "E": 143_667_240,
}
GIGA_MACS_AT_224 = {"A": 7.61, "A-LRN": 7.61, "B": 11.31, "C": 11.77, "D": 15.47, "E": 19.63}
RECEPTIVE_FIELDS = {  # at pool5 and at fc6
    "A": (150, 342),
    "A-LRN": (150, 342),
    "B": (156, 348),
    "C": (156, 348),
    "D": (212, 404),
    "E": (268, 460),
}
WEIGHT_LAYERS = {"A": 11, "A-LRN": 11, "B": 13, "C": 16, "D": 16, "E": 19}


def test_the_configurations_are_the_papers_six_columns() -> None:
    assert CONFIGURATIONS == ("A", "A-LRN", "B", "C", "D", "E") == tuple(TABLE_1)


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_full_width_has_exactly_the_papers_parameters_and_depth(configuration: str) -> None:
    spec = NetworkSpec(configuration)
    assert spec.parameters == PARAMETERS[configuration]
    assert len(spec.weight_layers) == WEIGHT_LAYERS[configuration]


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_macs_at_224_are_the_known_figures(configuration: str) -> None:
    assert NetworkSpec(configuration).macs() / 1e9 == pytest.approx(GIGA_MACS_AT_224[configuration], abs=0.005)


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
@pytest.mark.parametrize("layer", ["pool5", "fc6"])
def test_receptive_fields_are_what_a_gradient_reaches(configuration: str, layer: str) -> None:
    torch = pytest.importorskip("torch")
    # Windows are square, so one axis is enough. With positive weights and averaging pools no path cancels out.
    line = torch.ones(1, 1, 1024, dtype=torch.float64, requires_grad=True)
    x = line
    for step in NetworkSpec(configuration).layers:
        if step.kind == "pool":
            x = torch.nn.functional.avg_pool1d(x, 2)
        elif step.kind != "lrn":
            window = torch.ones(1, 1, step.kernel, dtype=torch.float64)
            x = torch.nn.functional.conv1d(x, window, padding=step.padding) / step.kernel
        if step.name == layer:
            break
    x[0, 0, x.shape[-1] // 2].backward()
    reached = line.grad[0, 0].nonzero()
    fields = {row.layer.name: row.receptive_field for row in NetworkSpec(configuration).statistics()}
    assert int(reached.max() - reached.min()) + 1 == fields[layer] == RECEPTIVE_FIELDS[configuration][layer == "fc6"]
    assert fields["fc8"] == fields["fc7"] == fields["fc6"]


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
@pytest.mark.parametrize("convolutional", [False, True], ids=["fc form", "convolutional form"])
def test_parameters_are_those_of_the_module_in_pytorch(configuration: str, convolutional: bool) -> None:
    torch = pytest.importorskip("torch")
    from train.network.model import VGG

    with torch.device("meta"):
        network = VGG(NetworkSpec(configuration), convolutional=convolutional)
    assert sum(parameter.numel() for parameter in network.parameters()) == PARAMETERS[configuration]


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
@pytest.mark.parametrize(("height", "width"), [(224, 224), (391, 225)])
def test_sizes_and_macs_are_those_that_pytorch_counts(configuration: str, height: int, width: int) -> None:
    torch = pytest.importorskip("torch")
    from torch.utils.flop_counter import FlopCounterMode

    from train.network.model import VGG

    spec = NetworkSpec(configuration)
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        network = VGG(spec, convolutional=True)
        sizes = {name: tuple(output.shape[1:]) for name, output in network.steps(torch.empty(1, 3, height, width))}
    assert {row.layer.name: row.output for row in spec.statistics(height, width)} == sizes
    assert 2 * spec.macs(height, width) == counter.get_total_flops()


def test_layers_carry_the_papers_names_in_order() -> None:
    names = [layer.name for layer in NetworkSpec("A-LRN").layers]
    assert " ".join(names) == (
        "conv1_1 lrn1 pool1 conv2_1 pool2 conv3_1 conv3_2 pool3 conv4_1 conv4_2 pool4 conv5_1 conv5_2 pool5 fc6 fc7 fc8"
    )


def test_configuration_c_ends_its_last_three_blocks_with_1x1_convolutions() -> None:
    kernels = {layer.name: layer.kernel for layer in NetworkSpec("C").convolutions}
    assert [name for name, kernel in kernels.items() if kernel == 1] == ["conv3_3", "conv4_3", "conv5_3"]


def test_every_weight_layer_but_the_last_has_a_relu() -> None:
    layers = NetworkSpec("E").layers
    assert [layer.name for layer in layers if layer.has_weights and not layer.has_relu] == ["fc8"]
    assert not any(layer.has_relu for layer in layers if not layer.has_weights)


@pytest.mark.parametrize(("crop", "kernel"), [(32, 1), (64, 2), (224, 7), (384, 12)])
def test_fc6_folds_to_a_convolution_over_all_of_pool5(crop: int, kernel: int) -> None:
    spec = NetworkSpec("A", crop=crop)
    pool5, fc6 = spec.statistics()[-4:-2]
    assert fc6.layer.kernel == kernel == pool5.output[1]
    assert fc6.output == (4096, 1, 1)


def test_width_divisor_divides_every_convolution_and_nothing_else() -> None:
    full, narrow = NetworkSpec("D"), NetworkSpec("D", width_divisor=8)
    assert [layer.out_channels for layer in narrow.convolutions] == [c.out_channels // 8 for c in full.convolutions]
    assert [layer.out_channels for layer in narrow.weight_layers[-3:]] == [4096, 4096, 1000]


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"configuration": "F"}, "A, A-LRN, B, C, D, E"),
        ({"configuration": "d"}, "'d'"),
        ({"width_divisor": 3}, "divisor of 64"),
        ({"crop": 225}, "224 or 256"),
        ({"crop": 16}, "32 or 64"),
        ({"classes": 0}, "classes is 0"),
        ({"classes": True}, "classes is True"),
        ({"fc_width": -1}, "fc_width is -1"),
    ],
)
def test_a_field_out_of_range_is_refused_by_name(fields: dict[str, object], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        NetworkSpec(**{"configuration": "D", **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize(("height", "width"), [(223, 300), (300, 223), (0, None)])
def test_statistics_refuse_an_input_below_the_crop(height: int, width: int | None) -> None:
    with pytest.raises(UsageError, match="at least 224x224"):
        NetworkSpec("D").statistics(height, width)


def test_statistics_of_one_number_are_those_of_a_square() -> None:
    spec = NetworkSpec("A")
    assert spec.statistics(256) == spec.statistics(256, 256) != spec.statistics(256, 288)


def test_three_stacked_3x3_layers_have_27_weights_where_one_7x7_has_49() -> None:
    assert stacked_3x3_weights(3) == (27, 49)
    assert stacked_3x3_weights(2) == (18, 25)
