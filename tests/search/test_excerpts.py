"""Excerpts: which part of a passage is read, in several scripts, and searches that read them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hashing_encoder import HashingEncoder
from numpy.typing import NDArray

import retrieval
from app.batching.reranker import BatchedReranker
from retrieval import CrossEncoderReranker, Document, TwoStageRetriever
from retrieval.errors import InvalidInput
from retrieval.index.bm25 import bm25_info
from retrieval.search.excerpts import LONGER, TITLE_TOKENS, Excerpts, cut, tokens
from retrieval.search.rerank import EXCERPT_NOTICE
from retrieval.types import Passage, RerankerInfo, Scores

FILLER = "The weather was fine that day. Nobody knew what to say about it. " * 8


def passage(text: str, title: str = "", headings: tuple[str, ...] = (), id_: str = "p") -> Passage:
    return Passage(id_, id_, 0, text, 0, len(text), title, headings)


def chosen(query: str, text: str, language: str = "en", room: int = 16) -> str:
    part = Excerpts(bm25_info(language), tokens=room).of(query, [passage(text)])[0]
    assert part.text == text[part.start : part.end]
    assert not part.whole
    return part.text


# --- which part ------------------------------------------------------------------------------

CHINESE = "今天天气很好。大家都在公园里散步。" * 8
RUSSIAN = "Погода была хорошая. Никто не знал, что сказать. " * 8
JAPANESE = "今日は天気がいい。" * 20
GERMAN = "Das weiß man nicht. " * 30
CODE = "def a(x):\n    return x + 1\n\n" * 12
ROWS = "".join(f"| item {number} | {number} | blue |\n" for number in range(40))


@pytest.mark.parametrize(
    ("language", "query", "before", "answer", "after"),
    [
        ("en", "when is the library closed?", FILLER, "The libraries close on Sunday.", FILLER),
        ("zh", "长城有多长？", CHINESE, "长城全长两万一千公里。", CHINESE),
        ("ja", "富士山の高さは？", JAPANESE, "富士山の高さは3776メートルである。", ""),
        ("ru", "длина реки Волги", RUSSIAN, "Длина Волги составляет 3530 км.", RUSSIAN),
        ("multilingual", "长城 Great Wall", FILLER, "The Great Wall (长城) is long.", FILLER),
        ("en", "parse_header bytes", CODE, "def parse_header(raw: bytes):", f"\n{CODE}"),
        ("en", "price of the lamp", ROWS, "| lamp | 12 | red |\n", ROWS),
        ("de", "Wann ist Sprechstunde?", GERMAN, "Sprechstunden: mittwochs.", ""),
    ],
    ids=["english", "chinese", "japanese", "russian", "mixed", "code", "table", "german"],
)  # fmt: skip
def test_the_part_with_the_querys_words_is_read(
    language: str, query: str, before: str, answer: str, after: str
) -> None:
    text = f"{before}{answer}{' ' if after and not answer.endswith(chr(10)) else ''}{after}"
    part = chosen(query, text, language, room=24)
    assert answer.strip() in part
    assert tokens(part) <= 24


def test_a_rare_word_is_worth_more_than_a_common_one() -> None:
    common = "Water is wet. " * 3
    texts = [f"{FILLER}{common}{FILLER}" for _ in range(9)]
    texts.append(f"{FILLER}{common}{FILLER}Zirconium is rare. {FILLER}")
    parts = Excerpts(bm25_info("en"), tokens=8).of(
        "water zirconium", [passage(text, id_=str(place)) for place, text in enumerate(texts)]
    )
    assert "Water" in parts[0].text
    assert "Zirconium" in parts[-1].text


def test_more_of_the_querys_words_are_worth_more_than_one_repeated() -> None:
    text = f"The gate. The gate. The gate. {FILLER}The gate closes at noon. {FILLER}"
    assert "closes at noon" in chosen("when does the gate close at noon?", text, room=8)


def test_without_a_word_in_common_the_beginning_is_read() -> None:
    assert chosen("zirconium", FILLER).startswith("The weather was fine")
    assert chosen("the of and", FILLER).startswith("The weather was fine")


@pytest.mark.parametrize("unit", ["x", "山", "word ", "clause, ", "\U0001f600", "\u0301"])
def test_a_text_without_sentences_is_cut_into_parts_that_fit(unit: str) -> None:
    text = unit * 700
    pieces = cut(text, 16)
    assert "".join(text[start:end] for start, end in pieces) == text
    assert all(tokens(text[start:end]) <= 16 for start, end in pieces)
    assert len(chosen("zirconium", f"{text}\nzirconium oxide")) >= len("zirconium oxide")


def test_cutting_takes_time_in_proportion_to_the_text() -> None:
    def seconds(times: int) -> float:
        text = "x" * 20_000 * times
        started = time.process_time()
        cut(text, 64)
        return time.process_time() - started

    seconds(1)
    assert seconds(16) < 16 * 8 * max(seconds(1), 0.001)


def test_a_passage_little_longer_than_an_excerpt_is_read_whole() -> None:
    text = "It rains. " * 8
    room = int(tokens(text) / LONGER) + 1
    part = Excerpts(bm25_info("en"), tokens=room).of("rain", [passage(text, "Rain")])[0]
    assert (part.text, part.whole) == (f"Rain {text}", True)
    assert (part.start, part.end) == (0, len(text))


def test_title_and_headings_come_with_the_part_and_long_ones_are_cut() -> None:
    excerpts = Excerpts(bm25_info("en"), tokens=16)
    one = passage(f"{FILLER}Zirconium is rare. {FILLER}", "Metals", ("Group 4",))
    part = excerpts.of("zirconium", [one])[0]
    assert part.text == f"Metals Group 4 {one.text[part.start : part.end]}"
    assert "Zirconium" in part.text
    long = excerpts.of("zirconium", [replace(one, title="Metals and more " * 40)])[0]
    head = long.text.removesuffix(one.text[long.start : long.end])
    assert head.startswith("Metals and more")
    assert head.endswith("… ")
    assert tokens(head) <= TITLE_TOKENS + 2


def test_nothing_in_particular() -> None:
    excerpts = Excerpts(bm25_info("en"))
    assert excerpts.of("anything", []) == []
    empty = excerpts.of("anything", [passage("", "Title"), passage(" \n ")])
    assert [part.whole for part in empty] == [True, True]
    broken = f"{FILLER}\ud800 half a pair. {FILLER}"
    assert "half a pair" in Excerpts(bm25_info("en"), 8).of("pair", [passage(broken)])[0].text


# --- searches --------------------------------------------------------------------------------


@pytest.fixture
def none_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Excerpts of all candidates, the best ones, too."""
    monkeypatch.setattr("retrieval.search.rerank.WHOLE_BEST", 0)


