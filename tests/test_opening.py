"""What the one-line ways in make of a filter, a store and the models' names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from retrieval.errors import InvalidFilter, InvalidInput, StoreFault
from retrieval.opening import collection_names, ingest, parse_where
from retrieval.types import Document


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("year=2020,lang=en", {"year": 2020, "lang": "en"}),
        ("draft=false, author=null", {"draft": False, "author": None}),
        ('tags=["x","y"],lang=en', {"tags": ["x", "y"], "lang": "en"}),
        ('year={"gte": 1, "lt": 3}', {"year": {"gte": 1, "lt": 3}}),
        ('title="a, b",lang=en', {"title": "a, b", "lang": "en"}),
        ("day=2020-01-31,n=1", {"day": "2020-01-31", "n": 1}),
        ("a=b=c", {"a": "b=c"}),
        ("a=,b=1", {"a": "", "b": 1}),
        ('{"a": {"exists": true}}', {"a": {"exists": True}}),
    ],
)
def test_filters_as_text(text: str, where: dict[str, Any]) -> None:
    assert parse_where(text) == where


@pytest.mark.parametrize(
    "text",
    ["", "a", "=1", "a=1,", "a=1,b", "a,b=1", '["a"]', "{", '{"a": %s}' % ("[" * 100_000), "{'a'"],
)
def test_text_that_is_no_filter(text: str) -> None:
    with pytest.raises(InvalidFilter):
        parse_where(text)


@pytest.mark.parametrize("store", ["", "  ", "ftp://host", "HTTP://host:6333", "qdrant://host"])
def test_a_mistyped_address_is_not_taken_for_a_folder(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInput, match="expected a folder or the http"):
        collection_names(store=store)
    with pytest.raises(InvalidInput, match="expected a folder or the http"):
        ingest([Document("a", "text")], store=store, encoder="starter")
    assert list(tmp_path.iterdir()) == []


def test_a_store_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StoreFault, match="A part of that path is a file"):
        ingest([Document("a", "text")], store=tmp_path / "file" / "store", encoder="starter")
    assert (tmp_path / "file").read_text() == "mine"
