"""An ONNX file with all that a runtime needs to open it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vgg_deploy.artifacts.onnx_file import OnnxFile
from vgg_deploy.inference.engine import EngineInfo
from vgg_deploy.inference.engine_options import EngineOptions
from vgg_deploy.network.manifest import Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxModel:
    """An ONNX file, its manifest, and the options to run it.

    Attributes:
        file: the file, opened.
        manifest: the file's manifest; `manifest.shapes` is set.
        options: how to run it.
        notices: what the user should know about this file in the chosen runtime.
    """

    file: OnnxFile
    manifest: Manifest
    options: EngineOptions
    notices: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        return self.file.path

    def info(
        self, runtime: str, precision: str, outputs: tuple[str, ...], *, bf16: bool = False, notice: str | None = None
    ) -> EngineInfo:
        """The description of an engine that runs this file.

        Args:
            runtime: name and version.
            precision: the types in which it actually computes, in words.
            outputs: names of the outputs.
            bf16: whether floating point is computed in bfloat16.
            notice: one more notice.
        """
        assert self.manifest.shapes is not None  # `OnnxFile.effective_manifest` sets them
        options = self.options
        return EngineInfo(
            runtime=runtime,
            device=options.device or "cpu",
            precision=precision,
            outputs=outputs,
            shapes=self.manifest.shapes,
            concurrency=options.request_count,
            manifest=self.manifest,
            notices=self.notices if notice is None else (*self.notices, notice),
            bf16=bf16,
            threads=options.total_threads if options.device_kind == "cpu" else None,
        )
