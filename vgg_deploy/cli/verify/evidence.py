"""What verify judges files by: a reference, real images, and answers of the user's own pipeline."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import click

from vgg_deploy.artifacts.kinds import CHECKPOINT, kind_of
from vgg_deploy.cli.opening import refuse_facts
from vgg_deploy.cli.parameters import gathered, images_option
from vgg_deploy.cli.split_folders import refuse_training_images
from vgg_deploy.cli.tables import notice
from vgg_deploy.errors import UsageError
from vgg_deploy.network.weight_facts import WeightFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What files are judged by.

    Attributes:
        reference: a checkpoint or an ONNX file whose predictions count as correct, or None.
        images: paths, folders and patterns of real images.
        limit: how many of them are used at most.
        expected: a file of answers of the program that trained the network, or None.
        protocol: the name of the protocol by which that program scored image files; None: the default.
    """

    reference: Path | None
    images: tuple[str, ...]
    limit: int
    expected: Path | None
    protocol: str | None

    @property
    def files(self) -> tuple[Path, ...]:
        """The reference and the answers."""
        return tuple(path for path in (self.reference, self.expected) if path is not None)

    @property
    def against(self) -> Path:
        """The file that a verdict names."""
        return self.files[0]  # `check` refuses to have none

    def check(self, facts: WeightFacts) -> None:
        """Refuses options that contradict each other, and files that do not exist.

        Raises:
            click.UsageError, UsageError: what is missing, or too much.
        """
        if self.reference is None and self.expected is None:
            raise click.UsageError(
                "give --reference CKPT (or an FP32 ONNX file), --expected FILE, or both: without them nothing shows "
                "that a file answers as the trained network does"
            )
        if self.protocol is not None and self.expected is None:
            raise click.UsageError("--protocol requires --expected")
        refuse_training_images(self.images)
        if self.reference is None:
            return
        from export.proof.pipeline.foreign_reference import takes_floats

        if not self.images:
            raise click.UsageError("--reference requires --images, real images to compare on")
        if not self.reference.is_file():
            raise UsageError(f"--reference {self.reference}: no such file; give a checkpoint or an ONNX file")
        if kind_of(self.reference) != CHECKPOINT and not takes_floats(self.reference):
            refuse_facts(self.reference, facts)

    def sample(self) -> list[Path]:
        """The images to compare on, at most `limit`; a notice says if they are a sample.

        Raises:
            UsageError: see `vgg_deploy.views.images.find_images`.
        """
        from vgg_deploy.views.images import find_images

        paths = list(find_images(self.images))
        if self.limit >= len(paths):
            return paths
        notice(f"comparing on {self.limit} of {len(paths)} images, a seeded sample (--limit)")
        return sorted(random.Random(0).sample(paths, self.limit))


# The command receives `evidence`, an `Evidence`.
evidence_options = gathered(
    "evidence",
    Evidence,
    click.option(
        "--reference",
        type=click.Path(path_type=Path),
        metavar="CKPT|MODEL.onnx",
        help="File whose predictions count as correct. An ONNX file needs no torch.",
    ),
    images_option(required=False),
    click.option(
        "--limit",
        type=click.IntRange(1),
        default=200,
        show_default=True,
        metavar="N",
        help="Compare on at most N images, a seeded sample.",
    ),
    click.option(
        "--expected",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Answers of the program that trained the network, .npz or .csv; see docs/witness.md.",
    ),
    click.option(
        "--protocol",
        metavar="NAME",
        help="With --expected: how that program scored image files.  [default: center]",
    ),
)
