"""Reads README and docs/: their fenced blocks, and the commands in them."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = (README, *sorted((ROOT / "docs").glob("*.md")))
MAKEFILE = ROOT / "Makefile"


@dataclass(frozen=True, slots=True)
class PageCommand:
    """A command of a page, split as a shell splits it, and the lines of output that the page shows below it."""

    page: Path
    line: int
    tokens: tuple[str, ...]
    shown: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        return shlex.join(self.tokens)

    @property
    def location(self) -> str:
        return f"{self.page.name}:{self.line}: {self.text}"


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of a page; `line` is the number of its first line of text."""

    page: Path
    line: int
    language: str
    text: str


def blocks_of(page: Path, text: str) -> Iterator[Block]:
    for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield Block(page, text.count("\n", 0, match.start()) + 2, match[1], match[2])


def commands_of(block: Block) -> Iterator[PageCommand]:
    """The commands of a block: every line of an `sh` block, or the lines of a `console` block that begin with `$ `."""
    lines = block.text.splitlines()
    if block.language == "sh":
        for number, line in enumerate(lines):
            if tokens := shlex.split(line, comments=True):
                yield PageCommand(block.page, block.line + number, tuple(tokens))
    if block.language == "console":
        starts = [number for number, line in enumerate(lines) if line.startswith("$ ")]
        for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
            tokens = tuple(shlex.split(lines[start].removeprefix("$ ")))
            yield PageCommand(block.page, block.line + start, tokens, tuple(lines[start + 1 : end]))


BLOCKS = [block for page in PAGES for block in blocks_of(page, page.read_text(encoding="utf-8"))]
COMMANDS = [command for block in BLOCKS for command in commands_of(block)]


def commands_of_the_makefile() -> Iterator[PageCommand]:
    for number, line in enumerate(MAKEFILE.read_text(encoding="utf-8").splitlines(), 1):
        if match := re.match(r"\t\$\(BIN\)/(vgg-deploy [^>]*)", line):
            yield PageCommand(MAKEFILE, number, tuple(shlex.split(match[1])))


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def extras() -> dict[str, list[str]]:
    """The extras of the package."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    table: dict[str, list[str]] = project["optional-dependencies"]
    return table
