"""The paper's error rates: Tables 3 to 6 of arXiv 1409.1556, on the validation set of ILSVRC-2012, in percent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from vgg_deploy.network.manifest import Manifest, TrainScale
from vgg_deploy.network.spec import NetworkSpec
from vgg_deploy.views.protocols import Protocol

_256, _384, _JITTER = TrainScale(256, 256), TrainScale(384, 384), TrainScale(256, 512)
_NEAR_256, _NEAR_384, _WIDE = (224, 256, 288), (352, 384, 416), (256, 384, 512)


@dataclass(frozen=True, slots=True)
class PaperNetwork:
    """A network as the paper tests it: its configuration, S and the test scales Q."""

    configuration: str
    train_scale: TrainScale
    scales: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PaperRow:
    """One row of a table.

    Attributes:
        table: the number of the table.
        networks: one network, or several whose posteriors are averaged (Table 6).
        protocol: dense, multiscale, 150-crop or multiscale+150-crop.
        top1, top5: validation errors in percent.
    """

    table: int
    networks: tuple[PaperNetwork, ...]
    protocol: str
    top1: float
    top5: float


def _single(
    table: int, protocol: str, configuration: str, s: TrainScale, q: tuple[int, ...], top1: float, top5: float
) -> PaperRow:
    return PaperRow(table, (PaperNetwork(configuration, s, q),), protocol, top1, top5)


_BOTH = (PaperNetwork("D", _JITTER, _WIDE), PaperNetwork("E", _JITTER, _WIDE))

ROWS = (
    # Table 3: one test scale, dense.
    _single(3, "dense", "A", _256, (256,), 29.6, 10.4),
    _single(3, "dense", "A-LRN", _256, (256,), 29.7, 10.5),
    _single(3, "dense", "B", _256, (256,), 28.7, 9.9),
    _single(3, "dense", "C", _256, (256,), 28.1, 9.4),
    _single(3, "dense", "C", _384, (384,), 28.1, 9.3),
    _single(3, "dense", "C", _JITTER, (384,), 27.3, 8.8),
    _single(3, "dense", "D", _256, (256,), 27.0, 8.8),
    _single(3, "dense", "D", _384, (384,), 26.8, 8.7),
    _single(3, "dense", "D", _JITTER, (384,), 25.6, 8.1),
    _single(3, "dense", "E", _256, (256,), 27.3, 9.0),
    _single(3, "dense", "E", _384, (384,), 26.9, 8.7),
    _single(3, "dense", "E", _JITTER, (384,), 25.5, 8.0),
    # Table 4: several test scales, dense.
    _single(4, "multiscale", "B", _256, _NEAR_256, 28.2, 9.6),
    _single(4, "multiscale", "C", _256, _NEAR_256, 27.7, 9.2),
    _single(4, "multiscale", "C", _384, _NEAR_384, 27.8, 9.2),
    _single(4, "multiscale", "C", _JITTER, _WIDE, 26.3, 8.2),
    _single(4, "multiscale", "D", _256, _NEAR_256, 26.6, 8.6),
    _single(4, "multiscale", "D", _384, _NEAR_384, 26.5, 8.6),
    _single(4, "multiscale", "D", _JITTER, _WIDE, 24.8, 7.5),
    _single(4, "multiscale", "E", _256, _NEAR_256, 26.9, 8.7),
    _single(4, "multiscale", "E", _384, _NEAR_384, 26.7, 8.6),
    _single(4, "multiscale", "E", _JITTER, _WIDE, 24.8, 7.5),
    # Table 5: crops, and crops with dense. Its dense rows are those of Table 4.
    _single(5, "150-crop", "D", _JITTER, _WIDE, 24.6, 7.5),
    _single(5, "multiscale+150-crop", "D", _JITTER, _WIDE, 24.4, 7.2),
    _single(5, "150-crop", "E", _JITTER, _WIDE, 24.6, 7.4),
    _single(5, "multiscale+150-crop", "E", _JITTER, _WIDE, 24.4, 7.1),
    # Table 6: the mean of the posteriors of several networks.
    PaperRow(
        6,
        (
            PaperNetwork("D", _256, _NEAR_256),
            PaperNetwork("D", _384, _NEAR_384),
            PaperNetwork("D", _JITTER, _WIDE),
            PaperNetwork("C", _256, _NEAR_256),
            PaperNetwork("C", _384, _NEAR_384),
            PaperNetwork("E", _256, _NEAR_256),
            PaperNetwork("E", _384, _NEAR_384),
        ),
        "multiscale",
        24.7,
        7.5,
    ),
    PaperRow(6, _BOTH, "multiscale", 24.0, 7.1),
    PaperRow(6, _BOTH, "150-crop", 23.9, 7.2),
    PaperRow(6, _BOTH, "multiscale+150-crop", 23.7, 6.8),
)


def differences_from_paper(manifest: Manifest) -> tuple[str, ...]:
    """How a network differs from the paper's network of the same configuration, as text; empty if it does not."""
    spec = manifest.spec
    if spec is None:
        return ("its configuration is unknown, because it has no manifest",)
    paper_spec = NetworkSpec(spec.configuration)
    names = [field.name for field in fields(spec) if field.compare]
    values = ((name, getattr(spec, name), getattr(paper_spec, name)) for name in names)
    differences = [f"{name} is {value}, not {expected}" for name, value, expected in values if value != expected]
    networks = (network for row in ROWS for network in row.networks if network.configuration == spec.configuration)
    scales = dict.fromkeys(str(network.train_scale) for network in networks)
    if str(manifest.train_scale) not in scales:
        differences.append(f"S is {manifest.train_scale}, not {' or '.join(scales)}")
    return tuple(differences)


def paper_row(manifests: Sequence[Manifest], protocols: Sequence[Protocol]) -> PaperRow | None:
    """The paper's row for the same networks and test; None if there is no such row.

    Args:
        manifests: of one network, or of several that are fused.
        protocols: how each network was tested.
    """
    networks = set()
    for manifest, protocol in zip(manifests, protocols, strict=True):
        # All the paper's tests score mirrors too (section 3.2).
        if manifest.spec is None or differences_from_paper(manifest) or not protocol.mirror:
            return None
        networks.add(PaperNetwork(manifest.spec.configuration, manifest.train_scale, protocol.scales))
    names = {protocol.name for protocol in protocols}
    for row in ROWS:
        if set(row.networks) == networks and len(row.networks) == len(manifests) and names == {row.protocol}:
            return row
    return None
