"""The keys of cached posteriors: everything that must be equal for two results to be equal.

A key spells out each name, so it stays the same if a class or a field of the code is renamed. A new field that changes
posteriors must be added here. All keys are then new, and everything is computed again.
"""

from __future__ import annotations

import hashlib
import json

from vgg_deploy.inference.engine import EngineInfo
from vgg_deploy.network.manifest import Rescaling
from vgg_deploy.views.protocols import Protocol


def engine_key(info: EngineInfo, model: str) -> str:
    """The key of an engine: its weights, its network, and the runtime and device that compute it.

    It leaves out class names and S, which do not change posteriors. The precision of a file is in the fingerprint of
    its bytes.

    Args:
        info: describes the engine.
        model: fingerprint of its weights.
    """
    spec, normalization = info.manifest.spec, info.manifest.normalization
    key: dict[str, object] = {
        "model": model,
        "runtime": info.runtime,
        "device": info.device,
        "bf16": info.bf16,
    }
    if spec is not None:
        key["network"] = {
            "configuration": spec.configuration,
            "width_divisor": spec.width_divisor,
            "crop": spec.crop,
            "fc_width": spec.fc_width,
            "classes": spec.classes,
            "fine": spec.fine,
        }
    if normalization is not None:
        key["normalization"] = {"mean": list(normalization.mean), "std": list(normalization.std)}
    return json.dumps(key)


def protocol_key(protocol: Protocol, rescaling: Rescaling) -> str:
    """The key of a test: which views are scored, and how images are rescaled for them."""
    return json.dumps(
        {
            "protocol": protocol.name,
            "scales": list(protocol.scales),
            "crop": protocol.crop,
            "mirror": protocol.mirror,
            "filter": rescaling.filter,
            "rounding": rescaling.rounding,
        }
    )


def fingerprint(*texts: str) -> str:
    """One SHA-256 of several texts."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()
