"""Labels files: JSON, one name a line, an index and a name a line."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

import pytest

from vgg_deploy.errors import UsageError
from vgg_deploy.network.classes import ClassName
from vgg_deploy.network.label_files import classes_from_labels, read_labels

NAMES = ["cat", "dog", "tench, Tinca tinca", "red fox", "car"]
ORDER = (3, 0, 4, 1, 2)
BY_WORDNET = (ClassName("n01440764", "tench"), ClassName("n03394916", "French horn"))


def labels(text: str, count: int = len(NAMES)) -> list[str]:
    return [name.label for name in classes_from_labels(text, count, "labels.txt")]


def refusal(text: str, count: int = len(NAMES)) -> str:
    with pytest.raises(UsageError) as caught:
        classes_from_labels(text, count, "labels.txt")
    return str(caught.value)


def test_one_label_a_line_is_id_and_label() -> None:
    assert classes_from_labels("tench\nFrench horn\n", 2, "labels.txt") == (
        ClassName("tench", "tench"),
        ClassName("French horn", "French horn"),
    )


@pytest.mark.parametrize(
    "text",
    ["\ufefftench\nhorn", "tench\r\nhorn\r\n", "\n  tench  \n\nhorn\n\n"],
    ids=["byte order mark", "Windows", "blank lines"],
)
def test_byte_order_marks_blanks_and_line_ends_are_ignored(text: str) -> None:
    assert [name.label for name in classes_from_labels(text, 2, "labels.txt")] == ["tench", "horn"]


def test_an_id_stands_before_a_tab() -> None:
    assert classes_from_labels("n01440764\ttench\nn03394916\tFrench horn", 2, "labels.txt") == (
        BY_WORDNET[0],
        BY_WORDNET[1],
    )


def test_two_classes_of_one_label_get_different_ids() -> None:
    crane, _, machine = classes_from_labels("crane\ntench\ncrane", 3, "labels.txt")
    assert crane.label == machine.label == "crane"
    assert crane.id != machine.id


@pytest.mark.parametrize("text", ["\n\n", "one\ntwo", "1\n2\n3\n4"])
def test_a_wrong_number_of_labels_is_refused_with_both_numbers(text: str) -> None:
    lines = len(text.split())
    with pytest.raises(UsageError, match=rf"^labels\.txt has {lines} labels; the network has 3 classes"):
        classes_from_labels(text, 3, "labels.txt")


def test_an_id_given_twice_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match=r"labels\.txt has the class id 'n1' more than once"):
        classes_from_labels("n1\ttench\nn1\thorn", 2, "labels.txt")


INDEX_FILES = {
    "a list": json.dumps(NAMES),
    "indices": json.dumps({str(index): name for index, name in enumerate(NAMES)}, indent=1),
    "indices in another order": json.dumps({str(index): NAMES[index] for index in ORDER}),
    "ids": json.dumps({str(index): [f"n{index:08}", name] for index, name in enumerate(NAMES)}),
    "a list of ids": json.dumps([[f"n{index:08}", name] for index, name in enumerate(NAMES)]),
    "class_to_idx": json.dumps({NAMES[index]: index for index in ORDER}),
    "Python": "{" + ",\n ".join(f"{index}: {NAMES[index]!r}" for index in ORDER) + "}",
    "a space": "\n".join(f"{index} {NAMES[index]}" for index in ORDER),
    "a colon": "\n".join(f"{index}: '{NAMES[index]}'," for index in ORDER),
    "a comma": "\n".join(f"{index},{NAMES[index]}" for index in ORDER),
    "CSV": "index,name\r\n" + "\r\n".join(f'{index},"{NAMES[index]}"' for index in ORDER),
    "a full stop": "\n\n".join(f"{index}. {NAMES[index]}" for index in ORDER),
    "names": "\n".join(NAMES),
}


@pytest.mark.parametrize("text", INDEX_FILES.values(), ids=INDEX_FILES)
def test_every_form_gives_each_output_its_name(text: str) -> None:
    assert labels(text) == NAMES


def test_an_id_of_json_is_the_id_of_the_class() -> None:
    assert classes_from_labels(INDEX_FILES["ids"], 5)[3] == ClassName("n00000003", "red fox")
    assert classes_from_labels(INDEX_FILES["class_to_idx"], 5)[3] == ClassName("red fox", "red fox")


def test_folders_that_are_numbers_keep_their_places() -> None:
    # torchvision sorts folders as text.
    folders = sorted(map(str, range(12)))
    for text in (json.dumps({name: index for index, name in enumerate(folders)}), "\n".join(folders)):
        if text[0] == "{":
            assert "can be read in two ways" in refusal(text, 12)
            assert "JSON list" in refusal(text, 12)
        else:
            assert labels(text, 12) == folders
    assert labels(json.dumps(folders), 12) == folders
    assert labels(json.dumps({"1": 0, "2": 1, "10": 2}), 3) == ["1", "2", "10"]  # no index is 10, so these are names
    assert labels(json.dumps({str(index): index for index in range(12)}), 12) == [str(index) for index in range(12)]


@pytest.mark.parametrize(
    ("text", "count", "said"),
    [
        ("0 cat\n1 dog\n3 fox", 3, r"^labels\.txt, line 3: '3 fox' has the index 3; expected each of 0 to 2 once\."),
        (
            "1 cat\n\n2 dog\n3 fox",
            3,
            r"^labels\.txt, line 4: '3 fox' has the index 3 \(the indices seem to start at 1\)",
        ),
        ("0 cat\n1 dog\n\n1 fox", 3, r"^labels\.txt, line 4: '1 fox' has the index 1, as line 2 has"),
        ("7 seater\n3 wheeler", 2, r"line 1: '7 seater' has the index 7; .* write a JSON list \["),
        ("0 cat\ndog\n2 fox", 3, r"^labels\.txt, line 2: 'dog' has no index, but 2 of the 3 lines look like"),
        ("cat 1\ndog 0", 2, r"^labels\.txt, line 1: 'cat 1' can be read in two ways"),
        ("0\tzero\n2\ttwo\n1\tone", 3, r"^labels\.txt, line 3: the lines begin with numbers .* two ways"),
        ("zero\t0\ntwo\t2\none\t1", 3, r"^labels\.txt, line 3: the lines end with numbers .* two ways"),
        (
            '{"0": "cat", "2": "dog"}',
            2,
            r"^labels\.txt has indices from 0 to 2 and lacks 1; expected each of 0 to 1 once",
        ),
        ('{"1": "cat", "2": "dog"}', 2, r"has indices from 1 to 2 and lacks 0; .* They seem to start at 1"),
        ('{"0": "cat", "0": "dog"}', 2, r"^labels\.txt has the key '0' more than once"),
        ('{"cat": 1, "dog": 1}', 2, r"^labels\.txt has the index 1 twice, for 'cat' and 'dog'"),
        ('{"cat": 0, "cat": 1}', 2, r"^labels\.txt has the key 'cat' more than once"),
        ('{"0": "1", "1": "2", "2": "0"}', 3, r"^labels\.txt can be read in two ways"),
        (
            '{"cat": "felis", "dog": "canis"}',
            2,
            r"^labels\.txt has the entry 'cat': 'felis'; expected \[\"cat\", \.\.\.\]",
        ),
        ('["cat", null]', 2, r"^labels\.txt, entry 1 is None; expected"),
        ('["cat", ["a", "b", "c"]]', 2, r"^labels\.txt, entry 1 is \['a', 'b', 'c'\]; expected"),
        ('["cat",\n "dog"', 2, r"^labels\.txt, line 2: it begins like JSON, but cannot be read as JSON: Expecting"),
        ('["cat"]', 2, r"^labels\.txt has 1 labels; the network has 2 classes"),
        ("[" * 100_000, 2, r"^labels\.txt.* begins like JSON, but cannot be read"),
        ("{0: __import__('os')}", 1, r"begins like JSON, but cannot be read"),
    ],
)
def test_what_cannot_be_read_surely_is_refused_with_the_place_and_the_choices(text: str, count: int, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        classes_from_labels(text, count, "labels.txt")


@pytest.mark.parametrize(
    "names",
    [
        ["cat", "7 seater", "3 wheeler"],  # not all begin with numbers, and 7 is no index
        ["zone 0", "zone 1", "zone 2"],  # without the number they are all the same
        ["terminal 1", "terminal 2", "terminal 3"],
        ["[background]", "cat", "dog"],
        ["0", "1", "2"],
        ["0.5 mile", "1.5 mile", "2.5 mile"],
        ["n02123045 tabby, tabby cat", "n01440764 tench", "n03394916 French horn"],
    ],
)
def test_names_with_numbers_and_brackets_stay_names(names: list[str]) -> None:
    assert labels("\n".join(names), 3) == names


def test_ids_that_are_numbers_stay_ids() -> None:
    classes = classes_from_labels("0\tzero\n1\tone", 2)
    assert classes == (ClassName("0", "zero"), ClassName("1", "one"))
    assert [name.id for name in classes_from_labels("101\tzero\n37\tone", 2)] == ["101", "37"]
    as_json = json.dumps({"0": ["0", "zero"], "1": ["10", "ten"], "2": ["2", "two"]})
    assert [name.id for name in classes_from_labels(as_json, 3)] == ["0", "10", "2"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_encodings_are_told_apart_by_the_byte_order_mark(tmp_path: Path, encoding: str, end: str) -> None:
    path = tmp_path / "labels"
    path.write_bytes(end.join(["tench", "grün", "猫"]).encode(encoding))
    text = read_labels(path)
    assert text is not None
    assert labels(text, 3) == ["tench", "grün", "猫"]
    path.write_bytes(json.dumps({"grün": 1, "猫": 0}, ensure_ascii=False).encode(encoding))
    assert [name.label for name in classes_from_labels(read_labels(path) or "", 2)] == ["猫", "grün"]


def test_other_encodings_are_refused_with_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    for content, said in (
        ("cat\ngrün".encode("latin-1"), r"labels\.txt is not UTF-8 text \(line 2\); .* save it as UTF-8"),
        ("cat\ndog".encode("utf-16-le"), "UTF-16 without a byte order mark"),
        (b"\xff\xfea", "is damaged UTF-16 text"),
    ):
        path.write_bytes(content)
        with pytest.raises(UsageError, match=said):
            read_labels(path)


def test_messages_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "my.json"
    path.write_text("cat\ndog\n")
    with pytest.raises(UsageError, match=r"my\.json has 2 labels; the network has 3 classes"):
        classes_from_labels(read_labels(path) or "", 3)


def many_labels(count: int) -> dict[str, Any]:
    indices = random.Random(0).sample(range(count), count)
    return {
        "names": "\n".join(f"name {index % 7} {index}x" for index in indices),
        "same names": "\n".join(f"name {index % 7}" for index in indices),
        "indices": "\n".join(f"{index} name" for index in indices),
        "tabs": "\n".join(f"id{index}\tname" for index in indices),
        "json": json.dumps({f"name{index}": index for index in indices}),
        "python": "{" + ",".join(f"{index}: 'name'" for index in indices) + "}",
    }


@pytest.mark.parametrize("form", many_labels(1))
def test_many_labels_are_read_in_linear_time(form: str) -> None:
    # Comparing each label with each other would take hours for these, so a wide limit is enough.
    count = 50_000
    start = time.process_time()
    assert len(classes_from_labels(many_labels(count)[form], count)) == count
    assert time.process_time() - start < 30
