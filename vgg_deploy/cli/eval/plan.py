"""Which engines `vgg-deploy eval` tests, and how: all that can be refused is refused here, before the first image is scored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vgg_deploy.cli.tables import notice

if TYPE_CHECKING:
    from vgg_deploy.inference.engine import EngineInfo
    from vgg_deploy.views.protocols import Protocol, ProtocolChoice

ALL = "all"


def folder_and_protocols(data: tuple[str, ...], protocols: tuple[str, ...]) -> tuple[str, list[str]]:
    """The data folder, and the protocols' names: those of --protocol, and words that stand behind as `--protocol A B` has them.

    Raises:
        click.UsageError: no folder or several, or a name that is no protocol's.
    """
    from vgg_deploy.views.protocols import PROTOCOLS

    names = (*PROTOCOLS, ALL)
    words = [word for text in protocols for word in text.split(",")] + [word for word in data if word in names]
    folders = [word for word in data if word not in names]
    if protocols and len(folders) > 1:
        words += [folder for folder in folders if not Path(folder).exists()]
    for word in words:
        if word not in names:
            raise click.UsageError(f"--protocol is {word!r}; expected {', '.join(PROTOCOLS)} or {ALL}")
    if len(folders) != 1:
        raise click.UsageError(
            f"expected one folder of labelled images, received {', '.join(folders) or 'none'}; "
            "a folder that is called as a protocol is written ./NAME"
        )
    return folders[0], [ALL] if ALL in words else list(dict.fromkeys(words))


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """What engines are called in the report: their files' names, or the paths where two files have one name.

    Raises:
        click.UsageError: a file is given twice.
    """
    repeated = [path for path, count in Counter(path.resolve() for path in paths).items() if count > 1]
    if repeated:
        raise click.UsageError(f"--engine {repeated[0]} is given twice; its mean with itself is itself")
    alike = Counter(path.name for path in paths)
    return [path.name if alike[path.name] == 1 else str(path) for path in paths]


def check_same_classes(names: Sequence[str], infos: Sequence[EngineInfo]) -> None:
    """Raises UsageError where networks' posteriors mean other classes, or come in another order: they cannot be fused."""
    from vgg_deploy.errors import UsageError
    from vgg_deploy.network.classes import first_other_class

    first = infos[0].manifest.classes
    for name, info in zip(names[1:], infos[1:], strict=True):
        other = info.manifest.classes
        if len(first) != len(other):
            raise UsageError(
                f"{names[0]} has {len(first)} classes and {name} {len(other)}: they cannot be fused; test them one by one"
            )
        index = first_other_class(first, other)
        if index is not None:
            raise UsageError(
                f"class {index} is {first[index].id} of {names[0]} and {other[index].id} of {name}: networks of other classes, or "
                "of another order, cannot be fused; test them one by one"
            )


def plan_protocols(
    names: Sequence[str],
    infos: Sequence[EngineInfo],
    wanted: Sequence[str],
    scales: tuple[int, ...] | None,
    mirror: bool | None,
) -> list[tuple[Protocol, ...]]:
    """The protocols under which each engine is tested, of the same names in the same order for all.

    Args:
        names: the engines', for messages.
        wanted: the protocols'; `all` is all that every engine takes; none: dense and multiscale, or what of them the engines
            and `scales` allow.

    Raises:
        UsageError: an engine does not take a protocol that was named.
    """
    from vgg_deploy.errors import UsageError
    from vgg_deploy.views.protocols import PROTOCOLS

    everything = list(wanted) == [ALL]
    chosen: list[list[ProtocolChoice]] = []
    refused: UsageError | None = None
    for protocol in PROTOCOLS if everything else wanted or _default(infos, scales):
        try:
            chosen.append([_choice(*pair, protocol, scales, mirror) for pair in zip(names, infos, strict=True)])
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


def _default(infos: Sequence[EngineInfo], scales: tuple[int, ...] | None) -> list[str]:
    if not all(info.shapes.free for info in infos):
        notice(
            "a model that takes one size only is tested by central crops, and so are all beside it "
            "(--dynamic exports one for whole images)"
        )
        return ["center"]
    if scales is not None:
        return ["dense"] if len(scales) == 1 else ["multiscale"]
    return ["dense"] if all(len(info.scales) == 1 for info in infos) else ["dense", "multiscale"]


def _choice(
    name: str, info: EngineInfo, protocol: str, scales: tuple[int, ...] | None, mirror: bool | None
) -> ProtocolChoice:
    from vgg_deploy.errors import UsageError
    from vgg_deploy.inference.compatibility import check_compatible
    from vgg_deploy.views.protocols import choose_protocol

    try:
        choice = choose_protocol(
            info.manifest, protocol, scales, mirror, free_size=info.shapes.free, built_for=info.scales
        )
        check_compatible(info, choice.protocol)
    except UsageError as error:
        raise UsageError(f"{name}: {error}") from error
    return choice
