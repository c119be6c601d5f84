"""Run and qrels files hold exactly the order that was meant, whole or not at all."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.errors import InvalidInput
from retrieval.evaluation.trec import (
    ranking,
    write_atomically,
    write_qrels,
    write_run,
)


def test_a_run_file_has_trec_columns(tmp_path: Path) -> None:
    write_run(tmp_path / "r.run", {"q1": {"b": 0.5, "a": 2.0}, "q2": {"c": -1.25}}, tag="mine")
    assert (tmp_path / "r.run").read_text() == (
        "q1 Q0 a 1 2.0 mine\nq1 Q0 b 2 0.5 mine\nq2 Q0 c 1 -1.25 mine\n"
    )


scores = st.floats(allow_nan=False, allow_infinity=False, width=64)


@given(scored=st.dictionaries(st.text("abcdef", min_size=1, max_size=3), scores, min_size=1))
def test_every_reader_sees_the_order_that_was_written(
    tmp_path_factory: pytest.TempPathFactory, scored: dict[str, float]
) -> None:
    path = tmp_path_factory.mktemp("runs") / "r.run"
    write_run(path, {"q": scored})
    order = ranking(scored)
    # trec_eval: 32-bit scores, ties by descending id. No tie may be left.
    theirs = [
        (np.float32(line.score), line.doc_id)
        for line in ir_measures.read_trec_run(str(path))  # type: ignore[no-untyped-call]
    ]
    assert [id_ for _, id_ in sorted(theirs, reverse=True)] == order
    assert len({score for score, _ in theirs}) == len(theirs)


def test_ties_come_in_the_order_of_ids(tmp_path: Path) -> None:
    write_run(tmp_path / "r.run", {"q": {"b": 1.0, "a": 1.0, "c": 1.0}})
    lines = [line.split() for line in (tmp_path / "r.run").read_text().splitlines()]
    assert [line[2] for line in lines] == ["a", "b", "c"]
    assert float(lines[0][4]) > float(lines[1][4]) > float(lines[2][4])


@pytest.mark.parametrize(
    ("run", "tag", "named"),
    [
        ({"q": {"my notes.md": 1.0}}, "t", "'my notes.md'"),
        ({"q 1": {"a": 1.0}}, "t", "'q 1'"),
        ({"q": {"": 1.0}}, "t", "document id ''"),
        ({"q": {"a": 1.0}}, "my run", "'my run'"),
        ({"q": {"a": math.nan}}, "t", "nan"),
        ({"q": {"a": math.inf}}, "t", "inf"),
    ],
)
def test_what_a_trec_file_cannot_hold_is_refused_and_the_old_file_stays(
    tmp_path: Path, run: dict[str, dict[str, float]], tag: str, named: str
) -> None:
    path = tmp_path / "r.run"
    write_run(path, {"old": {"a": 1.0}})
    with pytest.raises(InvalidInput, match=named):
        write_run(path, {"fine": {"a": 1.0}, **run}, tag=tag)
    assert path.read_text() == "old Q0 a 1 1.0 retrieval\n"
    assert os.listdir(tmp_path) == ["r.run"]  # noqa: PTH208


def test_a_write_that_fails_halfway_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail(file: Any) -> None:
        file.write("half")
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        write_atomically(tmp_path / "f", fail)
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "r.run", tmp_path / "folder"):
        with pytest.raises(InvalidInput, match=str(path)):
            write_run(path, {"q": {"a": 1.0}})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


def test_folders_are_made_and_ordinary_rights_kept(tmp_path: Path) -> None:
    path = tmp_path / "new" / "deep" / "r.run"
    write_run(path, {"q": {"a": 1.0}})
    (tmp_path / "plain").write_text("")
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_qrels_have_trec_columns(tmp_path: Path) -> None:
    qrels = {"q1": {"a": 2, "b": 0, "c": -1}, "q2": {"a": 1}}
    write_qrels(tmp_path / "qrels.txt", qrels)
    written = (tmp_path / "qrels.txt").read_text().splitlines()
    assert written == ["q1 0 a 2", "q1 0 b 0", "q1 0 c -1", "q2 0 a 1"]
    with pytest.raises(InvalidInput, match="'a b'"):
        write_qrels(tmp_path / "qrels.txt", {"q": {"a b": 1}})
