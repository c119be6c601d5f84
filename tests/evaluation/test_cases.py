"""What a case of a retrieval test accepts, and what its report says."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.evaluation.cases import Case, CaseOutcome, Wanted, judge
from retrieval.evaluation.cases_report import CasesReport, write_json, write_junit
from retrieval.types import Candidate, Hit, Passage, SearchResult, Timings


def passage(id_: str, text: str = "", source: str = "", **more: object) -> Passage:
    return Passage(f"p-{id_}", id_, 0, text, 0, len(text), source=source, **more)  # type: ignore[arg-type]


def hits_of(*passages: Passage, first: int = 1) -> tuple[Hit, ...]:
    return tuple(
        Hit(one, rank, 1.0 / rank, 0.5, rank, 1.0) for rank, one in enumerate(passages, start=first)
    )


def result_of(*passages: Passage, candidates: tuple[Passage, ...] = ()) -> SearchResult:
    found = tuple(Candidate(one, 1.0, n) for n, one in enumerate(candidates or passages, start=1))
    times = Timings(1.0, 1.0, 1.0, 3.0)
    return SearchResult("?", hits_of(*passages), found, "dense", "none", "e", None, times)


def case(**fields: object) -> Case:
    fields = {"name": "n", "question": "?", "options": {"top_k": 2}, **fields}
    return Case(**fields)  # type: ignore[arg-type]


def judged(case: Case, result: SearchResult, ms: float = 3.0, *later: Passage) -> CaseOutcome:
    return judge(case, result, ms, lambda: hits_of(*later, first=3))


TRAVEL = passage("handbook/travel.md", source="/srv/my files/handbook/travel.md")
ROW = passage("faq.csv#7", source="/srv/faq.csv:8")


@pytest.mark.parametrize(
    "written",
    [
        "handbook/travel.md",
        "travel.md",
        "./handbook/travel.md",
        "handbook\\travel.md",
        "my files/handbook/travel.md",
        "/srv/my files/handbook/travel.md",
    ],
)
def test_a_document_is_named_by_its_id_or_the_end_of_its_path(written: str) -> None:
    assert Wanted(written).fits(TRAVEL)


@pytest.mark.parametrize("written", ["ravel.md", "travel", "TRAVEL.md", "other/travel.md", "/"])
def test_other_names_are_other_documents(written: str) -> None:
    assert not Wanted(written).fits(TRAVEL)


def test_rows_of_a_file() -> None:
    assert [Wanted(w).fits(ROW) for w in ("faq.csv#7", "faq.csv", "faq.csv:8")] == [True] * 3
    assert not Wanted("faq.csv#8").fits(ROW)
    assert not Wanted("faq.csv:7").fits(ROW)


def test_a_page_or_what_stands_under_a_heading() -> None:
    page = passage("guide.pdf", metadata={"page": 3, "last_page": 4})
    assert [n for n in range(1, 6) if Wanted(f"guide.pdf#page={n}").fits(page)] == [3, 4]
    under = passage("rules.md", headings=("Travel", "Paid back when?"))
    assert Wanted("rules.md#Paid back when?").fits(under)
    assert not Wanted("rules.md#Meals").fits(under)


def test_names_are_compared_as_unicode_means_them() -> None:
    assert Wanted("Ärger.md").fits(passage("A\u0308rger.md"))


@given(st.text(min_size=1).filter(str.strip), st.text())
def test_an_id_always_names_its_document(id_: str, source: str) -> None:
    assert Wanted(id_).fits(passage(id_, source=source))


def test_words_in_order_whatever_their_case_and_blanks() -> None:
    one = passage("a", "Paid back\n  within TEN\u00a0days.", headings=("Travel costs",))
    assert Wanted(text="within ten days").fits(one)
    assert Wanted(text="travel COSTS paid").fits(one)
    assert not Wanted(text="ten within days").fits(one)
    assert Wanted(text="差旅费").fits(passage("b", "差旅费在十天内报销。"))
    assert Wanted(text="STRASSE").fits(passage("c", "Die Straße ist gesperrt."))


def test_document_and_words_must_be_of_one_hit() -> None:
    found = result_of(passage("a", "soup"), passage("b", "bread"))
    assert judged(case(must_contain=(Wanted("a", "soup"),)), found).state == "ok"
    assert judged(case(must_contain=(Wanted("a", "bread"),)), found).state == "failed"


def test_where_a_missing_document_is() -> None:
    found = result_of(passage("x"), passage("y"), candidates=tuple(map(passage, "xydb")))
    wanted = tuple(map(Wanted, "abc"))
    outcome = judged(case(must_contain=wanted), found, 3.0, passage("a"))
    assert outcome.problems == (
        "'a' is not within the first 2: it is at rank 3",
        "'b' is not within the first 2: the first stage has it at rank 4, the answer left it out",
        "'c' is not within the first 2: it is not among the 4 candidates of the first stage",
        "found 1. x (relevance 0.5), 2. y (relevance 0.5)",
    )


@pytest.mark.parametrize(
    ("share", "found", "state"),
    [
        (1.0, "ab", "failed"), (1.0, "abc", "ok"), (0.67, "ab", "ok"), (0.66, "ab", "ok"),
        (0.68, "ab", "failed"), (0.34, "a", "failed"), (0.33, "a", "ok"),
    ],
)  # fmt: skip
def test_a_share_of_what_must_be_there(share: float, found: str, state: str) -> None:
    wanted = tuple(map(Wanted, "abc"))
    one = case(must_contain=wanted, min_recall=share, options={"top_k": 5})
    outcome = judged(one, result_of(*map(passage, found)))
    assert outcome.state == state
    if state == "failed" and share < 1:
        assert f"{len(found)} of 3 are within the first 5" in outcome.problems[0]


def test_all_means_all_of_many() -> None:
    wanted = tuple(Wanted(str(n)) for n in range(300))
    found = result_of(*(passage(str(n)) for n in range(299)))
    assert judged(case(must_contain=wanted, options={"top_k": 300}), found).state == "failed"


def test_what_must_not_be_there() -> None:
    one = case(must_not_contain=(Wanted("old"), Wanted(text="1999")))
    found = result_of(passage("new", "in 1999"), passage("old"))
    problems = judged(one, found).problems
    assert problems[0].startswith("'old' is at rank 2, and must not be")
    assert problems[1].startswith("a passage with the words '1999' is at rank 1")
    assert judged(one, result_of(passage("new"))).state == "ok"


def test_an_answer_that_must_be_empty() -> None:
    one = case(nothing_relevant=True, options={"top_k": 5, "min_relevance": 0.4})
    assert judged(one, result_of()).state == "ok"
    (problem,) = judged(one, result_of(passage("a"))).problems
    assert problem == "expected no hit with min_relevance 0.4, found 1. a (relevance 0.5)"


def test_time() -> None:
    one = case(max_ms=20)
    assert judged(one, result_of(), 20.0).state == "ok"
    outcome = judged(one, result_of(), 31.2)
    assert outcome.problems == ("the search took 31 ms, at most 20 ms are allowed",)
    assert outcome.ms == 31.2
    both = judged(case(max_ms=20, must_contain=(Wanted("a"),)), result_of(), 31.2)
    assert [problem.split(" ")[0] for problem in both.problems] == ["the", "'a'", "found"]


# --- reports --------------------------------------------------------------------------------

BAD = "a\x00b\x1b[31m < & \" ' 中文 \ud800 😀\nsecond"
OUTCOMES = (
    CaseOutcome("fine", "ok?", "ok", (), 12.5, hits_of(TRAVEL)),
    CaseOutcome(BAD, BAD, "failed", (BAD, "two"), None),
    CaseOutcome("broken", "?", "error", ("no such tenant. Leave it out.",), exit_code=2),
)


def report(*outcomes: CaseOutcome) -> CasesReport:
    return CasesReport("my cases.toml", "docs@v1", outcomes or OUTCOMES, 1.5, ("a note",))


def test_junit_survives_any_text(tmp_path: Path) -> None:
    write_junit(tmp_path / "new folder" / "out.xml", report())
    root = ElementTree.parse(tmp_path / "new folder" / "out.xml").getroot()
    assert root.tag == "testsuites"
    (suite,) = root
    counts = {"tests": "3", "failures": "1", "errors": "1", "skipped": "0", "time": "1.500"}
    assert counts.items() <= suite.attrib.items()
    fine, failed, broken = suite
    assert fine.attrib == {
        "classname": "docs@v1", "name": "fine", "file": "my cases.toml", "time": "0.013",
    }  # fmt: skip
    assert list(fine) == []
    cleaned = BAD.translate({0: 0xFFFD, 0x1B: 0xFFFD, 0xD800: 0xFFFD})
    assert failed.attrib["name"] == cleaned
    (failure,) = failed
    assert (failure.tag, failure.attrib["message"]) == ("failure", f"{cleaned}; two")
    assert failure.text == f"{cleaned}\n{cleaned}\ntwo"
    assert [child.tag for child in broken] == ["error"]


@given(st.text())
def test_junit_is_xml_whatever_the_names(text: str) -> None:
    made = report(CaseOutcome(text, text, "failed", (text,))).as_junit()
    assert len(ElementTree.fromstring(made.encode())) == 1


def test_json_keeps_what_was_found(tmp_path: Path) -> None:
    write_json(tmp_path / "out.json", report())
    value = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert value["counts"] == {"ok": 1, "failed": 1, "error": 1}
    assert value["passed"] is False
    assert value["cases"][0]["hits"] == [
        {
            "rank": 1, "document_id": "handbook/travel.md", "passage_id": "p-handbook/travel.md",
            "source": "/srv/my files/handbook/travel.md", "score": 1.0, "relevance": 0.5,
        }
    ]  # fmt: skip


def test_exit_codes() -> None:
    ok, failed, error = OUTCOMES
    fault = CaseOutcome("f", "?", "error", ("disk",), exit_code=1)
    codes = [
        report(*some).exit_code
        for some in [(ok,), (ok, failed), (ok, failed, error), (error, fault), (ok, error)]
    ]
    assert codes == [0, 3, 2, 1, 2]
    assert report(ok).passed
    assert not report(ok, failed).passed
