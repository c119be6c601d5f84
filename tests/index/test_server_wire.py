"""What a Qdrant server receives: creation parameters, consistency, keys, certificates."""

from __future__ import annotations

import dataclasses
import logging
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from doubles.certificates import HAS_OPENSSL, make_certificates
from doubles.qdrant_http import QdrantHttp, qdrant_http

from retrieval.errors import (
    CollectionExists,
    CollectionNotFound,
    CollectionReplaced,
    InvalidInput,
    StoreDenied,
    StoreFault,
)
from retrieval.index.server import addresses, transport
from retrieval.index.server.index import (
    ServerIndex,
    ServerOptions,
    delete_collection,
    list_collections,
    read_manifest,
    switch,
)
from retrieval.types import (
    Layout,
    LexicalWeights,
    Manifest,
    Passage,
    SplitterInfo,
    Storage,
)

Manifests = Callable[..., Manifest]
Passages = Callable[..., list[Passage]]
Vectors = Callable[..., Any]
KEY = "correct-horse-battery"


@pytest.fixture(scope="module")
def running() -> Iterator[QdrantHttp]:
    with qdrant_http(grpc=True) as double:
        yield double


@pytest.fixture
def double(running: QdrantHttp) -> Iterator[QdrantHttp]:
    """One server for all tests of the file, with nothing left of the one before."""
    yield running
    running.faults.clear()
    for name in running.backend.collections():
        running.backend.delete_collection(name)
    running.requests.clear()


@pytest.fixture(params=[False, True], ids=["rest", "grpc"])
def options(request: pytest.FixtureRequest, running: QdrantHttp) -> ServerOptions:
    return ServerOptions(grpc=request.param, grpc_port=running.grpc_port)


def _kept(double: QdrantHttp, name: str = "docs@v1") -> dict[str, Any]:
    """What the server was asked to make, whichever way it was told; vectors by plain names."""
    kept = double.backend.find(name)[1]
    config = kept.config.model_dump(mode="json", exclude_none=True)
    ending = "-" + config["metadata"]["retrieval_manifest"]["id"]
    for kind in ("vectors", "sparse_vectors"):
        assert all(name.endswith(ending) for name in config[kind])
        config[kind] = {name.removesuffix(ending): what for name, what in config[kind].items()}
    return {
        **config,
        "indexes": {
            path: schema.model_dump(mode="json", exclude_none=True)
            for path, schema in kept.indexes.items()
        },
    }


def test_a_plain_collection(
    double: QdrantHttp, options: ServerOptions, manifest: Manifests
) -> None:
    whole = manifest(storage=Storage(quantization="none"))
    with ServerIndex.create(double.url, "docs", whole, options=options):
        pass
    kept = _kept(double)
    assert kept["vectors"] == {
        "dense": {
            "size": 8,
            "distance": "Cosine",
            "on_disk": False,
            "hnsw_config": {"m": 16, "ef_construct": 128, "on_disk": False},
        }
    }
    assert kept["sparse_vectors"] == {"bm25": {"modifier": "idf", "index": {"on_disk": False}}}
    assert kept["on_disk_payload"] is False
    # left to the server
    assert not {"shard_number", "replication_factor", "write_consistency_factor"} & set(kept)
    assert kept["indexes"] == {
        "document_id": {"type": "keyword", "on_disk": False},
        "position": {"type": "integer", "lookup": True, "range": True, "on_disk": False},
    }


