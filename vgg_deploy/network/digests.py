"""Digests of what an export wrote, so that a later change of the file is found and named."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

# Fields of a manifest that its digest leaves out: what is recorded about a file after it is made.
NOT_DIGESTED = ("digests", "verdict")


@dataclass(frozen=True, slots=True)
class Digests:
    """SHA-256 of the parts of an ONNX file, in hexadecimal.

    Attributes:
        manifest: of the manifest's other fields, without `digests` and `verdict`.
        graph: of the nodes, inputs, outputs, and the names, types and shapes of the tensors.
        tensors: of each tensor's type, shape and bytes, by its name.
    """

    manifest: str
    graph: str
    tensors: Mapping[str, str]


def json_digest(record: Mapping[str, Any], leave_out: Collection[str] = NOT_DIGESTED) -> str:
    """SHA-256 of a record as JSON, in hexadecimal. The order of keys, spaces and escapes do not change it.

    Args:
        record: as `json.loads` returns it. Keys that this version does not know count too.
        leave_out: keys to leave out.
    """
    import hashlib  # slow: it loads OpenSSL

    kept = {key: value for key, value in record.items() if key not in leave_out}
    return hashlib.sha256(json.dumps(kept, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
