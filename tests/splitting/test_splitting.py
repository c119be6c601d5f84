"""What every division of a document keeps: its text, its offsets, and the encoder's limit."""

from __future__ import annotations

import itertools
import re
import time
import uuid
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retrieval._validate import is_blank
from retrieval.errors import InvalidInput
from retrieval.splitting.splitter import Splitter, document_hash, passage_id
from retrieval.types import Document, Passage, SplitterInfo, TokenCounter

ENGLISH = (
    "The parser reads the file from top to bottom. Every error is kept with its line, e.g. a "
    "missing quote. Dr. Smith asked why it took 3.5 seconds! It was the network, he was told."
)
CHINESE = (
    "北京是中国的首都。上海是中国最大的城市！你去过那里吗？"
    "机器学习模型可以把文本变成向量；向量可以比较。"
)


def split(
    counter: TokenCounter, text: str, max_tokens: int | None = 40, overlap: int = 8, **more: Any
) -> list[Passage]:
    splitter = Splitter(counter, max_tokens=max_tokens, overlap_tokens=overlap)
    return splitter.split(Document("d", text, **more))


def check(counter: TokenCounter, document: Document, passages: list[Passage], most: int) -> None:
    """The invariants; each would catch a passage that lies about its text."""
    text = document.text
    covered = bytearray(len(text))
    starts, ends = [], []
    for number, passage in enumerate(passages):
        assert passage.text == text[passage.start : passage.end]
        assert passage.text.strip() == passage.text != ""
        assert passage.position == number
        assert passage.document_passages == len(passages)
        assert passage.id == passage_id(document.id, number)
        tokens = len(counter.token_offsets(passage.content)) + counter.special_tokens
        assert tokens <= most or len(passage.text) == 1, (tokens, passage.content)
        covered[passage.start : passage.end] = b"\1" * (passage.end - passage.start)
        starts.append(passage.start)
        ends.append(passage.end)
    assert all(covered[i] or is_blank(text[i]) for i in range(len(text)))
    assert starts == sorted(set(starts))
    assert ends == sorted(set(ends))
    assert bool(passages) == (not is_blank(text))


# --- properties -----------------------------------------------------------------------------

WORDS = st.sampled_from(
    ["the", "Reader", "tokenisation", "3.14", "e.g.", "don't", "北京是首都", "。", "，", "!", ". ",
     "\n", "\n\n", "\n# Heading\n", "\n## Zweite Überschrift\n\n", "\n```python\n", "\n```\n",
     "- item", "| a | b |", "\t", "😀", "👩‍👩‍👧", "é", "ﷺ", "x" * 120, "中" * 60, "a_b", "…", "   ",
     "Title\n=====\n", "\r\n"]
)  # fmt: skip
TEXTS = st.one_of(
    st.lists(WORDS, max_size=80).map(" ".join),
    st.lists(WORDS, max_size=80).map("".join),
    st.text(max_size=400),
)
QUICK = settings(
    max_examples=50, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


@QUICK
@given(text=TEXTS, title=TEXTS, most=st.integers(6, 70), overlap=st.integers(0, 80))
def test_every_division_keeps_text_and_limit_wordpiece(
    minilm: TokenCounter, text: str, title: str, most: int, overlap: int
) -> None:
    document = Document("d", text, title=title.strip())
    splitter = Splitter(minilm, max_tokens=most, overlap_tokens=overlap)
    check(minilm, document, splitter.split(document), most)


@QUICK
@given(text=TEXTS, most=st.integers(6, 70), overlap=st.integers(0, 80))
def test_every_division_keeps_text_and_limit_unigram(
    xlmr: TokenCounter, text: str, most: int, overlap: int
) -> None:
    document = Document("d", text, title="A title")
    splitter = Splitter(xlmr, max_tokens=most, overlap_tokens=overlap)
    check(xlmr, document, splitter.split(document), most)


@pytest.mark.parametrize("text", [ENGLISH, CHINESE])
@pytest.mark.parametrize("overlap", [0, 16, 200])
def test_long_prose_keeps_text_and_limit(minilm: TokenCounter, text: str, overlap: int) -> None:
    document = Document("d", "\n\n".join([" ".join([text] * 5)] * 8), title="On reading")
    passages = Splitter(minilm, max_tokens=64, overlap_tokens=overlap).split(document)
    check(minilm, document, passages, 64)
    filled = [len(minilm.token_offsets(p.content)) for p in passages[:-1]]
    assert sum(filled) / len(filled) > 64 * 0.6


# --- boundaries -----------------------------------------------------------------------------


def test_a_short_document_is_one_passage(minilm: TokenCounter) -> None:
    (passage,) = split(minilm, "  # One\n\nshort text\n", title="T", metadata={"a": 1}, source="s")
    assert passage.text == "# One\n\nshort text"
    assert (passage.start, passage.headings, passage.title) == (2, (), "T")
    assert (passage.metadata, passage.source, passage.document_passages) == ({"a": 1}, "s", 1)


def test_sentences_stay_whole_in_english(minilm: TokenCounter) -> None:
    passages = split(minilm, " ".join([ENGLISH] * 6), 48, 0)
    assert len(passages) > 4
    for passage in passages:
        assert re.search(r"[.!]$", passage.text), passage.text
        assert re.match(r"(The parser|Every error|Dr\. Smith|It was)", passage.text), passage.text


def test_sentences_stay_whole_in_chinese(minilm: TokenCounter) -> None:
    passages = split(minilm, CHINESE * 8, 48, 0)
    assert len(passages) > 4
    assert all(passage.text[-1] in "。！？；" for passage in passages)


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("See fig. 3 for it. I said no. Then he left.", 3),
        ("Mr. Smith and J. R. Jones met at 3.15 p.m. on Monday. It rained.", 2),
        ("1. First we mix.\n2. Then we bake.", 2),
        ('He asked: "Why?" She left... Nobody knew.', 3),
        ("One line, i.e. this one. The end", 2),
        ("他说：“好的。”然后走了。完了！", 3),
    ],
)
def test_where_sentences_begin(text: str, sentences: int) -> None:
    from retrieval.splitting.markdown_structure import sentence_starts

    assert len(list(sentence_starts(text, 0, len(text)))) == sentences - 1


