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

from retrieval.errors import CorpusError, InvalidInput
from retrieval.evaluation.trec import (
    ranking,
    read_qrels,
    read_run,
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


# --- reading ----------------------------------------------------------------------------------


def test_what_was_written_is_read_back_in_its_order(tmp_path: Path) -> None:
    run = {"q1": {"a": 3.0, "b": 3.0, "c": 1.0}, "q2": {"é": 1e-30}}
    write_run(tmp_path / "x.run", run)
    found = read_run(tmp_path / "x.run")
    assert {q: ranking(own) for q, own in found.items()} == {
        q: ranking(own) for q, own in run.items()
    }
    write_qrels(tmp_path / "qrels.txt", {"q1": {"a": 2, "b": -1}})
    assert read_qrels(tmp_path / "qrels.txt") == {"q1": {"a": 2, "b": -1}}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("q Q0 a 1 2.5 x\nq Q0 b 1 1e-3 x\n", {"a": 2.5, "b": 0.001}),
        ("q\ta b\t9\t2.5\r\n\r\nq\tc\t1\t3\r\n", {"a b": 2.5, "c": 3.0}),
        ("q\ta\t2.5\nq\tb\t3\n", {"a": 2.5, "b": 3.0}),
        ("qid\tdocid\tscore\nq\ta\t2\nq\tb\t1\n", {"a": 2.0, "b": 1.0}),
        ("q\ta\t1\nq\tb\t2\nq\tc\t3\n", {"a": 1.0, "b": 1 / 2, "c": 1 / 3}),  # MS MARCO's ranks
    ],
)
def test_runs_of_other_columns_are_read(
    tmp_path: Path, text: str, expected: dict[str, float]
) -> None:
    (tmp_path / "x.run").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert read_run(tmp_path / "x.run") == {"q": expected}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("q Q0 a 1 nan x\n", ":1: the score is 'nan', expected a finite number"),
        ("q Q0 a 1 2 x\nq Q0 b 2 -inf x\n", ":2: the score is '-inf'"),
        ("q Q0 a 1 high x\n", ":1: the score is 'high'"),
        ("q Q0 a 1 2 x\nq Q0 a 2 1 x\n", ":2: document 'a' is given twice for query 'q'"),
        ("q Q0 a 1 2\n", ":1: the line has 5 columns, expected 3, 4 or 6"),
        ("q Q0 a 1 2 x\nq a 1\n", ":2: the line has 3 columns, expected 6 as above it"),
        ("\n", "holds no results"),
    ],
)
def test_bad_runs_are_named(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "x.run").write_text(text)
    with pytest.raises(CorpusError, match=complaint):
        read_run(tmp_path / "x.run")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("q 0 a\n", ":1: the score is 'a'"),
        ("q 0 a 1 x\n", ":1: expected three fields"),
        ("q 0 a 1\nq 0 a 2\n", ":2: document 'a' has two different grades"),
        ("q\t0\ta\t\n", ":1: expected three fields"),
        ("", "has no judgements"),
    ],
)
def test_bad_qrels_are_named(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "qrels.txt").write_text(text)
    with pytest.raises(CorpusError, match=complaint):
        read_qrels(tmp_path / "qrels.txt")


@pytest.mark.shared_data
def test_the_run_at_hand_is_read(shared_data: Path) -> None:
    run = read_run(shared_data / "msmarco-dl20-pool" / "run.bm25.top100.tsv")
    assert run["23849"]["4348282"] == pytest.approx(10.0663, abs=1e-4)
    assert ranking(run["23849"])[:2] == ["4348282", "2674124"]
