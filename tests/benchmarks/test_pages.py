"""The stored pages of results are what their JSON files say."""

from __future__ import annotations

import json
import re

import pytest

from benchmarks.report import RESULTS, markdown

PAGES = sorted(path.stem for path in RESULTS.glob("*.json"))


@pytest.mark.parametrize("name", PAGES)
def test_a_stored_page_is_made_from_its_json(name: str) -> None:
    page = (RESULTS / f"{name}.md").read_text(encoding="utf-8")
    record = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    picture = f"{name}.svg" if (RESULTS / f"{name}.svg").is_file() else ""
    assert markdown(record, picture) == page


@pytest.mark.parametrize("name", PAGES)
def test_the_method_above_a_table_has_at_most_five_sentences(name: str) -> None:
    record = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    for table in record["tables"]:
        assert len(re.findall(r"[.!?](?:\s|$)", table["method"])) <= 5, table["title"]
