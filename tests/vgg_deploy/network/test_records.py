"""Dataclasses as JSON, beyond what manifests use."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest

from vgg_deploy.errors import ManifestError
from vgg_deploy.network import records


@dataclass(frozen=True)
class Pair:
    """A fixed tuple of different types, alone and repeated."""

    single: tuple[str, int]
    repeated: tuple[tuple[str, float | None], ...] = ()


def test_a_fixed_tuple_of_different_types_comes_back_as_it_was() -> None:
    pair = Pair(("conv1_1", 3), (("a", 1.0), ("b", None)))
    again = records.from_json(Pair, records.to_json(pair, 1), 1, "x")
    assert again == pair
    assert isinstance(again.repeated[0][1], float)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("single", [3, "conv1_1"], r"manifest\.single\[0\] is 3; expected str"),
        ("single", ["conv1_1", "3"], r"manifest\.single\[1\] is '3'; expected int"),
        ("single", ["conv1_1"], r"manifest\.single is \['conv1_1'\]; expected a list of 2"),
        ("repeated", [["a", 1], ["b", "2"]], r"manifest\.repeated\[1\]\[1\] is '2'; expected float"),
    ],
)
def test_an_item_of_the_wrong_type_is_named(field: str, value: Any, message: str) -> None:
    data = {"version": 1, "single": ["conv1_1", 3], "repeated": [], field: value}
    with pytest.raises(ManifestError, match=f"^x: {message}"):
        records.from_json(Pair, json.dumps(data), 1, "x")


def test_a_manifest_under_another_key_for_its_version_says_that_the_key_is_missing() -> None:
    with pytest.raises(ManifestError, match="x: its manifest has no plan_version: another tool wrote it"):
        records.from_json(Pair, '{"version": 1}', 1, "x", key="plan_version")
