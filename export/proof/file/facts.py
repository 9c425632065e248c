"""Compares what the manifest of a file states with what its source of weights states."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from export.manifest import exported_manifest, stated_options
from vgg_deploy.errors import UsageError
from vgg_deploy.network.classes import ClassName
from vgg_deploy.network.manifest import Manifest, Normalization, Rescaling
from vgg_deploy.network.spec import NetworkSpec

# What a foreign checkpoint does not state: fields of its manifest, each with its words in reports.
OPTIONAL = {
    "classes": "class names",
    "normalization": "normalization",
    "train_scale": "S",
    "channels_reversed": "channel order",
}
# The options of `export` and `verify` that also replace what a checkpoint of our own states.
_OPTIONS = {"classes": "--labels", "train_scale": "--train-scale"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a source states about its weights.

    Attributes:
        name: of the source, in messages.
        manifest: with a spec.
        stated: those of `OPTIONAL` that the source or the user states. The others are not compared, because they were
            taken from the judged file itself.
        sha256: of the checkpoint with these weights; None if it is unknown.
        training: whether the source states how it was trained: mirroring, rescaling and the training record.
    """

    name: str
    manifest: Manifest
    stated: frozenset[str] = frozenset(OPTIONAL)
    sha256: str | None = None
    training: bool = True

    @property
    def assumed(self) -> tuple[str, ...]:
        """What neither the source nor the user states."""
        return tuple(name for name in OPTIONAL if name not in self.stated)


def other_network(manifest: Manifest, facts: Facts) -> str | None:
    """Why a file has another network than its source; None if it has the same. The fine grid is the file's own."""
    received, expected = manifest.spec, facts.manifest.spec
    assert expected is not None
    if received is None:
        return "its manifest does not name a network"
    if dataclasses.replace(received, fine=expected.fine) == expected:
        return None
    names = (field.name for field in dataclasses.fields(NetworkSpec) if field.compare and field.name != "fine")
    name = next(name for name in names if getattr(received, name) != getattr(expected, name))
    return f"its {name} is {getattr(received, name)}, but that of {facts.name} is {getattr(expected, name)}"


def fact_differences(manifest: Manifest, facts: Facts, *, shapes: bool = True) -> Iterator[str]:
    """What a manifest states differently from its source, one line each.

    Args:
        manifest: of a file with the same network as the source.
        shapes: whether to compare the shapes. Those of a plan are its builder's choice.
    """
    assert manifest.spec is not None
    yield from _other_source(manifest, facts)
    try:
        options = stated_options(manifest)
    except UsageError:
        return  # deriving the graph says why
    expected = exported_manifest(facts.manifest, options, manifest.precision, fine=manifest.spec.fine)
    if "classes" in facts.stated and manifest.classes != expected.classes:
        yield _other_class(manifest.classes, expected.classes, facts.name)
    for name in ("normalization", "train_scale", "channels_reversed"):
        received, wanted = getattr(manifest, name), getattr(expected, name)
        if name in facts.stated and received != wanted:
            advice = _advice(name) if name in _OPTIONS else "export it again"
            if name == "channels_reversed":
                received, wanted = ("B,G,R" if value else "R,G,B" for value in (received, wanted))
            yield f"its {OPTIONAL[name]} is {_text(received)}, but that of {facts.name} is {_text(wanted)}: {advice}"
    for name in (*(("mirror", "rescaling") if facts.training else ()), *(("shapes", "outputs") if shapes else ())):
        received, wanted = getattr(manifest, name), getattr(expected, name)
        if received != wanted:
            yield f"its manifest's {name} is {_text(received):.100}; {facts.name} gives {_text(wanted):.100}"
    if facts.training and manifest.training != expected.training:
        yield f"its manifest's training record is not that of {facts.name}; export it again"


def _other_class(received: tuple[ClassName, ...], expected: tuple[ClassName, ...], name: str) -> str:
    index = next(index for index, pair in enumerate(zip(received, expected, strict=True)) if pair[0] != pair[1])
    found, wanted = received[index], expected[index]
    same_label = found.label == wanted.label
    texts = [f"{item.label!r} (id {item.id!r})" if same_label else f"{item.label!r}" for item in (found, wanted)]
    return f"class {index} is {texts[0]} in the file and {texts[1]} in {name}: {_advice('classes')}"


def _advice(name: str) -> str:
    return f"if {_OPTIONS[name]} was given to export, give it to verify too"


def _other_source(manifest: Manifest, facts: Facts) -> Iterator[str]:
    if facts.sha256 is None:
        return
    if manifest.source is None:
        yield f"its manifest does not name its checkpoint; expected {facts.name}"
        return
    stated = manifest.source.sha256
    # A file made from torchvision's weights records the eight digits that are part of their name.
    if facts.sha256 == stated or (len(stated) == 8 and facts.sha256.startswith(stated)):
        return
    yield (
        f"it was made from {manifest.source.name} (SHA-256 {stated[:12]}...), not from {facts.name} (SHA-256 "
        f"{facts.sha256[:12]}...); give the checkpoint from which it was made"
    )


def _text(value: Any) -> str:
    if isinstance(value, Normalization):
        mean, std = (",".join(map(repr, numbers)) for numbers in (value.mean, value.std))
        return f"mean {mean} and std {std}"
    if isinstance(value, Rescaling):
        return f"{value.filter}, sides rounded by {value.rounding}"
    if isinstance(value, tuple):
        return ", ".join(value)
    return str(value)