def test_paragraphs_are_preferred_to_sentences(minilm: TokenCounter) -> None:
    paragraph = "One two three four five six. Seven eight nine ten eleven twelve."
    passages = split(minilm, "\n\n".join([paragraph] * 6), 40, 0)
    assert [p.text for p in passages] == [f"{paragraph}\n\n{paragraph}"] * 3


def test_headings_divide_and_are_named(minilm: TokenCounter) -> None:
    body = "Words and words and more words. " * 5
    text = (
        f"# Guide\n\n{body}\n\n## Install\n\n{body * 3}\n\nLinux\n-----\n\n{body}\n\n"
        f"### Debian\n\n{body * 2}\n\n# Use\n\n{body}"
    )
    passages = split(minilm, text, 60, 8, title="Guide")
    begins = {p.text.splitlines()[0]: p.headings for p in passages if p.text[0] in "#L"}
    assert begins == {
        "# Guide": (),
        "## Install": (),  # "Guide" is the title already
        "Linux": (),
        "### Debian": ("Linux",),
        "# Use": (),
    }
    inside = [p for p in passages if p.text.startswith("Words")]
    assert {p.headings for p in inside} >= {("Install",), ("Linux", "Debian")}
    assert all("\n#" not in p.text and "\nLinux" not in p.text for p in passages)


def test_a_heading_is_never_parted_from_its_text(minilm: TokenCounter) -> None:
    text = "\n\n".join(f"## Part {n}\n\n### Sub {n}\n\n{'word ' * (3 + n % 9)}" for n in range(40))
    for passage in split(minilm, text, 32, 4):
        assert not passage.text.splitlines()[-1].startswith("#"), passage.text


@pytest.mark.parametrize("edge", ["| ", ""])
def test_rows_of_a_long_table_know_its_columns(minilm: TokenCounter, edge: str) -> None:
    rows = "".join(f"{edge}part {number} | {number} days\n" for number in range(24))
    table = f"{edge}name | delivery\n{edge}- | -\n{rows}"
    text = f"# Parts\n\nThese are in stock.\n\n{table}\nWhat follows is no row of it. {ENGLISH}"
    first, *others = split(minilm, text, 48, 0, title="")
    check(minilm, Document("d", text), [first, *others], 48)
    assert first.headings == ()
    inside = [one for one in others if one.text.startswith(f"{edge}part")]
    assert len(inside) > 1
    assert {one.headings for one in inside} == {("Parts", "name | delivery")}
    assert others[-1].headings == ("Parts",)


def test_a_table_in_code_has_no_columns_to_name(minilm: TokenCounter) -> None:
    rows = "".join(f"| part {number} | {number} days |\n" for number in range(30))
    passages = split(minilm, f"```\n| name | delivery |\n| - | - |\n{rows}```", 48, 0)
    assert {one.headings for one in passages} == {()}


