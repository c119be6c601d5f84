"""A collection's passages with another encoder's vectors: nothing else changes, nothing is lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hashing_encoder import HashingEncoder

import retrieval
from retrieval import Document, Store
from retrieval.api.reencode import reencode
from retrieval.api.reindex import reindex
from retrieval.cli.main import run
from retrieval.errors import InvalidInput, ManifestMismatch, StoreFault, StoreLocked
from retrieval.types import (
    Calibration,
    Encoding,
    FloatArray,
    Pipeline,
    SearchDefaults,
)

DOCUMENTS = [
    Document(
        f"d{n}", f"The {word} is tale number {n}.\r\nIt ends well. 北京 " * 4,
        title=word.title(), metadata={"year": 2000 + n, "note": None}, source=f"{n}.txt",
    )
    for n, word in enumerate(["amber", "birch", "cedar", "delta", "ember", "fjord", "grove"] * 100)
]  # fmt: skip

CALIBRATION = Calibration(
    Pipeline("sha256:old", "", None, None, "dense", None, False, 50, None, "none", None),
    signal="stage1", method="platt", slope=1.0, queries=60,
)  # fmt: skip


class TurnedEncoder(HashingEncoder):
    """Another model: the same words in another order of dimensions."""

    def __init__(self, name: str = "turned", fail_after: int | None = None) -> None:
        super().__init__(name)
        self._left = fail_after

    def encode_passages(self, passages: Sequence[str], *, progress: Any = None) -> Encoding:
        if self._left is not None:
            if self._left == 0:
                raise KeyboardInterrupt
            self._left -= 1
        return super().encode_passages(passages, progress=progress)

    def _vectors(self, texts: Sequence[str]) -> FloatArray:
        return super()._vectors(texts)[:, ::-1].copy()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    place = Store(tmp_path / "store")
    retrieval.ingest(DOCUMENTS, "docs", store=place, encoder=HashingEncoder(), max_tokens=32)
    return place


def contents(store: Store, version: str) -> dict[str, Any]:
    with store.open(version) as index:
        return {one.id: (one.payload, one.sparse) for one in index.points()}


def test_all_but_the_vectors_stays(store: Store) -> None:
    seen: list[tuple[int, int]] = []
    done = reencode(
        "docs", TurnedEncoder(), "docs@v2", store=store,
        progress=lambda *counts: seen.append(counts),
    )  # fmt: skip
    assert contents(store, "docs@v2") == contents(store, "docs@v1")
    assert done.passages == len(contents(store, "docs")) == seen[-1][0]
    old, new = store.manifest("docs@v1"), store.manifest("docs@v2")
    assert (new.splitter, new.bm25, new.storage) == (old.splitter, old.bm25, old.storage)
    assert new.encoder == TurnedEncoder().info
    assert new.id != old.id
    assert store.current("docs") == "docs@v1"
    with store.open("docs@v1") as index:
        ids = [passage.id for passage in index.passages()][:3]
        before = index.vectors(ids)
    with store.open("docs@v2") as index:
        after = index.vectors(ids)
    assert all((before[id_][::-1] == after[id_]).all() for id_ in ids)


def test_a_run_that_was_cut_off_goes_on(store: Store) -> None:
    with pytest.raises(KeyboardInterrupt):
        reencode("docs", TurnedEncoder(fail_after=1), "docs@v2", store=store)
    encoder = TurnedEncoder()
    done = reencode("docs", encoder, "docs@v2", store=store)
    assert done.passages == len(contents(store, "docs"))
    assert len(encoder.encoded) == done.passages - 512
    assert contents(store, "docs@v2") == contents(store, "docs@v1")
    with pytest.raises(ManifestMismatch):
        reencode("docs", TurnedEncoder("third"), "docs@v2", store=store)


def test_what_changed_meanwhile_is_encoded_anew(store: Store) -> None:
    reencode("docs", TurnedEncoder(), "docs@v2", store=store)
    changed = [replace(DOCUMENTS[0], text=DOCUMENTS[0].text.replace("tale", "story"))]
    retrieval.ingest(changed, "docs", store=store, encoder=HashingEncoder())
    encoder = TurnedEncoder()
    reencode("docs", encoder, "docs@v2", store=store)
    assert 0 < len(encoder.encoded) < 10
    assert all("story" in text for text in encoder.encoded)
    assert contents(store, "docs@v2") == contents(store, "docs@v1")


def test_what_was_deleted_meanwhile_is_told(store: Store) -> None:
    reencode("docs", TurnedEncoder(), "docs@v2", store=store)
    with store.open("docs") as index:
        index.delete_documents(["d0"])
    with pytest.raises(StoreFault, match="were deleted from docs meanwhile"):
        reencode("docs", TurnedEncoder(), "docs@v2", store=store)


def test_tenants_keep_their_passages(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    for tenant in ("ana", "bo"):
        retrieval.ingest(
            DOCUMENTS[:20], "docs", store=store, encoder=HashingEncoder(), tenant=tenant
        )
    reencode("docs", TurnedEncoder(), "docs@v2", store=store)
    with store.open("docs@v2") as index:
        assert index.count(tenant="ana") == index.count(tenant="bo") > 0
    assert contents(store, "docs@v2") == contents(store, "docs@v1")


def test_reindexing_without_sources_switches_to_the_new_encoder(store: Store) -> None:
    report = reindex([], "docs", store=store, encoder=TurnedEncoder())
    assert report.switched
    assert report.documents_after == len(DOCUMENTS)
    assert store.manifest("docs").encoder.model == "turned"
    with retrieval.open("docs", store=store, encoder=TurnedEncoder(), reranker=None) as retriever:
        assert retriever.search("the tale of the fjord").hits[0].passage.title == "Fjord"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "no other encoder named"),
        ({"encoder": TurnedEncoder(), "language": "de"}, "language given"),
    ],
)
def test_without_sources_only_vectors_can_change(
    store: Store, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        reindex([], "docs", store=store, **options)
    assert store.versions("docs") == ["docs@v1"]


def test_searches_go_on_while_the_encoder_is_replaced(
    tmp_path: Path, tiny_bert_encoder: Path, make_tiny_model: Callable[..., Path]
) -> None:
    """A retriever that follows answers every search, before, during and after the switch."""
    place, source = str(tmp_path / "store"), tmp_path / "source"
    source.mkdir()
    for one in DOCUMENTS[:40]:
        (source / f"{one.id}.txt").write_text(one.text, "utf-8")
    running: dict[str, Any] = {"engine": "transformers", "device": "cpu", "dtype": "fp32"}
    retrieval.ingest(source, "docs", store=place, encoder=str(tiny_bert_encoder), **running)
    Store(place).set_defaults("docs", SearchDefaults(mode="dense", candidates=7))
    tuned = str(make_tiny_model("bert", "encoder", seed=9))
    models: list[str] = []
    failed: list[BaseException] = []
    stop = threading.Event()

    def search() -> None:
        while not stop.wait(0.01):
            try:
                result = retriever.search("the tale of amber", top_k=3)
                assert len(result.hits) == 3
                assert result.mode == "dense"  # the defaults went with it
                models.append(str(result.encoder))
            except BaseException as error:  # noqa: BLE001  (shown by the test)
                failed.append(error)
                return

    with retrieval.FollowingRetriever(
        "docs", store=place, check_seconds=0.01, reranker="none", **running
    ) as retriever:
        thread = threading.Thread(target=search)
        thread.start()
        with pytest.raises(StoreLocked):  # its passages are another's to read
            reencode("docs", tuned, "docs@v2", store=place, options=running)
        report = reindex([source], "docs", store=place, encoder=tuned, switch=True, **running)
        deadline = time.monotonic() + 20
        while tuned not in models and not failed and time.monotonic() < deadline:
            time.sleep(0.02)
        stop.set()
        thread.join()
    assert not failed
    assert report.switched
    assert list(dict.fromkeys(models)) == [str(tiny_bert_encoder), tuned]
    assert Store(place).manifest("docs").tuning.defaults.candidates == 7


def test_the_command_takes_an_encoder_alone(
    store: Store, make_tiny_model: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    store.set_defaults("docs", SearchDefaults(mode="hybrid", candidates=7))
    store.set_calibration("docs", CALIBRATION)
    command = ["reindex", "--store", str(store.location), "--engine", "transformers"]
    assert run(command) == 2
    assert "no other encoder named" in capsys.readouterr().err
    assert run([*command, "--encoder", str(make_tiny_model("bert", "encoder", seed=9))]) == 0
    assert "The calibration of docs@v1 does not hold for docs@v2" in capsys.readouterr().out
    assert store.current("docs") == "docs@v2"
    assert store.manifest("docs").tuning.defaults.candidates == 7
    assert store.manifest("docs").tuning.calibration is None
    assert store.manifest("docs@v1").tuning.calibration == CALIBRATION


def test_a_calibration_goes_with_what_it_holds_for(store: Store, tmp_path: Path) -> None:
    store.set_calibration("docs", CALIBRATION)
    source = tmp_path / "more.txt"
    source.write_text("Another tale, of a heath.", "utf-8")
    report = reindex([source], "docs", store=store, encoder=HashingEncoder(), max_tokens=32)
    assert report.notices == ()
    assert store.manifest(report.after).tuning.calibration == CALIBRATION
