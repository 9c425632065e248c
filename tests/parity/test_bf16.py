"""bfloat16 on CPUs, on request, against PyTorch in float32: within the thresholds of FP16."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engines import open_engine
from export import export
from vgg_deploy.evaluation.parity import THRESHOLDS, NamedView, compare, posteriors
from vgg_deploy.network.manifest import PAPER_NORMALIZATION, Rescaling
from vgg_deploy.views.images import decode, mirrored, rescale
from vgg_deploy.views.search import find_images

pytest.importorskip("torch")

from train.network.checkpoint import read
from train.network.reference import Reference
from vgg_deploy.network.weight_facts import WeightFacts


@pytest.mark.slow
def test_a_trained_vgg_16_in_bfloat16_answers_as_pytorch_does(test_data: Path, tmp_path: Path) -> None:
    weights, facts = test_data / "vgg16_imagenette_fp16.safetensors", WeightFacts(normalization=PAPER_NORMALIZATION)
    model = export(read(weights, facts), tmp_path / "d.onnx", dynamic=True).path
    views = []
    for path in list(find_images([str(test_data / "photos")]))[::10]:
        pixels = rescale(decode(path), 224, Rescaling())
        views += [NamedView(path.name, pixels), NamedView(f"{path.name}, mirrored", mirrored(pixels))]
    with open_engine(model, allow_bf16=True) as engine, Reference(read(weights, facts)) as reference:
        if not engine.info.bf16:
            pytest.skip("this CPU does not compute in bfloat16")
        assert engine.info.lowest == "float16"
        expected, received = posteriors(reference, views), posteriors(engine, views)
        parity = compare(expected, received, [view.name for view in views], engine.info.manifest.classes)
    assert parity.failures(THRESHOLDS["float16"]) == ()
    assert np.abs(expected - received).max() > 1e-5  # float32 would differ less
