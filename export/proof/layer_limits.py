"""Limits on the error of one layer, by runtime and kind of layer."""

from __future__ import annotations


def limit_of(runtime: str, kind: str, *, bf16: bool = False) -> float:
    """The limit on `LayerResult.error`."""
    if bf16:
        return 0.05
    return 3e-5 if runtime == "ncnn" else 1e-5
