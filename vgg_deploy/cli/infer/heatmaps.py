"""The pictures that `vgg-deploy infer --heatmaps` writes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vgg_deploy.errors import UsageError
from vgg_deploy.files import make_folder, output_errors, whole_file

if TYPE_CHECKING:
    from vgg_deploy.inference.engine import EngineInfo
    from vgg_deploy.inference.prediction import Prediction
    from vgg_deploy.views.protocols import Protocol

WHOLE_IMAGE_PROTOCOLS = ("center", "dense", "multiscale")


class Heatmaps:
    """A folder of pictures. Its subfolders are those of the images.

    Raises:
        click.UsageError: the protocol scores crops other than the central one.
        UsageError: the model has no output score_map.
        OutputError: the folder cannot be made.
    """

    def __init__(self, folder: Path, images: Sequence[Path], info: EngineInfo, protocol: Protocol) -> None:
        from vgg_deploy.network.tensors import SCORE_MAP

        if protocol.name not in WHOLE_IMAGE_PROTOCOLS:
            raise click.UsageError(
                "--heatmaps shows whole images and central crops, "
                f"but protocol {protocol.name} scores other crops; use dense, multiscale or center"
            )
        if SCORE_MAP not in info.outputs:
            raise UsageError("--heatmaps needs a model with the output score_map; export it with --score-map")
        with output_errors(folder):
            make_folder(folder)
        self._folder, self._manifest = folder, info.manifest
        self._root = Path(os.path.commonpath([_normalized(path).parent for path in images]))

    def write(self, prediction: Prediction) -> None:
        """Writes the image with the score map of its most probable class over it."""
        from PIL import Image

        from vgg_deploy.inference.heatmap import class_evidence, overlay
        from vgg_deploy.views.images import decode

        evidence = class_evidence(prediction, int(prediction.probabilities.argmax()), self._manifest)
        picture = overlay(decode(prediction.path), evidence)
        relative = _normalized(prediction.path).relative_to(self._root)
        with whole_file(self._folder / f"{relative}.png") as temporary:
            Image.fromarray(picture).save(temporary, format="PNG")


def _normalized(path: Path) -> Path:
    """An absolute path without `..`. Links are not followed: the user knows an image by the name of its link."""
    return Path(os.path.normpath(path.absolute()))
