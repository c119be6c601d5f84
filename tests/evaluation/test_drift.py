"""Population stability of searches: quiet under chance, loud where questions change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.errors import CorpusError
from retrieval.evaluation.drift import (
    LoggedSearch,
    distribution,
    drift_of,
    read_search_log,
    shift,
)
from retrieval.types import Reference


def reference(count: int = 200) -> Reference:
    random = np.random.default_rng(0)
    relevance, length = random.beta(5, 2, count), random.normal(40, 10, count)
    return Reference(count, distribution(relevance), distribution(length), 0.4, 0.08, 0.0)


def searches(count: int, *, seed: int = 1, a: float = 5, mean: float = 40) -> list[LoggedSearch]:
    random = np.random.default_rng(seed)
    relevance, length = random.beta(a, 2, count), random.normal(mean, 10, count)
    return [LoggedSearch(int(n), 5, float(p)) for n, p in zip(length, relevance, strict=True)]


def test_chance_alone_is_seldom_called_a_move() -> None:
    then, random = distribution(np.random.default_rng(5).normal(size=300)), np.random.default_rng(6)
    told = 0
    for _ in range(300):
        found = shift(then, 300, random.normal(size=150).tolist())
        told += found.psi > found.chance
    assert told <= 40  # expected: 15 of 300, and the reference's own chance on top


def test_the_same_questions_are_stable_and_others_are_not() -> None:
    assert not drift_of(reference(), searches(300)).label_again
    harder = drift_of(reference(), searches(300, a=1.5))
    assert harder.relevance is not None
    assert harder.relevance.verdict == "moved far"
    assert harder.under > 0.3
    assert harder.label_again
    assert drift_of(reference(), searches(300, mean=80)).length.verdict == "moved far"
    assert "Label again" in harder.as_text()
    assert json.loads(json.dumps(harder.as_dict()))["label_again"] is True


def test_a_few_searches_say_that_they_are_few() -> None:
    found = drift_of(reference(), searches(12))
    assert "12 searches are few" in found.as_text()


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50), st.integers(1, 20))
def test_the_index_is_never_negative_and_zero_for_the_same(values: list[float], times: int) -> None:
    then = distribution(np.array(values))
    assert sum(then.shares) == pytest.approx(1)
    assert shift(then, len(values), values * times).psi >= -1e-12
    assert shift(then, len(values), values).psi == pytest.approx(0, abs=1e-12)


def line(**changes: Any) -> str:
    record: dict[str, Any] = {
        "time": "2026-11-29T10:00:00.000+00:00",
        "collection": "docs",
        "characters": 20,
        "hits": 3,
        "best_relevance": 0.7,
        "relevance_is": "probability",
    }
    return json.dumps({**record, **changes}) + "\n"


def test_a_log_is_read(tmp_path: Path) -> None:
    log = tmp_path / "searches.jsonl"
    log.write_text(
        line()
        + line(collection="other")
        + line(time="2026-10-01T00:00:00+00:00")
        + line(relevance_is="sigmoid")
        + line(hits=0, best_relevance=None, relevance_is=None)
        + line()[:-9],  # the service is writing it
        encoding="utf-8",
    )
    found, notices = read_search_log(log, "docs", since="2026-11-01")
    assert found == [LoggedSearch(20, 3, 0.7), LoggedSearch(20, 3, None), LoggedSearch(20, 0, None)]
    assert any("incomplete" in notice for notice in notices)
    assert any("1 searches were not what the calibration is for" in notice for notice in notices)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has no search of the collection 'docs'"),
        ('{"query": "x"}\n', 'expected "characters" and "hits"'),
        ("no json\n", ":1: the line is not JSON"),
    ],
)
def test_a_log_that_is_none(tmp_path: Path, text: str, words: str) -> None:
    log = tmp_path / "searches.jsonl"
    log.write_text(text, encoding="utf-8")
    with pytest.raises(CorpusError, match=words):
        read_search_log(log, "docs")
