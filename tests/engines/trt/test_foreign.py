"""Plans of models that vgg_deploy did not export."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engines.trt.build import build
from engines.trt.build_options import BuildOptions
from vgg_deploy.errors import BuildError, PreflightError, UsageError
from vgg_deploy.network.precision import INT8

pytestmark = pytest.mark.usefixtures("rtx", "without_gpu")

MakeModel = Callable[..., Path]
SMALL = BuildOptions(scales=(64,), max_batch=2)


def test_a_foreign_model_builds_with_labels_and_scales(foreign: Any, tmp_path: Path) -> None:
    path = foreign.save(tmp_path)
    built = build(path, options=BuildOptions(scales=(32, 64), labels=tmp_path / "labels.txt"))
    assert dict(built.manifest.layers) == {"conv": INT8}
    assert [name.label for name in built.manifest.manifest.classes] == ["ant", "bee", "cat", "dog", "elk"]
    assert "--labels" in shlex.split(built.manifest.command)


def test_a_foreign_model_needs_labels(foreign: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="give --labels FILE"):
        build(foreign.save(tmp_path), options=BuildOptions(scales=(32,)))


def test_a_foreign_model_with_free_size_needs_scales(foreign: Any, tmp_path: Path) -> None:
    path = foreign.save(tmp_path)
    with pytest.raises(UsageError, match="training scale S is unknown: give --scales"):
        build(path, options=BuildOptions(labels=tmp_path / "labels.txt"))


@pytest.mark.parametrize(
    ("size", "options", "shapes"),
    [
        ((1, 48, 48, 3), {}, "1 x 48 x 48 x 3"),
        (("n", 48, 48, 3), {"max_batch": 3}, "1..3 x 48 x 48 x 3"),
        ((2, "h", "w", 3), {"scales": (48,)}, "2 x 48..96 x 48..96 x 3"),
    ],
)
def test_axes_that_are_fixed_stay_fixed(
    size: tuple[Any, ...], options: dict[str, Any], shapes: str, foreign: Any, tmp_path: Path
) -> None:
    foreign.size = size
    path = foreign.save(tmp_path)
    built = build(path, options=BuildOptions(labels=tmp_path / "labels.txt", **options))
    assert str(built.manifest.manifest.shapes) == shapes


def test_one_free_side_is_refused(foreign: Any, tmp_path: Path) -> None:
    foreign.size = (1, 48, "w", 3)
    path = foreign.save(tmp_path)
    with pytest.raises(BuildError, match="one side fixed and one free"):
        build(path, options=BuildOptions(labels=tmp_path / "labels.txt", scales=(48,)))


def test_nodes_without_names_are_known_by_their_outputs(foreign: Any, tmp_path: Path) -> None:
    for node in foreign.nodes:
        node.name = ""
    path = foreign.save(tmp_path)
    built = build(path, options=BuildOptions(scales=(32,), labels=tmp_path / "labels.txt"))
    assert dict(built.manifest.layers) == {"node_of_conv": INT8}


def test_all_findings_are_reported_at_once_and_nothing_is_built(foreign: Any, tmp_path: Path) -> None:
    foreign.constants["zero"] = foreign.constants["zero"] + 3
    foreign.insert("Det", "determinant", before="scores")
    path = foreign.save(tmp_path)
    with pytest.raises(PreflightError) as refused:
        build(path, options=BuildOptions(scales=(32,), labels=tmp_path / "labels.txt"))
    assert len(refused.value.findings) == 2
    assert refused.value.exit_code == 1
    assert not (tmp_path / "foreign.plan").exists()
