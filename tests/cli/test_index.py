"""`retrieval index`: pruning, storage options, the summary and the progress."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from retrieval.cli.main import run
from retrieval.cli.progress import _left, _rate
from retrieval.cli.render import report_as_text
from retrieval.index.store import Store
from retrieval.serialization import report_as_dict
from retrieval.types import IngestProgress, IngestReport


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, text in (("a", "Acorns grow."), ("b", "Acorns grow."), ("c", "Rivers run.")):
        (folder / f"{name}.md").write_text(text)
    return folder


def test_a_summary_with_duplicates_storage_and_pruning(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    place = ["--store", str(store), "--encoder", "all-MiniLM-L6-v2"]
    options = ["--quantization", "int8", "--field", "path:keyword", "--field", "n:number"]
    assert run(["index", str(folder), *place, *options]) == 0
    told = capsys.readouterr()
    assert "3 documents read: 3 new" in told.out
    assert "1 document with the text of another" in told.out
    assert "duplicate: b.md has the same text as a.md" in told.err
    storage = Store(store).manifest("docs").storage
    assert (storage.quantization, storage.on_disk) == ("int8", False)
    assert storage.fields == {"path": "keyword", "n": "number"}

    (folder / "c.md").unlink()
    assert run(["index", str(folder), *place, "--prune", "--json"]) == 0
    (report,) = json.loads(capsys.readouterr().out)
    assert report["documents"]["pruned"] == 1
    assert report["duplicate_examples"] == [{"id": "b.md", "same_as": "a.md"}]

    for path in folder.iterdir():
        path.unlink()
    assert run(["index", str(folder), *place, "--prune"]) == 2
    assert "Nothing was read, so nothing is pruned." in capsys.readouterr().err
    with Store(store).open("docs") as index:
        assert index.count() == 2


def test_a_field_is_indexed_afterwards(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    place = ["--store", str(store)]
    made = ["index", str(folder), *place, "--encoder", "all-MiniLM-L6-v2", "--field", "n:number"]
    assert run(made) == 0
    again = ["reindex", str(folder), *place, "--field", "lang:keyword"]
    assert run([*again, "--quantization", "int8"]) == 0, capsys.readouterr().err
    storage = Store(store).manifest("docs").storage
    assert storage.fields == {"n": "number", "lang": "keyword"}
    assert storage.quantization == "int8"
    assert run(["reindex", str(folder), *place, "--field", "lang"]) == 2
    assert "expected NAME:KIND" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--field", "year"], "expected NAME:KIND"),
        (["--field", "year:integer"], "keyword, number, datetime"),
        (["--shards", "2"], "is a folder"),
        (["--replicas", "2"], "is a folder"),
        (["--lexical"], "term weights were requested"),
    ],
)
def test_options_that_cannot_be(
    options: list[str],
    message: str,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    store = tmp_path / "store"
    place = ["--store", str(store), "--encoder", "all-MiniLM-L6-v2"]
    assert run(["index", str(folder), *place, *options]) == 2
    if options == ["--lexical"]:  # the message is the encoder's, where it knows better
        message = "lexical"
    assert message in capsys.readouterr().err
    assert not store.exists()


def test_a_report_says_what_there_is_to_say() -> None:
    quiet = IngestReport("docs", 3, 0, 0, 3, (), 0, 0, 0, 0.5)
    assert "\n" not in report_as_text("x", quiet)
    assert "/s" not in report_as_text("x", quiet)
    full = IngestReport(
        "docs", 30, 20, 1, 9, (), 40, 900, 1, 2.0, (), 5, 2, (("b", "a"), ("c", "a"))
    )
    assert report_as_text("x", full).endswith(
        "written in 2.0 s, 20/s\n"
        "  5 documents pruned; 2 documents with the text of another; 1 passage cut by the encoder"
    )
    assert report_as_dict(full)["passages_per_second"] == 20.0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, ""), (0.0, "0 s left"), (42.4, "42 s left"), (600.0, "10 min left"),
        (9000.0, "2.5 h left"), (90_000.0, "25 h left"),
    ],
)  # fmt: skip
def test_the_time_that_remains_is_as_coarse_as_the_estimate(
    seconds: float | None, text: str
) -> None:
    assert _left(IngestProgress(1, 2, 3, 4, 5.0, 6.0, seconds)) == text


def test_the_rate_is_told_once_there_is_one() -> None:
    assert _rate(IngestProgress(1, 2, 0, 0, 1.0)) == "reading"
    assert _rate(IngestProgress(1, 2, 30, 0, 1.0)) == "30 passages"
    assert _rate(IngestProgress(1, 2, 3000, 0, 1.0, 7.25)) == "3,000 passages · 7.2/s"
    assert _rate(IngestProgress(1, 2, 3000, 0, 1.0, 1234.5)) == "3,000 passages · 1,234/s"


def test_how_files_are_read_is_an_option_of_index_and_reindex(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "folder"
    (folder / "node_modules").mkdir(parents=True)
    (folder / "node_modules" / "p.md").write_text("Packaged.")
    (folder / "t.csv").write_text("nr,name,body\n1,Oak,It bears acorns.\n2,Elm,\n")
    place = ["--store", str(tmp_path / "store")]
    columns = ["--text-column", "body", "--title-column", "name", "--id-column", "nr"]
    listed = tmp_path / "problems.txt"
    made = ["index", str(folder), *place, "--encoder", "all-MiniLM-L6-v2", *columns]
    assert run([*made, "--keep-accents", "--problems", str(listed)]) == 0
    lines = listed.read_text().splitlines()
    assert len(lines) == 1
    assert lines[0].endswith("all_files (--all-files) reads them")
    capsys.readouterr()
    assert Store(place[1]).manifest("docs").bm25.folds is False
    with Store(place[1]).open("docs") as index:
        assert {one for one, _ in index.document_sources()} == {"t.csv#1", "t.csv#2"}
    again = ["reindex", str(folder), *place, *columns, "--all-files", "--fold-accents"]
    assert run(again) == 0, capsys.readouterr().err
    assert Store(place[1]).manifest("docs").bm25.folds is True
    with Store(place[1]).open("docs") as index:
        assert "node_modules/p.md" in {one for one, _ in index.document_sources()}
    assert run([*made, "--problems", str(tmp_path / "no" / "p.txt")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_a_first_run_that_fails_leaves_no_empty_collection(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.md").write_text(" \n")
    place = ["--store", str(tmp_path / "store"), "--encoder", "all-MiniLM-L6-v2"]
    assert run(["index", str(folder), *place]) == 2
    assert Store(place[1]).names() == []
    assert run(["index", str(folder), *place, "--on-error", "raise"]) == 2
    assert Store(place[1]).names() == []
    (folder / "a.md").write_text("Acorns grow.")
    assert run(["index", str(folder), *place]) == 0
    (folder / "a.md").write_text("")
    assert run(["index", str(folder), *place]) == 2
    assert Store(place[1]).names() == ["docs"], "what is there stays"
    capsys.readouterr()
