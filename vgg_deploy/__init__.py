"""VGG networks from training to production, with parity proved at each step."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from vgg_deploy.version import __version__

if TYPE_CHECKING:
    from engines import open_engine
    from engines.trt.build import build
    from engines.trt.build_options import BuildOptions
    from export import export
    from vgg_deploy.evaluation.error_rates import evaluate
    from vgg_deploy.inference.prediction import Failure, Prediction, predict

# The public API, loaded on first use: importing vgg_deploy imports neither torch nor a runtime.
_HOMES = {
    "open_engine": "engines",
    "predict": "vgg_deploy.inference.prediction",
    "Prediction": "vgg_deploy.inference.prediction",
    "Failure": "vgg_deploy.inference.prediction",
    "evaluate": "vgg_deploy.evaluation.error_rates",
    "export": "export",
    "build": "engines.trt.build",
    "BuildOptions": "engines.trt.build_options",
}

__all__ = [
    "export",
    "build",
    "BuildOptions",
    "open_engine",
    "predict",
    "Prediction",
    "Failure",
    "evaluate",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
