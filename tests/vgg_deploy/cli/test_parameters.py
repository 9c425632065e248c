"""Options that several commands share, and the parsers of their values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from vgg_deploy.cli.parameters import chosen_normalization, comma_integers, engine_options, rgb_triple, train_scale
from vgg_deploy.cli.weights import weight_options
from vgg_deploy.errors import UsageError
from vgg_deploy.inference.engine_options import EngineOptions
from vgg_deploy.network.label_files import read_labels
from vgg_deploy.network.manifest import PAPER_NORMALIZATION, TORCHVISION_NORMALIZATION, Normalization, TrainScale
from vgg_deploy.network.weight_facts import WeightFacts


def parsed(parser: Any, value: str | None) -> Any:
    parameter = click.Option(["--value"])
    return parser(click.Context(click.Command("x")), parameter, value)


@pytest.mark.parametrize(
    ("parser", "text", "value"),
    [
        (comma_integers, "256, 288,320", (256, 288, 320)),
        (rgb_triple, "123.68,116.779,103.939", (123.68, 116.779, 103.939)),
        (rgb_triple, "127.5", (127.5, 127.5, 127.5)),
        (train_scale, "256", TrainScale(256, 256)),
        (train_scale, "256,512", TrainScale(256, 512)),
        *((parser, None, None) for parser in (comma_integers, rgb_triple, train_scale)),
    ],
)
def test_a_value_is_read(parser: Any, text: str | None, value: object) -> None:
    assert parsed(parser, text) == value


@pytest.mark.parametrize(
    ("parser", "text", "named"),
    [
        (comma_integers, "256,", "256,288,320"),
        (comma_integers, "25.6", "256,288,320"),
        (rgb_triple, "1,2", "123.68,116.779,103.939"),
        (rgb_triple, "red", "123.68,116.779,103.939"),
        (train_scale, "256,384,512", "expected S or Smin,Smax"),
        (train_scale, "big", "256,288,320"),
        (train_scale, "512,256", "Smin <= Smax"),
    ],
)
def test_a_value_that_cannot_be_read_is_refused_with_an_example(parser: Any, text: str, named: str) -> None:
    with pytest.raises(click.BadParameter, match=named):
        parsed(parser, text)


@pytest.mark.parametrize(
    ("name", "mean", "std", "expected"),
    [
        (None, None, None, None),
        ("paper", None, None, PAPER_NORMALIZATION),
        ("torchvision", None, None, TORCHVISION_NORMALIZATION),
        ("paper", (120.0, 110.0, 100.0), None, Normalization((120, 110, 100))),
        (None, (120.0, 110.0, 100.0), (58.0, 57.0, 57.0), Normalization((120, 110, 100), (58, 57, 57))),
        (None, (0.0, 0.0, 0.0), (255.0, 255.0, 255.0), Normalization((0, 0, 0), (255, 255, 255))),
        ("unit", None, None, Normalization((0, 0, 0), (255, 255, 255))),
        ("tf", None, None, Normalization((127.5, 127.5, 127.5), (127.5, 127.5, 127.5))),
        ("raw", None, None, Normalization((0, 0, 0))),
    ],
)
def test_normalization_options_are_read_together(
    name: Any, mean: Any, std: Any, expected: Normalization | None
) -> None:
    assert chosen_normalization(name, mean, std) == expected


@pytest.mark.parametrize(
    ("name", "mean", "std", "named"),
    [
        ("torchvision", (1.0, 2.0, 3.0), None, "its own mean and std"),
        ("unit", (1.0, 2.0, 3.0), None, "--normalization unit has its own mean and std"),
        ("tf", None, (2.0, 2.0, 2.0), "--normalization tf has its own mean and std"),
        (None, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), r"--normalization unit .* 0\.\.1, .* --normalization raw .* 0\.\.255"),
        (None, (0.0, 0.0, 0.0), None, "two meanings"),
        ("paper", None, (58.0, 57.0, 57.0), "does not divide"),
        (None, None, (58.0, 57.0, 57.0), "--std requires --mean"),
        (None, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "--mean 123.675,116.280,103.530 --std 58.395,57.120"),
        (None, (0.485, 0.456, 0.406), None, r"units of 0\.\.255"),
        (None, (0.0, 0.0, 0.0), (0.5, 0.5, 0.5), r"units of 0\.\.255"),
        (None, (float("nan"), 110.0, 100.0), None, "finite"),
    ],
)
def test_normalization_options_that_contradict_or_look_wrong_are_refused(
    name: Any, mean: Any, std: Any, named: str
) -> None:
    with pytest.raises(UsageError, match=named):
        chosen_normalization(name, mean, std)


def test_a_labels_file_is_read_without_its_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes(b"\xef\xbb\xbftench\r\ngr\xc3\xbcn\r\n")
    text = read_labels(path)
    assert text.split() == ["tench", "grün"]
    assert read_labels(None) is None


def test_a_labels_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("grün".encode("latin-1"))
    with pytest.raises(UsageError, match=r"latin\.txt is not UTF-8 text"):
        read_labels(tmp_path / "latin.txt")
    with pytest.raises(UsageError, match=r"absent\.txt: No such file"):
        read_labels(tmp_path / "absent.txt")
    with pytest.raises(UsageError, match="cannot read the labels file"):
        read_labels(tmp_path)


def received(*arguments: str) -> tuple[EngineOptions, WeightFacts]:
    """What a command with the options of engines and weights receives."""
    values: list[Any] = []

    @click.command()
    @engine_options()
    @weight_options
    def command(options: EngineOptions, facts: WeightFacts) -> None:
        values.extend((options, facts))

    CliRunner().invoke(command, arguments, catch_exceptions=False)
    options, facts = values
    return options, facts


def test_options_arrive_as_one_object_for_engines_and_one_for_weights(tmp_path: Path) -> None:
    assert received() == (EngineOptions(requests=None), WeightFacts())
    labels = tmp_path / "labels.txt"
    labels.write_text("one\ntwo\n")
    of_engines = [
        "--runtime",
        "ncnn",
        "--device",
        "cpu",
        "--threads",
        "3",
        "--requests",
        "2",
        "--allow-bf16",
        "--trust",
    ]
    of_weights = ("--arch", "E", "--mean", "3,2,1", "--train-scale", "256,512", "--labels", str(labels))
    options, facts = received(*of_engines, "--cuda-api", "pycuda", *of_weights, "--channels", "bgr")
    assert options == EngineOptions(
        runtime="ncnn",
        device="cpu",
        threads=3,
        requests=2,
        allow_bf16=True,
        labels="one\ntwo\n",
        cuda_api="pycuda",
        trust=True,
    )
    assert facts == WeightFacts(
        configuration="E",
        normalization=Normalization((3, 2, 1)),
        channels="bgr",
        labels="one\ntwo\n",
        train_scale=TrainScale(256, 512),
    )
