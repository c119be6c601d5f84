"""Four ways to search one collection of a Qdrant server, and what a search costs by its requests.

All of them read the collection that this library wrote, with the same server's parameters for its
dense vectors (width of search, re-scoring), and give passages with text and metadata.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import httpx
from _report import OURS
from _server_place import Place

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from qdrant_client import QdrantClient, models

from retrieval.index.bm25 import Bm25Terms
from retrieval.index.point_store import DENSE, SPARSE
from retrieval.index.server.index import ServerIndex, ServerOptions
from retrieval.index.server.names import vector_names
from retrieval.types import FloatArray

RAW, LANGCHAIN, LLAMA_INDEX = "qdrant-client", "langchain-qdrant", "llama-index"
NEEDS = {
    LANGCHAIN: ("langchain_qdrant", "langchain-qdrant"),
    LLAMA_INDEX: ("llama_index.vector_stores.qdrant", "llama-index-vector-stores-qdrant"),
}


@dataclass(frozen=True, slots=True)
class Asked:
    """The queries: vectors (n, dimension), the same as lists, and texts."""

    vectors: FloatArray
    lists: list[list[float]]
    texts: list[str]


class Searching(Protocol):
    """A system. Both methods search with query `number` and give the number of results."""

    def dense(self, number: int, limit: int) -> int: ...
    def hybrid(self, number: int, limit: int) -> int: ...
    def close(self) -> None: ...


def options_of(place: Place, *, grpc: bool) -> ServerOptions:
    return ServerOptions(grpc=grpc, grpc_port=place.grpc_port, api_key=place.api_key)


def client_of(place: Place, *, grpc: bool) -> QdrantClient:
    """As its documentation shows it."""
    return QdrantClient(
        url=place.url, grpc_port=place.grpc_port, prefer_grpc=grpc, api_key=place.api_key,
        timeout=60, check_compatibility=False,
    )  # fmt: skip


class Ours:
    def __init__(self, place: Place, name: str, asked: Asked, *, grpc: bool) -> None:
        self._index = ServerIndex.open(place.url, name, options=options_of(place, grpc=grpc))
        self._asked = asked

    def dense(self, number: int, limit: int) -> int:
        vector = self._asked.vectors[number]
        return len(self._index.search(mode="dense", limit=limit, vector=vector))

    def hybrid(self, number: int, limit: int) -> int:
        vector, text = self._asked.vectors[number], self._asked.texts[number]
        return len(self._index.search(mode="hybrid", limit=limit, vector=vector, text=text))

    def close(self) -> None:
        self._index.close()


class _Peer:
    """What the peers share: a client, the collection, its vectors' names and parameters."""

    def __init__(self, place: Place, index: ServerIndex, asked: Asked, *, grpc: bool) -> None:
        self.client = client_of(place, grpc=grpc)
        self.collection = index.physical
        names = vector_names(index.manifest)
        self.dense_name, self.sparse_name = names[DENSE], names[SPARSE]
        self.asked = asked
        self._manifest = index.manifest
        self._bm25 = Bm25Terms(index.manifest.bm25)

    def params(self, limit: int) -> models.SearchParams:
        """The library's own choice, where nothing limits the server."""
        storage = self._manifest.storage
        return models.SearchParams(
            hnsw_ef=storage.search_ef or max(256, 2 * limit),
            quantization=models.QuantizationSearchParams(
                rescore=True, oversampling=storage.oversampling
            ),
        )

    def terms(self, text: str) -> tuple[list[int], list[float]]:
        found = self._bm25.query(text)
        return list(found.indices), list(found.values)

    def close(self) -> None:
        self.client.close()


class Raw(_Peer):
    def dense(self, number: int, limit: int) -> int:
        answer = self.client.query_points(
            self.collection, query=self.asked.lists[number], using=self.dense_name, limit=limit,
            search_params=self.params(limit), with_payload=True,
        )  # fmt: skip
        return len(answer.points)

    def hybrid(self, number: int, limit: int) -> int:
        """Joined by the server, of legs as long as this library's."""
        indices, values = self.terms(self.asked.texts[number])
        each = max(limit, 100)
        answer = self.client.query_points(
            self.collection,
            prefetch=[
                models.Prefetch(
                    query=self.asked.lists[number], using=self.dense_name, limit=each,
                    params=self.params(each),
                ),
                models.Prefetch(
                    query=models.SparseVector(indices=indices, values=values),
                    using=self.sparse_name, limit=each,
                ),
            ],
            query=models.FusionQuery(fusion=models.Fusion.DBSF),
            limit=limit,
            with_payload=True,
        )  # fmt: skip
        return len(answer.points)


