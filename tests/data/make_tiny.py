"""Makes tiny.onnx, a network of configuration A that tests run without torch: `python tests/data/make_tiny.py`.

One to 8 channels, crop 32, FC width 8, five classes, free axes, all outputs. The weights are random, from a fixed seed.
The answers mean nothing, but depend on the content of an image and its position.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx

from export.graph import build_graph
from vgg_deploy.artifacts.export_options import GraphOptions
from vgg_deploy.files import Source
from vgg_deploy.network.classes import ClassName
from vgg_deploy.network.manifest import MANIFEST_KEY, PAPER_NORMALIZATION, Manifest, TrainScale
from vgg_deploy.network.shapes import AxisRange, ShapeRange
from vgg_deploy.network.spec import NetworkSpec

TINY = Path(__file__).with_name("tiny.onnx")
SEED = 22
CLASSES = tuple(
    ClassName(*pair)
    for pair in (
        ("n01440764", "tench"),
        ("n02102040", "English springer"),
        ("n03000684", "chain saw"),
        ("n03028079", "church"),
        ("n03888257", "parachute"),
    )
)


def tiny_model() -> onnx.ModelProto:
    """The network with its manifest, the same on each call."""
    spec = NetworkSpec("A", width_divisor=64, crop=32, fc_width=8, classes=len(CLASSES))
    options = GraphOptions(dynamic=True, score_map=True, features=True)
    chance = np.random.default_rng(SEED)
    weights = {}
    for layer in spec.weight_layers:
        # He's scaling keeps the size of the signal. As in trained networks, fc6 scales it from pixels to units.
        gain = {"fc6": 1 / 50, "fc8": 2.0}.get(layer.name, 1.0)
        std = gain * math.sqrt(2 / math.prod(layer.weight_shape[1:]))
        weights[f"{layer.name}.weight"] = chance.normal(0, std, layer.weight_shape).astype(np.float32)
        bias = 10.0 if layer.kind == "conv" else 0.3
        weights[f"{layer.name}.bias"] = chance.normal(0, bias, layer.out_channels).astype(np.float32)
    model = build_graph(spec, weights, PAPER_NORMALIZATION, options)
    edge = AxisRange(spec.crop)
    manifest = Manifest(
        classes=CLASSES,
        spec=spec,
        normalization=PAPER_NORMALIZATION,
        train_scale=TrainScale(40, 40),
        shapes=ShapeRange(AxisRange(1), edge, edge),
        outputs=options.outputs,
        source=Source("make_tiny.py", "0" * 64),
    )
    model.metadata_props.add(key=MANIFEST_KEY, value=manifest.to_json())
    return model


if __name__ == "__main__":
    onnx.save(tiny_model(), TINY)
