"""A pool on disk: what is asked next, what is kept, and files that were damaged or edited."""

from __future__ import annotations

import doctest
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.api.make_pool import make_pool
from retrieval.errors import CorpusError, InvalidInput, StoreLocked
from retrieval.evaluation.judgements import load_judgements
from retrieval.evaluation.pool import Item, Pool
from retrieval.evaluation.pool_files import ShownPassage, StoredItem

QUERIES = [("q1", "when is lunch?"), ("q2", "wann schließt das Tor?"), ("q3", "谁付钱?")]
KEYS = ["menu.md", "a file.txt", "日程.md"]


def made(folder: Path, depth: int = 10) -> Pool:
    pool = Pool.make(folder, "docs", "0a1b", depth=depth)
    pool.add_queries(QUERIES, "file")
    pool.put_items(
        [
            StoredItem(query, key, "", (ShownPassage(key, "text"),), {"dense": rank})
            for query, _ in QUERIES
            for rank, key in enumerate(KEYS, start=1)
        ],
        ["dense"],
    )
    return pool


def pair(item: Item | None) -> tuple[str, str] | None:
    return None if item is None else (item.query.id, item.key)


def order(pool: Pool) -> list[tuple[str, str]]:
    """What is asked for in turn; everything gets a 1."""
    asked = []
    while (item := pool.next_item()) is not None:
        asked.append((item.query.id, item.key))
        pool.judge(item, 1)
    return asked


def test_queries_come_one_after_the_other_and_ranks_do_not_show(tmp_path: Path) -> None:
    asked = order(made(tmp_path / "a"))
    assert [query for query, _ in asked] == ["q1"] * 3 + ["q2"] * 3 + ["q3"] * 3
    orders = {tuple(key for query, key in asked if query == id_) for id_, _ in QUERIES}
    assert len(orders) > 1, "each query has an order of its own"
    assert asked == order(made(tmp_path / "b")), "the order follows from the seed"


def test_what_comes_later_does_not_change_the_order_of_what_waits(tmp_path: Path) -> None:
    before = order(made(tmp_path / "a"))
    pool = made(tmp_path / "b")
    pool.put_items([StoredItem("q1", "new.md", "", (ShownPassage("n", "new"),), {"x": 1})], ["x"])
    assert [one for one in order(pool) if one[1] != "new.md"] == before


def test_judgements_are_qrels_that_every_reader_of_beir_reads(tmp_path: Path) -> None:
    with made(tmp_path) as pool:
        for grade in (2, 0, 1):
            item = pool.next_item()
            assert item is not None
            pool.judge(item, grade)
            judged = load_judgements(tmp_path)
            assert judged.qrels["q1"][item.key] == grade
    assert judged.queries == {"q1": "when is lunch?"}
    assert set(judged.qrels["q1"]) == set(KEYS)


def test_nothing_is_lost_between_two_openings(tmp_path: Path) -> None:
    pool = made(tmp_path)
    first = pool.next_item()
    assert first is not None
    pool.judge(first, 2)
    second = pool.next_item()
    assert second is not None
    pool.skip(second)
    third = pool.next_item()
    pool.close()
    with Pool(tmp_path) as again:
        assert pair(again.next_item()) == pair(third)
        assert again.status().grades == {2: 1}
        assert again.status().skipped == 1
        assert order(again)[-1] == pair(second), "what was skipped comes again at the end"
        assert again.status().skipped == 0


def test_undo_goes_back_across_queries_and_days(tmp_path: Path) -> None:
    asked = order(made(tmp_path))
    with Pool(tmp_path) as pool:
        undone = [pair(pool.undo()) for _ in asked]
        assert undone == asked[::-1]
        assert pool.undo() is None
        assert pair(pool.next_item()) == asked[0]
    assert (tmp_path / "qrels" / "test.tsv").read_text() == "query-id\tcorpus-id\tscore\n"
    assert len((tmp_path / "judgements.jsonl").read_text().splitlines()) == 18, "nothing is erased"


