"""Limits on the error of one layer, by runtime and kind of layer."""

from __future__ import annotations


def limit_of(runtime: str, kind: str, *, bf16: bool = False) -> float:
    return 0.05 if bf16 else 1e-5
