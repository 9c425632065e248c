"""JSON Lines, CSV and text: valid and complete, and a valid beginning after any interruption."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest

from vgg_deploy.errors import OutputError
from vgg_deploy.inference.prediction import Failure, Prediction
from vgg_deploy.inference.results import Csv, JsonLines, LineStream, Text
from vgg_deploy.network.classes import ClassName

CLASSES = (
    ClassName("n01440764", "tench, Tinca tinca"),
    ClassName("n02102040", 'an "English" springer'),
    ClassName("n03000684", "Kettensäge 鏈鋸"),
)
# Names that can break a format of lines. The last is how Python reads a name that is not UTF-8.
NAMES = [
    "plain.jpg",
    "with, comma.jpg",
    'with "quotes".jpg',
    "with\nline break.jpg",
    "with\rreturn.jpg",
    "with\u2028separator.jpg",
    "mit Umlaut ä, 鏈鋸, \U0001f41f.jpg",
    "back\\slash\\n.jpg",
    "-.jpg",
    "=1+1.jpg",
    "latin-1 \udce4.jpg",
]


def prediction(name: str = "a.jpg", posteriors: tuple[float, ...] = (0.25, 0.7, 0.05)) -> Prediction:
    return Prediction(Path(name), (64, 64), np.array(posteriors, np.float32), CLASSES)


def failure(name: str = "b.jpg", reason: str = 'cannot be decoded: "x", line 2\nand more') -> Failure:
    return Failure(Path(name), reason)


def read_csv(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_a_line_of_json_holds_the_path_and_the_most_probable_classes_in_order() -> None:
    line = JsonLines(2).line(prediction())
    assert line.endswith("}\n")
    assert json.loads(line) == {
        "path": "a.jpg",
        "top": [
            {"id": "n02102040", "label": 'an "English" springer', "probability": 0.7},
            {"id": "n01440764", "label": "tench, Tinca tinca", "probability": 0.25},
        ],
    }


def test_a_k_above_the_number_of_classes_gives_all_of_them() -> None:
    assert len(json.loads(JsonLines(9).line(prediction()))["top"]) == 3


def test_a_failure_has_its_reason_in_place_of_classes() -> None:
    assert json.loads(JsonLines(5).line(failure())) == {"path": "b.jpg", "error": failure().reason}
    (row,) = read_csv(Csv(2).header + Csv(2).line(failure()))
    assert row.pop("path") == "b.jpg"
    assert row.pop("error") == failure().reason
    assert set(row.values()) == {""}
    assert Text(5).line(failure()) == ""  # it is reported on stderr


def test_a_row_of_csv_has_the_headers_columns() -> None:
    table = Csv(3)
    (row,) = read_csv(table.header + table.line(prediction()))
    assert list(row)[:5] == ["path", "error", "id_1", "label_1", "probability_1"]
    assert [row[f"id_{rank}"] for rank in (1, 2, 3)] == ["n02102040", "n01440764", "n03000684"]
    assert [row[f"label_{rank}"] for rank in (1, 2, 3)] == [CLASSES[index].label for index in (1, 0, 2)]
    assert [float(row[f"probability_{rank}"]) for rank in (1, 2, 3)] == [0.7, 0.25, 0.05]
    assert row["error"] == ""


def test_text_shows_labels_in_per_cent() -> None:
    assert Text(2).line(prediction()) == 'a.jpg: an "English" springer 70.0%  tench, Tinca tinca 25.0%\n'


def test_small_posteriors_are_plain_numbers_and_sums_stay_near_1() -> None:
    posteriors = (1 - 3e-6, 2e-6, 1e-6)
    probabilities = [
        entry["probability"] for entry in json.loads(JsonLines(3).line(prediction(posteriors=posteriors)))["top"]
    ]
    assert sum(probabilities) == pytest.approx(1, abs=3e-7)
    assert "0.0000020" in Csv(3).line(prediction(posteriors=posteriors))


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_any_file_name_survives_json_lines(name: str, tmp_path: Path) -> None:
    with LineStream(str(tmp_path / "out.jsonl")) as stream:
        for result in (prediction(name), failure(name, name), prediction()):
            stream.write(JsonLines(1).line(result))
    lines = (tmp_path / "out.jsonl").read_bytes().decode().split("\n")
    assert lines.pop() == ""
    records = [json.loads(line) for line in lines]
    assert [record["path"] for record in records] == [name, name, "a.jpg"]
    assert records[1]["error"] == name


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_any_file_name_survives_csv(name: str, tmp_path: Path) -> None:
    table = Csv(1)
    with LineStream(str(tmp_path / "out.csv")) as stream:
        for line in (
            table.header,
            table.line(prediction(name)),
            table.line(failure(name, name)),
            table.line(prediction()),
        ):
            stream.write(line)
    rows = read_csv((tmp_path / "out.csv").read_bytes().decode())
    shown = name.encode(errors="backslashreplace").decode()
    assert [row["path"] for row in rows] == [shown, shown, "a.jpg"]
    assert rows[1]["error"] == shown
    assert rows[2]["id_1"] == "n02102040"


@pytest.mark.parametrize("name", NAMES[-5:], ids=ascii)
def test_any_file_name_can_be_printed(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with LineStream("-") as stream:
        stream.write(JsonLines(1).line(prediction(name)))
    assert json.loads(capsys.readouterr().out)["path"] == name


def test_each_line_can_be_read_as_soon_as_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "out.jsonl"
    with LineStream(str(path)) as stream:
        for number in range(3):
            stream.write(JsonLines(1).line(prediction(f"{number}.jpg")))
            assert len(path.read_text().splitlines()) == number + 1
    with LineStream(str(path)) as stream:
        stream.write("new\n")
    assert path.read_text() == "new\n"  # the older file is replaced


def test_a_dash_is_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    with LineStream("-") as stream:
        stream.write("one\n")
        stream.write("")
        stream.write("two ä\n")
    assert capsys.readouterr().out == "one\ntwo ä\n"


class _FullFile(io.FileIO):
    """A file on a disk with room for 100 bytes."""

    room = 100

    def write(self, data: bytes | memoryview) -> int:  # type: ignore[override]
        fits = min(self.room - self.tell(), 16, len(data))
        if fits <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(bytes(data[:fits]))


def test_a_full_disk_is_reported_and_the_unfinished_line_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vgg_deploy.inference.results.io.FileIO", _FullFile)
    path, line = tmp_path / "out.jsonl", '{"path": "thirty-odd characters of it.jpg"}\n'
    with LineStream(str(path)) as stream:
        stream.write(line)
        stream.write(line)
        with pytest.raises(OutputError, match=r"cannot write .*out\.jsonl: the disk is full"):
            stream.write(line)
    assert path.read_text() == 2 * line


class _InterruptedFile(io.FileIO):
    """A file that is interrupted in the middle of its second line."""

    calls = 0

    def write(self, data: bytes | memoryview) -> int:  # type: ignore[override]
        _InterruptedFile.calls += 1
        if self.calls == 3:
            raise KeyboardInterrupt
        return super().write(bytes(data[: 5 if self.calls == 2 else len(data)]))


def test_ctrl_c_in_the_middle_of_a_line_removes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vgg_deploy.inference.results.io.FileIO", _InterruptedFile)
    with LineStream(str(tmp_path / "out")) as stream:
        stream.write("the first line\n")
        with pytest.raises(KeyboardInterrupt):
            stream.write("the second line\n")
    assert (tmp_path / "out").read_text() == "the first line\n"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_named_pipe_is_written_as_a_file_is(tmp_path: Path) -> None:
    pipe, got = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()))
    reader.start()
    with LineStream(str(pipe)) as stream:
        stream.write("one\n")
        stream.write("two\n")
    reader.join(30)
    assert got == ["one\ntwo\n"]


def test_a_file_that_cannot_be_opened_is_named_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot write .*: Is a directory"):
        LineStream(str(tmp_path))
    with pytest.raises(OutputError, match=r"cannot write .*out: .*file is a file, not a folder"):
        LineStream(str(tmp_path / "file" / "out"))


def test_a_refusal_to_open_reads_as_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> io.FileIO:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("vgg_deploy.inference.results.io.FileIO", refuse)
    with pytest.raises(OutputError, match=r"cannot write .*out\.csv: no permission to write there"):
        LineStream(str(tmp_path / "out.csv"))
