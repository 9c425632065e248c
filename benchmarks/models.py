"""The files that contestants run, exported for this run: FP32, and INT8 for either target."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.subject import Setup, measured_network
from vgg_deploy.bench.own_process import in_own_process
from vgg_deploy.network.manifest import Manifest

CALIBRATION_IMAGES = 32


@dataclass(frozen=True, slots=True)
class ExportedModels:
    """One network as files.

    Attributes:
        name: what the network is, as text.
        manifest: the manifest of the checkpoint.
        checkpoint: the weights in FC form, for PyTorch.
        float32: the ONNX file in FP32.
        int8: ONNX files with convolutions and FC layers in INT8, by target: tensorrt or onnxruntime.
    """

    name: str
    manifest: Manifest
    checkpoint: Path
    float32: Path
    int8: dict[str, Path]


def prepare(folder: Path, setup: Setup, calibration: Sequence[Path] = ()) -> ExportedModels:
    """Exports the measured network into `folder`, in a process of its own.

    Args:
        calibration: images; a sample of them gives the ranges of INT8. Measure on others. Empty: no INT8 file.
    """
    models: ExportedModels = in_own_process(_export, folder, setup, list(calibration))
    return models


@contextlib.contextmanager
def _silent(_what: str, _total: int) -> Iterator[Callable[[], None]]:
    yield lambda: None


def _export(folder: Path, setup: Setup, calibration: list[Path]) -> ExportedModels:
    from engines import open_engine
    from export import export
    from export.int8 import Variants, calibrate
    from export.sample import draw
    from train.network.checkpoint import read, save
    from vgg_deploy.network.precision import TARGETS
    from vgg_deploy.views.protocols import choose_protocol

    measured = measured_network(setup)
    checkpoint = measured.checkpoint()
    manifest, path = checkpoint.manifest, folder / "checkpoint.safetensors"
    assert manifest.spec is not None
    save(path, checkpoint.weights, manifest)
    models = ExportedModels(measured.name, manifest, path, folder / "float32.onnx", {})
    export(checkpoint, models.float32, dynamic=True)
    if not calibration:
        return models
    protocol = choose_protocol(manifest, "dense", mirror=False, free_size=True).protocol
    count = 2 if setup.quick else CALIBRATION_IMAGES
    sample = draw(calibration, count, protocol, manifest.rescaling, lambda path, reason: None)
    with Variants(read(path), open_engine) as variants:
        ranges = calibrate(variants, sample, "minmax", TARGETS[0], _silent)
    for target in TARGETS:
        of_target = dataclasses.replace(ranges, target=target)
        models.int8[target] = folder / f"int8-{target}.onnx"
        quantization = of_target.quantization(of_target.candidates)
        export(read(path), models.int8[target], dynamic=True, quantization=quantization)
    return models