def test_comments_in_code_are_no_headings(minilm: TokenCounter) -> None:
    text = "# Real\n\n```sh\n# not one\nls\n```\n\n" + "more words here. " * 20
    assert {h for p in split(minilm, text, 40) for h in p.headings} == {"Real"}


def test_code_that_fits_is_not_cut(minilm: TokenCounter) -> None:
    code = "```python\n" + "\n".join(f"value_{n} = compute({n})\n" for n in range(4)) + "```"
    for filler in range(1, 60):
        text = "word " * filler + f"\n\n{code}\n\n" + "after that. " * 20
        assert any(code in p.text for p in split(minilm, text, 80, 30)), filler


def test_code_that_does_not_fit_is_cut_at_lines(minilm: TokenCounter) -> None:
    lines = [f"value_{n} = compute({n})" for n in range(60)]
    passages = split(minilm, "```\n" + "\n".join(lines) + "\n```", 64, 0)
    assert len(passages) > 5
    assert all(line in {*lines, "```"} for p in passages for line in p.text.splitlines())


# --- overlap --------------------------------------------------------------------------------


def test_overlap_begins_at_a_sentence(minilm: TokenCounter) -> None:
    text = " ".join(f"Sentence number {n} is here now." for n in range(60))
    passages = split(minilm, text, 60, 20)
    for before, after in itertools.pairwise(passages):
        shared = text[after.start : before.end]
        assert shared.startswith("Sentence number")
        assert 0 < len(minilm.token_offsets(shared)) <= 20


@pytest.mark.parametrize("overlap", [0, 5, 500])
def test_overlap_is_bounded(minilm: TokenCounter, overlap: int) -> None:
    text = "word " * 1000
    splitter = Splitter(minilm, max_tokens=50, overlap_tokens=overlap)
    bound = min(overlap, 25)
    assert splitter.info == SplitterInfo(50, bound)
    passages = splitter.split(Document("d", text))
    for before, after in itertools.pairwise(passages):
        shared = len(minilm.token_offsets(text[after.start : before.end])) if overlap else 0
        assert shared <= bound
        assert (shared > 0) == (overlap > 0)
        assert overlap or after.start >= before.end


def test_nothing_is_repeated_across_a_heading(minilm: TokenCounter) -> None:
    text = "\n\n".join(f"# H{n}\n\n{'some words. ' * 30}" for n in range(4))
    passages = split(minilm, text, 50, 20)
    for before, after in itertools.pairwise(passages):
        assert not (after.text.startswith("#") and after.start < before.end)
        assert "# H" not in text[after.start : before.end]


# --- extremes -------------------------------------------------------------------------------


def test_a_monstrous_word_is_cut_and_covered(minilm: TokenCounter) -> None:
    document = Document("d", "begin " + "A1b2" * 5000 + " end")
    passages = Splitter(minilm, max_tokens=64).split(document)
    check(minilm, document, passages, 64)
    assert max(len(p.text) for p in passages) <= 64 * 4


def test_letters_keep_their_accents(minilm: TokenCounter) -> None:
    text = "e\u0301" * 400
    for passage in split(minilm, text, 32, 0):
        assert passage.text[0] == "e"


