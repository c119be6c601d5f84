"""Writing to a collection of a Qdrant server and reading it whole, beside qdrant-client alone."""

from __future__ import annotations

import re
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from _made import Made
from _mixture import DIMENSION
from _report import OURS, Row, in_turns, median
from _server_place import Place
from _server_systems import RAW, client_of, options_of

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from qdrant_client import QdrantClient, models

from retrieval import ingest
from retrieval.errors import CollectionNotFound
from retrieval.index.bm25 import bm25_info
from retrieval.index.point_store import DENSE, SPARSE, PointData
from retrieval.index.server.index import ServerIndex, delete_collection
from retrieval.index.server.names import VectorNames, vector_names
from retrieval.index.store import Store
from retrieval.types import Document, EncoderInfo, Encoding, FloatArray, Manifest, SplitterInfo

WINDOW = 512
"""Passages in one call of `upsert`, as an indexing run has them."""
REQUEST = 256
"""Points in one request of qdrant-client, to write and to read: as many as the library's."""
SETTLED_S = 600.0
ENCODER = EncoderInfo("paced", "sha256:paced", DIMENSION, "mean", True, "", "", 512)


class Bench:
    """Collections of one run: made under names of its own, and deleted when the block ends."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._made: list[str] = []

    def name(self) -> str:
        """A name that nothing on the server has; what is made under it is deleted at the end."""
        name = f"bench-{uuid.uuid4().hex[:16]}"
        self._made.append(name)
        return name

    def create(self, *, grpc: bool = False) -> tuple[str, ServerIndex]:
        """A new, empty collection."""
        name = self.name()
        manifest = Manifest(name, ENCODER, SplitterInfo(200, 20), bm25_info("en"))
        options = options_of(self.place, grpc=grpc)
        return name, ServerIndex.create(self.place.url, name, manifest, options=options)

    def drop(self, name: str) -> None:
        with suppress(CollectionNotFound):  # what made it may have failed before it was there
            delete_collection(self.place.url, name, options=options_of(self.place, grpc=False))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        for name in self._made:
            self.drop(name)


def filled(bench: Bench, made: Made) -> tuple[str, ServerIndex]:
    """A collection with everything that was made, its graph built."""
    name, index = bench.create()
    for passages, vectors in made.blocks():
        for start in range(0, len(passages), WINDOW):
            part = slice(start, start + WINDOW)
            index.upsert(passages[part], vectors[part])
    index.optimize()
    deadline = time.monotonic() + SETTLED_S
    while index.status().state == "optimizing" and time.monotonic() < deadline:
        time.sleep(1.0)
    return name, index


def struct(one: PointData, names: VectorNames) -> models.PointStruct:
    """A point as qdrant-client takes it."""
    vector: dict[str, Any] = {names[DENSE]: one.dense.tolist()}
    if one.sparse.indices:
        vector[names[SPARSE]] = models.SparseVector(
            indices=list(one.sparse.indices), values=list(one.sparse.values)
        )
    return models.PointStruct(id=one.id, vector=vector, payload=one.payload)


def writing_rows(
    bench: Bench, wire: str, made: Made, index: ServerIndex, count: int, rounds: int
) -> list[Row]:
    """Points a second, and what ingesting takes beside encoding.

    Args:
        made, index: passages, and the same in a collection: raw points are made ready from it.
        count: how many are written.
    """
    print(f"{wire}: writing", file=sys.stderr, flush=True)
    grpc = wire == "gRPC"
    passages, vectors = next(made.blocks())
    passages, vectors = passages[:count], vectors[:count]
    points = list(islice(index.points(), len(passages)))

    def ours() -> float:
        name, own = bench.create(grpc=grpc)
        began = time.perf_counter()
        for start in range(0, len(passages), WINDOW):
            part = slice(start, start + WINDOW)
            own.upsert(passages[part], vectors[part])
        seconds = time.perf_counter() - began
        _checked(own, len(passages))
        bench.drop(name)
        return seconds

    def raw() -> float:
        name, own = bench.create()
        names = vector_names(own.manifest)
        ready = [struct(one, names) for one in points]
        client = client_of(bench.place, grpc=grpc)
        began = time.perf_counter()
        client.upload_points(own.physical, ready, batch_size=REQUEST, wait=True)
        seconds = time.perf_counter() - began
        client.close()
        _checked(own, len(points))
        bench.drop(name)
        return seconds

    seconds = in_turns({OURS: ours, RAW: raw}, rounds)
    return _rows(f"{wire}: writing", "points/s", len(passages), seconds) + _ingest_rows(
        bench, wire, made, len(passages), median(seconds[RAW]), rounds
    )


def _checked(index: ServerIndex, expected: int) -> None:
    found = index.count()
    index.close()
    if found != expected:
        raise RuntimeError(f"{found:,} points are in the collection, {expected:,} were written")


def _rows(case: str, unit: str, count: int, seconds: dict[str, list[float]]) -> list[Row]:
    rows = []
    rates = {name: count / median(own) for name, own in seconds.items()}
    for name, rate in rates.items():
        rows.append(Row(case, name, "throughput", rate, unit))
        rows.append(Row(case, name, "of qdrant-client", rate / rates[RAW], "×"))
    return rows


class Paced:
    """An encoder that waits, as for a GPU, and gives vectors that are known by the text's place."""

    info = ENCODER
    special_tokens = 2

    def __init__(self, vectors: FloatArray, seconds_each: float) -> None:
        self._vectors, self._pace = vectors, seconds_each
        self.token_counter = self

    def token_offsets(self, text: str) -> Any:
        spans = [found.span() for found in re.finditer(r"\w+", text)]
        return np.array(spans, dtype=np.int64).reshape(-1, 2)

    def encode_passages(self, passages: Sequence[str], **_: object) -> Encoding:
        time.sleep(self._pace * len(passages))
        tokens = np.full(len(passages), 8, dtype=np.int64)
        return Encoding(np.array(self._vectors[: len(passages)]), tokens, tokens > 512)

    def encode_queries(self, queries: Sequence[str], **_: object) -> FloatArray:
        return np.array(self._vectors[: len(queries)])


