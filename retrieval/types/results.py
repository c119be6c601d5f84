"""What comes back: hits, search results, and the reports of indexing."""

from __future__ import annotations

from dataclasses import dataclass

from retrieval.types.documents import Passage, Problem
from retrieval.types.index import Candidate, Mode
from retrieval.types.models import Blend


@dataclass(frozen=True, slots=True)
class Hit:
    """One answer: the passage, its final rank (from 1), and what each stage said of it.

    `score` is what the final order follows: the raw reranker score, the blended RRF score, or
    the first stage's score where nothing was re-ranked. `relevance` is in [0, 1], or None where
    no stage has such a scale (BM25 or fused scores alone). `best_span`: character offsets in
    `passage.text` of the part that the reranker scored highest, where it read the passage by
    windows. `before` and `after`: the neighbouring passages of the same document, in their order,
    where neighbours were asked for.
    """

    passage: Passage
    rank: int
    score: float
    relevance: float | None
    stage1_rank: int
    stage1_score: float
    stage2_rank: int | None = None
    stage2_score: float | None = None
    best_span: tuple[int, int] | None = None
    before: tuple[Passage, ...] = ()
    after: tuple[Passage, ...] = ()


@dataclass(frozen=True, slots=True)
class Timings:
    """Milliseconds per stage."""

    encode_ms: float
    retrieve_ms: float
    rerank_ms: float
    total_ms: float


@dataclass(frozen=True, slots=True)
class SearchResult:
    """Hits in final order, with the candidates in first-stage order and how it all was done.

    `reranked`: how many of the candidates the second stage read; fewer than asked for where a time
    budget ended it. `offset`: how many hits were skipped before the first of these; ranks go on.
    """

    query: str
    hits: tuple[Hit, ...]
    candidates: tuple[Candidate, ...]
    mode: Mode
    blend: Blend
    encoder: str
    reranker: str | None
    timings: Timings
    notices: tuple[str, ...] = ()
    reranked: int = 0
    offset: int = 0


@dataclass(frozen=True, slots=True)
class IngestProgress:
    """How far an indexing run is. Totals are None until the source has been read to its end.

    `passages` and `tokens`: written so far. `passages_per_second`: the rate of the last minute or
    so; 0 before there is one. `remaining_seconds`: an estimate; None while there is none.
    """

    documents: int
    total_documents: int | None
    passages: int
    tokens: int
    seconds: float
    passages_per_second: float = 0.0
    remaining_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class IngestReport:
    """What an indexing run did, in documents unless said otherwise.

    `duplicates`: of documents that were read, how many have the same content as another one;
    `duplicate_examples` names the first of them, as (id, id of the one read before). `pruned`:
    documents deleted since their source no longer has them.
    """

    collection: str
    read: int
    new: int
    changed: int
    unchanged: int
    failed: tuple[Problem, ...]
    passages: int
    tokens: int
    truncated_passages: int
    seconds: float
    notices: tuple[str, ...] = ()
    pruned: int = 0
    duplicates: int = 0
    duplicate_examples: tuple[tuple[str, str], ...] = ()
