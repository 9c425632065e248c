"""The protocols under which `vgg-deploy eval` tests. They are checked before the first image is scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vgg_deploy.cli.protocol_options import ProtocolOptions
from vgg_deploy.cli.tables import notice
from vgg_deploy.errors import UsageError

if TYPE_CHECKING:
    from vgg_deploy.inference.engine import EngineInfo
    from vgg_deploy.views.protocols import Protocol, ProtocolChoice

ALL = "all"


def folder_and_protocols(data: tuple[str, ...], protocols: tuple[str, ...]) -> tuple[str, list[str]]:
    """The data folder and the names of the protocols.

    Names come from --protocol, and from arguments after it as in `--protocol A B`, which click assigns to DATA.

    Raises:
        click.UsageError: not exactly one folder, or an unknown protocol.
    """
    from vgg_deploy.views.protocols import PROTOCOLS

    known = (*PROTOCOLS, ALL)
    names = [name for value in protocols for name in value.split(",")] + [name for name in data if name in known]
    folders = [folder for folder in data if folder not in known]
    if protocols and len(folders) > 1:
        names += [folder for folder in folders if not Path(folder).exists()]
    for name in names:
        if name not in known:
            raise click.UsageError(f"--protocol is {name!r}; expected {', '.join(PROTOCOLS)} or {ALL}")
    if len(folders) != 1:
        raise click.UsageError(
            f"expected one folder of labelled images, received {', '.join(folders) or 'none'}. "
            "Write ./NAME for a folder whose name is that of a protocol"
        )
    return folders[0], [ALL] if ALL in names else list(dict.fromkeys(names))


def select_protocols(
    names: Sequence[str], infos: Sequence[EngineInfo], protocols: Sequence[str], options: ProtocolOptions
) -> list[tuple[Protocol, ...]]:
    """The protocols for each model: the same names in the same order, each with the model's own scales.

    Args:
        names: of the models, for messages.
        protocols: names of protocols. `all` stands for each one that every model supports. If empty: dense and
            multiscale, or the one that the models and the scales allow.
        options: scales and mirrors.

    Raises:
        UsageError: a model does not support a protocol that was named.
    """
    from vgg_deploy.views.protocols import PROTOCOLS

    everything = list(protocols) == [ALL]
    chosen: list[list[ProtocolChoice]] = []
    refused: UsageError | None = None
    for protocol in PROTOCOLS if everything else protocols or _defaults(infos, options.scales):
        try:
            named = replace(options, name=protocol)
            chosen.append([_choice(name, info, named) for name, info in zip(names, infos, strict=True)])
        except UsageError as error:
            if not everything:
                raise
            notice(f"left out: {error}")
            refused = error
    if not chosen:
        raise refused or UsageError("no protocol is left")
    for text in dict.fromkeys(text for choices in chosen for choice in choices for text in choice.notices):
        notice(text)
    return [tuple(choice.protocol for choice in choices) for choices in zip(*chosen, strict=True)]


def _defaults(infos: Sequence[EngineInfo], scales: tuple[int, ...] | None) -> list[str]:
    if not all(info.shapes.free for info in infos):
        notice(
            "a model that takes only one size is tested on central crops, and so are the models compared with it "
            "(export with --dynamic to test on whole images)"
        )
        return ["center"]
    if scales is not None:
        return ["dense"] if len(scales) == 1 else ["multiscale"]
    return ["dense"] if all(len(info.scales) == 1 for info in infos) else ["dense", "multiscale"]


def _choice(name: str, info: EngineInfo, options: ProtocolOptions) -> ProtocolChoice:
    try:
        return options.choose(info)
    except UsageError as error:
        raise UsageError(f"{name}: {error}") from error
