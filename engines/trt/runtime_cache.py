"""TensorRT-RTX compiles a plan's kernels on the GPU that runs it. `NAME.plan.cache` keeps them for the next time."""

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
    """The compiled kernels of one plan. An unusable file is ignored, and replaced at the end.

    Args:
        path: the file; it need not exist.
        runtime_config: the `IRuntimeConfig` whose contexts will use the cache.
    """

    def __init__(self, path: Path, runtime_config: Any) -> None:
        cache = runtime_config.create_runtime_cache()
        if cache is None:
            raise EngineError("TensorRT-RTX returned no runtime cache")
        self._path, self._cache, self._stored = path, cache, b""
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
            self.notice = f"{path} is not used: it is empty. It is replaced when the engine is closed"
        if not runtime_config.set_runtime_cache(cache):
            raise EngineError("TensorRT-RTX refuses its own runtime cache")

    def _take(self, stored: bytes) -> None:
        cache = self._cache
        try:
            usable = cache.deserialize(stored)
        except RuntimeError:
            usable = False
        if usable:
            self._stored = stored
            return
        self.notice = (
            f"{self._path} is not used: it is damaged, or from another GPU, driver or TensorRT-RTX. It is replaced "
            "when the engine is closed"
        )

    def save(self) -> None:
        """Writes the kernels, whole or not at all. Does nothing without new ones, or if the file cannot be written."""
        cache = self._cache
        memory = cache.serialize()
        if memory is None:
            return
        data = bytes(memory)
        if not data or data == self._stored:
            return
        with suppress(OutputError), whole_file(self._path) as temporary:
            temporary.write_bytes(data)
