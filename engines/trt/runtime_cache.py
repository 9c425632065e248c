"""TensorRT-RTX compiles a plan's kernels for the GPU where it runs; `NAME.plan.cache` keeps them for the next time."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from vgg_deploy.errors import EngineError, OutputError
from vgg_deploy.files import whole_file


def cache_of(plan: Path) -> Path:
    """vgg16.plan -> vgg16.plan.cache."""
    return plan.with_name(f"{plan.name}.cache")


class RuntimeCache:
    """The compiled kernels of one plan. A file that does not serve is passed over, and replaced at the end.

    Args:
        path: the file, whether it is there or not.
        runtime_config: an `IRuntimeConfig`, whose contexts will use the cache.
    """

    def __init__(self, path: Path, runtime_config: Any) -> None:
        cache = runtime_config.create_runtime_cache()
        if cache is None:
            raise EngineError("TensorRT-RTX gives no runtime cache")
        self._path, self._cache, self._kept = path, cache, b""
        self.notice: str | None = None
        try:
            stored = path.read_bytes()
        except FileNotFoundError:
            stored = b""
        except OSError as error:
            stored, self.notice = b"", f"{path} is not used: it cannot be read ({error.strerror})"
        if stored:
            self._take(stored)
        elif self.notice is None and path.exists():
            self.notice = f"{path} is not used: it is empty; it is written anew at the end"
        if not runtime_config.set_runtime_cache(cache):
            raise EngineError("TensorRT-RTX refuses its own runtime cache")

    def _take(self, stored: bytes) -> None:
        cache = self._cache
        try:
            taken = cache.deserialize(stored)
        except RuntimeError:
            taken = False
        if taken:
            self._kept = stored
            return
        self.notice = f"{self._path} is not used: it is damaged, or of another GPU, driver or TensorRT-RTX; it is written anew at the end"

    def save(self) -> None:
        """Writes the kernels that are there by now, whole or not at all; not where nothing was added or nothing can be
        written.
        """
        cache = self._cache
        memory = cache.serialize()
        if memory is None:
            return
        data = bytes(memory)
        if not data or data == self._kept:
            return
        with suppress(OutputError), whole_file(self._path) as temporary:
            temporary.write_bytes(data)