def _ingest_rows(
    bench: Bench, wire: str, made: Made, count: int, upload_s: float, rounds: int
) -> list[Row]:
    passages, vectors = next(made.blocks())
    documents = [Document(one.document_id, one.text) for one in passages[:count]]
    encoder = Paced(vectors, upload_s / count)
    store = Store(bench.place.url, options=options_of(bench.place, grpc=wire == "gRPC"))

    def whole() -> float:
        name = bench.name()
        began = time.perf_counter()
        found = ingest(documents, name, store=store, encoder=encoder)
        seconds = time.perf_counter() - began
        bench.drop(name)
        if found.new != count:
            raise RuntimeError(f"{found.new:,} of {count:,} documents were ingested")
        return seconds

    case = f"{wire}: ingesting, encoding as long as the upload"
    seconds = median(in_turns({OURS: whole}, rounds)[OURS])
    return [
        Row(case, OURS, "throughput", count / seconds, "documents/s"),
        Row(case, OURS, "of encoding alone", upload_s / seconds, "×"),
    ]


def reading_rows(bench: Bench, wire: str, index: ServerIndex, name: str, rounds: int) -> list[Row]:
    """Points a second, read with their vectors."""
    print(f"{wire}: reading", file=sys.stderr, flush=True)
    grpc = wire == "gRPC"
    options = options_of(bench.place, grpc=grpc)
    client = client_of(bench.place, grpc=grpc)
    counts: set[int] = set()

    def raw() -> None:
        counts.add(sum(len(page) for page in _pages(client, index.physical)))

    with_own = ServerIndex.open(bench.place.url, name, options=options)

    def ours() -> None:
        counts.add(sum(1 for _ in with_own.points()))

    turns: dict[str, Callable[[], None]] = {OURS: ours, RAW: raw}
    try:
        seconds = in_turns(turns, rounds)
    finally:
        client.close()
        with_own.close()
    [count] = counts  # both read the same number, each time
    return _rows(f"{wire}: reading with vectors", "points/s", count, seconds)


def _pages(client: QdrantClient, collection: str) -> Any:
    after = None
    while True:
        page, after = client.scroll(
            collection, limit=REQUEST, offset=after, with_payload=True, with_vectors=True
        )
        yield page
        if after is None:
            return
