"""A cache of posteriors: what was put stays in it, and a file that is not a cache is left as it is."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vgg_deploy.errors import OutputError
from vgg_deploy.evaluation.posterior_cache import PosteriorCache

ROW = np.array([0.25, 0.5, 0.125, 0.125], np.float32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache.sqlite"


def test_what_was_put_is_there_at_once_and_after_it_was_closed(path: Path) -> None:
    with PosteriorCache(path) as cache:
        assert cache.get("m", "p", "i") is None
        cache.put("m", "p", "i", ROW, 0.5)
        posterior = cache.get("m", "p", "i")
        np.testing.assert_array_equal(posterior.probabilities, ROW)
    with PosteriorCache(path) as cache:
        posterior = cache.get("m", "p", "i")
    np.testing.assert_array_equal(posterior.probabilities, ROW)
    assert posterior.probabilities.dtype == np.float32
    assert posterior.probabilities.flags.writeable
    assert posterior.seconds == 0.5


@pytest.mark.parametrize("key", [("M", "p", "i"), ("m", "P", "i"), ("m", "p", "I")])
def test_each_part_of_the_key_counts(path: Path, key: tuple[str, str, str]) -> None:
    with PosteriorCache(path) as cache:
        cache.put("m", "p", "i", ROW, 1.0)
    with PosteriorCache(path) as cache:
        assert cache.get(*key) is None


def test_a_later_posterior_replaces_an_earlier_one(path: Path) -> None:
    with PosteriorCache(path) as cache:
        cache.put("m", "p", "i", ROW, 1.0)
    with PosteriorCache(path) as cache:
        cache.put("m", "p", "i", ROW[::-1].copy(), 2.0)
    with PosteriorCache(path) as cache:
        posterior = cache.get("m", "p", "i")
    np.testing.assert_array_equal(posterior.probabilities, ROW[::-1])


def test_an_empty_file_in_a_new_folder_becomes_a_cache(tmp_path: Path) -> None:
    with PosteriorCache(tmp_path / "new" / "er" / "cache"):
        pass
    path = tmp_path / "empty"
    path.touch()
    with PosteriorCache(path) as cache:
        cache.put("m", "p", "i", ROW, 1.0)
    assert path.stat().st_size


# ---- files that are not caches ----


@pytest.mark.parametrize(
    "content",
    [b"an image or a model, and no database" * 100, b"\x89PNG\r\n\x1a\n" + bytes(5000), b"SQLite format 3\0" * 70],
)
def test_a_file_that_is_not_a_database_is_refused_and_unchanged(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(OutputError, match=r"cache\.sqlite cannot be used as a cache: .*; name another file"):
        PosteriorCache(path)
    assert path.read_bytes() == content


def test_another_programs_database_is_refused_and_unchanged(path: Path) -> None:
    with sqlite3.connect(path) as file:
        file.execute("CREATE TABLE posteriors (mine TEXT)")
    file.close()
    before = path.read_bytes()
    with pytest.raises(OutputError, match="is a database of another program; name another file for the cache"):
        PosteriorCache(path)
    assert path.read_bytes() == before


def test_a_cache_of_another_version_is_refused(path: Path) -> None:
    PosteriorCache(path).close()
    with sqlite3.connect(path) as file:
        file.execute("PRAGMA user_version = 99")
    file.close()
    with pytest.raises(OutputError, match="is a cache of version 99, but this vgg-deploy uses version 2: delete it"):
        PosteriorCache(path)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be used as a cache: unable to open database file"):
        PosteriorCache(tmp_path)


def test_a_cache_that_cannot_be_written_is_noticed_when_it_is_opened(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Root may write everything, so SQLite opens the file for reading only.
    PosteriorCache(path).close()
    usual = sqlite3.connect
    read_only: Callable[..., Any] = lambda file, **options: usual(f"file:{file}?mode=ro", uri=True, **options)  # noqa: E731
    monkeypatch.setattr(sqlite3, "connect", read_only)
    with pytest.raises(OutputError, match="attempt to write a readonly database"):
        PosteriorCache(path)


def test_damage_inside_a_cache_is_reported_when_it_is_read(path: Path) -> None:
    with PosteriorCache(path) as cache:
        for number in range(300):
            cache.put("m", "p", f"{number:064}", np.full(100, 0.01, np.float32), 1.0)
    data = bytearray(path.read_bytes())
    data[4096:] = bytes(len(data) - 4096)
    path.write_bytes(data)
    with PosteriorCache(path) as cache, pytest.raises(OutputError, match=r"cannot be read as a cache: .* malformed"):
        cache.get("m", "p", f"{7:064}")


def test_posteriors_of_a_broken_length_are_not_given(path: Path) -> None:
    with PosteriorCache(path) as cache:
        cache.put("m", "p", "i", ROW, 1.0)
    with sqlite3.connect(path) as file:
        file.execute("UPDATE posteriors SET probabilities = x'0011223344'")
    file.close()
    with PosteriorCache(path) as cache:
        assert cache.get("m", "p", "i") is None


def test_a_full_disk_is_an_error_of_one_line(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A disk of four pages.
    usual = sqlite3.connect

    def small(*arguments: Any, **options: Any) -> sqlite3.Connection:
        file = usual(*arguments, **options)
        file.execute("PRAGMA max_page_count = 4")
        return file

    monkeypatch.setattr(sqlite3, "connect", small)
    cache = PosteriorCache(path)
    for number in range(40):
        cache.put("m", "p", str(number), np.zeros(1000, np.float32), 1.0)
    with pytest.raises(OutputError, match=r"^cannot write .*cache\.sqlite: database or disk is full$"):
        cache.close()


# ---- several at once, and processes that are killed ----


def test_two_may_have_it_open_at_once(path: Path) -> None:
    with PosteriorCache(path) as first, PosteriorCache(path) as second:
        first.put("m", "p", "1", ROW, 1.0)
        second.put("m", "p", "2", ROW, 1.0)
    with PosteriorCache(path) as cache:
        assert cache.get("m", "p", "1") is not None
        assert cache.get("m", "p", "2") is not None


def test_what_was_put_a_second_ago_is_there_after_the_process_was_killed(path: Path) -> None:
    script = (
        "import os, pathlib, sys, time, numpy as np\n"
        "from vgg_deploy.evaluation.posterior_cache import PosteriorCache\n"
        "cache = PosteriorCache(pathlib.Path(sys.argv[1]))\n"
        "for number in range(4):\n"
        "    cache.put('m', 'p', str(number), np.full(4, 0.25, np.float32), 1.0)\n"
        "    time.sleep(0.6)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    with PosteriorCache(path) as cache:
        known = [cache.get("m", "p", str(number)) is not None for number in range(4)]
    assert known[:2] == [True, True]
