"""Systems that read one collection of a Qdrant server: this library, the client alone, frameworks.

All of them search the very points that this library wrote, with the same vectors of queries: what
differs is what they ask of the server and what they do around it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from qdrant_client import QdrantClient, models

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from retrieval.index.bm25 import Bm25Terms
from retrieval.index.server.index import ServerIndex, ServerOptions
from retrieval.types import FloatArray

OVERSAMPLING, EF = 2.0, 256


@dataclass(frozen=True, slots=True)
class Query:
    """A query as each system wants it: its vector (dimension,), text, and BM25 terms."""

    vector: FloatArray
    text: str
    indices: list[int]
    values: list[float]


class System(Protocol):
    """What is measured of a system; results are (id or text) lists, to be looked at once."""

    def dense(self, query: Query, limit: int) -> list[Any]: ...

    def hybrid(self, query: Query, limit: int) -> list[Any]: ...


@dataclass(frozen=True, slots=True)
class Server:
    """The server, the collection in it, and how it is reached."""

    url: str
    collection: str
    grpc: bool
    grpc_port: int
    api_key: str | None = None

    @property
    def options(self) -> ServerOptions:
        return ServerOptions(grpc=self.grpc, grpc_port=self.grpc_port, api_key=self.api_key)

    def client(self) -> QdrantClient:
        """The client as its documentation shows it, with keep-alive on loopback, too."""
        import httpx

        headers = {"api-key": self.api_key} if self.api_key else None
        return QdrantClient(
            url=self.url, prefer_grpc=self.grpc, grpc_port=self.grpc_port, headers=headers,
            timeout=60, check_compatibility=False, limits=httpx.Limits(max_connections=100),
        )  # fmt: skip


def queries(vectors: FloatArray, texts: list[str], bm25: Bm25Terms) -> list[Query]:
    """Queries from vectors (n, dimension) and texts."""
    made = []
    for vector, text in zip(vectors, texts, strict=True):
        terms = bm25.query(text)
        made.append(Query(np.asarray(vector), text, list(terms.indices), list(terms.values)))
    return made


class Ours:
    """This library's index, with its defaults."""

    def __init__(self, server: Server) -> None:
        self.index = ServerIndex.open(server.url, server.collection, options=server.options)

    def dense(self, query: Query, limit: int) -> list[Any]:
        return self.index.search(mode="dense", limit=limit, vector=query.vector)

    def hybrid(self, query: Query, limit: int) -> list[Any]:
        return self.index.search(mode="hybrid", limit=limit, vector=query.vector, text=query.text)


@dataclass
class Raw:
    """qdrant-client alone, asked for the same search; hybrid by the server's own fusion."""

    server: Server
    client: QdrantClient = field(init=False)

    def __post_init__(self) -> None:
        self.client = self.server.client()
        self.dense_name, self.sparse_name, self.physical = named(self.client, self.server)
        short = models.QuantizationSearchParams(rescore=True, oversampling=OVERSAMPLING)
        self.params = models.SearchParams(hnsw_ef=EF, quantization=short)

    def dense(self, query: Query, limit: int) -> list[Any]:
        return self.client.query_points(
            self.physical, query=query.vector.tolist(), using=self.dense_name, limit=limit,
            search_params=self.params, with_payload=True,
        ).points  # fmt: skip

    def hybrid(self, query: Query, limit: int) -> list[Any]:
        sparse = models.SparseVector(indices=query.indices, values=query.values)
        return self.client.query_points(
            self.physical,
            prefetch=[
                models.Prefetch(
                    query=query.vector.tolist(), using=self.dense_name, limit=100,
                    params=self.params,
                ),
                models.Prefetch(query=sparse, using=self.sparse_name, limit=100),
            ],
            query=models.FusionQuery(fusion=models.Fusion.DBSF), limit=limit, with_payload=True,
        ).points  # fmt: skip


