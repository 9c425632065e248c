"""A reading of a foreign checkpoint: one way in which it may take its pixels."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from train.network.checkpoint import Checkpoint, with_channels_reversed
from vgg_deploy.network.manifest import BGR, NORMALIZATIONS, RGB, Normalization
from vgg_deploy.network.normalization_options import name_of
from vgg_deploy.network.spec import TOTAL_STRIDE, NetworkSpec
from vgg_deploy.network.weight_facts import NOTHING_STATED, WeightFacts

OWN = "own mean/std"  # names a normalization that is not one of `NORMALIZATIONS`
POOLED_CROP, POOLED_SCALE = 224, 256  # the crop of such a network, and its usual S
SAME_TENSORS = ("A", "A-LRN")  # configurations that only the user can tell apart


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One way in which a checkpoint may take its pixels.

    Attributes:
        normalization: of pixels, in the order R, G, B.
        channels: RGB or BGR, the order of conv1_1's input channels in the file.
        configuration: A ... E.
        pooled: whether fc6 takes the mean of pool5 over a crop of `POOLED_CROP`, as networks with global average
            pooling do. `Reading.of` does not express this, since a manifest cannot: see `train.network.pooled`.
    """

    normalization: Normalization
    channels: str
    configuration: str
    pooled: bool = False

    @property
    def normalization_name(self) -> str:
        """The name of the normalization; `OWN` if it is not a known one."""
        return name_of(self.normalization) or OWN

    def of(self, checkpoint: Checkpoint) -> Checkpoint:
        """The checkpoint, read in this way. It shares all tensors with `checkpoint`, except a reversed conv1_1."""
        manifest = checkpoint.manifest
        assert manifest.spec is not None
        as_read = BGR if manifest.channels_reversed else RGB
        weights = checkpoint.weights if self.channels == as_read else with_channels_reversed(checkpoint.weights)
        manifest = manifest.with_(
            spec=dataclasses.replace(manifest.spec, configuration=self.configuration),
            normalization=self.normalization,
            channels_reversed=self.channels == BGR,
        )
        return dataclasses.replace(checkpoint, weights=weights, manifest=manifest)


def reads_one_position(spec: NetworkSpec) -> bool:
    """Whether fc6 reads a single position of pool5: it has a crop of 32, or takes the mean over all positions."""
    return spec.crop == TOTAL_STRIDE


def readings_of(checkpoint: Checkpoint, facts: WeightFacts = NOTHING_STATED) -> tuple[Reading, ...]:
    """The readings that a checkpoint allows. One that describes itself has a single reading.

    Args:
        checkpoint: read with any normalization.
        facts: what the user knows. `channels` and `configuration` leave out the readings that contradict them;
            `normalization` adds one reading, if it is not a known one.
    """
    manifest = checkpoint.manifest
    assert manifest.spec is not None
    assert manifest.normalization is not None
    configuration = manifest.spec.configuration
    if checkpoint.describes_itself:
        return (Reading(normalization=manifest.normalization, channels=RGB, configuration=configuration),)
    configurations: Sequence[str] = (configuration,)
    if configuration in SAME_TENSORS and facts.configuration is None:
        configurations = SAME_TENSORS
    normalizations = list(NORMALIZATIONS.values())
    if facts.normalization is not None and facts.normalization not in normalizations:
        normalizations.append(facts.normalization)
    return tuple(
        Reading(normalization=normalization, channels=channels, configuration=name, pooled=pooled)
        for pooled in ((False, True) if reads_one_position(manifest.spec) else (False,))
        for name in configurations
        for normalization in normalizations
        for channels in ((RGB, BGR) if facts.channels is None else (facts.channels,))
    )
