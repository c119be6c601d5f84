"""The service's data types: callers, the answers to calls, and `Observer`, which counts them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from retrieval import Document, IngestReport, Passage, SearchResult
from retrieval.types import FloatArray, LexicalWeights, Manifest, Reference

TextKind: TypeAlias = Literal["query", "passage"]
"""Whether a text gets the encoder's instruction for queries or that for passages."""

OnTimeout: TypeAlias = Literal["error", "first_stage"]
"""What a search does when its `timeout_ms` passes before everything was re-ranked: fail, or answer
with what was re-ranked until then, the first stage's order for the rest, and a notice."""

JobState: TypeAlias = Literal["waiting", "running", "done", "failed", "cancelled"]


@dataclass(frozen=True, slots=True)
class Caller:
    """A caller, and what they may do.

    key_id: the public name of the API key, "anonymous" without keys; requests of one caller share
    its turn in the queue. write: may change collections. collections: those it may use; None for
    all. tenant: the tenant of all its calls, which may name no other one; None leaves it to the
    call.
    """

    key_id: str = "anonymous"
    write: bool = True
    collections: tuple[str, ...] | None = None
    tenant: str | None = None


@dataclass(frozen=True, slots=True)
class Embedded:
    """Vectors of n texts.

    vectors: float32 (n, dimension). tokens: int64 (n,), before truncation. truncated: bool (n,).
    """

    vectors: FloatArray
    tokens: NDArray[np.int64]
    truncated: NDArray[np.bool_]
    model: str


@dataclass(frozen=True, slots=True)
class EmbeddedSparse:
    """Term weights of n texts, by token id (bge-m3). tokens: int64 (n,), before truncation."""

    weights: Sequence[LexicalWeights]
    tokens: NDArray[np.int64]
    model: str


@dataclass(frozen=True, slots=True)
class Reranked:
    """Scores of n texts for one query, in the order the texts were given.

    scores: raw, float64 (n,). relevance: in [0, 1], float64 (n,). tokens: int64 (n,), of the
    pairs before truncation. truncated: bool (n,).
    """

    scores: NDArray[np.float64]
    relevance: NDArray[np.float64]
    tokens: NDArray[np.int64]
    truncated: NDArray[np.bool_]
    model: str


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model that the service runs. `names`: what requests may call it by, its own first.

    dimension: of an encoder's vectors. sparse: whether an encoder gives term weights, too.
    default: used where a request names none. loaded: whether it is in memory.
    passage_instruction: what an encoder puts before passages; None where it is not known.
    """

    names: tuple[str, ...]
    kind: Literal["encoder", "reranker"]
    max_length: int
    fingerprint: str = ""
    dimension: int | None = None
    query_instruction: str = ""
    sparse: bool = False
    default: bool = False
    loaded: bool = True
    passage_instruction: str | None = None


@dataclass(frozen=True, slots=True)
class CollectionInfo:
    """A collection as its callers see it. passages: those of the caller's tenant, where it has one.

    passages, version: None while the collection is not open.
    """

    name: str
    manifest: Manifest
    passages: int | None
    version: str | None
    default: bool = False


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """A document as it can be put together from its passages.

    text: passages in order, their overlaps once; the blank lines between two are a newline.
    complete: whether all its passages are stored (an interrupted write leaves some out).
    """

    id: str
    text: str
    title: str
    source: str
    metadata: Mapping[str, Any]
    passages: tuple[Passage, ...]
    complete: bool


@dataclass(frozen=True, slots=True)
class JobSource:
    """What a job reads: documents, files that were uploaded, or a path on the service's machine.

    files: (name given by the client, where the upload is now); the job takes the files over.
    path: must be under one of the folders in the setting `ingest_roots`.
    """

    documents: Sequence[Document] | None = None
    files: Sequence[tuple[str, Path]] | None = None
    path: str | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """An ingestion in the background; it survives a restart of the service.

    total_documents: None until the source has been read to its end. report: once it is done.
    problem, fix: why it failed. created, finished: ISO 8601, UTC.
    """

    id: str
    collection: str
    state: JobState
    created: str
    key_id: str
    documents: int = 0
    total_documents: int | None = None
    passages: int = 0
    seconds: float = 0.0
    finished: str | None = None
    report: IngestReport | None = None
    problem: str | None = None
    fix: str | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """What the head of the page says; empty or None where it is not known (yet)."""

    collection: str = ""
    passages: int | None = None
    encoder: str = ""
    reranker: str | None = None
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Readiness:
    """What `/readyz` answers. `problems`: sentences by part (models, index, writes, jobs)."""

    ready: bool
    problems: Mapping[str, str] = field(default_factory=dict)


class Observer:
    """Gets the events of the service, and does nothing with them.

    `app.observability.metrics.Metrics` counts them. Methods are called from any thread; they must
    return at once and never raise.
    """

    def batch(self, model: str, items: int, tokens: int, seconds: float) -> None:
        """A model ran one batch."""

    def waiting(self, model: str, items: int, tokens: int) -> None:
        """How much waits for a model now."""

    def waited(self, model: str, seconds: float) -> None:
        """How long a request's items waited before the first of them ran."""

    def cache(self, name: str, hits: int, misses: int, held_bytes: int) -> None:
        """One look into a cache ("queries" or "scores"), and what it holds now."""

    def stage(self, name: str, seconds: float) -> None:
        """One request's time in a stage: encode, retrieve, rerank, search, language_model."""

    def shed(self, reason: str) -> None:
        """A request was refused: overloaded, rate_limited, deadline."""

    def searched(
        self, collection: str, reference: Reference | None, results: Sequence[SearchResult]
    ) -> None:
        """Searches of a collection were answered; `reference`: of its calibration."""