def test_a_second_grade_counts_and_its_undo_brings_the_first_back(tmp_path: Path) -> None:
    with made(tmp_path) as pool:
        item = pool.next_item()
        assert item is not None
        pool.judge(item, 0)
        pool.judge(item, 2)
        assert pool.status().grades == {2: 1}
        pool.undo()
        assert pool.status().grades == {0: 1}
    with Pool(tmp_path) as pool:
        assert pool.status().grades == {0: 1}


STEPS = st.lists(st.sampled_from(["0", "1", "2", "skip", "undo", "open"]), max_size=25)


@settings(max_examples=30, deadline=None)
@given(steps=STEPS)
def test_whatever_is_pressed_the_files_say_what_was_answered(
    steps: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("pool") / "p"
    pool = made(folder)
    stack: list[tuple[tuple[str, str], int | None]] = []
    for step in steps:
        if step == "open":
            pool.close()
            pool = Pool(folder)
        elif step == "undo":
            undone = pool.undo()
            assert pair(undone) == (stack.pop()[0] if stack else None)
        elif (item := pool.next_item()) is not None:
            grade = None if step == "skip" else int(step)
            if grade is None:
                pool.skip(item)
            else:
                pool.judge(item, grade)
            stack.append(((item.query.id, item.key), grade))
    pool.close()
    expected = {key: grade for key, grade in dict(stack).items() if grade is not None}
    rows = (folder / "qrels" / "test.tsv").read_text(encoding="utf-8").splitlines()[1:]
    assert {
        (query, key): int(grade) for query, key, grade in (row.split("\t") for row in rows)
    } == expected


@pytest.mark.parametrize("documented", [Pool, make_pool])
def test_the_examples_run(documented: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shown: list[str] = []
    name = documented.__name__
    example = doctest.DocTestParser().get_doctest(documented.__doc__, {}, name, None, 0)
    assert example.examples
    runner = doctest.DocTestRunner(verbose=False)
    runner.run(example, out=shown.append)
    assert not runner.failures, "".join(shown)


# --- what people and machines do to files ----------------------------------------------------


@pytest.mark.parametrize("end", [b'{"query": "q1", "key": "me', b"\0\0\0", b"\xff\xfe"])
def test_a_last_line_cut_off_by_a_loss_of_power_is_dropped_and_told(
    end: bytes, tmp_path: Path
) -> None:
    with made(tmp_path) as pool:
        first, file = pool.next_item(), tmp_path / "judgements.jsonl"
        assert first is not None
        pool.judge(first, 1)
    with file.open("ab") as out:
        out.write(end)
    reading = Pool(tmp_path, write=False)
    assert reading.notices == [f"{file}:2 is incomplete and was left out."]
    assert file.read_bytes().endswith(end), "who only reads changes nothing"
    with Pool(tmp_path) as pool:
        assert pool.notices == [f"{file}:2 is incomplete and was left out."]
        second = pool.next_item()
        assert second is not None
        pool.judge(second, 0)
    with Pool(tmp_path) as pool:
        assert pool.notices == []
        assert pool.status().grades == {0: 1, 1: 1}


@pytest.mark.parametrize(
    "line",
    [
        "nonsense",
        '["q1"]',
        '{"query": "q1", "key": "menu.md"}',
        '{"query": "q1", "key": "menu.md", "grade": 3}',
        '{"query": "q1", "key": "menu.md", "grade": true}',
        '{"query": "q9", "key": "menu.md", "grade": 1}',
        '{"query": "q1", "key": "menu.md", "undo": true}',
    ],
)
def test_other_lines_that_cannot_be_read_are_refused_by_number(line: str, tmp_path: Path) -> None:
    with made(tmp_path) as pool:
        item = pool.next_item()
        assert item is not None
        pool.skip(item)
    with (tmp_path / "judgements.jsonl").open("a") as out:
        out.write(f"{line}\n")
    with pytest.raises(CorpusError, match=r"judgements\.jsonl:2"):
        Pool(tmp_path)
    with pytest.raises(CorpusError, match=r"judgements\.jsonl:2"):
        Pool(tmp_path)  # the lock was given back


@pytest.mark.parametrize(
    ("name", "line", "words"),
    [
        ("queries.jsonl", '{"_id": "q1", "text": "again"}', r"queries\.jsonl:4"),
        ("queries.jsonl", '{"_id": "q4", "text": " "}', r"queries\.jsonl:4"),
        ("queries.jsonl", '{"_id": "q4", "text": "x", "origin": "me"}', r"queries\.jsonl:4"),
        ("items.jsonl", '{"query": "q1", "key": "x"}', r"items\.jsonl:10"),
        (
            "items.jsonl",
            '{"query": "q9", "key": "x", "title": "", "passages": [], "ranks": {}}',
            "documents for the query 'q9'",
        ),
    ],
)
def test_contents_that_cannot_be_read_are_named(
    name: str, line: str, words: str, tmp_path: Path
) -> None:
    made(tmp_path).close()
    with (tmp_path / name).open("a") as out:
        out.write(f"{line}\n")
    with pytest.raises(CorpusError, match=words):
        Pool(tmp_path)


@pytest.mark.parametrize(
    "head", ["", "[]", '{"format": 1}', '{"format": 1, "collection": 3, "depth": 1}']
)
def test_a_damaged_head_is_told(head: str, tmp_path: Path) -> None:
    made(tmp_path).close()
    (tmp_path / "pool.json").write_text(head)
    with pytest.raises(CorpusError, match=r"pool\.json cannot be read"):
        Pool(tmp_path)


def test_a_pool_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    made(tmp_path).close()
    head = json.loads((tmp_path / "pool.json").read_text())
    (tmp_path / "pool.json").write_text(json.dumps({**head, "format": 2}))
    with pytest.raises(CorpusError, match="has format 2"):
        Pool(tmp_path)


def test_no_pool_and_the_folder_of_something_else_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="is no pool"):
        Pool(tmp_path / "nowhere")
    beir = tmp_path / "beir"
    beir.mkdir()
    (beir / "queries.jsonl").write_text("{}")
    with pytest.raises(InvalidInput, match=r"holds 'queries\.jsonl' already"):
        Pool.make(beir, "docs", "id", depth=10)
    assert (beir / "queries.jsonl").read_text() == "{}"
    with pytest.raises(InvalidInput, match="is a file, expected a folder"):
        Pool.make(beir / "queries.jsonl", "docs", "id", depth=10)
    made(tmp_path / "pool").close()
    with pytest.raises(InvalidInput, match="of the collection 'docs', and 'other' was given"):
        Pool.make(tmp_path / "pool", "other", "id", depth=10)


def test_two_judges_at_once_are_refused_and_a_killed_one_is_not(tmp_path: Path) -> None:
    made(tmp_path).close()
    code = (
        "import sys, time; from retrieval.evaluation.pool import Pool; "
        f"pool = Pool({str(tmp_path)!r}); print('open', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        with pytest.raises(StoreLocked, match="judged or extended by another process"):
            Pool(tmp_path)
        assert Pool(tmp_path, write=False).status().items == 9
    finally:
        other.kill()
        other.communicate()
    Pool(tmp_path).close()


def test_who_only_reads_cannot_judge(tmp_path: Path) -> None:
    made(tmp_path).close()
    pool = Pool(tmp_path, write=False)
    item = pool.next_item()
    assert item is not None
    with pytest.raises(InvalidInput, match="reading only"):
        pool.judge(item, 1)


@pytest.mark.parametrize("grade", [3, -1, True, "1", None, 1.0])
def test_grades_that_do_not_exist_are_refused(grade: int, tmp_path: Path) -> None:
    with made(tmp_path) as pool:
        item = pool.next_item()
        assert item is not None
        with pytest.raises(InvalidInput, match="the grade is"):
            pool.judge(item, grade)
    assert not (tmp_path / "judgements.jsonl").exists()


# --- queries -----------------------------------------------------------------------------------


def test_the_same_question_is_one_whoever_asked_it(tmp_path: Path) -> None:
    with made(tmp_path) as pool:
        same = [("", "When  is LUNCH?"), ("", "ｗhen is lunch?"), ("", "new")]
        assert [one.id for one in pool.add_queries(same, "log")] == ["log-4"]
        (other,) = pool.add_queries([("q1", "something else")], "file")
        assert other.id == "file-5"
        assert "'q1' is another query's in this pool" in pool.notices[0]
    with Pool(tmp_path) as pool:
        assert pool.queries["log-4"].origin == "log"


@pytest.mark.parametrize("id_", ["a\tb", "a\n", " a"])
def test_ids_that_no_qrels_can_hold_are_refused(id_: str, tmp_path: Path) -> None:
    with made(tmp_path) as pool, pytest.raises(InvalidInput, match="cannot hold"):
        pool.add_queries([(id_, "text")], "file")


# --- the state ---------------------------------------------------------------------------------


def test_how_much_of_each_top_is_judged(tmp_path: Path) -> None:
    with made(tmp_path) as pool:
        new = StoredItem("q1", "new.md", "", (ShownPassage("n", "new"),), {"other": 1})
        found = StoredItem("q1", KEYS[0], "", (ShownPassage(KEYS[0], "text"),), {"other": 2})
        pool.put_items([new, found], ["other"])
        assert pool.status().systems == {}, "no query is judged, so nothing is measured"
        while (item := pool.next_item()) is not None and item.query.id == "q1":
            if item.key == "new.md":
                pool.skip(item)
            else:
                pool.judge(item, 0)
        state = pool.status()
        assert state.systems == {"dense": 1.0, "other": 0.5}
        assert (state.items, state.judged, state.skipped) == (10, 3, 1)
        assert state.warnings == (
            "other is measured on 50% judged of its top 10; judge on, or its figures are too low.",
            "1 of 1 judged queries have no relevant document so far; they count as 0 for every "
            "system.",
        )


def test_ranks_of_a_system_that_is_pooled_again_are_the_new_ones(tmp_path: Path) -> None:
    with made(tmp_path) as pool:
        item = pool.next_item()
        assert item is not None
        pool.judge(item, 1)
        other = StoredItem(item.query.id, item.key, "", (ShownPassage("2", "more"),), {"dense": 7})
        assert pool.put_items([other], ["dense"]) == 0
        assert "1 judged documents were found by passages" in pool.notices[0]
        assert pool.status().grades == {1: 1}
        lines = [json.loads(x) for x in (tmp_path / "items.jsonl").read_text().splitlines()]
        assert [x["ranks"] for x in lines if x["ranks"]] == [{"dense": 7}]
        assert len(lines) == 9


def test_synthetic_queries_have_a_split_of_their_own(tmp_path: Path) -> None:
    with made(tmp_path) as pool:
        for n in (1, 2):
            (query,) = pool.add_queries([("", f"made {n}")], "synthetic", answered_by=f"d{n}")
            pool.put_items([StoredItem(query.id, f"d{n}", "", (ShownPassage("p", "t"),))])
        asked = load_judgements(tmp_path, "synthetic")
        assert asked.qrels == {"synthetic-4": {"d1": 1}, "synthetic-5": {"d2": 1}}
        while (item := pool.next_item()) is not None:
            pool.judge(item, 0 if item.key == "d1" else 2)
        state = pool.status()
        assert (state.synthetic_judged, state.synthetic_agreed) == (2, 1)
        assert state.grades == {2: 9}, "those of people's queries"
    checked = load_judgements(tmp_path, "synthetic")
    assert checked.qrels == {"synthetic-5": {"d2": 2}}, "one was no good"
    assert set(load_judgements(tmp_path).qrels) == {"q1", "q2", "q3"}