class LangChain(_Peer):
    def __init__(self, place: Place, index: ServerIndex, asked: Asked, *, grpc: bool) -> None:
        super().__init__(place, index, asked, grpc=grpc)
        from langchain_core.embeddings import Embeddings
        from langchain_qdrant import QdrantVectorStore, RetrievalMode, SparseEmbeddings
        from langchain_qdrant import SparseVector as Terms

        peer = self
        number_of = {text: number for number, text in enumerate(asked.texts)}

        class Known(Embeddings):
            def embed_documents(self, texts: list[str]) -> list[list[float]]:
                return [self.embed_query(text) for text in texts]

            def embed_query(self, text: str) -> list[float]:
                return asked.lists[number_of[text]]

        class Sparse(SparseEmbeddings):  # type: ignore[misc]
            def embed_documents(self, texts: list[str]) -> list[Any]:
                return [self.embed_query(text) for text in texts]

            def embed_query(self, text: str) -> Any:
                indices, values = peer.terms(text)
                return Terms(indices=indices, values=values)

        def store(mode: Any) -> Any:
            return QdrantVectorStore(
                self.client, self.collection, Known(), mode, self.dense_name, "text", "metadata",
                sparse_embedding=Sparse(), sparse_vector_name=self.sparse_name,
                validate_embeddings=False, validate_collection_config=False,
            )  # fmt: skip

        self._dense, self._hybrid = store(RetrievalMode.DENSE), store(RetrievalMode.HYBRID)

    def dense(self, number: int, limit: int) -> int:
        text, params = self.asked.texts[number], self.params(limit)
        return len(self._dense.similarity_search_with_score(text, limit, search_params=params))

    def hybrid(self, number: int, limit: int) -> int:
        """Its legs have `limit` results; it gives one width of search to both."""
        text = self.asked.texts[number]
        return len(self._hybrid.similarity_search_with_score(text, limit))


class LlamaIndex(_Peer):
    def __init__(self, place: Place, index: ServerIndex, asked: Asked, *, grpc: bool) -> None:
        super().__init__(place, index, asked, grpc=grpc)
        from llama_index.core.vector_stores import VectorStoreQuery
        from llama_index.core.vector_stores.types import VectorStoreQueryMode
        from llama_index.vector_stores.qdrant import QdrantVectorStore

        def terms(texts: list[str]) -> tuple[list[list[int]], list[list[float]]]:
            indices, values = zip(*(self.terms(text) for text in texts), strict=True)
            return list(indices), list(values)

        self._query, self._modes = VectorStoreQuery, VectorStoreQueryMode
        self._store = QdrantVectorStore(
            self.collection, client=self.client, enable_hybrid=True, sparse_doc_fn=terms,
            sparse_query_fn=terms, dense_vector_name=self.dense_name,
            sparse_vector_name=self.sparse_name,
        )  # fmt: skip

    def dense(self, number: int, limit: int) -> int:
        asked = self._query(self.asked.lists[number], similarity_top_k=limit)
        return self._found(asked, search_params=self.params(limit))

    def hybrid(self, number: int, limit: int) -> int:
        """Its legs have `limit` results, joined in this process."""
        asked = self._query(
            self.asked.lists[number], query_str=self.asked.texts[number],
            similarity_top_k=limit, mode=self._modes.HYBRID,
        )  # fmt: skip
        return self._found(asked)

    def _found(self, asked: Any, **options: Any) -> int:
        return len(self._store.query(asked, **options).nodes or [])


def systems(
    place: Place, name: str, index: ServerIndex, asked: Asked, *, grpc: bool,
    left_out: dict[str, str],
) -> dict[str, Searching]:  # fmt: skip
    """All systems that are installed; the others are named in `left_out`."""
    found: dict[str, Searching] = {
        OURS: Ours(place, name, asked, grpc=grpc),
        RAW: Raw(place, index, asked, grpc=grpc),
    }
    peers: Mapping[str, Callable[..., Searching]] = {LANGCHAIN: LangChain, LLAMA_INDEX: LlamaIndex}
    for system, (module, package) in NEEDS.items():
        if _there(module):
            found[system] = peers[system](place, index, asked, grpc=grpc)
        else:
            left_out[system] = f"not installed: pip install {package}"
    return found


def _there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package that it is a part of
        return False


# --- what a search costs --------------------------------------------------------------------


@dataclass
class Cost:
    """Requests over REST, and the tokens that a server's `read_rate_limit` takes for them."""

    requests: int = 0
    tokens: int = 0


@contextmanager
def counted() -> Iterator[Cost]:
    """Counts what clients of this process send over REST meanwhile."""
    cost, send = Cost(), httpx.Client.send

    def counting(self: httpx.Client, request: httpx.Request, **options: Any) -> httpx.Response:
        cost.requests += 1
        cost.tokens += tokens_of(request.url.path, request.content)
        return send(self, request, **options)

    httpx.Client.send = counting  # type: ignore[method-assign,assignment]
    try:
        yield cost
    finally:
        httpx.Client.send = send  # type: ignore[method-assign]


def tokens_of(path: str, content: bytes) -> int:
    """Of one request: a search or scroll 1 + conditions, a retrieve its ids, else nothing.

    The legs of a search that the server joins are counted as searches.
    """
    body = json.loads(content) if content else {}
    if path.endswith("/points/query/batch"):
        return sum(map(_search_tokens, body["searches"]))
    if path.endswith("/points/query"):
        return _search_tokens(body)
    if path.endswith(("/points/scroll", "/points/count")):
        return 1 + _conditions(body.get("filter"))
    return len(body["ids"]) if path.endswith("/points") and "ids" in body else 0


def _search_tokens(asked: dict[str, Any]) -> int:
    legs = asked.get("prefetch") or []
    own = 1 + _conditions(asked.get("filter"))
    return sum(map(_search_tokens, [legs] if isinstance(legs, dict) else legs)) or own


def _conditions(where: Any) -> int:
    """Conditions of a filter, those of filters in it included."""
    if not where:
        return 0
    clauses = (where.get(name) or [] for name in ("must", "should", "must_not"))
    every = [
        one for clause in clauses for one in (clause if isinstance(clause, list) else [clause])
    ]
    nested = ("must", "should", "must_not")
    return sum(_conditions(one) if any(key in one for key in nested) else 1 for one in every)