def test_everything_that_can_be_asked_for(
    double: QdrantHttp, options: ServerOptions, manifest: Manifests
) -> None:
    asked = manifest(
        layout=Layout(lexical=True, token_dimension=4, tenants=True),
        storage=Storage(
            quantization="int8",
            hnsw_m=24,
            hnsw_ef_construct=200,
            on_disk=True,
            fields={"lang": "keyword", "year": "number", "seen.at": "datetime", "title": "keyword"},
            shards=3,
            replicas=2,
            write_consistency=2,
        ),
    )
    with ServerIndex.create(double.url, "docs", asked, options=options) as index:
        stored = index.manifest
    kept = _kept(double)
    assert kept["vectors"]["dense"] == {
        "size": 8,
        "distance": "Cosine",
        "on_disk": True,
        # one graph a tenant, and none over all
        "hnsw_config": {"m": 0, "payload_m": 24, "ef_construct": 200, "on_disk": True},
        "quantization_config": {
            "scalar": {"type": "int8", "quantile": pytest.approx(0.99), "always_ram": True}
        },
    }
    assert kept["vectors"]["tokens"] == {
        "size": 4,
        "distance": "Dot",
        "on_disk": True,
        "hnsw_config": {"m": 0},
        "multivector_config": {"comparator": "max_sim"},
    }
    assert kept["sparse_vectors"] == {
        "bm25": {"modifier": "idf", "index": {"on_disk": True}},
        "lexical": {"index": {"on_disk": True}},
    }
    assert kept["on_disk_payload"] is True
    assert kept["shard_number"] == 3
    assert kept["replication_factor"] == kept["write_consistency_factor"] == 2
    assert {path: index["type"] for path, index in kept["indexes"].items()} == {
        "document_id": "keyword",
        "position": "integer",
        "tenant": "keyword",
        "title": "keyword",
        "metadata.lang": "keyword",
        "metadata_flags.lang": "keyword",
        "metadata.year": "float",
        "metadata.seen.at": "datetime",
    }
    assert kept["indexes"]["tenant"]["is_tenant"] is True
    assert all(index["on_disk"] for index in kept["indexes"].values())
    assert read_manifest(double.url, "docs", options=options) == stored
    assert dataclasses.replace(stored, created="", id="") == asked


def test_binary_quantisation(double: QdrantHttp, manifest: Manifests) -> None:
    asked = manifest(storage=Storage(quantization="binary"))
    ServerIndex.create(double.url, "docs", asked).close()
    dense = _kept(double)["vectors"]["dense"]
    assert dense["quantization_config"] == {"binary": {"always_ram": True}}


def test_the_alias_comes_last(double: QdrantHttp, manifest: Manifests) -> None:
    """A name must not mean a collection that has no indexes yet."""
    ServerIndex.create(double.url, "docs", manifest()).close()
    made = [(r.method, r.path) for r in double.requests if r.method != "GET"]
    assert made == [
        ("PUT", "/collections/docs@v1"),
        ("PUT", "/collections/docs@v1/index"),
        ("PUT", "/collections/docs@v1/index"),
        ("POST", "/collections/aliases"),
    ]


def test_a_create_that_is_cut_off_anywhere_can_be_repeated(
    double: QdrantHttp, manifest: Manifests
) -> None:
    for at in ("PUT /collections/docs@v1", "/index", "/aliases"):
        for after in (False, True):
            method = "PUT" if at != "/aliases" else "POST"
            double.fail(
                method=method, path_contains=at.split()[-1], status=403, after=after, times=1
            )
            with pytest.raises(StoreDenied):
                ServerIndex.create(double.url, "docs", manifest())
            with ServerIndex.open_or_create(double.url, "docs", manifest()) as index:
                assert index.physical == "docs@v1"
            assert set(_kept(double)["indexes"]) == {"document_id", "position"}
            assert list_collections(double.url) == ["docs"]
            delete_collection(double.url, "docs")


def test_a_create_whose_answer_is_lost_is_done(
    double: QdrantHttp, options: ServerOptions, manifest: Manifests
) -> None:
    double.fail(method="PUT", path_contains="/collections/docs@v1", drop="reset", after=True)
    with ServerIndex.create(double.url, "docs", manifest(), options=options) as index:
        assert index.physical == "docs@v1"
    with pytest.raises(CollectionExists):
        ServerIndex.create(double.url, "docs", manifest(), options=options)


def test_a_switch_is_one_request(
    double: QdrantHttp, options: ServerOptions, manifest: Manifests
) -> None:
    for name in ("docs", "docs@v2"):
        ServerIndex.create(double.url, name, manifest(), options=options).close()
    double.requests.clear()
    assert switch(double.url, "docs", "docs@v2", options=options) == "docs@v1"
    [request] = [r for r in double.requests if r.method != "GET"]
    first, second = request.json()["actions"]
    assert first == {"delete_alias": {"alias_name": "docs"}}
    assert second == {"create_alias": {"collection_name": "docs@v2", "alias_name": "docs"}}


def _passages(count: int) -> list[Passage]:
    return [
        Passage(
            id=str(uuid.uuid5(uuid.NAMESPACE_URL, str(n))), document_id=f"d{n}", position=0,
            text=f"word{n} cat", start=0, end=9, document_hash="h",
            metadata={"lang": "en" if n % 2 else "de", "year": 2000 + n},
        )
        for n in range(count)
    ]  # fmt: skip


