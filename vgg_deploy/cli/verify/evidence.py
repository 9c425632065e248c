"""What verify judges files by: a reference, real images, and answers of the user's own pipeline."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vgg_deploy.artifacts.kinds import CHECKPOINT, kind_of
from vgg_deploy.cli.found_images import found_images
from vgg_deploy.cli.opening import refuse_facts
from vgg_deploy.cli.parameters import gathered, images_option
from vgg_deploy.cli.split_folders import refuse_training_images
from vgg_deploy.cli.tables import notice
from vgg_deploy.errors import UsageError
from vgg_deploy.network.weight_facts import WeightFacts

if TYPE_CHECKING:
    from export.proof.pipeline.witness import Witness
    from vgg_deploy.network.manifest import Manifest


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
            if facts.about_training:
                raise click.UsageError(
                    "--arch, --normalization, --mean, --std, --channels, --train-scale and --key describe a "
                    "--reference; without one, leave them out"
                )
            return
        from export.proof.pipeline.foreign_reference import takes_floats

        if not self.images:
            raise click.UsageError("--reference requires --images, real images to compare on")
        if not self.reference.is_file():
            raise UsageError(f"--reference {self.reference}: no such file; give a checkpoint or an ONNX file")
        if kind_of(self.reference) == CHECKPOINT:
            return
        if not takes_floats(self.reference):
            refuse_facts(self.reference, facts)
        elif any(fact is not None for fact in (facts.configuration, facts.train_scale, facts.key)):
            raise click.UsageError(
                f"--arch, --train-scale and --key describe a checkpoint, and {self.reference} is an ONNX file: leave "
                "them out"
            )

    def sample(self) -> list[Path]:
        """The images to compare on, at most `limit`; a notice says if they are a sample.

        Raises:
            UsageError: see `vgg_deploy.cli.found_images.found_images`.
        """
        paths = found_images(self.images)
        if self.limit >= len(paths):
            return paths
        notice(f"comparing on {self.limit} of {len(paths)} images, a seeded sample (--limit)")
        return sorted(random.Random(0).sample(paths, self.limit))


def check_witness(witness: Witness, protocol: str | None, manifests: Mapping[Path, Manifest]) -> None:
    """Refuses answers that cannot be compared with these files, before any proof is made.

    Args:
        witness: the answers of the program that trained the network.
        protocol: the name of the protocol by which it scored image files, or None.
        manifests: of the files.

    Raises:
        UsageError: an unknown protocol, one for exact pixels, or one that a file does not take; exact pixels of a size
            that a file does not take.
    """
    from vgg_deploy.views.protocols import choose_protocol

    if witness.exact and protocol is not None:
        raise UsageError(
            f"{witness.source} has the exact pixels that the network sees, so --protocol {protocol} does not apply: "
            "leave it out, or give paths instead of images"
        )
    for path, manifest in manifests.items():
        shapes = manifest.shapes
        if shapes is None:
            continue
        if protocol is not None:
            choose_protocol(manifest, protocol, free_size=shapes.free)
        for index, pixels in enumerate(witness.images):
            height, width = pixels.shape[:2]
            if not shapes.accepts(shapes.batch.minimum, height, width):
                raise UsageError(
                    f"{witness.source}: image {index} has {height} x {width} pixels, but {path} takes {shapes}. Save "
                    "the pixels that your network sees, after rescaling and cropping, or export with --dynamic"
                )


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
