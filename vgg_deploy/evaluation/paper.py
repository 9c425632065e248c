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


_BOTH = (PaperNetwork("D", _JITTER, _WIDE), PaperNetwork("E", _JITTER, _WIDE))

ROWS = (
    # Table 3: one test scale, dense.
    PaperRow(3, (PaperNetwork("A", _256, (256,)),), "dense", 29.6, 10.4),
    PaperRow(3, (PaperNetwork("A-LRN", _256, (256,)),), "dense", 29.7, 10.5),
    PaperRow(3, (PaperNetwork("B", _256, (256,)),), "dense", 28.7, 9.9),
    PaperRow(3, (PaperNetwork("C", _256, (256,)),), "dense", 28.1, 9.4),
    PaperRow(3, (PaperNetwork("C", _384, (384,)),), "dense", 28.1, 9.3),
    PaperRow(3, (PaperNetwork("C", _JITTER, (384,)),), "dense", 27.3, 8.8),
    PaperRow(3, (PaperNetwork("D", _256, (256,)),), "dense", 27.0, 8.8),
    PaperRow(3, (PaperNetwork("D", _384, (384,)),), "dense", 26.8, 8.7),
    PaperRow(3, (PaperNetwork("D", _JITTER, (384,)),), "dense", 25.6, 8.1),
    PaperRow(3, (PaperNetwork("E", _256, (256,)),), "dense", 27.3, 9.0),
    PaperRow(3, (PaperNetwork("E", _384, (384,)),), "dense", 26.9, 8.7),
    PaperRow(3, (PaperNetwork("E", _JITTER, (384,)),), "dense", 25.5, 8.0),
    # Table 4: several test scales, dense.
    PaperRow(4, (PaperNetwork("B", _256, _NEAR_256),), "multiscale", 28.2, 9.6),
    PaperRow(4, (PaperNetwork("C", _256, _NEAR_256),), "multiscale", 27.7, 9.2),
    PaperRow(4, (PaperNetwork("C", _384, _NEAR_384),), "multiscale", 27.8, 9.2),
    PaperRow(4, (PaperNetwork("C", _JITTER, _WIDE),), "multiscale", 26.3, 8.2),
    PaperRow(4, (PaperNetwork("D", _256, _NEAR_256),), "multiscale", 26.6, 8.6),
    PaperRow(4, (PaperNetwork("D", _384, _NEAR_384),), "multiscale", 26.5, 8.6),
    PaperRow(4, (PaperNetwork("D", _JITTER, _WIDE),), "multiscale", 24.8, 7.5),
    PaperRow(4, (PaperNetwork("E", _256, _NEAR_256),), "multiscale", 26.9, 8.7),
    PaperRow(4, (PaperNetwork("E", _384, _NEAR_384),), "multiscale", 26.7, 8.6),
    PaperRow(4, (PaperNetwork("E", _JITTER, _WIDE),), "multiscale", 24.8, 7.5),
    # Table 5: crops, and crops with dense. Its dense rows are those of Table 4.
    PaperRow(5, (PaperNetwork("D", _JITTER, _WIDE),), "150-crop", 24.6, 7.5),
    PaperRow(5, (PaperNetwork("D", _JITTER, _WIDE),), "multiscale+150-crop", 24.4, 7.2),
    PaperRow(5, (PaperNetwork("E", _JITTER, _WIDE),), "150-crop", 24.6, 7.4),
    PaperRow(5, (PaperNetwork("E", _JITTER, _WIDE),), "multiscale+150-crop", 24.4, 7.1),
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
