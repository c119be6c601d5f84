"""`retrieval documents`: ids, pages and headings as judgements can name them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hashing_encoder import HashingEncoder

import retrieval
from retrieval.cli.main import run
from retrieval.index.store import Store
from retrieval.maintenance.documents import stored_documents
from retrieval.types import Document


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("documents")
    (root / "docs").mkdir()
    rules = "# Rules\n\nBe kind.\n\n## Opening hours\n\nThe gate closes at ten in the evening."
    (root / "docs" / "rules.md").write_text(rules)
    (root / "docs" / "Ärger.txt").write_text("Ein kurzer Text.")
    store, encoder = root / "store", HashingEncoder()
    retrieval.ingest(root / "docs", store=store, encoder=encoder, max_tokens=16, overlap_tokens=0)
    text = "The first page. The second one."
    book = Document("book.pdf", text, title="A \x1b[31mBook", pages=(0, 16))
    retrieval.ingest([book], store=store, encoder=encoder)
    return store


def listed(capsys: pytest.CaptureFixture[str], store: Path, *more: str) -> str:
    capsys.readouterr()
    assert run(["documents", "--store", str(store), *more]) == 0
    return capsys.readouterr().out


def test_documents_are_listed_by_id(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = listed(capsys, store).splitlines()
    assert [line for line in lines if not line.startswith(" ")] == [
        "book.pdf  A [31mBook  (1 passage, 2 pages)",
        "rules.md  Rules  (2 passages)",
        "Ärger.txt  (1 passage)",
    ]
    assert sum(line.startswith("    from /") for line in lines) == 2


def test_pages_and_headings_are_shown_as_they_can_be_typed(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = listed(capsys, store, "--headings").splitlines()
    assert lines[:2] == ["book.pdf  A [31mBook  (1 passage, 2 pages)", "    #page=1 to #page=2"]
    assert {"    #Rules", "    #Opening hours"} <= set(lines)


def test_json_is_a_line_each(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = [json.loads(line) for line in listed(capsys, store, "--json").splitlines()]
    assert found[0] == {
        "id": "book.pdf", "source": "", "title": "A \x1b[31mBook", "passages": 1, "pages": 2,
    }  # fmt: skip
    (rules,) = (
        json.loads(line)
        for line in listed(capsys, store, "--json", "--headings", "--like", "RULES").splitlines()
    )
    assert (rules["pages"], rules["parts"]) == (None, ["Rules", "Opening hours"])


def test_what_matches_and_how_many(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert listed(capsys, store, "--like", "ärg").startswith("Ärger.txt")
    assert len(listed(capsys, store, "--limit", "1", "--json").splitlines()) == 1
    assert run(["documents", "--store", str(store), "--like", "zzz"]) == 0
    told = capsys.readouterr()
    assert told.out == ""
    assert "No documents with 'zzz'" in told.err
    assert run(["documents", "--store", str(store), "--collection", "gone"]) == 2
    assert "there is no collection 'gone'" in capsys.readouterr().err


def test_more_documents_than_one_batch_come_in_the_order_of_their_ids(tmp_path: Path) -> None:
    documents = [Document(f"d{n}", f"Text {n}.") for n in range(150)]
    retrieval.ingest(documents, store=tmp_path, encoder=HashingEncoder())
    with Store(tmp_path).open("docs") as index:
        found = [one.id for one in stored_documents(index)]
    assert found == sorted(one.id for one in documents)


def test_a_tenant_sees_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for tenant in ("a", "b"):
        retrieval.ingest(
            [Document(f"of-{tenant}", "Text.")], store=tmp_path, encoder=HashingEncoder(),
            tenant=tenant,
        )  # fmt: skip
    assert "of-b" in listed(capsys, tmp_path, "--tenant", "b")
    assert "of-a" not in listed(capsys, tmp_path, "--tenant", "b")
    assert run(["documents", "--store", str(tmp_path)]) == 2
    assert "tenant" in capsys.readouterr().err
