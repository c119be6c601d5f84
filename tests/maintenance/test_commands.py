"""The commands that look after collections, as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from doubles.qdrant_http import qdrant_http
from qdrant_client import QdrantClient, models

from retrieval.cli.main import run
from retrieval.index.store import Store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("commands")
    source = root / "source"
    source.mkdir()
    for n in range(12):
        (source / f"{n}.md").write_text(f"# Animal {n}\n\nThe {n} sleeps at noon.", "utf-8")
    place = str(root / "store")
    assert run(["index", str(source), "--store", place, "--encoder", "all-MiniLM-L6-v2"]) == 0
    return place


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    code = run(list(arguments))
    out, err = capsys.readouterr()
    assert code == 0, err
    return out


def test_export_import_and_copy(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "docs.jsonl.gz"
    assert "12 passages of docs" in said(capsys, "export", "docs", str(file), "--store", store)
    other = str(tmp_path / "other")
    out = said(capsys, "import", str(file), "--collection", "again", "--store", other)
    assert "12 passages are in again" in out
    out = said(capsys, "copy", "again", "--to", str(tmp_path / "third"), "--store", other)
    assert "12 passages are in again" in out
    assert Store(tmp_path / "third").names() == ["again"]
    out = said(
        capsys, "search", "sleeps at noon", "--collection", "again", "--store",
        str(tmp_path / "third"), "--top-k", "1",
    )  # fmt: skip
    assert "sleeps" in out


def test_backup_and_restore(store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "docs.tar.gz"
    assert "12 passages of docs" in said(capsys, "backup", "docs", str(file), "--store", store)
    to = str(tmp_path / "to")
    assert "12 passages are in docs" in said(capsys, "restore", str(file), "--store", to)
    assert Store(to).names() == ["docs"]


def test_doctor(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = said(capsys, "doctor", "docs", "--store", store, "--encode", "4")
    assert "4 passages encoded anew" in out
    assert "ERROR" not in out
    found = json.loads(said(capsys, "doctor", "docs", "--store", store, "--json"))
    assert found["state"] == "ok"
    assert found["points"] == 12


def test_doctor_fails_where_something_is_wrong(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said(capsys, "copy", "docs", "--to", str(tmp_path / "bad"), "--store", store)
    with Store(tmp_path / "bad").open("docs") as index:
        (one, *_) = [p for p in index.passages() if p.document_id == "3.md"]
        from dataclasses import replace

        import numpy as np

        vector = np.ones((1, index.manifest.encoder.dimension), dtype=np.float32)
        index.upsert([replace(one, document_passages=2)], vector / np.linalg.norm(vector))
    capsys.readouterr()
    assert run(["doctor", "docs", "--store", str(tmp_path / "bad")]) == 1
    out, err = capsys.readouterr()
    assert "ERROR    documents: documents with passages missing: 1 (3.md)" in out
    assert "docs@v1 has problems" in err


def test_recall(store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = said(capsys, "recall", "docs", "--store", store, "--depths", "1,5")
    assert "recall@1    1.0000" in out
    assert "12 stored passages as queries on 12 passages" in out
    queries = tmp_path / "queries.txt"
    queries.write_text("who sleeps\n\nnoon\n", "utf-8")
    values = json.loads(
        said(capsys, "recall", "docs", "--store", store, "--queries", str(queries), "--json")
    )
    assert (values["queries"], values["own_vectors"]) == (2, False)
    queries.write_text("\n")
    assert run(["recall", "docs", "--store", store, "--queries", str(queries)]) == 2
    assert "holds no query" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "none", "x.jsonl"], "no collection 'none'"),
        (["export", "docs", "x.csv"], "expected .jsonl"),
        (["import", "none.jsonl"], "none.jsonl"),
        (["copy", "docs", "--to", "ftp://host"], "expected a folder"),
        (["backup", "docs", "x.zip"], "expected the ending .tar.gz"),
        (["restore", "none.tar.gz"], "none.tar.gz"),
        (["doctor", "none"], "no collection 'none'"),
        (["recall", "docs", "--depths", "ten"], "joined by commas"),
    ],
)
def test_mistakes_are_explained(
    store: str, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert run([*arguments, "--store", store]) in (1, 2)
    err = capsys.readouterr().err
    assert message in err
    assert "unexpected" not in err


def test_what_others_keep_on_a_server_is_named(
    store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with qdrant_http() as double:
        said(capsys, "copy", "docs", "--store", store, "--to", double.url)
        client = QdrantClient(url=double.url, check_compatibility=False)
        size = models.VectorParams(size=4, distance=models.Distance.DOT)
        for name in ("docs@v2", "theirs"):
            client.create_collection(name, vectors_config=size)
        client.close()
        at = ("--store", double.url)
        theirs = "not made by this library for that name: left alone"
        lines = said(capsys, "list", *at).splitlines()
        assert lines == ["docs", f"docs@v2  ({theirs})", f"theirs  ({theirs})"]
        told = json.loads(said(capsys, "list", "--json", *at))
        assert told["foreign"] == ["docs@v2", "theirs"]
        current, other = said(capsys, "versions", "docs", *at).splitlines()
        assert current.startswith("* docs@v1")
        assert other == f"  docs@v2  ({theirs})"
        names = json.loads(said(capsys, "info", "docs", "--json", *at))["vector_names"]
        info = double.backend.find("docs")[1].config
        assert names == {"dense": next(iter(info.vectors)), "bm25": next(iter(info.sparse_vectors))}  # type: ignore[arg-type]
        assert names["dense"] in said(capsys, "info", "docs", *at)
        assert said(capsys, "delete", "docs", "--yes", *at) == "Deleted docs@v1.\n"
        assert double.backend.collections() == ["docs@v2", "theirs"]
