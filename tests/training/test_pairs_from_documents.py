from pathlib import Path

import pytest

from retrieval import Document, read_documents
from retrieval.errors import InvalidInput
from retrieval.training.data.from_documents import MOST_CHARACTERS, pairs_from_documents

GATE = "The northern gate closes at ten in the evening, and at noon on the day before a holiday."
BUSES = "Buses leave every ten minutes from the square, and every half hour after midnight."
MENSA = "食堂每天中午十一点半开门，下午两点关门，周末不营业，请自带餐具，并把它洗干净。"


def _pairs(*documents: Document, **options: object) -> tuple[list[tuple[str, str]], dict[str, int]]:
    examples, dropped = pairs_from_documents(documents, **options)  # type: ignore[arg-type]
    return [(one.query, one.positives[0]) for one in examples], dict(dropped)


def test_titles_and_headings_of_files(tmp_path: Path) -> None:
    (tmp_path / "guide.md").write_text(
        f"# Visitors' guide\n\n{BUSES}\n\n## 1. Introduction\n\n{GATE}\n\n## 2.1 Opening hours\n\n"
        f"{GATE}\n\n## FAQ\n\n{GATE}\n\n### Empty one\n\n## 第三章 食堂开放时间\n\n{MENSA}\n\n"
        "## 2024-05-01\n\n" + GATE + "\n\n## What is short\n\nNothing.\n",
        "utf-8",
    )
    found, dropped = _pairs(*read_documents(tmp_path))
    assert [query for query, _ in found] == ["Visitors' guide", "Opening hours", "食堂开放时间"]
    assert found[0][1].startswith(BUSES)
    assert found[1][1] == f"Visitors' guide {GATE}"
    assert found[2][1] == f"Visitors' guide {MENSA}"
    assert dropped == {
        "titles and headings that any document may have": 2,
        "titles and headings too short to ask anything": 1,
        "texts too short to answer anything": 1,
    }
    (one, *_), _ = pairs_from_documents(read_documents(tmp_path), ["headings"])
    assert (one.query, one.positive_ids) == ("Opening hours", ("guide.md",))
    assert one.where.endswith("guide.md")


def test_what_stands_above_several_texts_is_dropped_everywhere() -> None:
    found, dropped = _pairs(
        Document("a", GATE, "Opening hours"),
        Document("b", BUSES, "opening HOURS"),
        Document("c", BUSES, "Bus lines"),
        Document("d", BUSES, "Bus lines"),
    )
    assert found == [("Bus lines", BUSES)]
    assert dropped == {
        "titles and headings that stand above several texts": 2,
        "passages that the same query has already": 1,
    }


@pytest.mark.parametrize(
    "title", ["Einleitung", "4 References", "A. Overview", "IV. 概要", "附录", "!"]
)
def test_titles_that_ask_nothing(title: str) -> None:
    found, dropped = _pairs(Document("a", GATE, title))
    assert (found, sum(dropped.values())) == ([], 1)


def test_numbers_that_belong_to_a_title_stay() -> None:
    for title in (
        "3D printing rooms",
        "2024 opening hours",
        "Civil code",
        "X-ray rooms",
        "I am here",
        "10 ways in",
        "C. elegans",
    ):
        assert _pairs(Document("a", GATE, title))[0] == [(title, GATE)]


def test_a_document_gives_so_many_pairs_drawn_by_a_seed() -> None:
    def long(id_: str) -> Document:
        parts = (f"## Room number {id_}{n}\n\n{n} {GATE}" for n in range(20))
        return Document(id_, "\n\n".join(parts))

    first, dropped = _pairs(long("a"), long("b"), most_per_document=5)
    assert len(first) == 10
    assert dropped == {"pairs over the most for one document": 30}
    alone, _ = _pairs(long("b"), most_per_document=5)
    assert first[5:] == alone  # other documents do not change what is drawn
    assert alone == sorted(alone, key=lambda one: int(one[0].rpartition("b")[2]))
    assert _pairs(long("b"), most_per_document=5, seed=1)[0] != alone


def test_long_texts_end_with_a_sentence() -> None:
    ((_, text),), _ = _pairs(Document("a", f"{GATE} " * 100, "Opening hours"))
    assert MOST_CHARACTERS / 2 < len(text) <= MOST_CHARACTERS
    assert text.endswith("holiday.")
    ((_, text),), _ = _pairs(Document("a", "x" * 5000, "Opening hours"))
    assert len(text) == MOST_CHARACTERS


def test_arguments_are_checked() -> None:
    for kinds in ("titles", [], ["columns"]):
        with pytest.raises(InvalidInput, match="titles"):
            pairs_from_documents([], kinds)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="most_per_document"):
        pairs_from_documents([], most_per_document=0)