@pytest.mark.parametrize("unit", ["word ", "中文字符", "A sentence is here. ", "\n", "# a\n"])
def test_a_large_text_takes_linear_time(minilm: TokenCounter, unit: str) -> None:
    def seconds(size: int) -> float:
        text = unit * (size // len(unit)) + "x"
        began = time.process_time()
        split(minilm, text, 256, 32)
        return time.process_time() - began

    seconds(10_000)
    small, large = seconds(40_000), seconds(400_000)
    # Linear is 10; a quadratic step would make it 100.
    assert large < 30 * small + 0.4


def test_a_long_title_is_cut_and_says_so(minilm: TokenCounter) -> None:
    document = Document("d", "word " * 200, title="very long title " * 50)
    passages = Splitter(minilm, max_tokens=40).split(document)
    check(minilm, document, passages, 40)
    assert {p.title for p in passages} == {passages[0].title}
    assert passages[0].title.endswith("…")
    assert passages[0].title.startswith("very long title very")
    assert len(minilm.token_offsets(passages[0].title)) <= 19


def test_of_many_headings_the_innermost_stay(minilm: TokenCounter) -> None:
    path = "\n\n".join("#" * n + f" Heading number {n} with several words" for n in range(1, 7))
    passages = split(minilm, path + "\n\n" + "body words. " * 60, 48, 0, title="T")
    last = passages[-1].headings
    assert last
    assert last[-1] == "Heading number 6 with several words"
    assert len(last) < 6


def test_without_a_limit_each_document_is_one_passage(minilm: TokenCounter) -> None:
    splitter = Splitter(minilm, max_tokens=None, overlap_tokens=32)
    assert splitter.info == SplitterInfo(None, 0)
    document = Document("d", "\n" + "# H\n\nword " * 5000, title="title " * 300)
    (passage,) = splitter.split(document)
    check(minilm, document, [passage], 10**9)
    assert passage.content == f"{document.title} {document.text.strip()}"


@pytest.mark.parametrize("text", ["", "  \n\t ", "\u3000"])
def test_blank_documents_have_no_passage(minilm: TokenCounter, text: str) -> None:
    assert split(minilm, text) == split(minilm, text, None) == []


@pytest.mark.parametrize(
    "options",
    [
        {"max_tokens": 5},
        {"max_tokens": 0},
        {"max_tokens": -1},
        {"max_tokens": 12.5},
        {"max_tokens": True},
        {"overlap_tokens": -1},
        {"overlap_tokens": 1.5},
    ],
)
def test_bad_settings_are_refused_in_words(minilm: TokenCounter, options: dict[str, Any]) -> None:
    name, value = next(iter(options.items()))
    with pytest.raises(InvalidInput) as caught:
        Splitter(minilm, **options)
    assert f"{name} is {value!r}" in str(caught.value)


# --- ids and hashes -------------------------------------------------------------------------


def test_passage_ids_are_stable_and_distinct() -> None:
    assert passage_id("a", 0) == "af58fc32-38c5-55c1-b09c-d006ddd53856"
    assert uuid.UUID(passage_id("a", 0)).version == 5
    assert len({passage_id(d, p) for d in ("a", "a1", "b") for p in (0, 1, 10)}) == 9
    with pytest.raises(InvalidInput, match="not text"):
        passage_id("\udc80", 0)


def test_the_hash_follows_content_alone() -> None:
    base = Document("a", "text", title="t", metadata={"x": 1, "y": [True, None]}, source="s")
    same = Document("b", "text", title="t", metadata={"y": [True, None], "x": 1}, source="other")
    assert document_hash(base) == document_hash(same)
    others = [
        Document("a", "text2", title="t", metadata=base.metadata),
        Document("a", "text", title="t2", metadata=base.metadata),
        Document("a", "text", title="t", metadata={"x": 1.5, "y": [True, None]}),
        Document("a", "text", title="t"),
        Document("a", "textt", title="", metadata=base.metadata),
    ]
    others += [replace(base, pages=(0,)), replace(base, pages=(0, 2))]
    assert len({document_hash(d) for d in [base, *others]}) == 8
    # Collections remember it: another hash of the same content would encode everything again.
    assert document_hash(base) == (
        "ae417f42bd1b96ff32c372f17a14550e02c8a18c630d204dce92c399f60d0f95"
    )


@pytest.mark.parametrize("pages", [(1,), (0, 3, 2), (0, 5), (-1, 0)])
def test_pages_that_are_no_offsets_are_refused(minilm: TokenCounter, pages: Any) -> None:
    with pytest.raises(InvalidInput, match="the pages of document 'a' do not begin at 0 and rise"):
        Splitter(minilm).split(Document("a", "text", pages=pages))


def test_passages_know_their_pages_in_full_and_alone(minilm: TokenCounter) -> None:
    text = "  one two six\n\nthree four ten\n\nfive nine"
    pages = (0, 15, 15, 31)
    metadata = {"page": "the document's own", "x": 1}
    document = Document("a", text, metadata=metadata, pages=pages)
    (whole,) = Splitter(minilm).split(document)
    assert whole.metadata == {"x": 1, "page": 1, "last_page": 4}
    parts = Splitter(minilm, max_tokens=6, overlap_tokens=0).split(document)
    assert [(p.text, p.metadata["page"], "last_page" in p.metadata) for p in parts] == [
        ("one two six", 1, False),
        ("three four ten", 3, False),
        ("five nine", 4, False),
    ]
    assert metadata == {"page": "the document's own", "x": 1}
    without = Splitter(minilm).split(replace(document, pages=()))
    assert without[0].metadata == metadata


@pytest.mark.parametrize("bad", [{"x": float("nan")}, {"x": {1, 2}}, {1: "a", "b": 2}])
def test_metadata_that_are_not_json_are_refused(bad: dict[Any, Any]) -> None:
    with pytest.raises(InvalidInput, match="metadata of document 'a'"):
        document_hash(Document("a", "text", metadata=bad))