def _full_index(url: str, options: ServerOptions, manifest: Manifest) -> ServerIndex:
    index = ServerIndex.create(url, "docs", manifest, options=options)
    rows = np.random.default_rng(1).standard_normal((20, 8), dtype=np.float32)
    tokens = np.random.default_rng(2).standard_normal((20, 3, 4), dtype=np.float32)
    tokens /= np.linalg.norm(tokens, axis=2, keepdims=True)
    lexical = [
        LexicalWeights(np.array([1, n + 2]), np.array([1, n], np.float32)) for n in range(20)
    ]
    index.upsert(_passages(20), rows, lexical=lexical, token_vectors=list(tokens))
    return index


def test_consistency_and_ordering_go_with_every_call(
    double: QdrantHttp, options: ServerOptions, manifest: Manifests
) -> None:
    options = dataclasses.replace(options, read_consistency="majority", write_ordering="strong")
    layout = Layout(lexical=True, token_dimension=4)
    with _full_index(double.url, options, manifest(layout=layout)) as index:
        point = next(index.points())
        index.search(mode="dense", limit=3, vector=point.dense, where={"lang": "en"})
        index.vectors([point.id])
        list(index.passages())
        index.document_states(["d1"])
        index.delete_passages([point.id])
        index.delete_documents(["d3"])
        index.delete_where({"year": {"gte": 2019}})
    at = "/collections/docs@v1"
    seen = {(r.method, r.path): r.query for r in double.requests if r.path.startswith(at)}
    writes = [("PUT", f"{at}/points"), ("POST", f"{at}/points/delete"), ("PUT", f"{at}/index")]
    for call in writes:
        assert seen.pop(call) == {"wait": "true", "ordering": "strong"}, call
    for path in ("/points/query/batch", "/points"):
        assert seen.pop(("POST", at + path)) == {"consistency": "majority"}, path
    # a page would end early where copies differ: its points are read by id
    assert seen.pop(("POST", f"{at}/points/scroll")) == {}
    # Qdrant knows neither for these
    assert set(seen) == {("PUT", at), ("GET", at), ("POST", f"{at}/points/count")}


@pytest.mark.parametrize(
    ("storage", "exact", "expected"),
    [
        (Storage(quantization="none"), False, {"hnsw_ef": 256}),
        (Storage(quantization="none", search_ef=64), False, {"hnsw_ef": 64}),
        (
            Storage(quantization="int8", oversampling=3.0),
            False,
            {"hnsw_ef": 256, "quantization": {"rescore": True, "oversampling": 3.0}},
        ),
        (Storage(quantization="none"), True, {"exact": True}),
        (Storage(quantization="binary"), True, {"exact": True, "quantization": {"ignore": True}}),
    ],
)
def test_search_parameters(
    double: QdrantHttp,
    manifest: Manifests,
    storage: Storage,
    exact: bool,
    expected: dict[str, Any],
) -> None:
    layout = Layout(token_dimension=4)
    with ServerIndex.create(double.url, "docs", manifest(layout=layout, storage=storage)) as index:
        rows = np.eye(8, dtype=np.float32)[:3]
        tokens = [np.eye(4, dtype=np.float32)] * 3
        index.upsert(_passages(3), rows, token_vectors=tokens)
        double.requests.clear()
        index.search(
            mode="hybrid", limit=3, vector=rows[0], text="cat", exact=exact,
            token_vectors=tokens[0], refine=3,
        )  # fmt: skip
    first, second = double.calls("POST", "/query/batch")
    by_name = {one["using"].partition("-")[0]: one for one in first.json()["searches"]}
    assert by_name["dense"]["params"] == expected
    assert by_name["bm25"].get("params") == ({"exact": True} if exact else None)
    [refined] = second.json()["searches"]
    tokens_name = f"tokens-{index.manifest.id}"
    assert (refined["using"], refined["params"]) == (tokens_name, {"exact": True})


def test_a_large_batch_of_queries_is_cut(double: QdrantHttp, manifest: Manifests) -> None:
    from retrieval.types import IndexQuery

    with ServerIndex.create(double.url, "docs", manifest()) as index:
        rows = np.random.default_rng(0).standard_normal((150, 8), dtype=np.float32)
        index.upsert(_passages(150), rows)
        found = index.search_batch([IndexQuery(row) for row in rows], mode="dense", limit=1)
    assert [one[0].passage.document_id for one in found] == [f"d{n}" for n in range(150)]
    sizes = [len(r.json()["searches"]) for r in double.calls("POST", "/query/batch")]
    assert sizes == [64, 64, 22]


