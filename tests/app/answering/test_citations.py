"""Citations as models write them."""

from __future__ import annotations

import time

import pytest

from app.answering.citations import cited, without_citations


@pytest.mark.parametrize(
    ("answer", "numbers", "unknown"),
    [
        ("Yes [1].", [1], ()),
        ("Yes [2][1], and [2].", [2, 1], ()),
        ("Yes [1, 3] and [2;4].", [1, 3, 2, 4], ()),
        ("Yes [1-3] and [4–5].", [1, 2, 3, 4, 5], ()),
        ("Yes 【2】 and 【3†source】.", [2, 3], ()),
        ("No [6], no [0], no [6].", [], (6, 0)),
        ("Half [5, 6].", [5], (6,)),
        ("In 2024 [2024] it was so.", [], ()),
        ("Quoted [ 1 ] from a source.", [], ()),
        ("`a[1]` and ```x[2]\ny[3]``` but [4].", [4], ()),
        ("Unclosed ``` x[2]", [], ()),
        ("A list[1] without a blank.", [1], ()),
        ("[text](http://x) [a] [] [1", [], ()),
        ("Backwards [3-1].", [3, 1], ()),
        ("", [], ()),
    ],
)
def test_citations_are_read(answer: str, numbers: list[int], unknown: tuple[int, ...]) -> None:
    got = cited(answer, 5)
    assert list(got.marks) == numbers
    assert got.unknown == unknown
    for places in got.marks.values():
        for start, end in places:
            assert answer[start] in "[【"
            assert answer[end - 1] in "]】"


def test_each_place_is_told() -> None:
    answer = "A [1]. B [2, 1]."
    got = cited(answer, 2)
    assert [answer[start:end] for start, end in got.marks[1]] == ["[1]", "[2, 1]"]


def test_earlier_answers_lose_their_numbers() -> None:
    assert without_citations("Soup [1] and bread [2, 3].") == "Soup  and bread ."


def test_a_hostile_answer_costs_no_time() -> None:
    started = time.perf_counter()
    for hostile in ("[" + "1" * 50_000, "[1" + ",1" * 50_000, "[1-" * 30_000, "`" * 50_000):
        cited(hostile, 5)
    assert time.perf_counter() - started < 2
