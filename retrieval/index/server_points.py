"""Points in one collection of a Qdrant server, through qdrant-client."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from retrieval.errors import (
    CollectionExists,
    CollectionNotFound,
    DiskFull,
    InvalidInput,
    ManifestCorrupt,
    RetrievalError,
    StoreDenied,
    StoreFault,
)
from retrieval.types import FloatArray, Manifest

from .manifest import manifest_from_dict, manifest_to_dict
from .points import DENSE, SPARSE, PointData, SparseTerms, VectorName, write_batches

if TYPE_CHECKING:
    from qdrant_client import QdrantClient
    from qdrant_client.models import Filter

MANIFEST_KEY = "retrieval_manifest"
"""Where the manifest lies in the collection's metadata (Qdrant 1.16 or newer)."""


class ServerPoints:
    """A `PointStore` on one collection of a server."""

    def __init__(
        self, server: str | QdrantClient, collection: str, api_key: str | None, timeout: int
    ) -> None:
        from qdrant_client import QdrantClient

        self._collection = collection
        self._owned = isinstance(server, str)
        self._closed = False
        if isinstance(server, str):
            self._where = server
            try:
                # no version check here: it would only warn where the first call says it clearly
                self._client = QdrantClient(
                    url=server, api_key=api_key, timeout=timeout, check_compatibility=False
                )
            except ValueError as error:
                raise InvalidInput(
                    f"{server!r} is no address of a Qdrant server ({error})",
                    fix="Write it as http://localhost:6333.",
                ) from error
        else:
            self._client = server
            options = server.init_options
            self._where = str(options.get("url") or options.get("host") or options.get("location"))
        # the in-memory double is not made for threads
        self._local = type(self._client._client).__name__ == "QdrantLocal"
        self._guard: contextlib.AbstractContextManager[object] = (
            _LOCAL_GUARD if self._local else contextlib.nullcontext()
        )

    def create(self, manifest: Manifest) -> None:
        """Make the collection; one call, so it is there with its manifest or not at all."""
        from qdrant_client import models

        with self._errors("create"):
            if self._client.collection_exists(self._collection):
                raise self._exists()
            try:
                self._client.create_collection(
                    self._collection,
                    vectors_config={
                        DENSE: models.VectorParams(
                            size=manifest.encoder.dimension, distance=models.Distance.COSINE
                        )
                    },
                    sparse_vectors_config={
                        SPARSE: models.SparseVectorParams(modifier=models.Modifier.IDF)
                    },
                    metadata={MANIFEST_KEY: manifest_to_dict(manifest)},
                )
            except Exception as error:
                if "already exists" in str(error):
                    raise self._exists() from error
                raise
            if not self._local:  # where it would have no effect but a warning
                self._client.create_payload_index(
                    self._collection,
                    "document_id",
                    field_schema=models.PayloadSchemaType.KEYWORD,
                    wait=True,
                )
            stored = self._metadata()
        if MANIFEST_KEY not in stored:
            with self._errors("delete"):
                self._client.delete_collection(self._collection)  # made above, and empty
            raise StoreFault(
                f"the Qdrant server at {self._where} does not keep collection metadata",
                fix="Use Qdrant 1.16 or newer.",
            )

    def manifest(self) -> Manifest:
        """The manifest in the collection's metadata."""
        with self._errors("open"):
            if not self._client.collection_exists(self._collection):
                raise self._missing()
            stored = self._metadata()
        origin = f"of the collection {self._collection!r} at {self._where}"
        if MANIFEST_KEY not in stored:
            raise ManifestCorrupt(
                f"there is no manifest {origin}: it was not made by this library",
                fix="Index into a new collection; nothing was changed.",
            )
        return manifest_from_dict(stored[MANIFEST_KEY], origin=origin)

    def names(self) -> list[str]:
        """The server's collections, sorted."""
        with self._errors("list"):
            return sorted(found.name for found in self._client.get_collections().collections)

    def drop(self) -> None:
        """Delete the collection."""
        with self._errors("delete"):
            if not self._client.collection_exists(self._collection):
                raise self._missing()
            self._client.delete_collection(self._collection)

    def write(self, points: Sequence[PointData]) -> None:
        """Insert or replace points; each request waits until it is applied."""
        from qdrant_client import models

        for batch in write_batches(points):
            structs = [
                models.PointStruct(
                    id=point.id,
                    vector={
                        DENSE: point.dense.tolist(),
                        SPARSE: models.SparseVector(
                            indices=list(point.sparse.indices), values=list(point.sparse.values)
                        ),
                    },
                    payload=point.payload,
                )
                for point in batch
            ]
            with self._errors("write to"):
                self._client.upsert(self._collection, structs, wait=True)

    def nearest(
        self, using: VectorName, query: FloatArray | SparseTerms, limit: int, where: Filter | None
    ) -> list[tuple[str, float]]:
        """(id, score) of the best `limit` points."""
        from qdrant_client import models

        vector: Any
        if isinstance(query, SparseTerms):
            vector = models.SparseVector(indices=list(query.indices), values=list(query.values))
        else:
            vector = query.tolist()
        with self._errors("search"):
            answer = self._client.query_points(
                self._collection,
                query=vector,
                using=using,
                query_filter=where,
                limit=limit,
                # the in-memory double scans everything, and warns of parameters
                search_params=None
                if self._local
                else models.SearchParams(hnsw_ef=max(256, 2 * limit)),
                with_payload=False,
            )
        return [(str(point.id), point.score) for point in answer.points]

    def payloads(self, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Payloads by id."""
        with self._errors("read"):
            records = self._client.retrieve(
                self._collection, list(ids), with_payload=True, with_vectors=False
            )
        return {str(record.id): record.payload or {} for record in records}

    def scroll(
        self, fields: list[str] | None, after: str | None, limit: int
    ) -> tuple[list[tuple[str, dict[str, Any]]], str | None]:
        """A page of points in id order."""
        with self._errors("read"):
            records, following = self._client.scroll(
                self._collection,
                limit=limit,
                offset=after,
                with_payload=True if fields is None else fields,
                with_vectors=False,
            )
        page = [(str(record.id), record.payload or {}) for record in records]
        return page, None if following is None else str(following)

    def delete_ids(self, ids: Sequence[str]) -> None:
        """Delete points by id."""
        from qdrant_client import models

        self._delete(models.PointIdsList(points=list(ids)))

    def delete_by_document(self, document_ids: Sequence[str]) -> None:
        """Delete the points of documents."""
        from qdrant_client import models

        match = models.MatchAny(any=list(document_ids))
        self.delete_matching(
            models.Filter(must=[models.FieldCondition(key="document_id", match=match)])
        )

    def delete_matching(self, where: Filter) -> None:
        """Delete what a filter matches."""
        from qdrant_client import models

        self._delete(models.FilterSelector(filter=where))

    def count(self, where: Filter | None) -> int:
        """The exact number of points that match."""
        with self._errors("count"):
            answer = self._client.count(self._collection, count_filter=where, exact=True)
        return answer.count

    def optimize(self) -> None:
        """Nothing: a server builds its indexes by itself, in the background."""
        with self._errors("open"):
            self._client.get_collection(self._collection)

    def close(self) -> None:
        """Close the connection, unless the client was given."""
        if self._owned and not self._closed:
            with self._errors("close"):
                self._client.close()
        self._closed = True

    @contextlib.contextmanager
    def closed_on_error(self) -> Iterator[None]:
        """Leave no open connection behind where opening fails."""
        try:
            yield
        except BaseException:
            self.close()
            raise

    def _delete(self, selector: Any) -> None:
        with self._errors("delete from"):
            self._client.delete(self._collection, points_selector=selector, wait=True)

    def _metadata(self) -> Mapping[str, Any]:
        config = self._client.get_collection(self._collection).config
        return getattr(config, "metadata", None) or {}

    def _exists(self) -> CollectionExists:
        return CollectionExists(
            f"there is already a collection {self._collection!r} at {self._where}",
            fix="Open it, choose another name, or delete it first. Nothing was changed.",
        )

    def _missing(self) -> CollectionNotFound:
        names = self.names()
        known = "it holds " + ", ".join(map(repr, names)) if names else "it holds no collections"
        return CollectionNotFound(
            f"there is no collection {self._collection!r} at {self._where}: {known}",
            fix="Check the name and the server, or make it first: retrieval index PATH.",
        )

    @contextlib.contextmanager
    def _errors(self, action: str) -> Iterator[None]:
        """The one place where the client's errors become the library's."""
        if self._closed:
            raise StoreFault(
                f"the connection to the collection {self._collection!r} is closed",
                fix="Open it again.",
            )
        try:
            with self._guard:
                yield
        except RetrievalError:
            raise
        except Exception as error:
            raise self._translated(error, action) from error

    def _translated(self, error: Exception, action: str) -> RetrievalError:
        from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

        which = f"the collection {self._collection!r}" if self._collection else "the collections"
        what = f"{action} {which} on the Qdrant server at {self._where}"
        if isinstance(error, ResponseHandlingException):
            return _no_answer(error.source, what)
        if isinstance(error, UnexpectedResponse):
            status, body = error.status_code, error.content.decode("utf-8", "replace")[:500]
            text = f"status {status} {error.reason_phrase}: {' '.join(body.split())}"
        else:
            status, text = None, " ".join(str(error).split()) or type(error).__name__
        if status in (401, 403):
            return StoreDenied(
                f"no permission to {what} (status {status})", fix="Give the right api_key."
            )
        if status == 404 or (status is None and "not found" in text):
            return CollectionNotFound(
                f"could not {what}: it is not there ({text})",
                fix="Check the name and the URL, or index into it again.",
            )
        if status == 507 or "No space left" in text or "available disk space" in text:
            return DiskFull(
                f"could not {what}: its disk is full ({text})",
                fix="Give the server more space; what was acknowledged before is kept.",
            )
        return StoreFault(
            f"could not {what}: {text}",
            fix="Look into the server's log; repeating the call is safe.",
        )


def _no_answer(source: Exception, what: str) -> StoreFault:
    kind, text = type(source).__name__, " ".join(str(source).split())
    if "timed out" in text.lower() or "timeout" in kind.lower():
        return StoreFault(
            f"could not {what}: no answer in time",
            fix="Try again; if it stays slow, raise the timeout or give the server more memory "
            "and processors.",
        )
    if kind == "ValidationError":
        return StoreFault(
            f"could not {what}: the answer is not that of a Qdrant server this client knows",
            fix="Check the URL and port (http://localhost:6333 by default), and that the versions "
            "of the server and of qdrant-client lie close together.",
        )
    return StoreFault(
        f"could not {what}: {text or kind}",
        fix="Check that the server runs and that the URL and port are right "
        "(http://localhost:6333 by default).",
    )


_LOCAL_GUARD: contextlib.AbstractContextManager[object] = threading.RLock()