def test_rest_and_grpc_agree_to_the_bit(double: QdrantHttp, manifest: Manifests) -> None:
    """Points written over either wire, read over either wire."""
    layout, wires = Layout(lexical=True, token_dimension=4), []
    for grpc in (False, True):
        options = ServerOptions(grpc=grpc, grpc_port=double.grpc_port)
        with _full_index(double.url, options, manifest(layout=layout)) as index:
            pages = list(index.points())
        for reading in (False, True):
            other = ServerOptions(grpc=reading, grpc_port=double.grpc_port)
            with ServerIndex.open(double.url, "docs", options=other) as index:
                assert index.manifest.layout == layout
                wires.append([_plain(point) for point in index.points()])
                assert wires[-1] == [_plain(point) for point in pages]
        delete_collection(double.url, "docs")
    assert wires[0] == wires[1] == wires[2] == wires[3]
    assert len(wires[0]) == 20


def _plain(point: Any) -> Any:
    def terms(vector: Any) -> Any:
        return sorted(zip(vector.indices, vector.values, strict=True))

    return (
        point.id, point.dense.tolist(), terms(point.sparse), terms(point.lexical),
        point.tokens.tolist(), point.payload,
    )  # fmt: skip


def test_status(double: QdrantHttp, options: ServerOptions, manifest: Manifests) -> None:
    from qdrant_client.models import CollectionStatus

    with _full_index(
        double.url, options, manifest(layout=Layout(lexical=True, token_dimension=4))
    ) as index:
        status = index.status()
        assert (status.points, status.state, status.notes) == (20, "ok", ())
        assert status.fields == ("document_id", "position")
        kept = double.backend.find("docs")[1]
        kept.status = CollectionStatus.YELLOW
        assert index.status().state == "optimizing"
        kept.status = CollectionStatus.RED
        assert index.status().state == "failed"
        assert "status red" in index.status().notes[0]


# --- keys and certificates ------------------------------------------------------------------


@pytest.mark.parametrize("grpc", [False, True], ids=["rest", "grpc"])
def test_a_key_opens_and_is_never_shown(
    grpc: bool, manifest: Manifests, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with qdrant_http(api_key=KEY, grpc=True) as double:
        good = ServerOptions(api_key=KEY, grpc=grpc, grpc_port=double.grpc_port)
        with ServerIndex.create(double.url, "docs", manifest(), options=good) as index:
            assert index.count() == 0
            assert KEY not in repr(index)
        assert list_collections(double.url, options=good) == ["docs"]
        wrong = dataclasses.replace(good, api_key="wrong-" + KEY)
        none = dataclasses.replace(good, api_key=None)
        for options in (wrong, none):
            with pytest.raises(StoreDenied, match="api_key") as caught:
                ServerIndex.open(double.url, "docs", options=options)
            assert KEY not in str(caught.value)
        # a server that repeats what it was sent
        double.fail(status=400, message=f"bad header api-key: {KEY}", grpc_code="INVALID_ARGUMENT")
        with pytest.raises(StoreFault, match=r"\[the API key\]") as failed:
            list_collections(double.url, options=good)
        assert KEY not in str(failed.value)
    assert KEY not in repr(good)
    assert KEY not in caplog.text


def test_the_key_as_an_argument(manifest: Manifests) -> None:
    with qdrant_http(api_key=KEY) as double:
        ServerIndex.create(double.url, "docs", manifest(), api_key=KEY).close()
        assert list_collections(double.url, api_key=KEY) == ["docs"]
        assert read_manifest(double.url, "docs", api_key=KEY).collection == "docs"
        delete_collection(double.url, "docs", api_key=KEY)


@pytest.mark.parametrize(
    ("url", "warned"),
    [
        ("http://qdrant.example.org:6333", True),
        ("http://93.184.216.34:6333", True),
        ("http://localhost:6333", False),
        ("http://127.0.0.1:6333", False),
        ("http://[::1]:6333", False),
        ("http://10.1.2.3:6333", False),
        ("http://qdrant:6333", False),  # a container beside this one
        ("https://qdrant.example.org:6333", False),
    ],
)
def test_a_key_in_the_open_is_warned_of(
    url: str, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    addresses.warn_of_plain_key.cache_clear()
    for _ in range(2):
        transport.client_of(url, ServerOptions(api_key=KEY)).close()
    assert caplog.text.count("without encryption") == int(warned)  # once
    assert KEY not in caplog.text


@pytest.mark.parametrize("key", ["", "with space", "with\nbreak", "schlüssel"])
def test_a_key_that_cannot_be_sent(key: str) -> None:
    with pytest.raises(InvalidInput, match="API key") as caught:
        ServerOptions(api_key=key)
    assert not key or key not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"timeout_s": 0}, "timeout_s is 0"),
        ({"timeout_s": float("nan")}, "timeout_s is nan"),
        ({"retry_s": -1}, "retry_s is -1"),
        ({"grpc_port": 0}, "grpc_port is 0"),
        ({"read_consistency": "most"}, "read_consistency is 'most'"),
        ({"read_consistency": 0}, "read_consistency is 0"),
        ({"write_ordering": "hard"}, "write_ordering is 'hard'"),
    ],
)
def test_options_that_cannot_be(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidInput, match=problem):
        ServerOptions(**changes)


