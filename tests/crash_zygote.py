"""A process that imports everything once and forks a child for each run that is to be killed.

Reads one run a line from standard input (JSON: engine, place, phase, and after which step or how
many seconds to kill), and answers with how the child ended, after how many steps and seconds. No
store is open in it: a child opens its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from hashing_encoder import DIMENSION, HashingEncoder

from retrieval.index.bm25 import Bm25Terms, bm25_info
from retrieval.index.collection import CollectionIndex
from retrieval.index.embedded.index import EmbeddedIndex
from retrieval.index.embedded.points import EdgePoints
from retrieval.index.filters import compile_filter
from retrieval.index.server.index import ServerIndex, ServerOptions
from retrieval.ingestion import ingest_documents, prune_scope
from retrieval.ingestion import seen_documents as seen
from retrieval.splitting.splitter import Splitter
from retrieval.types import Document, Encoding, FloatArray, IngestReport, Manifest

WINDOW = 8
seen._PAGE = 4  # documents that pruning deletes at once: several steps of a few
PHASES = ("ingest", "update", "prune")


class SignEncoder(HashingEncoder):
    """Vectors whose length is exactly 1 in any precision.

    The server's double divides by it in one precision when a point is new and in another when it
    is replaced, which would show in the last bit of others.
    """

    def encode_passages(self, passages: Sequence[str], *, progress: Any = None) -> Encoding:
        encoding = super().encode_passages(passages)
        signs = np.where(encoding.vectors > encoding.vectors.mean(axis=1, keepdims=True), 1.0, -1.0)
        vectors: FloatArray = (signs / np.sqrt(DIMENSION)).astype(np.float32)
        return replace(encoding, vectors=vectors)


def corpus(phase: str) -> list[Document]:
    """Documents of 1 to 5 passages. `update`: a third are other and shorter, some are new.

    `prune`: half of them are gone, and one is other.
    """
    made = []
    for number in range(24 if phase != "update" else 28):
        if phase == "prune" and number % 2:
            continue
        changed = (phase == "update" and number % 3 == 0) or (phase == "prune" and number == 4)
        words = " ".join(
            f"word{(number * 7 + i * (2 if changed else 3)) % 50}"
            for i in range((15 if changed else 30) * (1 + number % 5))
        )
        made.append(Document(f"d{number}", f"{words}.", title=f"Title {number}"))
    return made


def manifest(collection: str) -> Manifest:
    encoder = SignEncoder()
    splitter = Splitter(encoder.token_counter, max_tokens=40, overlap_tokens=8)
    # The time is given, so that a collection made by a killed run is as one made by another.
    return Manifest(
        collection, encoder.info, splitter.info, bm25_info("english"),
        created="2024-01-01T00:00:00+00:00",
    )  # fmt: skip


def opened(engine: str, place: str, collection: str) -> CollectionIndex:
    if engine == "embedded":
        return EmbeddedIndex.open_or_create(place, collection, manifest(collection))
    options = ServerOptions(timeout_s=20)
    return ServerIndex.open_or_create(place, collection, manifest(collection), options=options)


def run(index: CollectionIndex, phase: str) -> IngestReport:
    encoder = SignEncoder()
    return ingest_documents(
        corpus(phase),
        index=index,
        encoder=encoder,
        splitter=Splitter(encoder.token_counter, max_tokens=40, overlap_tokens=8),
        window=WINDOW,
        prune_scope=prune_scope([], []) if phase == "prune" else None,
    )


class Steps:
    """Counts what changes a store, and ends the process by SIGKILL after step `last`."""

    def __init__(self, last: int | None) -> None:
        self.done = 0
        self.last = last

    def step(self) -> None:
        self.done += 1
        if self.done == self.last:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(self) -> None:
        """Count the engine's own calls: of the shard, and requests that do more than read."""
        import httpx

        use, send = EdgePoints._use, httpx.Client.send
        steps = self

        class Shard:
            def __init__(self, shard: Any) -> None:
                self._shard = shard

            def __getattr__(self, name: str) -> Any:
                found = getattr(self._shard, name)
                if name not in ("update", "flush", "optimize"):
                    return found

                def call(*arguments: Any) -> Any:
                    result = found(*arguments)
                    steps.step()
                    return result

                return call

        @contextlib.contextmanager
        def counted_use(self: EdgePoints, action: str) -> Iterator[Any]:
            with use(self, action) as shard:
                yield Shard(shard)

        def counted_send(self: httpx.Client, request: httpx.Request, **options: Any) -> Any:
            answer = send(self, request, **options)
            reading = ("/scroll", "/query", "/query/batch", "/count", "/points")
            if request.method != "GET" and not (
                request.method == "POST" and request.url.path.endswith(reading)
            ):
                steps.step()
            return answer

        EdgePoints._use = counted_use  # type: ignore[assignment, method-assign]
        httpx.Client.send = counted_send  # type: ignore[assignment, method-assign]


def child(order: dict[str, Any], answers: int) -> None:
    steps = Steps(order.get("step"))
    steps.watch()
    began = time.perf_counter()
    os.write(answers, b"!")  # the clock of a kill by time starts here
    with opened(order["engine"], order["place"], order["collection"]) as index:
        run(index, order["phase"])
    told = {"steps": steps.done, "seconds": time.perf_counter() - began}
    os.write(answers, json.dumps(told).encode())


def attempt(order: dict[str, Any]) -> dict[str, Any]:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(reading)
            child(order, writing)
            code = 0
        except BaseException:  # noqa: BLE001  (a forked child must not return from here)
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stderr.flush()
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading, "rb") as answers:
        answers.read(1)
        if "seconds" in order:
            time.sleep(order["seconds"])
            os.kill(pid, signal.SIGKILL)
        told = answers.read()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return {"code": code, **(json.loads(told) if told else {})}


def warm_up() -> None:
    """Import what is imported late, and leave no thread behind that a child would miss."""
    import qdrant_client
    import qdrant_edge

    assert qdrant_client
    assert qdrant_edge
    Bm25Terms(bm25_info("english")).passage("words")
    compile_filter({"document_id": "d1"})
    assert threading.active_count() == 1


def main() -> None:
    warm_up()
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(attempt(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