class LangChain:
    """langchain-qdrant's QdrantVectorStore over the same collection."""

    def __init__(self, server: Server) -> None:
        from langchain_core.embeddings import Embeddings
        from langchain_qdrant import QdrantVectorStore, RetrievalMode
        from langchain_qdrant import SparseVector as Terms
        from langchain_qdrant.sparse_embeddings import SparseEmbeddings

        own = self

        class Given(Embeddings):
            def embed_documents(self, texts: list[str]) -> list[list[float]]:
                raise NotImplementedError

            def embed_query(self, text: str) -> list[float]:
                return own.query.vector.tolist()

        class GivenTerms(SparseEmbeddings):
            def embed_documents(self, texts: list[str]) -> list[Any]:
                raise NotImplementedError

            def embed_query(self, text: str) -> Any:
                return Terms(indices=own.query.indices, values=own.query.values)

        self.query: Any = None
        client = server.client()
        dense, sparse, physical = named(client, server)
        self.stores = {
            mode: QdrantVectorStore(
                client, physical, Given(), retrieval_mode=mode, vector_name=dense,
                sparse_embedding=GivenTerms(), sparse_vector_name=sparse,
                content_payload_key="text", validate_embeddings=False,
                validate_collection_config=False,
            )
            for mode in (RetrievalMode.DENSE, RetrievalMode.HYBRID)
        }  # fmt: skip
        self.modes = (RetrievalMode.DENSE, RetrievalMode.HYBRID)

    def dense(self, query: Query, limit: int) -> list[Any]:
        self.query = query
        return self.stores[self.modes[0]].similarity_search(query.text, k=limit)

    def hybrid(self, query: Query, limit: int) -> list[Any]:
        self.query = query
        return self.stores[self.modes[1]].similarity_search(query.text, k=limit)


class LlamaIndex:
    """llama-index-vector-stores-qdrant's QdrantVectorStore over the same collection."""

    def __init__(self, server: Server) -> None:
        from llama_index.vector_stores.qdrant import QdrantVectorStore

        client = server.client()
        dense, sparse, physical = named(client, server)

        def terms(texts: list[str]) -> tuple[list[list[int]], list[list[float]]]:
            return [self.query.indices], [self.query.values]

        self.query: Any = None
        self.store = QdrantVectorStore(
            physical, client=client, enable_hybrid=True, dense_vector_name=dense,
            sparse_vector_name=sparse, sparse_query_fn=terms, sparse_doc_fn=terms, text_key="text",
        )  # fmt: skip

    def dense(self, query: Query, limit: int) -> list[Any]:
        return self._asked(query, limit, "default")

    def hybrid(self, query: Query, limit: int) -> list[Any]:
        return self._asked(query, limit, "hybrid")

    def _asked(self, query: Query, limit: int, mode: str) -> list[Any]:
        from llama_index.core.vector_stores.types import VectorStoreQuery, VectorStoreQueryMode

        self.query = query
        asked = VectorStoreQuery(
            query_embedding=query.vector.tolist(), query_str=query.text, similarity_top_k=limit,
            sparse_top_k=limit, hybrid_top_k=limit, mode=VectorStoreQueryMode(mode),
        )  # fmt: skip
        return list(self.store.query(asked).nodes or [])


SYSTEMS: dict[str, Callable[[Server], System]] = {
    "retrieval": Ours,
    "qdrant-client": Raw,
    "langchain-qdrant": LangChain,
    "llama-index": LlamaIndex,
}


def named(client: QdrantClient, server: Server) -> tuple[str, str, str]:
    """Names of the dense and the BM25 vectors, and of the collection, as the server has them."""
    aliases = {one.alias_name: one.collection_name for one in client.get_aliases().aliases}
    physical = aliases.get(server.collection, server.collection)
    params = client.get_collection(physical).config.params
    assert isinstance(params.vectors, dict)
    assert params.sparse_vectors is not None
    return next(iter(params.vectors)), next(iter(params.sparse_vectors)), physical
