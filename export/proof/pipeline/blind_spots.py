"""What the images and columns of a witness cannot show, however well the answers agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from export.proof.pipeline.witness import Witness
from vgg_deploy.errors import ImageError, counted
from vgg_deploy.evaluation.proof import Table
from vgg_deploy.views.images import decode, is_coloured

FEWEST_IMAGES = 3  # one image may agree by chance
FEWEST_COLOURED = 3  # images that are not grey


@dataclass(frozen=True, slots=True, kw_only=True)
class BlindSpots:
    """What a witness cannot show.

    Attributes:
        images: how many images were compared.
        coloured: how many of them are not grey.
        labelled: whether the witness names its columns.
    """

    images: int
    coloured: int
    labelled: bool

    @staticmethod
    def of(witness: Witness, indices: Sequence[int]) -> BlindSpots:
        """Of a witness whose images of these indices were compared."""
        coloured = sum(_coloured(witness, index) for index in indices)
        return BlindSpots(images=len(indices), coloured=coloured, labelled=bool(witness.columns))

    @property
    def few(self) -> bool:
        """Whether there are too few images to show much."""
        return self.images < FEWEST_IMAGES

    @property
    def grey(self) -> bool:
        """Whether too few images have colours to show the order of the channels."""
        return self.coloured < min(FEWEST_COLOURED, self.images)

    @property
    def remark(self) -> str:
        """The end of a summary, such as "; grey, no labels"; empty if there is nothing to say."""
        if not (self.few or self.grey or self.labelled):
            return "; labels not shown"
        marks = ((self.few, "few"), (self.grey, "grey"), (not self.labelled, "no labels"))
        text = ", ".join(mark for applies, mark in marks if applies)
        return f"; {text}" if text else ""

    @property
    def table(self) -> Table | None:
        """The same in sentences; None if there is nothing to say."""
        rows = []
        if self.few:
            reason = f"{counted(self.images, 'image')} may agree by chance; give about twenty"
            rows.append(("other readings", reason))
        if self.grey:
            reason = f"{self.coloured} of {counted(self.images, 'image')} in colour; give coloured images"
            rows.append(("RGB or BGR", reason))
        if not self.labelled:
            rows.append(("the label of each output", "the columns have no names; name them"))
        columns = ("not shown", "why, and what to do")
        return Table("what this witness cannot show", columns, tuple(rows), text_columns=(0, 1)) if rows else None


def _coloured(witness: Witness, index: int) -> bool:
    if witness.exact:
        return is_coloured(witness.images[index])
    try:
        return is_coloured(decode(witness.paths[index]))
    except ImageError:  # it has changed since it was compared
        return False
