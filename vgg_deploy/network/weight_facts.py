"""What a user states about weights whose file does not."""

from __future__ import annotations

from dataclasses import dataclass

from vgg_deploy.network.manifest import Normalization, TrainScale


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFacts:
    """What a user states about weights whose file does not.

    Attributes:
        configuration: A ... E. Only A-LRN needs it: its tensors are the same as those of A.
        normalization: of pixels, in the order R, G, B. A foreign checkpoint is refused without it.
        channels: RGB or BGR, the order of the input channels. If a foreign checkpoint has None: RGB.
        labels: text of a labels file; see `vgg_deploy.network.label_files.classes_from_labels`.
        train_scale: S. If a foreign checkpoint has None: 256 for a crop of 224, scaled with the crop.
        key: the name of a set of weights, in a file with several. None: see `train.network.weight_sets`.
    """

    configuration: str | None = None
    normalization: Normalization | None = None
    channels: str | None = None
    labels: str | None = None
    train_scale: TrainScale | None = None
    key: str | None = None

    @property
    def about_training(self) -> bool:
        """Whether more than labels was given. Only checkpoints need it."""
        return bool(
            self.configuration or self.normalization or self.channels or self.train_scale or self.key is not None
        )


NOTHING_STATED = WeightFacts()
