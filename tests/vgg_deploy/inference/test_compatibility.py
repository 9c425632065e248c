"""Which views an engine takes: ranges, and the profiles of a plan with the gaps between them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.engines.trt.fake_machine import described
from vgg_deploy.artifacts.plan import PlanManifest
from vgg_deploy.errors import UsageError
from vgg_deploy.inference.compatibility import check_compatible, view_refusal
from vgg_deploy.inference.engine import EngineInfo
from vgg_deploy.inference.prediction import Failure, Prediction, predict
from vgg_deploy.network.manifest import Manifest
from vgg_deploy.network.shapes import AxisRange, PlanProfiles, Profile, ShapeRange, shapes_of
from vgg_deploy.testing import FakeEngine
from vgg_deploy.views.protocols import Protocol, choose_protocol

# The largest shape of the first profile is below the smallest of the second.
GAP = (
    Profile((64,), (1, 64, 64), (1, 64, 64), (4, 100, 100)),
    Profile((128,), (1, 128, 128), (1, 128, 128), (4, 200, 200)),
)


def information(manifest: Manifest, profiles: tuple[Profile, ...] = GAP) -> EngineInfo:
    plan: PlanManifest = described("tensorrt", profiles=profiles, manifest=manifest)
    return EngineInfo(
        "fake",
        "cuda:0",
        "float32",
        (),
        shapes_of(profiles),
        1,
        manifest,
        plan=PlanProfiles(plan.plan.name, plan.profiles, plan.command),
    )


def whole(*scales: int) -> Protocol:
    return Protocol("multiscale", scales, None, False)


def test_a_plan_takes_what_lies_in_a_profile_and_not_what_lies_between(manifest: Manifest) -> None:
    info = information(manifest)
    assert info.shapes.accepts(1, 110, 110)
    assert view_refusal(info, 64, 100) is None
    assert view_refusal(info, 128, 200) is None
    for height, width in ((110, 110), (64, 128), (300, 128), (20, 64)):
        reason = view_refusal(info, height, width)
        assert reason.startswith(
            f"a view of {width}x{height} pixels does not fit: a batch of 1 x {height} x {width} x 3 is in no profile"
        )


def test_the_scales_of_a_plan_are_the_defaults_of_a_protocol(manifest: Manifest) -> None:
    scales = information(manifest).scales
    assert scales == (64, 128)
    for name, expected in ((None, (64, 128)), ("multiscale", (64, 128)), ("dense", (128,)), ("center", (73,))):
        choice = choose_protocol(manifest, name, free_size=True, built_for=scales)
        assert choice.protocol.scales == expected
    assert choose_protocol(manifest, None, free_size=True, built_for=(96,)).protocol == Protocol(
        "dense", (96,), None, True
    )
    assert choose_protocol(manifest, "dense", free_size=True, built_for=(64, 73, 128)).protocol.scales == (73,)
    assert choose_protocol(manifest, None, (80, 90), free_size=True, built_for=scales).protocol.scales == (80, 90)


@pytest.mark.parametrize("protocol", [whole(64), whole(64, 128), whole(70, 199), Protocol("center", (90,), 64, False)])
def test_a_protocol_whose_views_fit_for_some_images_answers_for_those(
    protocol: Protocol, manifest: Manifest, pictures: Callable[..., list[Path]]
) -> None:
    engine = FakeEngine(manifest.with_(shapes=shapes_of(GAP)))
    engine.info = information(manifest)
    square, long = predict(engine, pictures((100, 100), (100, 300)), protocol)
    assert isinstance(square, Prediction)
    assert isinstance(long, Prediction if protocol.name == "center" else Failure)


@pytest.mark.parametrize(
    ("protocol", "side"), [(whole(64, 110), 110), (whole(300), 300), (Protocol("center", (150,), 110, False), 110)]
)
def test_a_protocol_with_a_view_that_never_fits_is_refused_with_the_command(
    protocol: Protocol, side: int, manifest: Manifest
) -> None:
    expected = (
        rf"^protocol {protocol.name}: .* a view of {side}x{side} pixels does not fit: a batch of .* vgg-deploy build"
    )
    with pytest.raises(UsageError, match=expected):
        check_compatible(information(manifest), protocol)


def test_a_range_takes_images_whose_other_side_is_long_enough(manifest: Manifest) -> None:
    wide = ShapeRange(AxisRange(1), AxisRange(64, 80), AxisRange(100))
    info = EngineInfo("fake", "cpu", "float32", (), wide, 1, manifest)
    check_compatible(info, whole(70))
    for scale in (63, 90):
        with pytest.raises(UsageError, match=r"the model takes widths 100\.\., heights 64\.\.80"):
            check_compatible(info, whole(scale))


def test_predict_gives_an_image_between_the_profiles_a_failure_and_the_others_their_answers(
    manifest: Manifest, tmp_path: Path
) -> None:
    engine = FakeEngine(manifest.with_(shapes=shapes_of(GAP)))
    engine.info = information(manifest)
    sizes = {"fits": (128, 140), "between": (128, 260), "also": (140, 128)}
    for name, size in sizes.items():
        Image.fromarray(np.zeros((*size, 3), np.uint8)).save(tmp_path / f"{name}.png")
    results = list(predict(engine, [tmp_path / f"{name}.png" for name in sizes], whole(64, 128)))
    assert [type(result) for result in results] == [Prediction, Failure, Prediction]
    assert isinstance(results[1], Failure)
    assert "a view of 130x64 pixels" in results[1].reason
    assert {shape[0] for shape in engine.batches} <= {1, 2, 3, 4}
    with pytest.raises(UsageError, match="a view of 110x110 pixels"):
        next(predict(engine, [tmp_path / "fits.png"], whole(110)))
