"""Indexing: what is written, what is skipped, and what a killed run leaves behind."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hashing_encoder import HashingEncoder

from retrieval.errors import CorpusError, ManifestMismatch
from retrieval.index.bm25 import bm25_info
from retrieval.index.embedded.index import EmbeddedIndex
from retrieval.ingestion import ingest_documents
from retrieval.splitting.splitter import Splitter
from retrieval.types import Document, IngestProgress, Manifest


def manifest(encoder: HashingEncoder, max_tokens: int = 40, overlap: int = 8) -> Manifest:
    splitter = Splitter(encoder.token_counter, max_tokens=max_tokens, overlap_tokens=overlap)
    return Manifest("docs", encoder.info, splitter.info, bm25_info("english", []))


def run(store: Path, documents: Any, encoder: HashingEncoder | None = None, **options: Any) -> Any:
    encoder = encoder or HashingEncoder()
    splitter = Splitter(encoder.token_counter, max_tokens=40, overlap_tokens=8)
    with EmbeddedIndex.open_or_create(store, "docs", manifest(encoder)) as index:
        return ingest_documents(
            documents,
            index=index,
            encoder=encoder,
            splitter=splitter,
            **options,
        )


def contents(store: Path) -> dict[str, Any]:
    """Everything a collection holds: passages by id, and what a search finds."""
    with EmbeddedIndex.open(store, "docs") as index:
        passages = {p.id: p for p in index.passages()}
        vector = np.ones(64, dtype=np.float32) / 8.0
        found = [
            (c.passage.id, round(c.score, 5))
            for c in index.search(mode="dense", vector=vector, limit=1000)
        ]
        words = [
            (c.passage.id, round(c.score, 4))
            for c in index.search(mode="sparse", text="word3 word7", limit=1000)
        ]
    return {"passages": passages, "dense": found, "sparse": words}


def corpus(n: int = 30, version: int = 1) -> list[Document]:
    """Documents of 1 to 5 passages; every third one is other in version 2, and shorter."""
    made = []
    for number in range(n):
        changed = version == 2 and number % 3 == 0
        length = (20 if changed else 30) * (1 + number % 5)
        words = " ".join(
            f"word{(number * 7 + i * (2 if changed else 3)) % 50}" for i in range(length)
        )
        made.append(
            Document(f"d{number}", words + ".", title=f"Title {number}", source=f"d{number}")
        )
    return made


def test_a_second_run_encodes_nothing(tmp_path: Path) -> None:
    first = run(tmp_path, corpus())
    assert (first.read, first.new, first.changed, first.unchanged) == (30, 30, 0, 0)
    assert first.passages > 60
    assert first.tokens > first.passages * 10
    before = contents(tmp_path)
    encoder = HashingEncoder()
    second = run(tmp_path, corpus(), encoder)
    assert (second.new, second.changed, second.unchanged, second.passages) == (0, 0, 30, 0)
    assert encoder.encoded == []
    assert contents(tmp_path) == before


def test_changed_documents_are_replaced_and_nothing_of_the_old_stays(tmp_path: Path) -> None:
    run(tmp_path / "a", corpus())
    report = run(tmp_path / "a", corpus(version=2))
    assert (report.new, report.changed, report.unchanged) == (0, 10, 20)
    run(tmp_path / "b", corpus(version=2))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_the_window_does_not_change_the_result(tmp_path: Path) -> None:
    for window in (1, 7, 1000):
        run(tmp_path / str(window), corpus(), window=window)
    assert contents(tmp_path / "1") == contents(tmp_path / "7") == contents(tmp_path / "1000")


def test_bad_documents_are_named_and_the_rest_is_indexed(tmp_path: Path) -> None:
    documents = [
        Document("a", "some text", source="a.txt"),
        Document("b", "   ", source="b.txt"),
        Document("a", "other text", source="c.txt"),
    ]
    report = run(tmp_path, documents)
    assert [str(p) for p in report.failed] == [
        "b.txt: has no text to index",
        "c.txt: document id 'a' was read before in this run; the first is kept",
    ]
    assert (report.read, report.new) == (3, 1)
    with pytest.raises(CorpusError, match=r"b\.txt"):
        run(tmp_path, documents, on_error="raise")


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (Document("b", "text", metadata={"x": 2**64}), "metadata.x is 18446744073709551616"),
        (Document("b", "text", metadata={"x": float("nan")}), "not JSON"),
        (Document("b", "text", metadata={"x": {1, 2}}), "not JSON"),
        (Document("b", "half a pair \ud800"), "text has a lone surrogate"),
        (Document("b\ud800", "text"), "not text that can be stored"),
    ],
)
def test_what_cannot_be_stored_stops_no_other_document(
    bad: Document, reason: str, tmp_path: Path
) -> None:
    documents = [Document("a", "some text"), bad, Document("c", "other text")]
    report = run(tmp_path, documents)
    assert [p.source for p in report.failed] == [bad.id]
    assert reason in report.failed[0].reason
    assert {p.document_id for p in contents(tmp_path)["passages"].values()} == {"a", "c"}
    with pytest.raises(CorpusError, match="Correct the document"):
        run(tmp_path, documents, on_error="raise")


def test_a_document_that_became_bad_keeps_what_was_stored_of_it(tmp_path: Path) -> None:
    run(tmp_path, [Document("a", "some text")])
    report = run(tmp_path, [Document("a", "new text", metadata={"x": {1}})])
    assert len(report.failed) == 1
    assert [p.text for p in contents(tmp_path)["passages"].values()] == ["some text"]


def test_another_encoder_or_splitter_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    run(tmp_path, corpus(3))
    before = contents(tmp_path)
    encoder, other = HashingEncoder(), HashingEncoder("other")
    with EmbeddedIndex.open(tmp_path, "docs") as index:
        for bad_encoder, max_tokens in ((other, 40), (encoder, 39)):
            splitter = Splitter(encoder.token_counter, max_tokens=max_tokens, overlap_tokens=8)
            with pytest.raises(ManifestMismatch):
                ingest_documents(
                    corpus(3, version=2),
                    index=index,
                    encoder=bad_encoder,
                    splitter=splitter,
                )
    assert contents(tmp_path) == before


def test_a_reader_that_fails_is_heard_and_what_was_read_stays(tmp_path: Path) -> None:
    def failing() -> Iterator[Document]:
        yield from corpus(20)
        raise OSError("the disk was pulled out")

    with pytest.raises(OSError, match="pulled out"):
        run(tmp_path, failing(), window=4)
    assert contents(tmp_path)["passages"]


def test_progress_ends_at_the_totals(tmp_path: Path) -> None:
    events: list[IngestProgress] = []
    report = run(tmp_path, corpus(), progress=events.append, window=16)
    assert [e.passages for e in events] == sorted(e.passages for e in events)
    last = events[-1]
    assert (last.documents, last.total_documents, last.passages, last.tokens) == (
        30,
        30,
        report.passages,
        report.tokens,
    )


KILLED = textwrap.dedent(
    """
    import os, signal, sys
    from pathlib import Path
    sys.path.insert(0, {tests!r})
    import importlib.util
    spec = importlib.util.spec_from_file_location("ti", {this!r})
    ti = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(ti)
    step, version = int(sys.argv[2]), int(sys.argv[3])
    from retrieval.index.embedded.index import EmbeddedIndex
    calls = 0

    def die_at(name):
        real = getattr(EmbeddedIndex, name)
        def wrapped(self, *args, **kw):
            global calls
            calls += 1
            if calls == 2 * step:            # before the write
                os.kill(os.getpid(), signal.SIGKILL)
            result = real(self, *args, **kw)
            if calls == 2 * step - 1:        # after the write
                os.kill(os.getpid(), signal.SIGKILL)
            return result
        setattr(EmbeddedIndex, name, wrapped)

    for name in ("upsert", "delete_passages", "optimize"):
        die_at(name)
    ti.run(Path(sys.argv[1]), ti.corpus(version=version), window=16)
    """
)


@pytest.mark.parametrize("version", [1, 2])
def test_a_killed_run_continued_ends_as_an_unkilled_one(tmp_path: Path, version: int) -> None:
    """SIGKILL before or after every second write, in the first run and in an update."""
    script = tmp_path / "killed.py"
    script.write_text(KILLED.format(tests=str(Path(__file__).parents[1]), this=__file__))
    whole = tmp_path / "whole"
    run(whole, corpus(), window=16)
    if version == 2:
        run(whole, corpus(version=2), window=16)
    expected = contents(whole)

    killed = 0
    for step in (1, 2, 3):
        store = tmp_path / f"step{step}"
        if version == 2:
            run(store, corpus(), window=16)
        done = subprocess.run(
            [sys.executable, str(script), str(store), str(step), str(version)],
            check=False,
            capture_output=True,
            text=True,
        )
        assert done.returncode in (0, -9), done.stderr
        killed += done.returncode == -9
        report = run(store, corpus(version=version), window=16)
        assert not report.failed
        assert contents(store) == expected
    assert killed >= 2
