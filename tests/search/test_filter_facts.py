"""A filter that lets nothing through says why, and compares values as the fields hold them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hashing_encoder import HashingEncoder

import retrieval
from retrieval import Document, TwoStageRetriever, parse_where

DOCUMENTS = [
    Document("a", "The gate.", metadata={
        "Ver": "1.10", "year": 2020, "date": "2024-03-01", "file.name": "a.pdf", "draft": False,
        "author": {"name": "Ana"}, "tags": ["x", "y"], "mixed": 1,
    }),
    Document("b", "The gate.", metadata={
        "Ver": "1.1", "year": 2021, "date": "2024-05-01", "file.name": "b.pdf", "draft": True,
        "author": {"name": "Ben"}, "tags": ["z"], "mixed": "1",
    }),
]  # fmt: skip


@pytest.fixture(scope="module")
def retriever(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoStageRetriever]:
    encoder = HashingEncoder()
    place = str(tmp_path_factory.mktemp("store"))
    retrieval.ingest(DOCUMENTS, "docs", store=place, encoder=encoder)
    with TwoStageRetriever(encoder, retrieval.Store(place).open("docs")) as found:
        yield found


def search(retriever: TwoStageRetriever, where: Any) -> tuple[list[str], str]:
    result = retriever.search("gate", where=where, rerank=False)
    return sorted(hit.passage.document_id for hit in result.hits), " ".join(result.notices)


@pytest.mark.parametrize(
    ("where", "found", "notice"),
    [
        (
            parse_where("Ver=1.10"),
            ["a"],
            'Ver holds text: the filter\'s 1.10 was compared as "1.10"',
        ),
        (parse_where("Ver=1.1"), ["b"], 'compared as "1.1"'),
        ({"Ver": 1.1}, ["b"], "holds text"),
        ({"Ver": [1.1, "2"]}, ["b"], "holds text"),
        ({"year": "2020"}, ["a"], 'year holds numbers: the filter\'s "2020" was compared as 2020'),
        ({"year": "2020.00"}, [], ""),
        ({"year": ["2020", "2021"]}, ["a", "b"], "holds numbers"),
        ({"year": "a"}, [], ""),
        ({"draft": "true"}, ["b"], "draft holds true and false"),
        ({"date": {"lt": 1711929600}}, ["a"], 'compared as lt "2024-04-01T00:00:00Z"'),
        ({"date": {"gt": 1711929600000}}, ["b"], "date holds dates"),
        ({"tags": 3}, [], 'compared as "3"'),
        ({"and": [{"Ver": 1.1}, {"year": 2021}]}, ["b"], "holds text"),
        ({"or": [{"Ver": 1.1}, {"year": "2020"}]}, ["a", "b"], "holds numbers"),
        ({"not": {"or": [{"year": 2020}, {"year": 2021}]}}, [], ""),
        # names
        ({"fiel": "x"}, [], "No passage has the field fiel; fields are"),
        ({"yeer": 2020}, [], "No passage has the field yeer: did you mean year?"),
        ({"ver": "1.10"}, [], "did you mean Ver?"),
        ({"file.name": "a.pdf"}, ["a"], 'written in quotes: "\\"file.name\\""'),
        ({"author.nam": "Ana"}, [], "a field nam within author: did you mean author.name?"),
        # what is right, or cannot be helped, is not talked about
        ({"year": 2020}, ["a"], ""),
        ({"year": 1999}, [], ""),
        ({"mixed": "2"}, [], ""),
        ({"document_id": "c"}, [], ""),
        ({"nothing": None}, ["a", "b"], ""),
    ],
)
def test_why_nothing_was_found(
    retriever: TwoStageRetriever, where: Any, found: list[str], notice: str
) -> None:
    own, told = search(retriever, where)
    assert own == found
    assert notice in told
    assert bool(notice) == bool(told)


def test_a_batch_is_explained_once_for_all_its_queries(retriever: TwoStageRetriever) -> None:
    one, two = retriever.search_batch(["gate", "other"], where={"yeer": 1}, rerank=False)
    assert one.notices == two.notices
    assert len(one.notices) == 1


def test_a_query_that_finds_nothing_is_no_fault_of_its_filter(
    retriever: TwoStageRetriever,
) -> None:
    result = retriever.search("zebra", where={"year": 2020}, mode="sparse", rerank=False)
    assert (result.hits, result.notices) == ((), ())
