"""Recall of the approximate index against exact search."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from maintenance_help import DIMENSION, fill, make_manifest

from retrieval.errors import InvalidInput
from retrieval.index.store import Store
from retrieval.maintenance.ann_recall import measure_recall, parse_depths
from retrieval.types import Candidate, Layout


@pytest.fixture
def store(tmp_path: Path) -> Store:
    place = Store(tmp_path / "store")
    with place.create(make_manifest()) as index:
        fill(index, 300)
    return place


def test_a_scan_misses_nothing(store: Store) -> None:
    with store.open("docs") as index:
        report = measure_recall(index, depths=(1, 10), sample=40)
    assert report.recall == {1: 1.0, 10: 1.0}
    assert report.worst == {1: 1.0, 10: 1.0}
    assert (report.queries, report.passages, report.own_vectors) == (40, 300, True)
    assert report.exact_ms > 0


def test_what_is_missed_is_counted(store: Store) -> None:
    class Forgetful:
        """Leaves every second passage out unless it is asked to be exact."""

        def __init__(self, index: Any) -> None:
            self._index = index

        def __getattr__(self, name: str) -> Any:
            return getattr(self._index, name)

        def search_batch(self, *args: Any, exact: bool, **options: Any) -> list[list[Candidate]]:
            (all_of_them,) = self._index.search_batch(*args, exact=True, **options)
            return [all_of_them if exact else all_of_them[::2]]

    queries = np.random.default_rng(1).standard_normal((5, DIMENSION)).astype(np.float32)
    with store.open("docs") as index:
        report = measure_recall(Forgetful(index), queries, depths=(10, 20))  # type: ignore[arg-type]
    assert report.recall == {10: 0.5, 20: 0.5}
    assert not report.own_vectors


def test_tenants_are_measured_alone(tmp_path: Path) -> None:
    place = Store(tmp_path)
    with place.create(make_manifest(layout=Layout(tenants=True))) as index:
        fill(index, 20, tenant="a")
        fill(index, 30, tenant="b")
        assert measure_recall(index, sample=5, tenant="b").passages == 30


def test_there_must_be_something_to_measure(tmp_path: Path) -> None:
    with Store(tmp_path).create(make_manifest()) as index:
        with pytest.raises(InvalidInput, match="is empty"):
            measure_recall(index)
        for depths in ((), (0,), (True,)):
            with pytest.raises(InvalidInput, match="whole numbers of at least 1"):
                measure_recall(index, depths=depths)


def test_depths_are_whole_numbers() -> None:
    assert parse_depths("10, 100") == [10, 100]
    for text in ("", "ten", "10,"):
        with pytest.raises(InvalidInput, match="joined by commas"):
            parse_depths(text)
