"""Files appear whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest

from vgg_deploy.errors import OutputError
from vgg_deploy.files import describe_os_error, output_errors, sha256_of, whole_file


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_the_file_appears_when_the_block_ends_and_not_before(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    with whole_file(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
        assert temporary.parent == path.parent
    with whole_file(path) as temporary:
        temporary.write_text("newer")
    assert contents(tmp_path) == {"model.onnx": "newer"}
    with whole_file(tmp_path / "a" / "b.txt") as temporary:
        temporary.write_text("deep")
    assert contents(tmp_path) == {"model.onnx": "newer", "a/b.txt": "deep"}


@pytest.mark.parametrize("stopped_by", [ValueError("mid-way"), KeyboardInterrupt(), SystemExit(3), BrokenPipeError()])
def test_an_error_in_the_block_is_raised_and_the_older_file_stays(tmp_path: Path, stopped_by: BaseException) -> None:
    path = tmp_path / "model.onnx"
    path.write_text("older")
    with pytest.raises(type(stopped_by)) as raised, whole_file(path) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise stopped_by
    assert raised.value is stopped_by
    assert contents(tmp_path) == {"model.onnx": "older"}


def test_a_full_disk_is_one_line_and_the_older_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_text("older")
    with (  # noqa: PT012
        pytest.raises(OutputError, match=r"cannot write .*model\.onnx: the disk is full"),
        whole_file(path) as temporary,
    ):
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device", str(temporary))
    assert contents(tmp_path) == {"model.onnx": "older"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_disk_that_is_really_full_is_reported() -> None:
    full = Path("/dev/full")
    with pytest.raises(OutputError, match="the disk is full"), output_errors(full):
        full.write_text("x" * 100_000)


def test_a_disk_that_fills_up_while_the_file_is_synced_leaves_the_older_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "model.onnx"
    path.write_text("older")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="the disk is full"), whole_file(path) as temporary:
        temporary.write_text("newer")
    assert contents(tmp_path) == {"model.onnx": "older"}


def test_a_read_only_folder_is_refused_in_words(tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o555)
    if os.access(folder, os.W_OK):
        pytest.skip("this user (root?) may write into read-only folders")
    with pytest.raises(OutputError, match="no permission to write there"), whole_file(folder / "x") as temporary:
        temporary.write_text("x")


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_refused_write_is_reported_as_a_lack_of_permission(tmp_path: Path, number: int) -> None:
    refused = pytest.raises(OutputError, match=r"cannot write .*x\.csv: no permission to write there")
    with refused, whole_file(tmp_path / "x.csv"):
        raise OSError(number, os.strerror(number))
    assert contents(tmp_path) == {}


def test_a_folder_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match=r"folder: it is a folder; name a file"), whole_file(tmp_path / "folder"):
        pytest.fail("the block ran")
    assert (tmp_path / "folder").is_dir()


def test_a_file_where_a_folder_is_needed_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(OutputError, match=r"taken is a file, not a folder"), whole_file(tmp_path / "taken" / "x"):
        pytest.fail("the block ran")
    assert contents(tmp_path) == {"taken": "a file"}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_or_a_device_is_never_renamed_over(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OutputError, match="it is a device or a pipe"), whole_file(pipe):
        pytest.fail("the block ran")
    assert pipe.is_fifo()


def test_a_closed_pipe_is_not_an_output_error() -> None:
    with pytest.raises(BrokenPipeError), output_errors(Path("out")):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/x"), "the disk is full"),
        (OSError(errno.EISDIR, "it is a folder; name a file"), "it is a folder; name a file"),
        (OSError("without a number"), "without a number"),
    ],
)
def test_an_os_error_is_described_without_number_and_path(error: OSError, message: str) -> None:
    assert describe_os_error(error) == message


def test_sha256_is_of_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(bytes(range(256)) * 1000)
    assert sha256_of(path) == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_a_file_has_the_permissions_of_any_new_file_even_if_its_writer_gave_others(tmp_path: Path) -> None:
    ordinary, path = tmp_path / "ordinary", tmp_path / "weights"
    ordinary.touch()
    with whole_file(path) as temporary:
        temporary.unlink()
        temporary.write_bytes(b"x")
        temporary.chmod(0o600)
    assert path.stat().st_mode == ordinary.stat().st_mode
