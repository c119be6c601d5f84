"""Queries from the service's log: what counts as one, what is passed over, what is refused."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from retrieval.errors import CorpusError, InvalidInput
from retrieval.evaluation.query_log import read_query_log


def line(query: str | None, collection: str = "docs", **more: Any) -> str:
    record = {"time": "2026-05-01T10:00:00Z", "collection": collection, "query": query, "hits": 3}
    return json.dumps({**record, **more}, ensure_ascii=False)


LINES = [
    line("When is lunch?"),
    line("谁付钱？"),
    line("when  is LUNCH?"),
    line(None),
    line("  "),
    line("of another", "other"),
    line("谁付钱?"),
    line("WHEN IS LUNCH?", tenant="a"),
    line("only once", tenant="a"),
]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    file = tmp_path / "searches.jsonl"
    file.write_text("\ufeff" + "\r\n\r\n".join(LINES) + "\r\n", encoding="utf-8")
    return file


def test_the_most_frequent_come_first_as_they_were_asked_first(log: Path) -> None:
    found = read_query_log(log, "docs")
    assert found.queries == {"When is lunch?": 3, "谁付钱？": 2, "only once": 1}
    assert next(iter(found.queries)) == "When is lunch?"
    assert found.notices == (
        f"2 searches in {log} have no query text, since the service was told not to log it; they "
        "were passed over.",
        f"1 searches in {log} are not of 'docs'.",
    )
    assert read_query_log(log, "docs", most=1).queries == {"When is lunch?": 3}
    assert read_query_log(log, "other").queries == {"of another": 1}


def test_a_tenants_queries_are_its_own(log: Path) -> None:
    found = read_query_log(log, "docs", tenant="a")
    assert found.queries == {"WHEN IS LUNCH?": 1, "only once": 1}


def test_a_log_that_is_compressed_or_being_written(tmp_path: Path) -> None:
    packed = tmp_path / "old.jsonl.gz"
    packed.write_bytes(gzip.compress((line("old") + "\n").encode()))
    assert read_query_log(packed, "docs").queries == {"old": 1}
    growing = tmp_path / "new.jsonl"
    growing.write_text(line("new") + "\n" + line("half a li")[:-8])
    found = read_query_log(growing, "docs")
    assert found.queries == {"new": 1}
    assert found.notices == (f"{growing}:2 is incomplete and was left out.",)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "has no query of the collection 'docs'"),
        (line(None) + "\n", "have no query text"),
        (line("x", "other") + "\n", "are not of 'docs'"),
        ("what is this?\n", "searches:1: the line is not JSON"),
        ("[1]\n", "searches:1: the line is a JSON list"),
        ('{"query": "without a collection"}\n', "searches:1 is no search"),
        ('{"collection": "docs", "query": 7}\n', "searches:1 is no search"),
    ],
)
def test_what_is_no_log_is_told(content: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "searches"
    file.write_text(content)
    with pytest.raises(CorpusError, match=words):
        read_query_log(file, "docs")


def test_bad_arguments(log: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="most is 0"):
        read_query_log(log, "docs", most=0)
    with pytest.raises(CorpusError, match="cannot read"):
        read_query_log(tmp_path / "nowhere", "docs")
