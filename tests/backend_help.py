"""A backend over an embedded store with small models, and the calls that are made of it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from hashing_encoder import HashingEncoder

from app.backend.backend import Backend
from app.settings.settings import Settings
from app.types import Caller, Observer
from retrieval import Document
from retrieval.errors import RetrievalError
from retrieval.types import RerankerInfo, Scores

T = TypeVar("T")
ANYONE = Caller()
DOCUMENTS = [
    Document("oak", "Oaks are trees. They bear acorns.", "Oak", {"kind": "tree"}, "oak.txt"),
    Document("bee", "Bees dance to tell where the flowers are.", "Bee", {"kind": "insect"}),
    Document("ant", "Ants follow a scent to where the food is.", "Ant", {"kind": "insect"}),
]


class WordReranker:
    """Scores by shared words; can be held, made to fail, or slow."""

    def __init__(self) -> None:
        self.info = RerankerInfo("words", "sha256:words", "cross-encoder", 64)
        self.go, self.begun = threading.Event(), threading.Event()
        self.go.set()
        self.seconds_a_pair = 0.0
        self.fault: RetrievalError | None = None

    def score(self, pairs: Sequence[tuple[str, str]], *, progress: Any = None) -> Scores:
        self.begun.set()
        assert self.go.wait(20)
        time.sleep(self.seconds_a_pair * len(pairs))
        if self.fault is not None:
            raise self.fault
        values = [len(set(q.lower().split()) & set(p.lower().split())) for q, p in pairs]
        return Scores(np.array(values, np.float64), np.zeros(len(pairs), np.bool_))

    def relevance(self, scores: Any) -> Any:
        return 1 / (1 + np.exp(-scores))


class Counting(Observer):
    """Keeps the stages and refusals."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.refused: list[str] = []

    def stage(self, name: str, seconds: float) -> None:
        assert seconds >= 0
        self.stages.append(name)

    def shed(self, reason: str) -> None:
        self.refused.append(reason)


class Made:
    """A backend with what it was made of."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.encoder = HashingEncoder()
        self.reranker = WordReranker()
        self.observer = Counting()
        self.settings = Settings(
            **{"store": str(folder / "store"), "reranker": "none", "grace_s": 5, **options}
        )
        self.backend = Backend(
            self.settings, observer=self.observer, encoder=self.encoder, reranker=self.reranker
        )


Make = Callable[..., Made]


CALLS: dict[str, Callable[..., Coroutine[Any, Any, Any]]] = {
    "search": lambda on, caller, **where: on.search(caller, ["where"], **where),
    "get": lambda on, caller, **where: on.documents.get(caller, "bee", **where),
    "upsert": lambda on, caller, **where: on.documents.upsert(caller, DOCUMENTS, **where),
    "delete": lambda on, caller, **where: on.documents.delete(caller, ["bee"], **where),
    "look at": lambda on, caller, collection: on.collections.get(caller, collection),
    "create": lambda on, caller, collection: on.collections.create(caller, collection),
    "drop": lambda on, caller, collection: on.collections.delete(caller, collection),
}
"""What a caller may do with a collection: the backend, the caller → the call."""
WRITES = ("upsert", "delete", "create", "drop")


def refused(
    error: type[RetrievalError], names: Iterable[str], *who: Any, **where: Any
) -> list[str]:
    """What those of `CALLS` say that all raise this error."""
    said = []
    for name in names:
        with pytest.raises(error) as caught:
            run(CALLS[name](*who, **where))
        said.append(str(caught.value))
    return said


def run(work: Coroutine[Any, Any, T]) -> T:
    async def bounded() -> T:
        return await asyncio.wait_for(work, 30)

    return asyncio.run(bounded())


def ids(results: Any) -> list[str]:
    return [hit.passage.document_id for hit in results[0].hits]