TOPICS = ("gate", "soup", "lamp", "river")


class Reads:
    """A reranker that keeps what it was given; the score is the share of the query's words."""

    def __init__(self, seconds: float = 0.0, read: Any = "full") -> None:
        self.info = RerankerInfo("reads", "sha256:r", "cross-encoder", 512, default_read=read)
        self.seen: list[str] = []
        self.calls = 0
        self.seconds = seconds

    def score(self, pairs: Sequence[tuple[str, str]], *, progress: Any = None) -> Scores:
        self.calls += 1
        time.sleep(self.seconds * len(pairs))
        self.seen += [text for _, text in pairs]
        values = [sum(word in text for word in query.split()) / 9 for query, text in pairs]
        return Scores(np.array(values, dtype=np.float64), np.zeros(len(pairs), dtype=np.bool_))

    def relevance(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        return scores


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    documents = [
        Document(topic, f"{FILLER}The {topic} is described here. {FILLER}", title=topic.title())
        for topic in TOPICS
    ]
    documents.append(Document("short", "The gate is short."))
    made = retrieval.ingest(documents, "c", store=folder, encoder=HashingEncoder(), max_tokens=None)
    assert made.passages == 5
    return folder


@pytest.fixture
def searching(store: Path) -> Iterator[Any]:
    """Opens the collection with a reranker."""
    opened: list[TwoStageRetriever] = []

    def with_reranker(reranker: Any) -> TwoStageRetriever:
        for one in opened:
            one.close()
        opened.append(retrieval.open("c", store=store, encoder=HashingEncoder(), reranker=reranker))
        return opened[-1]

    yield with_reranker
    for one in opened:
        one.close()


def test_full_reads_every_candidate_whole(searching: Any) -> None:
    reranker = Reads()
    retriever = searching(reranker)
    result = retriever.search("gate described", read="full")
    assert set(reranker.seen) == {one.passage.content for one in result.candidates}
    assert all(hit.best_span is None for hit in result.hits)
    assert result.notices == ()
    assert (
        retriever.search("gate described").hits == result.hits
    )  # what the reranker says of itself


@pytest.mark.usefixtures("none_whole")
def test_excerpts_are_read_and_hits_say_which(searching: Any) -> None:
    reranker = Reads()
    result = searching(reranker).search("gate described", read="excerpts")
    assert result.notices == (EXCERPT_NOTICE,)
    assert result.hits[0].passage.document_id == "gate"
    for hit in result.hits:
        text, span = hit.passage.text, hit.best_span
        assert span is not None
        if hit.passage.document_id == "short":
            assert span == (0, len(text))
            assert text in reranker.seen
        else:
            assert "is described here." in text[slice(*span)]
            assert f"{hit.passage.title} {text[slice(*span)]}" in reranker.seen
            assert span[1] - span[0] < len(text) / 2


def test_the_best_candidates_are_read_whole(
    searching: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retrieval.search.rerank.WHOLE_BEST", 2)
    reranker = Reads()
    result = searching(reranker).search("gate described", read="excerpts")
    contents = [one.passage.content for one in result.candidates]
    assert reranker.seen[:2] == contents[:2]
    longer = [one for one in contents[2:] if len(one) > 100]
    assert len(longer) >= 2
    assert not set(longer) & set(reranker.seen)
    assert result.notices == (EXCERPT_NOTICE,)


@pytest.mark.usefixtures("none_whole")
def test_a_rerankers_own_reading_is_the_default(searching: Any) -> None:
    retriever = searching(Reads(read="excerpts"))
    assert retriever.search("gate").notices == (EXCERPT_NOTICE,)
    assert retriever.search("gate", read="full").notices == ()
    assert retriever.search("gate", rerank=False).notices == ()
    with pytest.raises(InvalidInput, match="read is 'half', expected one of full, excerpts"):
        retriever.search("gate", read="half")


@pytest.mark.usefixtures("none_whole")
def test_a_batch_shares_one_call(searching: Any) -> None:
    reranker = Reads()
    retriever = searching(reranker)
    queries = [f"{topic} described" for topic in TOPICS]
    batch = retriever.search_batch(queries, read="excerpts")
    assert reranker.calls == 1
    alone = [retriever.search(query, read="excerpts") for query in queries]
    assert [one.hits for one in batch] == [one.hits for one in alone]


@pytest.mark.usefixtures("none_whole")
def test_a_budget_counts_and_reads_excerpts_too(searching: Any) -> None:
    reranker = Reads(seconds=0.02)
    retriever = searching(reranker)
    retriever.search("gate", read="excerpts", budget_ms=1)  # it is measured now
    reranker.seen.clear()
    result = retriever.search("gate described", read="excerpts", budget_ms=50)
    assert 1 <= result.reranked == len(reranker.seen) < 5
    assert f"re-ranked {result.reranked} of 5 candidates" in result.notices[-1]
    whole = {candidate.passage.content for candidate in result.candidates}
    assert sum(text in whole for text in reranker.seen) <= 1  # the short one


def test_choosing_excerpts_is_part_of_the_budget(
    searching: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retrieval.search.rerank._AT_ONCE", 2)
    inner = Excerpts.of
    given: list[int] = []

    def slow(self: Excerpts, query: str, passages: Sequence[Passage]) -> Any:
        given.append(len(passages))
        time.sleep(0.05)
        return inner(self, query, passages)

    monkeypatch.setattr(Excerpts, "of", slow)
    reranker = Reads()
    result = searching(reranker).search("gate", read="excerpts", budget_ms=100, top_k=5)
    assert given == [2]  # a fifth of the budget had passed
    assert result.reranked == 2
    assert len(result.hits) == 5
    assert "re-ranked 2 of 5 candidates" in result.notices[-1]
    given.clear()
    assert searching(reranker).search("gate", read="excerpts").reranked == 5
    assert given == [2, 2, 1]


@pytest.mark.usefixtures("none_whole")
def test_scores_are_those_of_the_excerpts_as_texts(
    searching: Any, tiny_bert_reranker: Path
) -> None:
    with_model = CrossEncoderReranker(tiny_bert_reranker, device="cpu", deterministic=True)
    result = searching(with_model).search("gate described", read="excerpts")
    assert len(result.hits) == 5
    for hit in result.hits:
        span = hit.best_span
        assert span is not None
        text = " ".join(
            part for part in (hit.passage.title, hit.passage.text[slice(*span)]) if part
        )
        assert with_model.score([("gate described", text)]).values[0] == hit.stage2_score


@pytest.mark.usefixtures("none_whole")
def test_a_services_queue_reads_the_same(searching: Any, tiny_bert_reranker: Path) -> None:
    real = CrossEncoderReranker(tiny_bert_reranker, device="cpu", deterministic=True)
    direct = searching(real).search("gate described", read="excerpts")
    queued = BatchedReranker(real)
    try:
        through = searching(queued).search("gate described", read="excerpts")
    finally:
        queued.batcher.close()
    assert through.hits == direct.hits
    assert through.notices == direct.notices
