"""What the manifest of an exported file says of its graph, and the reverse. Nothing here needs torch."""

from __future__ import annotations

import dataclasses

from vgg_deploy.artifacts.export_options import GraphOptions
from vgg_deploy.network.manifest import Manifest
from vgg_deploy.network.precision import FLOAT16, Precision
from vgg_deploy.network.shapes import AxisRange, ShapeRange
from vgg_deploy.network.tensors import FEATURES, SCORE_MAP


def exported_manifest(manifest: Manifest, options: GraphOptions, precision: Precision, *, fine: bool) -> Manifest:
    """The manifest of the ONNX file that `export` makes of a checkpoint with this manifest."""
    assert manifest.spec is not None
    spec = dataclasses.replace(manifest.spec, fine=fine)
    edge = AxisRange(spec.crop) if options.dynamic else AxisRange(spec.crop, spec.crop)
    return manifest.with_(
        spec=spec,
        precision=precision,
        shapes=ShapeRange(AxisRange(1) if options.dynamic else AxisRange(1, 1), edge, edge),
        outputs=options.outputs,
    )


def stated_options(manifest: Manifest) -> GraphOptions:
    """The options with which `export` wrote the graph of a file with this manifest.

    Raises:
        UsageError: no graph can have these options.
    """
    precision = manifest.precision
    return GraphOptions(
        dynamic=manifest.shapes is not None and not manifest.shapes.batch.fixed,
        half=precision.arithmetic == FLOAT16,
        float32_layers=frozenset(precision.float32_layers),
        quantization=precision.quantization,
        score_map=SCORE_MAP in manifest.outputs,
        features=FEATURES in manifest.outputs,
    )
