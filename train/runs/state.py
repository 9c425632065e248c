"""The state of a training: everything that its next step depends on, in one file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from train.data.crops import Colours
from train.runs.metrics import NOTHING, Epoch, MetricSums
from vgg_deploy.errors import CheckpointError, ManifestError
from vgg_deploy.files import whole_file
from vgg_deploy.network import records
from vgg_deploy.network.manifest import MANIFEST_KEY, Normalization

STATE_VERSION = 1


@dataclass(frozen=True, slots=True)
class Position:
    """How far a training has come.

    It holds no state of a random generator: order, crops, colours and dropout follow from seed, epoch and image.

    Attributes:
        normalization: how pixels are normalized.
        colours: the colours of the training set. None: the recipe needs none.
        history: the finished epochs.
        batches: the number of finished batches of the next epoch.
        total: the metrics of these batches.
    """

    normalization: Normalization
    colours: Colours | None
    history: tuple[Epoch, ...] = ()
    batches: int = 0
    total: MetricSums = NOTHING

    @property
    def best(self) -> Epoch | None:
        """The first epoch of the highest validation top-1."""
        return max(self.history, key=lambda epoch: epoch.val.top1, default=None)

    def steps(self, batches_per_epoch: int) -> int:
        """Steps since the start of the training."""
        return len(self.history) * batches_per_epoch + self.batches


@dataclass(frozen=True, slots=True)
class State:
    """A position, and the tensors of the network and the optimizer there.

    Attributes:
        tensors: float32; "weights/conv1_1.weight" ..., and after the first step "momentum/conv1_1.weight" ...
    """

    position: Position
    tensors: dict[str, Tensor]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names start with `prefix`, without it."""
        return {name.removeprefix(prefix): value for name, value in self.tensors.items() if name.startswith(prefix)}


def save_state(path: Path, state: State) -> None:
    """Writes a state, whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    metadata = {MANIFEST_KEY: records.to_json(state.position, STATE_VERSION)}
    with whole_file(path) as temporary:
        try:
            safetensors.torch.save_file(state.tensors, temporary, metadata=metadata)
        except safetensors.SafetensorError as error:
            raise OSError(str(error)) from error


def read_state(path: Path) -> State:
    """Reads what `save_state` wrote.

    Raises:
        CheckpointError: the file is damaged, or of another version.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        position = records.from_json(Position, metadata.get(MANIFEST_KEY, ""), STATE_VERSION, str(path))
    except (safetensors.SafetensorError, OSError, ValueError, ManifestError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({error}): damaged, or of another version; delete it to start this run again"
        ) from error
    return State(position, tensors)
