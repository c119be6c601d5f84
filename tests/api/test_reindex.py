"""Building a new version of a collection beside the one in use."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from hashing_encoder import HashingEncoder

import retrieval
from retrieval import Store
from retrieval.api.reindex import reindex
from retrieval.cli.main import run
from retrieval.errors import CollectionNotFound, CorpusError
from retrieval.types import Storage


def write_docs(folder: Path, count: int, text: str = "the {} animal sleeps at noon") -> Path:
    folder.mkdir(exist_ok=True)
    for n in range(count):
        (folder / f"{n}.txt").write_text(text.format(n), encoding="utf-8")
    return folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_docs(tmp_path / "source", 10)


@pytest.fixture
def store(tmp_path: Path, source: Path) -> Store:
    place = Store(tmp_path / "store")
    retrieval.ingest(source, "docs", store=place, encoder=HashingEncoder(), max_tokens=32)
    return place


def build(source: Path, store: Store, **options: Any) -> Any:
    return reindex([source], "docs", store=store, encoder=HashingEncoder(), **options)


def test_a_version_that_is_no_worse_is_switched_to(source: Path, store: Store) -> None:
    report = build(source, store, max_tokens=16, overlap_tokens=2)
    assert (report.before, report.after) == ("docs@v1", "docs@v2")
    assert (report.documents_before, report.documents_after) == (10, 10)
    assert report.switched
    assert store.current("docs") == "docs@v2"
    assert store.manifest("docs").splitter.max_tokens == 16
    assert "retrieval rollback docs" in report.as_text()
    assert store.rollback("docs") == "docs@v1"
    assert store.manifest("docs").splitter.max_tokens == 32


def test_what_is_not_given_stays_as_it_is(source: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "other")
    retrieval.ingest(
        source, "docs", store=store, encoder=HashingEncoder(), language="de", overlap_tokens=3,
        max_tokens=20, storage=Storage(hnsw_m=24),
    )  # fmt: skip
    report = build(source, store, max_tokens=20, overlap_tokens=3)
    before, after = store.manifest(report.before), store.manifest(report.after)
    assert after.bm25 == before.bm25
    assert after.storage == before.storage
    assert after.layout == before.layout
    assert after.splitter == before.splitter


def test_a_version_with_fewer_documents_waits_for_a_word(source: Path, store: Store) -> None:
    for n in range(4):
        (source / f"{n}.txt").unlink()
    report = build(source, store)
    assert not report.switched
    assert store.current("docs") == "docs@v1"
    assert report.kept_because == ("docs@v2 holds 6 documents, docs@v1 10",)
    assert "retrieval switch docs docs@v2" in report.as_text()
    again = build(source, store, switch=True)  # goes on with the version that is there
    assert again.after == "docs@v2"
    assert again.ingested[0].unchanged == 6
    assert store.current("docs") == "docs@v2"


def test_parts_that_cannot_be_read_keep_the_old_version(source: Path, store: Store) -> None:
    (source / "bad.txt").write_bytes(b"\xff\xfe\xfa")
    report = build(source, store)
    assert not report.switched
    assert any("could not be read" in reason for reason in report.kept_because)


def test_no_switch_where_none_is_wanted(source: Path, store: Store) -> None:
    report = build(source, store, switch=False)
    assert not report.switched
    assert store.current("docs") == "docs@v1"
    assert "asked not to switch" in report.as_text()


def test_worse_answers_keep_the_old_version(tmp_path: Path) -> None:
    folder = tmp_path / "beir"
    (folder / "qrels").mkdir(parents=True)
    words = ["amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heath", "inlet", "gem"]
    with (folder / "corpus.jsonl").open("w") as corpus:
        for n, word in enumerate(words):
            print(json.dumps({"_id": f"d{n}", "title": "", "text": f"a {word} tale"}), file=corpus)
    with (folder / "queries.jsonl").open("w") as queries:
        for n, word in enumerate(words):
            print(json.dumps({"_id": f"q{n}", "text": word}), file=queries)
    judgements = "".join(f"q{n}\td{n}\t1\n" for n in range(10))
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judgements)

    store = Store(tmp_path / "store")
    retrieval.ingest(folder, "docs", store=store, encoder=HashingEncoder())
    worse = tmp_path / "worse"
    worse.mkdir()
    with (worse / "corpus.jsonl").open("w") as corpus:  # the answers moved to other documents
        for n in range(10):
            text = f"a {words[(n + 5) % 10]} tale"
            print(json.dumps({"_id": f"d{n}", "title": "", "text": text}), file=corpus)
    report = reindex(
        [worse / "corpus.jsonl"], "docs", store=store, judged=folder, encoder=HashingEncoder()
    )
    assert report.quality is not None
    assert report.quality.baseline == pytest.approx(1.0)
    assert report.quality.high < 0
    assert not report.switched
    assert any("nDCG@10 is worse by" in reason for reason in report.kept_because)


def test_a_case_that_passed_before_must_pass(tmp_path: Path) -> None:
    source, store = write_docs(tmp_path / "source", 3), Store(tmp_path / "store")
    (source / "soup.txt").write_text("soup is served at noon", encoding="utf-8")
    retrieval.ingest(source, "docs", store=store, encoder=HashingEncoder())
    cases = tmp_path / "cases.toml"
    cases.write_text(
        "rerank = false\nwithin = 1\ncollection = 'another'\n"
        "[[case]]\nname = 'food'\nquestion = 'soup served'\nmust_contain = ['soup.txt']\n"
        "[[case]]\nname = 'never'\nquestion = 'animal 1'\nmust_contain = ['gone.txt']\n"
    )
    same = build(source, store, cases=cases)  # one fails on both versions, which is no news
    assert same.switched
    assert same.cases is not None
    assert same.cases.count("failed") == 1
    assert "2 cases on docs@v2: 1 ok, 1 failed" in same.as_text()
    (source / "soup.txt").write_text("bread at nine", encoding="utf-8")
    (source / "0.txt").write_text("soup is served here", encoding="utf-8")
    worse = build(source, store, cases=cases)
    assert not worse.switched
    assert store.current("docs") == "docs@v2"
    (reason,) = worse.kept_because
    assert reason.startswith("the case 'food' fails on docs@v3: 'soup.txt' is not within the first")
    assert "Not switched: the case 'food' fails" in worse.as_text()
    assert worse.as_dict()["cases"]["counts"] == {"ok": 0, "failed": 2, "error": 0}
    assert build(source, store, cases=cases, switch=True).switched


def test_a_bad_file_of_cases_costs_no_indexing(source: Path, store: Store, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="cannot be read"):
        build(source, store, cases=tmp_path / "no.toml")
    assert store.versions("docs") == ["docs@v1"]


def test_a_collection_that_another_process_serves_is_built_beside_it(
    source: Path, store: Store
) -> None:
    with store.open("docs") as served:
        report = build(source, store)
        assert served.count() == 10
    assert report.documents_before is None
    assert not report.switched
    assert "already open" in report.kept_because[0]
    assert store.versions("docs") == ["docs@v1", "docs@v2"]


def test_there_must_be_something_to_build_anew(source: Path, tmp_path: Path) -> None:
    with pytest.raises(CollectionNotFound):
        build(source, Store(tmp_path / "empty"))


# --- the command line -----------------------------------------------------------------------


@pytest.fixture
def cli_store(source: Path, tmp_path: Path) -> str:
    place = str(tmp_path / "cli")
    assert run(["index", str(source), "--store", place, "--encoder", "all-MiniLM-L6-v2"]) == 0
    return place


def test_versions_by_command(
    source: Path,
    cli_store: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    capsys.readouterr()
    assert run(["reindex", str(source), "--store", cli_store, "--max-tokens", "64"]) == 0
    assert "Searches of docs use docs@v2 now" in capsys.readouterr().out
    assert run(["versions", "docs", "--store", cli_store]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[:9] for line in lines] == ["  docs@v1", "* docs@v2"]
    assert run(["rollback", "docs", "--store", cli_store]) == 0
    assert "docs@v2 → docs@v1" in capsys.readouterr().out
    assert run(["switch", "docs", "docs@v2", "--store", cli_store]) == 0
    assert "docs@v1 → docs@v2" in capsys.readouterr().out
    assert run(["list", "--store", cli_store]) == 0
    assert capsys.readouterr().out == "docs\n"
    monkeypatch.setattr("sys.stdin", io.StringIO())  # nobody there to say yes
    assert run(["delete", "docs", "--store", cli_store]) == 2
    assert "nothing was deleted" in capsys.readouterr().err
    assert run(["delete", "docs", "--store", cli_store, "--yes"]) == 0
    assert "Deleted docs@v1, docs@v2." in capsys.readouterr().out
    assert run(["delete", "docs", "--store", cli_store, "--yes"]) == 2


def test_info_tells_how_a_collection_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = Store(tmp_path)
    retrieval.ingest(
        [retrieval.Document("d", "the animal sleeps", metadata={"year": 2000})],
        "docs",
        store=place,
        encoder=HashingEncoder(),
        tenant="acme",
        storage=Storage(quantization="none"),
    )
    assert run(["info", "docs", "--store", str(tmp_path)]) == 0
    told = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    told = {key: value.strip() for key, value in told.items()}
    assert told["tenants"] == "kept apart"
    assert told["stored vectors"] == "dense, BM25"
    assert told["storage"] == "whole vectors, HNSW m 16, ef_construct 128, in memory"
    assert told["indexed fields"] == "year (number)"


def test_notes_of_the_reader_do_not_keep_the_old_version(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "node_modules").mkdir(parents=True)
    (folder / "node_modules" / "p.md").write_text("Packaged.")
    (folder / "a.md").write_text("Acorns grow.")
    encoder = HashingEncoder()
    retrieval.ingest(folder, "c", store=tmp_path / "store", encoder=encoder)
    report = reindex([folder], "c", store=tmp_path / "store", encoder=encoder)
    (ingested,) = report.ingested
    assert [one.is_note for one in ingested.failed] == [True]
    assert report.switched, report.kept_because
