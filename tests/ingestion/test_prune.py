"""Pruning: what left the source goes; what could not be read, or came from elsewhere, stays."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hashing_encoder import HashingEncoder

import retrieval.api.ingest
from retrieval.ingestion import prune as prune_module
from retrieval.types import Document, IngestReport, Problem


def ingest(source: Any, store: Path, **options: Any) -> IngestReport:
    return retrieval.api.ingest.ingest(source, store=store, encoder=HashingEncoder(), **options)


def stored(store: Path) -> set[str]:
    with retrieval.index.store.Store(store).open("docs") as index:
        return {document_id for document_id, _ in index.document_sources()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    for name in ("a.md", "b.md", "sub/c.md", "sub/d.txt"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"the text of {name}")
    (folder / "faq.jsonl").write_text(
        "".join(f'{{"id": "{n}", "text": "row {n}"}}\n' for n in range(4))
    )
    return folder


ALL = {"a.md", "b.md", "sub/c.md", "sub/d.txt", *(f"faq.jsonl#{n}" for n in range(4))}


def test_what_left_a_folder_goes(folder: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    assert ingest(folder, store, prune=True).pruned == 0
    assert stored(store) == ALL
    (folder / "b.md").unlink()
    (folder / "sub/d.txt").rename(folder / "sub/e.txt")
    (folder / "faq.jsonl").write_text('{"id": "2", "text": "row 2"}\n')
    assert ingest(folder, store).pruned == 0  # only when asked
    report = ingest(folder, store, prune=True)
    assert (report.read, report.new, report.unchanged, report.pruned) == (4, 0, 4, 5)
    assert stored(store) == {"a.md", "sub/c.md", "sub/e.txt", "faq.jsonl#2"}
    assert report.notices == ()


def test_a_relative_source_is_the_same_source(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "store"
    ingest(folder, store)
    (folder / "a.md").unlink()
    monkeypatch.chdir(folder)
    assert ingest(".", store, prune=True).pruned == 1
    assert stored(store) == ALL - {"a.md"}
    (folder / "b.md").unlink()
    monkeypatch.chdir(tmp_path)
    assert ingest("folder/sub/..", store, prune=True).pruned == 1


def test_what_cannot_be_read_this_time_stays(folder: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    ingest(folder, store)
    (folder / "a.md").write_bytes(b"\xff\xfe\x00 broken \xff")
    (folder / "faq.jsonl").write_text('{"id": "2", "text": "row 2"}\nno json\n')
    (folder / "sub/c.md").write_text("   ")
    (folder / "b.md").unlink()
    report = ingest(folder, store, prune=True)
    assert {Path(problem.source).name for problem in report.failed} >= {"faq.jsonl", "c.md"}
    assert report.pruned == 1
    assert stored(store) == ALL - {"b.md"}
    assert any("not pruned although not read" in notice for notice in report.notices)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_an_unreadable_folder_keeps_all_below_it(folder: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    ingest(folder, store)
    (folder / "sub").chmod(0)
    try:
        assert ingest(folder, store, prune=True).pruned == 0
    finally:
        (folder / "sub").chmod(0o755)
    assert stored(store) == ALL


def test_a_problem_with_a_folder_spares_all_below_it(tmp_path: Path) -> None:
    problems = [Problem(str(tmp_path / "sub"), "cannot be read")]
    scope = prune_module.prune_scope(tmp_path, problems)
    assert scope.owns("sub/gone.md", str(tmp_path / "sub/gone.md"))
    assert scope.spares(str(tmp_path / "sub/gone.md"), lambda path: True)
    assert not scope.spares(str(tmp_path / "submarine.md"), lambda path: True)


def test_a_file_of_a_kind_that_is_not_read_any_more_stays(folder: Path, tmp_path: Path) -> None:
    """As with an extra that was there when the folder was indexed, and is not now."""
    scope = prune_module.prune_scope(folder, [])
    slides = folder / "slides.pptx"
    assert scope.owns("slides.pptx", str(slides))
    assert not scope.spares(str(slides), lambda path: False)
    slides.write_bytes(b"PK")
    assert scope.spares(str(slides), lambda path: False)


def test_an_empty_source_prunes_nothing(folder: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    ingest(folder, store)
    for path in folder.rglob("*.*"):
        path.unlink()
    report = ingest(folder, store, prune=True)
    assert (report.read, report.pruned) == (0, 0)
    assert "nothing is pruned" in " ".join(report.notices)
    assert ingest([], store, prune=True).pruned == 0
    assert stored(store) == ALL


def test_a_run_that_stops_prunes_nothing(folder: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    ingest(folder, store)
    (folder / "a.md").unlink()
    (folder / "sub/d.txt").write_text(" ")
    with pytest.raises(retrieval.errors.CorpusError):
        ingest(folder, store, prune=True, on_error="raise")
    assert stored(store) == ALL


def test_documents_of_other_sources_are_left_alone(folder: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    other = tmp_path / "folder-2"
    other.mkdir()
    (other / "z.md").write_text("of another folder")
    (folder / "b.md").unlink()
    ingest(folder, store)
    ingest(other, store)
    made = [Document("shutil.copy", "copies", source="shutil.copy"), Document("m", "no source")]
    ingest(made, store)
    before = stored(store)
    report = ingest(other, store, prune=True)
    assert report.pruned == 0
    assert report.notices == (f"{len(before) - 1} documents of other sources were left alone by "
                              "pruning.",)  # fmt: skip
    (folder / "a.md").unlink()
    report = ingest(folder, store, prune=True)
    assert report.pruned == 1
    assert stored(store) == before - {"a.md"}


def test_a_folder_within_a_folder_keeps_the_others_documents(folder: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    ingest(folder, store)
    assert ingest(folder / "sub", store, prune=True).pruned == 0
    assert stored(store) == ALL | {"c.md", "d.txt"}


def test_a_name_in_the_current_folder_is_no_file(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A source that a program gave, which read as a path would lie in the folder."""
    store = tmp_path / "store"
    ingest([Document(n, "text", source=n) for n in ("d1", "shutil.copy", "http://x/y.md")], store)
    monkeypatch.chdir(folder)
    ingest(".", store, prune=True)
    assert stored(store) == ALL | {"d1", "shutil.copy", "http://x/y.md"}


def test_python_docs_owns_its_names_only() -> None:
    scope = prune_module.prune_scope("python-docs", [])
    assert scope.owns("shutil.copytree", "shutil.copytree")
    assert scope.owns("str.split", "str.split")
    for document_id, source in (
        ("guide.md", "docs/guide.md"),
        ("numpy.array", "numpy.array"),
        ("shutil.copytree", ""),
        ("d1", "d1"),
    ):
        assert not scope.owns(document_id, source)


def test_documents_of_a_program_are_the_whole_collection_of_a_tenant(tmp_path: Path) -> None:
    both = [Document("a", "text a"), Document("b", "text b")]
    for tenant in ("x", "y"):
        ingest(both, tmp_path, tenant=tenant)
    report = ingest(both[:1], tmp_path, tenant="x", prune=True)
    assert report.pruned == 1
    with retrieval.index.store.Store(tmp_path).open("docs") as index:
        assert {p.document_id for p in index.passages(tenant="x")} == {"a"}
        assert {p.document_id for p in index.passages(tenant="y")} == {"a", "b"}
