from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from app.types import Facts
from app.ui import columns, render
from retrieval.types import Hit, Passage, SearchResult, Timings

Make = Callable[..., SearchResult]

TEMPLATE_TAGS = "header h1 ul li b div section h2 h3 ol p span i dl dt dd details summary mark"
ALLOWED = set(TEMPLATE_TAGS.split())


class Balanced(HTMLParser):
    """Fails on tags that the templates don't use and on tags that don't close in order."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ALLOWED, f"<{tag}> came from outside"
        for name, _ in attrs:
            assert name in {"class", "style", "title", "role"} or name.startswith(
                ("aria-", "data-")
            ), f"{tag} {name}"
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> came from outside"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def parse(html: str) -> Balanced:
    seen = Balanced()
    seen.feed(html)
    seen.close()
    assert seen.open == []
    return seen


def everything(result: SearchResult) -> list[str]:
    return [
        render.summary(result),
        columns.stage1_column(result, 2),
        columns.stage2_column(result, 2),
        render.header(
            result.query,
            Facts(
                collection=result.query,
                passages=3,
                encoder=result.encoder,
                reranker=result.query,
                notices=(result.query,),
            ),
        ),
        render.message(result.query, result.query),
        render.searching(result.query),
    ]


def hit(make_result: Make, stage1_rank: int, rank: int) -> Hit:
    names = [f"p{n}" for n in range(1, 61)]
    final = [name for name in names if name != f"p{stage1_rank}"]
    final.insert(rank - 1, f"p{stage1_rank}")
    found = make_result(names, final).hits[rank - 1]
    assert (found.stage1_rank, found.rank) == (stage1_rank, rank)
    return found


@pytest.mark.parametrize(
    ("stage1_rank", "rank", "kind", "sign"),
    [
        (4, 1, "up", "▲3"),
        (2, 4, "down", "▼2"),
        (3, 3, "same", "="),
        (10, 2, "up", "▲8"),
        (11, 2, "new", "new"),
        (37, 1, "new", "new"),
    ],
)
def test_rank_changes(make_result: Make, stage1_rank: int, rank: int, kind: str, sign: str) -> None:
    change = columns.rank_change(hit(make_result, stage1_rank, rank), shown=10)
    assert (change.kind, change.sign) == (kind, sign)
    if kind != "same":
        assert str(stage1_rank) in change.meaning


def test_nothing_from_outside_becomes_markup(make_result: Make, hostile: str) -> None:
    names = [f"{n}{hostile}" for n in range(4)]
    result = make_result(
        names,
        names[::-1],
        query=hostile,
        texts=dict.fromkeys(names, hostile * 20),
        reranker=hostile,
        notices=(hostile,),
    )
    for html in everything(result):
        seen = parse(html)
        assert hostile[:40] in seen.text or hostile[:40].capitalize() in seen.text
        assert "@children" not in html


def test_columns_show_both_orders(make_result: Make) -> None:
    result = make_result(["a", "b", "c", "d"], ["d", "a"])
    stage1 = columns.stage1_column(result, 2)
    assert re.findall(r'data-passage="id-(\w)"', stage1) == ["a", "b"]
    text = parse(stage1).text
    assert "→ 2" in text  # where a goes
    assert "below the first 2 in the final order" in text  # b
    assert "2 more candidates" in text
    assert "→ 1" in text  # d, in the list of the others

    stage2 = columns.stage2_column(result, 2)
    assert re.findall(r'data-rank="(\d)" data-passage="id-(\w)"', stage2) == [
        ("1", "d"),
        ("2", "a"),
    ]
    text = parse(stage2).text
    assert "new among the first 2, was 4" in text
    assert "▼1" in text
    assert "90% relevance" in text
    assert "rerank score 9.0000" in text
    assert "stage 1 fused 0.2500" in text
    assert "folder/d.md" in text


def test_without_a_reranker_nothing_is_called_re_ranked(make_result: Make) -> None:
    result = make_result(["a", "b"], ["a", "b"], reranker=None, mode="sparse")
    text = parse(columns.stage2_column(result, 10)).text
    assert "Final order" in text
    assert "not re-ranked" in text
    assert "relevance" not in text
    assert "=" not in text
    assert "BM25 terms" in parse(columns.stage1_column(result, 10)).text


def test_a_blended_order_says_so(make_result: Make) -> None:
    text = parse(columns.stage2_column(make_result(["a"], ["a"], blend="rrf"), 10)).text
    assert "blended with stage 1" in text
    assert "blended 9.0000" in text


def test_no_passage_found(make_result: Make) -> None:
    result = make_result([], [])
    for html in (columns.stage1_column(result, 10), columns.stage2_column(result, 10)):
        assert "No passage was found" in parse(html).text


def test_summary_has_the_milliseconds_and_the_models(make_result: Make) -> None:
    text = parse(render.summary(make_result(["a"], ["a"], notices=("Mind the gap.",)))).text
    for part in ("4.2 ms", "1.5 ms", "120 ms", "126 ms", "an-encoder", "a-reranker", "Mind the"):
        assert part in text
    assert "Mind" not in parse(render.summary(make_result(["a"], ["a"]), notices=())).text


def test_times_of_nothing_and_of_long_searches(make_result: Make) -> None:
    nothing = replace(make_result(["a"], ["a"]), timings=Timings(0.0, 0.0, 0.0, 0.0))
    assert "0.0 ms" in parse(render.summary(nothing)).text
    long = replace(nothing, timings=Timings(1.0, 1.0, 61_234.0, 61_236.0))
    assert "61.2 s" in parse(render.summary(long)).text


def test_headings_titles_and_whole_passages(make_passage: Callable[..., Passage]) -> None:
    from retrieval.types import Candidate

    passage = make_passage(
        "doc", "line one\nline two", title="", headings=("Guide", "Install"), source=""
    )
    result = SearchResult(
        "q", (), (Candidate(passage, 0.5, 1),), "dense", "none", "e", None, Timings(1, 1, 0, 2)
    )
    html = columns.stage1_column(result, 10)
    text = parse(html).text
    assert "doc" in text  # its id, as it has no title
    assert "Guide › Install" in text
    assert "line one\nline two" in text
    assert "cosine 0.5000" in text
    assert "tsr-source" not in html


def test_a_huge_passage_is_cut_and_says_so(make_result: Make) -> None:
    result = make_result(["a"], ["a"], texts={"a": "word " * 100_000})
    html = columns.stage2_column(result, 10)
    assert len(html) < 30_000
    assert "\n…</div>" in html


def test_a_message_is_an_alert_with_a_next_step() -> None:
    html = render.message("the store is open elsewhere", "Close it.")
    assert 'role="alert"' in html
    assert parse(html).text == "The store is open elsewhere.Close it."


def with_best(result: SearchResult, span: tuple[int, int] | None) -> SearchResult:
    return replace(result, hits=tuple(replace(hit, best_span=span) for hit in result.hits))


def test_the_best_part_is_set_off_in_the_whole_passage(make_result: Make, hostile: str) -> None:
    text = f"before {hostile} to copy a tree {hostile} after"
    start, end = len("before "), len(text) - len(" after")
    result = with_best(make_result(["a"], ["a"], texts={"a": text}), (start, end))
    html = columns.stage2_column(result, 10)
    seen = parse(html).text
    assert f"before [best part begins] {text[start:end]} [best part ends] after" in seen
    assert "Best part" in seen
    assert "tsr-best" not in columns.stage1_column(result, 10)


@pytest.mark.parametrize("span", [None, (0, 4)])
def test_a_passage_that_was_read_in_one_piece_has_no_best_part(
    make_result: Make, span: tuple[int, int] | None
) -> None:
    html = columns.stage2_column(with_best(make_result(["a"], ["a"]), span), 10)
    assert "tsr-best" not in html
    assert "Whole passage" not in html


def test_the_best_part_of_a_huge_passage_is_on_the_page(make_result: Make) -> None:
    text = "word " * 20_000 + "HERE " * 100 + "more " * 20_000
    span = (100_000, 100_500)
    html = columns.stage2_column(with_best(make_result(["a"], ["a"], texts={"a": text}), span), 10)
    seen = parse(html).text
    assert f"[best part begins] {'HERE ' * 100} [best part ends]more" in seen
    assert "…\nword" in seen
    assert "\n…" in seen
    assert len(html) < 30_000


def test_hits_below_the_depth_of_a_budget_say_so(make_result: Make) -> None:
    result = make_result(["a", "b", "c"], ["b", "a", "c"])
    hits = (*result.hits[:2], replace(result.hits[2], stage2_score=None, relevance=None))
    result = replace(result, hits=hits, reranked=2)
    assert "not re-ranked" in parse(columns.stage2_column(result, 10)).text
    assert "3 of 3 candidates shown, 2 re-ranked" in parse(render.summary(result)).text
    assert "re-ranked" not in parse(render.summary(replace(result, reranked=3))).text
