"""The test protocol that the options choose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vgg_deploy.inference.engine import EngineInfo
    from vgg_deploy.views.protocols import ProtocolChoice


@dataclass(frozen=True, slots=True, kw_only=True)
class ProtocolOptions:
    """Which views of each image are scored; None stands for the defaults of `choose_protocol`.

    Attributes:
        name: one of `vgg_deploy.views.protocols.PROTOCOLS`.
        scales: the test scales Q.
        mirror: whether mirrored views are scored too.
    """

    name: str | None = None
    scales: tuple[int, ...] | None = None
    mirror: bool | None = None

    def choose(self, info: EngineInfo) -> ProtocolChoice:
        """The protocol for this engine.

        Raises:
            UsageError: the engine cannot run it; see `choose_protocol` and `check_compatible`.
        """
        from vgg_deploy.inference.compatibility import check_compatible
        from vgg_deploy.views.protocols import choose_protocol

        choice = choose_protocol(
            info.manifest, self.name, self.scales, self.mirror, free_size=info.shapes.free, built_for=info.scales
        )
        check_compatible(info, choice.protocol)
        return choice
