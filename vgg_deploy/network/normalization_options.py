"""The options of the command line that state a normalization."""

from __future__ import annotations

from collections.abc import Sequence

from vgg_deploy.network.manifest import NORMALIZATIONS, Normalization


def name_of(normalization: Normalization) -> str | None:
    """The name of a known normalization; None for another."""
    return next((name for name, known in NORMALIZATIONS.items() if known == normalization), None)


def normalization_options(normalization: Normalization) -> list[str]:
    """The options that state it: its name or, if it has none, its numbers."""
    name = name_of(normalization)
    if name is not None:
        return ["--normalization", name]
    return ["--mean", _comma(normalization.mean), "--std", _comma(normalization.std)]


def _comma(values: Sequence[float]) -> str:
    """Numbers as an option takes them, exact."""
    return ",".join(f"{value:g}" if float(f"{value:g}") == value else repr(value) for value in values)
