"""`vgg-deploy info`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from vgg_deploy.network.spec import NetworkSpec


@pytest.mark.parametrize("configuration", ["A-LRN", "E"])
def test_the_table_lists_every_layer_and_the_totals(vgg_deploy_command: Callable[..., Any], configuration: str) -> None:
    finished = vgg_deploy_command("info", "--arch", configuration)
    spec = NetworkSpec(configuration)
    assert finished.code == 0
    assert finished.err == ""
    assert [line.split()[0] for line in finished.out.splitlines()[3 : 3 + len(spec.layers)]] == [
        layer.name for layer in spec.layers
    ]
    assert f"{spec.parameters:,}" in finished.out
    assert f"{spec.macs():,}" in finished.out
    assert "27C^2" in finished.out
    assert "49C^2, 81% more" in finished.out


def test_json_has_the_figures_of_the_spec(vgg_deploy_command: Callable[..., Any]) -> None:
    finished = vgg_deploy_command("info", "--arch", "E", "--json")
    report = json.loads(finished.out)
    assert (report["configuration"], report["common_name"]) == ("E", "vgg19")
    assert report["parameters"] == 143_667_240
    assert report["macs"] == NetworkSpec("E").macs()
    assert sum(layer["parameters"] for layer in report["layers"]) == report["parameters"]
    assert sum(layer["macs"] for layer in report["layers"]) == report["macs"]
    fields = {layer["name"]: layer["receptive_field"] for layer in report["layers"]}
    assert (fields["pool5"], fields["fc6"]) == (268, 460)
    comparison = report["three_3x3_against_one_7x7"]
    assert (comparison["three_3x3"], comparison["one_7x7"]) == ("27C^2", "49C^2")
    assert comparison["ratio"] == pytest.approx(49 / 27)


@pytest.mark.parametrize(("size", "expected"), [("256", [3, 256, 256]), ("256,341", [3, 256, 341])])
def test_size_is_the_input_that_is_counted_for(
    vgg_deploy_command: Callable[..., Any], size: str, expected: list[int]
) -> None:
    report = json.loads(vgg_deploy_command("info", "--size", size, "--json").out)
    assert report["input"] == expected
    assert report["macs"] == NetworkSpec("D").macs(*expected[1:])


def test_fc_width_follows_the_width_divisor_unless_given(vgg_deploy_command: Callable[..., Any]) -> None:
    assert json.loads(vgg_deploy_command("info", "--width-divisor", "8", "--json").out)["fc_width"] == 512
    narrow = vgg_deploy_command("info", "--width-divisor", "8", "--fc-width", "100", "--json")
    assert json.loads(narrow.out)["fc_width"] == 100


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--size", "1,2,3"), "3 numbers"),
        (("--size", "223,500"), "at least 224x224"),
        (("--crop", "225"), "224 or 256"),
        (("--classes", "-5"), "classes is -5"),
    ],
)
def test_a_bad_value_exits_2_and_prints_nothing_on_stdout(
    vgg_deploy_command: Callable[..., Any], arguments: tuple[str, ...], named: str
) -> None:
    finished = vgg_deploy_command("info", *arguments)
    assert finished.code == 2
    assert finished.out == ""
    assert named in finished.err.splitlines()[-1]
    assert "Traceback" not in finished.err
