"""Documents and collections: written, searched, made and deleted."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest
from backend_help import ANYONE, DOCUMENTS, Made, Make, ids, run

import retrieval
from app.backend.documents import put_together
from app.errors import NotHere
from retrieval import Document, Passage
from retrieval.errors import CollectionExists, CollectionNotFound, InvalidInput, InvalidQuery


def test_what_is_written_is_found_changed_and_deleted(make: Make) -> None:
    backend = make().backend
    report = run(backend.documents.upsert(ANYONE, DOCUMENTS))
    assert (report.new, report.passages, report.collection) == (3, 3, "docs")
    assert ids(run(backend.search(ANYONE, ["where do bees dance"])))[0] == "bee"
    changed = Document("bee", "Bees sleep at night.", "Bee")
    report = run(backend.documents.upsert(ANYONE, [changed, DOCUMENTS[0]]))
    assert (report.new, report.changed, report.unchanged) == (0, 1, 1)
    found = run(backend.search(ANYONE, ["bees sleep"], top_k=1))
    assert found[0].hits[0].passage.text == "Bees sleep at night."
    assert run(backend.documents.delete(ANYONE, ["bee", "wasp", "bee"])) == ("bee",)
    assert "bee" not in ids(run(backend.search(ANYONE, ["bees sleep"])))
    with pytest.raises(NotHere, match="no document 'bee'") as caught:
        run(backend.documents.get(ANYONE, "bee"))
    assert caught.value.code == "document_not_found"
    info = run(backend.collections.get(ANYONE, None))
    assert (info.name, info.passages, info.version, info.default) == ("docs", 2, "docs@v1", True)


def test_a_document_comes_back_as_it_was(make: Make) -> None:
    backend = make().backend
    text = "\n\n".join(f"Paragraph {n} says: {'word ' * 30}ends." for n in range(12))
    given = Document("long", text, "A title", {"n": 1, "tags": ["a"]}, "long.txt")
    run(backend.documents.upsert(ANYONE, [given]))
    stored = run(backend.documents.get(ANYONE, "long"))
    assert len(stored.passages) > 3
    assert stored.text.split() == text.split()
    assert stored.complete
    assert (stored.title, stored.source, stored.metadata) == ("A title", "long.txt", given.metadata)
    passages = [p.id for p in stored.passages]
    with backend._opened.using("docs") as retriever:
        retriever.index.delete_passages(passages[1:2])
    assert not run(backend.documents.get(ANYONE, "long")).complete


def test_every_option_of_the_library_is_reachable(filled: Made) -> None:
    search = filled.backend.search
    only = run(search(ANYONE, ["where"], where={"kind": "tree"}, mode="dense"))
    assert ids(only) == ["oak"]
    first, second = run(search(ANYONE, ["oak", "bee"], top_k=1, neighbours=1, rerank=False))
    assert (first.hits[0].passage.document_id, first.reranker) == ("oak", None)
    assert second.hits[0].passage.document_id == "bee"
    with pytest.raises(InvalidInput, match=r"no search option 'topk'; expected one of .*top_k"):
        run(search(ANYONE, ["oak"], topk=3))
    with pytest.raises(InvalidQuery):
        run(search(ANYONE, ["  "]))
    assert run(search(ANYONE, [])) == []
    assert filled.observer.stages[:4] == ["encode", "retrieve", "rerank", "search"]


def test_a_large_upsert_makes_a_new_collection_in_two_steps(make: Make) -> None:
    backend = make().backend
    many = [Document(f"d{n}", f"The number {n} is green.", metadata={"n": n}) for n in range(450)]
    report = run(backend.documents.upsert(ANYONE, [*many, many[0]], collection="new"))
    assert (report.read, report.new, report.unchanged) == (451, 450, 0)
    assert report.passages == 450
    assert len(report.failed) == 1  # the repeated id
    info = run(backend.collections.get(ANYONE, "new"))
    assert info.passages == 450
    assert info.manifest.storage.fields == {"n": "number"}


def test_an_empty_upsert_makes_nothing(make: Make) -> None:
    one = make()
    with pytest.raises(InvalidInput, match="no document to make it with"):
        run(one.backend.documents.upsert(ANYONE, []))
    assert run(one.backend.collections.list(ANYONE)) == []


def test_collections_are_made_listed_and_deleted(make: Make) -> None:
    backend = make(collection="b").backend
    made = run(backend.collections.create(ANYONE, "b", max_tokens=40, fields={"n": "number"}))
    assert made.manifest.splitter.max_tokens == 40
    assert (made.passages, made.default) == (0, True)
    run(backend.documents.upsert(ANYONE, DOCUMENTS, collection="a"))
    listed = run(backend.collections.list(ANYONE))
    assert [(one.name, one.passages) for one in listed] == [("a", 3), ("b", 0)]
    with pytest.raises(CollectionExists):
        run(backend.collections.create(ANYONE, "b"))
    with pytest.raises(InvalidInput, match="no option 'dimension'; it has encoder"):
        run(backend.collections.create(ANYONE, "c", dimension=3))
    run(backend.collections.delete(ANYONE, "a"))
    for call in (backend.collections.get, backend.collections.delete):
        with pytest.raises(CollectionNotFound, match="no collection 'a'; there are 'b'"):
            run(call(ANYONE, "a"))
    run(backend.documents.upsert(ANYONE, DOCUMENTS[:1], collection="a"))  # the name is free again
    assert run(backend.collections.get(ANYONE, "a")).passages == 1


def test_a_version_that_is_switched_to_is_followed(filled: Made) -> None:
    store = retrieval.Store(filled.settings.store)
    retrieval.ingest(
        [Document("new", "A new world.")], store=store, encoder=filled.encoder, version="docs@v2"
    )
    store.switch("docs", "docs@v2")
    end = time.monotonic() + 20
    while ids(run(filled.backend.search(ANYONE, ["world"]))) != ["new"]:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert run(filled.backend.collections.get(ANYONE, "docs")).version == "docs@v2"
    run(filled.backend.documents.upsert(ANYONE, DOCUMENTS[:1]))
    assert run(filled.backend.collections.get(ANYONE, "docs")).passages == 2


# --- documents ------------------------------------------------------------------------------


def split(text: str, *slices: tuple[int, int], **fields: Any) -> list[Passage]:
    return [
        Passage(
            id=f"p{position}", document_id="d", position=position, text=text[start:end],
            start=start, end=end, document_hash="h", document_passages=len(slices), **fields,
        )
        for position, (start, end) in enumerate(slices)
    ]  # fmt: skip


TEXT = "One two three. Four five.\n\n\nSix seven."
OVERLAPPING = split(TEXT, (0, 14), (8, 25), (28, 38))
OLD = split("One two three four", (0, 3), (4, 7), (8, 18))
NEW = [replace(part, document_hash="new") for part in split("1 2", (0, 1), (2, 3))]


@pytest.mark.parametrize(
    ("passages", "text", "complete"),
    [
        pytest.param(
            OVERLAPPING[::-1], "One two three. Four five.\nSix seven.", True, id="overlap and gap"
        ),
        pytest.param(split(TEXT, (0, 25), (4, 13), (15, 25)), TEXT[:25], True, id="nested"),
        pytest.param([OLD[0], OLD[2]], "One\nthree four", False, id="one is missing"),
        pytest.param([OLD[2], *NEW], "1\n2", True, id="of two versions the whole one"),
        pytest.param([*OLD[1:], NEW[0]], "two\nthree four", False, id="neither is whole"),
    ],
)
def test_a_document_is_put_together(passages: list[Passage], text: str, complete: bool) -> None:
    whole = put_together("d", passages)
    assert (whole.text, whole.complete) == (text, complete)
    positions = [passage.position for passage in whole.passages]
    assert positions == sorted(positions)


def test_a_documents_metadata_are_what_all_its_passages_say() -> None:
    parts = split("One two", (0, 3), (4, 7), title="T", source="s")
    paged = [
        replace(part, metadata={"n": 1, "page": page})
        for part, page in zip(parts, (1, 2), strict=True)
    ]
    whole = put_together("d", paged)
    assert (whole.metadata, whole.title, whole.source) == ({"n": 1}, "T", "s")
    assert put_together("d", paged[:1]).metadata == {"n": 1, "page": 1}