def test_a_password_in_the_url_is_refused_and_not_shown() -> None:
    with pytest.raises(InvalidInput, match="user name or password") as caught:
        list_collections("http://me:secret@localhost:6333")
    assert "secret" not in str(caught.value)


@pytest.mark.skipif(not HAS_OPENSSL, reason="there is no openssl command to make certificates with")
@pytest.mark.parametrize("grpc", [False, True], ids=["rest", "grpc"])
def test_tls_with_an_authority_of_our_own(grpc: bool, manifest: Manifests, tmp_path: Path) -> None:
    with qdrant_http(api_key=KEY, tls=True, grpc=True) as double:
        good = ServerOptions(
            api_key=KEY, grpc=grpc, grpc_port=double.grpc_port, ca_certificate=double.ca_certificate
        )
        with ServerIndex.create(double.url, "docs", manifest(), options=good) as index:
            assert index.count() == 0
        stranger = make_certificates(tmp_path).authority
        for authority in (None, stranger):
            options = dataclasses.replace(good, ca_certificate=authority)
            with pytest.raises(StoreFault) as caught:
                ServerIndex.open(double.url, "docs", options=options)
            if not grpc:  # its messages do not always tell certificates from other trouble
                assert "CERTIFICATE_VERIFY_FAILED" in str(caught.value)
                assert "give ca_certificate" in str(caught.value)
        if not grpc:
            with pytest.raises(StoreFault, match=r"where the server speaks TLS|disconnected"):
                list_collections(double.url.replace("https", "http"), api_key=KEY)


def test_certificates_that_cannot_be_used(tmp_path: Path) -> None:
    for path, why in [(tmp_path / "none.pem", "No such file"), (tmp_path / "bad.pem", "")]:
        if not why:
            path.write_text("no certificate")
        with pytest.raises(InvalidInput, match=f"cannot be read as a certificate.*{why}"):
            list_collections("https://localhost:1", options=ServerOptions(ca_certificate=path))
    with pytest.raises(InvalidInput, match="is not encrypted"):
        list_collections("http://localhost:1", options=ServerOptions(ca_certificate=path))


def test_https_asked_of_a_server_without_tls(double: QdrantHttp) -> None:
    with pytest.raises(StoreFault, match="begins with https:// where the server speaks TLS"):
        list_collections(double.url.replace("http", "https"))


def test_a_collection_that_is_gone(
    double: QdrantHttp, options: ServerOptions, manifest: Manifests
) -> None:
    with ServerIndex.create(double.url, "docs", manifest(), options=options) as index:
        delete_collection(double.url, "docs", options=options)
        with pytest.raises(CollectionReplaced, match="not there"):
            index.count()
        with pytest.raises(CollectionReplaced):
            index.upsert(_passages(1), np.eye(8, dtype=np.float32)[:1])
    with pytest.raises(CollectionNotFound, match="it holds no collections"):
        ServerIndex.open(double.url, "docs", options=options)


def test_another_splitter_is_refused(
    double: QdrantHttp, options: ServerOptions, manifest: Manifests
) -> None:
    from retrieval.errors import ManifestMismatch

    ServerIndex.create(double.url, "docs", manifest(), options=options).close()
    with pytest.raises(ManifestMismatch, match="max_tokens is 200, asked for 9"):
        ServerIndex.open_or_create(
            double.url, "docs", manifest(splitter=SplitterInfo(9, 20)), options=options
        )
