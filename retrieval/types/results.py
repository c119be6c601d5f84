"""Results: hits, search results, and the reports of indexing."""

from __future__ import annotations

from dataclasses import dataclass

from retrieval.types.documents import Passage, Problem
from retrieval.types.index import Candidate
from retrieval.types.models import Blend
from retrieval.types.modes import Mode
from retrieval.types.tuning import RelevanceScale


@dataclass(frozen=True, slots=True)
class Hit:
    """One answer: a passage, its place in the final order, and each stage's score for it.

    Attributes:
        passage: what was found.
        rank: place in the final order, from 1; it continues from page to page.
        score: what the final order follows: the reranker's raw score, the sum of
            the blend, or the first stage's score where nothing was re-ranked.
        relevance: from 0 to 1: the sigmoid of the reranker's score (for late interaction, and for
            vectors alone, the cosine, cut to that range), or, of a calibrated collection, the
            probability of being relevant (`SearchResult.relevance_is`). None where there is no
            such scale: BM25 or fused scores without a reranker and without a calibration.
        stage1_rank: place in the first stage's order, from 1.
        stage1_score: the first stage's score, on the scale of its mode: cosine (dense), BM25
            score (sparse), product of term weights (lexical), sum of the fusion (hybrid), or
            MaxSim with `refine`.
        stage2_rank: place in the reranker's own order, from 1; None if it did not read the passage.
        stage2_score: the reranker's raw score; None if it did not read the passage.
        best_span: start and end, in characters of `passage.text`, of the part that gave the
            reranker's score; None where the passage was read whole, without choosing a part.
        before: passages of the same document before this one, in its order, with `neighbours`.
        after: passages of the same document after this one, in its order, with `neighbours`.

    Example:
        >>> from retrieval import Hit, Passage
        >>> passage = Passage("p-1", "rules.md", 0, "Travel is paid back.", 0, 20)
        >>> hit = Hit(passage, rank=1, score=2.1, relevance=0.89, stage1_rank=4, stage1_score=0.61)
        >>> hit.stage1_rank - hit.rank  # places that re-ranking moved it up
        3
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
    """Milliseconds of one search. In a batch, each query's equal share of the batch.

    Attributes:
        encode_ms: encoding of the query.
        retrieve_ms: the first stage in the index, and the choice of hits at the end.
        rerank_ms: the second stage; 0.0 without one.
        total_ms: all of it.
    """

    encode_ms: float
    retrieve_ms: float
    rerank_ms: float
    total_ms: float


@dataclass(frozen=True, slots=True)
class SearchResult:
    """Hits in their final order, the candidates they were chosen from, and how it was done.

    Attributes:
        query: the question as it was asked, without the encoder's instruction.
        hits: best first, at most `top_k`.
        candidates: what the first stage found, in its order.
        mode: which first stage it was.
        blend: how the two orders were joined.
        encoder: name of the encoder.
        reranker: name of the reranker; None without a second stage.
        timings: milliseconds by stage.
        notices: sentences about truncated texts, models that were chosen, a time budget that
            ended early.
        reranked: how many of the candidates the second stage read; fewer than asked for where a
            time budget ended it, 0 without a second stage.
        offset: how many hits were skipped before the first of these.
        relevance_is: what the hits' relevance is: the probability of being relevant, of a
            collection that was calibrated for this way of searching, else the reranker's sigmoid
            or a cosine; None where it is None, too.
        best_relevance: the highest relevance among the candidates, also where `min_relevance`
            left them out; None where there is none.

    Example:
        >>> import retrieval
        >>> document = retrieval.Document("rules.md", "Travel costs are paid back in ten days.")
        >>> _ = retrieval.ingest([document], "results", encoder="starter")
        >>> with retrieval.open("results") as retriever:
        ...     result = retriever.search("when do I get my expenses back?")
        >>> [hit.passage.document_id for hit in result.hits]
        ['rules.md']
        >>> result.timings.total_ms >= result.timings.rerank_ms
        True
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
    relevance_is: RelevanceScale | None = None
    best_relevance: float | None = None


@dataclass(frozen=True, slots=True)
class IngestProgress:
    """Progress of an indexing run.

    Attributes:
        documents: read so far.
        total_documents: None until the source has been read to its end.
        passages: written so far.
        tokens: of the passages written so far.
        seconds: since the run began.
        passages_per_second: rate of about the last minute; 0.0 before there is one.
        remaining_seconds: an estimate; None while there is none.

    Example:
        >>> from retrieval import IngestProgress
        >>> seen = IngestProgress(10, 40, passages=25, tokens=3000, seconds=2.0)
        >>> f"{seen.documents} of {seen.total_documents}"
        '10 of 40'
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
    """What an indexing run did; in documents, unless an attribute says otherwise.

    Attributes:
        collection: its name.
        read: documents that the source gave.
        new: written for the first time.
        changed: written again, since their content differs from what the collection held.
        unchanged: skipped, because the collection holds them already.
        failed: what could not be used, one `Problem` each.
        passages: passages that were written.
        tokens: tokens of those passages, before truncation, special tokens included.
        truncated_passages: passages of which the encoder read only the beginning.
        seconds: of the whole run.
        notices: sentences about the models in use and about the collection's size.
        pruned: deleted, since their source no longer has them (`prune=True`).
        duplicates: how many have the same content as another document of this run.
        duplicate_examples: the first of them, as (id, id of the one that was read before).

    Example:
        >>> import retrieval
        >>> documents = [retrieval.Document("a", "One text."), retrieval.Document("b", "Another.")]
        >>> first = retrieval.ingest(documents, "reports", encoder="starter")
        >>> second = retrieval.ingest(documents, "reports")
        >>> (first.new, second.new, second.unchanged)
        (2, 0, 2)
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
