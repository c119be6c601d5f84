"""How a collection is laid out and stored: asked for, found, or judged by the first documents."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hashing_encoder import HashingEncoder

import retrieval.api.ingest
from retrieval.errors import InvalidInput, ManifestMismatch
from retrieval.index.payload_fields import index_paths
from retrieval.index.store import Store
from retrieval.ingestion import collection_settings, payload_fields
from retrieval.types import (
    Document,
    Encoding,
    IngestReport,
    Layout,
    LexicalWeights,
    Manifest,
    Storage,
)


class ManyVectors(HashingEncoder):
    """Term weights and token vectors beside the dense vectors, as bge-m3 gives them."""

    def encode_all(
        self,
        texts: Sequence[str],
        kind: Literal["query", "passage"],
        *,
        lexical: bool = False,
        token_vectors: bool = False,
        progress: Any = None,
    ) -> Encoding:
        plain = self.encode_passages(texts)
        weights = LexicalWeights(np.array([3, 7], np.int32), np.array([0.5, 1.0], np.float32))
        rows = np.eye(16, dtype=np.float32)[:5]
        return Encoding(
            plain.vectors,
            plain.tokens,
            plain.truncated,
            [weights] * len(texts) if lexical else None,
            [rows] * len(texts) if token_vectors else None,
        )


def ingest(store: Path, documents: list[Document], **options: Any) -> IngestReport:
    options.setdefault("encoder", HashingEncoder())
    return retrieval.api.ingest.ingest(documents, store=store, **options)


def manifest(store: Path, name: str = "docs") -> Manifest:
    return Store(store).manifest(name)


DOCUMENTS = [
    Document(f"d{n}", "some text", metadata={"year": 2000 + n, "lang": "en"}) for n in range(5)
]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["en", "de", None], "keyword"),
        ([["a", "b"], "c"], "keyword"),
        ([True, False], "keyword"),
        ([1, 2.5, None], "number"),
        (["2024-01-31", "2024-02-01T10:00:00Z"], "datetime"),
        (["2024-01-31", "unknown"], "keyword"),
        (["2024-13-99"], "keyword"),
        (["x" * 65], None),
        (["x" * 65] + ["y"] * 20, "keyword"),
        ([1, "one"], None),
        ([True, 1], None),
        ([2**60], None),
        ([None], None),
        ([[], {}], None),
        (["half \ud800"], None),
    ],
)
def test_kinds_by_the_look_of_the_values(values: list[Any], kind: str | None) -> None:
    documents = [Document(str(n), "t", metadata={"x": value}) for n, value in enumerate(values)]
    assert payload_fields(documents) == ({} if kind is None else {"x": kind})


def test_names_are_those_of_where() -> None:
    metadata = {
        "author": {"name": "A", "born": {"year": 1950}},
        "file.name": "f",
        "title": "t",
        "and": 1,
        "metadata": "m",
        'quo"te': "no filter can name it",
        "": "nor this",
    }
    fields = payload_fields([Document("a", "t", metadata=metadata)])
    assert fields == {
        "author.name": "keyword",
        "author.born.year": "number",
        '"file.name"': "keyword",
        "metadata.title": "keyword",
        "metadata.and": "number",
        "metadata.metadata": "keyword",
    }
    paths = index_paths(Layout(), Storage(fields=fields))  # every one can be indexed
    assert len(paths) >= len(fields) + 2


def test_at_most_sixteen_fields_the_most_frequent_ones() -> None:
    documents = [
        Document(str(n), "t", metadata={f"f{i:02}": i for i in range(40) if i >= 20 or n < 3})
        for n in range(10)
    ]
    assert list(payload_fields(documents)) == [f"f{i}" for i in range(20, 36)]


def test_a_new_collection_indexes_the_fields_it_sees(tmp_path: Path) -> None:
    ingest(tmp_path, DOCUMENTS)
    assert manifest(tmp_path).storage.fields == {"year": "number", "lang": "keyword"}
    more = [Document("e", "text", metadata={"other": 1})]
    assert ingest(tmp_path, more).new == 1  # what is not asked for is not compared
    ingest(tmp_path, DOCUMENTS, collection="plain", fields=None)
    assert manifest(tmp_path, "plain").storage.fields == {}
    ingest(tmp_path, DOCUMENTS, collection="own", fields={"year": "keyword"})
    assert manifest(tmp_path, "own").storage.fields == {"year": "keyword"}


def test_storage_is_remembered_and_a_difference_is_named(tmp_path: Path) -> None:
    ingest(tmp_path, DOCUMENTS, storage=Storage(quantization="int8", on_disk=True))
    assert manifest(tmp_path).storage == Storage(
        quantization="int8", on_disk=True, fields={"year": "number", "lang": "keyword"}
    )
    ingest(tmp_path, DOCUMENTS)
    ingest(tmp_path, DOCUMENTS, storage={"quantization": "int8"})
    ingest(tmp_path, DOCUMENTS, storage=Storage(quantization="int8", on_disk=True))
    with pytest.raises(ManifestMismatch, match=r"storage\.quantization is 'int8', asked for 'non"):
        ingest(tmp_path, DOCUMENTS, storage={"quantization": "none"})
    with pytest.raises(ManifestMismatch, match=r"storage\.on_disk is True, asked for False"):
        ingest(tmp_path, DOCUMENTS, storage=Storage(quantization="int8"))
    with pytest.raises(ManifestMismatch, match=r"storage\.fields\.year"):
        ingest(tmp_path, DOCUMENTS, fields={"year": "keyword", "lang": "keyword"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"storage": {"quantisation": "int8"}}, "storage has 'quantisation'"),
        ({"storage": {"quantization": "int4"}}, "expected none, int8 or binary"),
        ({"storage": Storage(oversampling=0.5)}, "oversampling=0.5"),
        ({"storage": Storage(hnsw_m=True)}, "hnsw_m=True"),
        ({"storage": "int8"}, "storage is a str"),
        ({"fields": "all"}, "fields='all'"),
        ({"fields": {"year": "integer"}}, "integer"),
        ({"tenant": " "}, "tenant=' '"),
        ({"lexical": True}, "term weights were requested"),
        ({"token_vectors": True}, "token vectors were requested"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_made(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput, match=message):
        ingest(tmp_path, DOCUMENTS, **options)
    assert Store(tmp_path).names() == []


def test_term_weights_and_token_vectors_are_stored(tmp_path: Path) -> None:
    ingest(tmp_path, DOCUMENTS, encoder=ManyVectors(), lexical=True, token_vectors=True)
    assert manifest(tmp_path).layout == Layout(lexical=True, token_dimension=16)
    report = ingest(tmp_path, [*DOCUMENTS, Document("more", "text")], encoder=ManyVectors())
    assert (report.new, report.unchanged) == (1, 5)
    with Store(tmp_path).open("docs") as index:
        points = list(index.points())
    assert all(p.lexical is not None and p.lexical.indices == (3, 7) for p in points)
    assert all(p.tokens is not None and p.tokens.shape == (5, 16) for p in points)
    ingest(tmp_path, DOCUMENTS, collection="plain", encoder=ManyVectors())
    with pytest.raises(ManifestMismatch, match=r"layout\.lexical is False, asked for True"):
        ingest(tmp_path, DOCUMENTS, collection="plain", encoder=ManyVectors(), lexical=True)


def test_tenants_are_decided_by_the_first_call(tmp_path: Path) -> None:
    ingest(tmp_path, DOCUMENTS, tenant="x")
    assert manifest(tmp_path).layout.tenants
    assert ingest(tmp_path, DOCUMENTS, tenant="y").new == 5
    assert ingest(tmp_path, DOCUMENTS, tenant="x").unchanged == 5
    with pytest.raises(InvalidInput, match="names none"):
        ingest(tmp_path, DOCUMENTS)
    ingest(tmp_path, DOCUMENTS, collection="plain")
    with pytest.raises(ManifestMismatch, match=r"layout\.tenants is False, asked for True"):
        ingest(tmp_path, DOCUMENTS, collection="plain", tenant="x")


def test_another_version_is_filled_beside_the_current_one(tmp_path: Path) -> None:
    ingest(tmp_path, DOCUMENTS)
    ingest(tmp_path, DOCUMENTS[:2], version="docs@v2", storage={"quantization": "none"})
    assert manifest(tmp_path).storage.quantization == "int8"
    assert manifest(tmp_path, "docs@v2").storage.quantization == "none"
    assert ingest(tmp_path, DOCUMENTS[:3], version="docs@v2").new == 1
    with Store(tmp_path).open("docs") as index:
        assert index.count() == 5


def test_a_large_embedded_collection_is_told_the_way_to_a_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ingest(tmp_path, DOCUMENTS).notices == ()
    monkeypatch.setattr(collection_settings, "EMBEDDED_PASSAGES", 4)
    (notice,) = ingest(tmp_path, DOCUMENTS).notices
    assert f"retrieval copy docs --store {tmp_path} --to http://HOST:6333" in notice
