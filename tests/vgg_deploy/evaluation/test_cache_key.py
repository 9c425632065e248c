"""Keys of cached posteriors: the same text in every version, and another text for whatever gives other answers."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from vgg_deploy.evaluation.cache_key import engine_key, fingerprint, protocol_key
from vgg_deploy.inference.engine import EngineInfo
from vgg_deploy.network.classes import numbered_classes
from vgg_deploy.network.manifest import PAPER_NORMALIZATION, Manifest, Normalization, Rescaling, TrainScale
from vgg_deploy.network.shapes import AxisRange, ShapeRange
from vgg_deploy.network.spec import NetworkSpec
from vgg_deploy.views.protocols import Protocol

SHAPES = ShapeRange(AxisRange(1), AxisRange(224), AxisRange(224))
SPEC = NetworkSpec("D")
MANIFEST = Manifest(numbered_classes(1000), SPEC, PAPER_NORMALIZATION, TrainScale(256, 512))
INFO = EngineInfo("openvino 2026.4.1", "cpu", "int8", ("probabilities",), SHAPES, 2, MANIFEST)
PROTOCOL = Protocol("multiscale+150-crop", (256, 384, 512), 224, True)


def test_keys_are_these_texts_whatever_the_code_calls_its_classes_and_fields() -> None:
    # If this fails, posteriors that users have cached are no longer found. If you mean that, raise the cache's version.
    assert engine_key(INFO, "5f2c") == (
        '{"model": "5f2c", "runtime": "openvino 2026.4.1", "device": "cpu", "bf16": false, '
        '"network": {"configuration": "D", "width_divisor": 1, "crop": 224, "fc_width": 4096, "classes": 1000, '
        '"fine": false}, '
        '"normalization": {"mean": [123.68, 116.779, 103.939], "std": [1.0, 1.0, 1.0]}}'
    )
    assert protocol_key(PROTOCOL, Rescaling()) == (
        '{"protocol": "multiscale+150-crop", "scales": [256, 384, 512], "crop": 224, "mirror": true, '
        '"filter": "bilinear", "rounding": "floor"}'
    )


def test_a_foreign_model_has_a_key_without_its_network() -> None:
    foreign = Manifest(numbered_classes(1000), None, None, TrainScale(256, 256), shapes=SHAPES)
    assert engine_key(replace(INFO, manifest=foreign), "5f2c") == (
        '{"model": "5f2c", "runtime": "openvino 2026.4.1", "device": "cpu", "bf16": false}'
    )


# A field that is added to one of these classes must come into the key if it changes answers.
CHANGES: dict[type, dict[str, Any]] = {
    NetworkSpec: {"configuration": "E", "width_divisor": 2, "crop": 192, "fc_width": 512, "classes": 10, "fine": True},
    Normalization: {"mean": (0.0, 0.0, 0.0), "std": (2.0, 1.0, 1.0)},
    Protocol: {"name": "150-crop", "scales": (256,), "crop": 192, "mirror": False},
    Rescaling: {"filter": "bicubic", "rounding": "nearest"},
}


@pytest.mark.parametrize("kind", CHANGES, ids=lambda kind: kind.__name__)
def test_every_field_of_these_changes_the_key(kind: type) -> None:
    assert set(CHANGES[kind]) == {field.name for field in fields(kind) if field.init}

    def key(**change: Any) -> str:
        parts = [SPEC, PAPER_NORMALIZATION, PROTOCOL, Rescaling()]
        spec, normalization, protocol, rescaling = (
            replace(part, **change) if isinstance(part, kind) else part for part in parts
        )
        manifest = replace(MANIFEST, classes=numbered_classes(spec.classes), spec=spec, normalization=normalization)
        return engine_key(replace(INFO, manifest=manifest), "5f2c") + protocol_key(protocol, rescaling)

    keys = {key(), *(key(**{name: value}) for name, value in CHANGES[kind].items())}
    assert len(keys) == 1 + len(CHANGES[kind])


@pytest.mark.parametrize("change", [{"runtime": "openvino 2027.1.0"}, {"device": "cuda:0"}, {"bf16": True}], ids=str)
def test_what_computes_changes_the_key_and_so_do_the_weights(change: dict[str, Any]) -> None:
    usual = engine_key(INFO, "5f2c")
    assert engine_key(replace(INFO, **change), "5f2c") != usual
    assert engine_key(INFO, "5f2d") != usual


def test_class_names_and_s_do_not_change_the_key() -> None:
    named = replace(MANIFEST, classes=numbered_classes(1001)[1:], train_scale=TrainScale(256, 256))
    assert engine_key(replace(INFO, manifest=named), "5f2c") == engine_key(INFO, "5f2c")


def test_a_fingerprint_tells_where_one_text_ends_and_the_next_begins() -> None:
    assert fingerprint("ab", "c") != fingerprint("a", "bc")
    assert fingerprint("ab", "c") == fingerprint("ab", "c")
