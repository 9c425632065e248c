"""`with` for classes that have `close`."""

from __future__ import annotations

from types import TracebackType
from typing import Self


class ContextManaged:
    """`with` for a class that has `close`."""

    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
