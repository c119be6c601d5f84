"""What a person types for a document is found in a collection, or named in an error."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator

import pytest
from hashing_encoder import HashingEncoder

import retrieval
from retrieval.errors import CorpusError
from retrieval.evaluation.evaluate import by_key
from retrieval.evaluation.judged import JudgedQueries, heading_key
from retrieval.evaluation.resolve import resolve
from retrieval.index.store import Store
from retrieval.types import Candidate, Document, Index, Passage

RULES = """# House rules

Be kind to each other, and to the plants.

## Opening hours

The gate closes at ten. On Sundays it stays shut.

## Travel costs

Tickets are paid back within ten days, taxis are not.

### Abroad

Ask before you book.
"""
PAGES = [
    "The first page is about apples and pears. ",
    "Second: rain. ",
    "On the third there is snow.",
]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    root = tmp_path_factory.mktemp("own")
    for name, text in {
        "legal/rules.md": RULES,
        "legal/notes.txt": "Notes about law.",
        "team/notes.txt": "Notes about people.",
        "team/Über uns.txt": "Wer wir sind.",
        "team/C#.md": "Sharp notes.\n\n# Using it\n\nPress the key.",
        "faq.csv": "id,text\n7,What is it?\n8,Who is it?\n",
    }.items():
        (root / "docs" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "docs" / name).write_text(text)
    store, encoder = root / "store", HashingEncoder()
    retrieval.ingest(
        root / "docs", "own", store=store, encoder=encoder, max_tokens=16, overlap_tokens=0
    )
    offsets = (0, len(PAGES[0]), len(PAGES[0]) + len(PAGES[1]))
    book = Document("books/Book.pdf", "".join(PAGES), source="/srv/books/Book.pdf", pages=offsets)
    retrieval.ingest(
        [book, Document("plain-7", "Plain."), Document("7", "Seven.")],
        "own",
        store=store,
        encoder=encoder,
    )
    with Store(store).open("own") as opened:
        yield opened


def judged(*typed: str, grades: dict[str, int] | None = None) -> JudgedQueries:
    return JudgedQueries(
        name="mine",
        split="test",
        queries={"q": "what?"},
        qrels={"q": grades or dict.fromkeys(typed, 1)},
        typed={one: f"mine.csv:{line}" for line, one in enumerate(grades or typed, start=2)},
    )


@pytest.mark.parametrize(
    ("typed", "key"),
    [
        ("legal/rules.md", "legal/rules.md"),
        ("./legal/rules.md", "legal/rules.md"),
        ("legal\\rules.md", "legal/rules.md"),
        ("rules.md", "legal/rules.md"),
        ("team/notes.txt", "team/notes.txt"),
        ("docs/team/notes.txt", "team/notes.txt"),
        (unicodedata.normalize("NFD", "Über uns.txt"), "team/Über uns.txt"),
        ("plain-7", "plain-7"),
        ("7", "7"),
        ("faq.csv#8", "faq.csv#8"),
        ("C#.md", "team/C#.md"),
        ("C#.md#Using it", "team/C#.md#using-it"),
        ("/srv/books/Book.pdf", "books/Book.pdf"),
        ("Book.pdf#page=2", "books/Book.pdf#page=2"),
        ("Book.pdf#p. 3", "books/Book.pdf#page=3"),
        ("rules.md#Opening hours", "legal/rules.md#opening-hours"),
        ("rules.md#travel-costs", "legal/rules.md#travel-costs"),
    ],
)
def test_a_document_can_be_named_in_many_ways(index: Index, typed: str, key: str) -> None:
    found = resolve(judged(typed), index)
    assert found.qrels == {"q": {key: 1}}
    assert not found.typed
    assert list(found.parts.get("q", {})) == (
        [key] if "#" in key.removesuffix("#8").removeprefix("team/C#.md") else []
    )


def passages_of(index: Index, document: str) -> tuple[Passage, ...]:
    return index.document_passages([document])[document]


def keys(found: JudgedQueries, passages: tuple[Passage, ...]) -> list[str]:
    return [found.key("q", passage).rpartition("#")[2] for passage in passages]


def test_passages_of_a_page_count_as_it_and_others_as_themselves(index: Index) -> None:
    found = resolve(judged("Book.pdf#page=3"), index)
    passages = passages_of(index, "books/Book.pdf")
    on_it = ["snow" in passage.text for passage in passages]
    assert sum(on_it) == 1
    assert keys(found, passages) == [
        "page=3" if there else f"passage={place}" for place, there in enumerate(on_it)
    ]
    # Both wrong passages and another document fill a rank each; the order is the search's.
    others = passages_of(index, "plain-7")
    hits = [Candidate(p, 1.0, n) for n, p in enumerate((*passages, *others), start=1)]
    assert list(by_key("q", hits, found.key))[-1] == "plain-7#passage=0"


def test_a_section_holds_its_sub_sections(index: Index) -> None:
    found = resolve(judged("rules.md#Travel costs"), index)
    passages = passages_of(index, "legal/rules.md")
    named = keys(found, passages)
    for passage, key in zip(passages, named, strict=True):
        under = any(word in passage.text for word in ("Tickets", "taxis", "book"))
        assert (key == "travel-costs") == under, passage.text
    assert 0 < named.count("travel-costs") < len(named)


def test_of_two_parts_a_passage_counts_as_the_better_and_whole_documents_still_count(
    index: Index,
) -> None:
    grades = {"rules.md#Travel costs": 1, "rules.md#Abroad": 3, "Book.pdf": 2}
    found = resolve(judged(grades=grades), index)
    abroad = next(p for p in passages_of(index, "legal/rules.md") if "Ask before" in p.text)
    assert found.key("q", abroad) == "legal/rules.md#abroad"
    assert found.key("q", passages_of(index, "books/Book.pdf")[0]) == "books/Book.pdf"
    assert found.key("another", abroad) == "legal/rules.md"


def test_what_names_nothing_is_listed_with_its_place_and_what_comes_near(index: Index) -> None:
    wrong = ["rules.md", "Rule.md", "zzz", *(f"gone-{n}" for n in range(5))]
    with pytest.raises(CorpusError) as caught:
        resolve(judged(*wrong), index)
    told = str(caught.value)
    assert "mine.csv:3: 'Rule.md' (nearest: 'legal/rules.md'" in told
    assert "mine.csv:4: 'zzz'" in told
    assert "and 2 more" in told
    assert "retrieval documents" in told


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("Book.pdf#page=4", r"mine.csv:2: 'Book.pdf#page=4' \(nearest: 'books/Book.pdf#page="),
        ("plain-7#page=1", "mine.csv:2: 'plain-7#page=1'"),
        ("rules.md#Opening hour", r"nearest: 'legal/rules.md#Opening hours'"),
    ],
)
def test_pages_and_headings_that_are_not_there_are_errors(
    index: Index, typed: str, told: str
) -> None:
    with pytest.raises(CorpusError, match=told):
        resolve(judged(typed), index)


@pytest.mark.parametrize("typed", ["notes.txt", "faq.csv"])
def test_a_name_of_several_documents_is_an_error_that_lists_them(index: Index, typed: str) -> None:
    with pytest.raises(CorpusError, match="is ambiguous") as caught:
        resolve(judged(typed), index)
    listed = ("legal/notes.txt", "team/notes.txt") if typed == "notes.txt" else ("faq.csv#7",)
    assert all(one in str(caught.value) for one in listed)


def test_two_names_of_one_document_must_agree(index: Index) -> None:
    same = resolve(judged(grades={"rules.md": 1, "legal/rules.md": 1}), index)
    assert same.qrels == {"q": {"legal/rules.md": 1}}
    with pytest.raises(CorpusError, match="two different grades"):
        resolve(judged(grades={"rules.md": 1, "legal/rules.md": 2}), index)


def test_ids_that_were_not_typed_stay_as_they_are(index: Index) -> None:
    given = JudgedQueries("set", "test", {"q": "x"}, {"q": {"nowhere": 1}})
    assert resolve(given, index) is given


def test_headings_are_compared_by_their_words() -> None:
    assert heading_key("  Öffnungs-Zeiten & Preise ") == heading_key("öffnungs zeiten, preise")
    assert heading_key("开放时间") == "开放时间"
    assert heading_key("***") == "***"
