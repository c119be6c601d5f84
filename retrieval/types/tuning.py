"""What was decided by measurement on a collection's own data: how it is searched where a search
does not say (`SearchDefaults`), and what its scores mean (`Calibration`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from retrieval.types.models import Blend, Reading
from retrieval.types.modes import Fusion, Mode

Signal = Literal["stage1", "stage2", "score"]
"""Which score of a hit a calibration reads: `Hit.stage1_score`, `stage2_score` or `score`."""

RelevanceScale = Literal["probability", "sigmoid", "cosine"]
"""What `Hit.relevance` is: calibrated on judged queries, or a score cut to a scale from 0 to 1."""


@dataclass(frozen=True, slots=True)
class SearchDefaults:
    """What searches of a collection take where they do not say; None leaves the library's own.

    Attributes:
        mode, fusion, candidates, read, blend, blend_weight, rerank, min_relevance: as the
            options of `SearchOptions`.
        reranker: name of the second stage that `retrieval.open(reranker="auto")` takes.
        dtype: number format that models run in, as for `retrieval.open`.
        chosen: when and by what they were chosen; empty where nobody said.
    """

    mode: Mode | None = None
    fusion: Fusion | None = None
    candidates: int | None = None
    read: Reading | None = None
    blend: Blend | None = None
    blend_weight: float | None = None
    rerank: bool | None = None
    min_relevance: float | str | None = None
    reranker: str | None = None
    dtype: str | None = None
    chosen: str = ""


@dataclass(frozen=True, slots=True)
class Pipeline:
    """What made scores, as far as their meaning hangs on it; models by fingerprint.

    Attributes:
        encoder, query_instruction: of the bi-encoder.
        reranker: of the second stage; None without one.
        reranker_model: its name, for messages.
        mode, fusion: of the first stage; no fusion where the mode joins nothing.
        refined: whether token vectors ordered the candidates.
        candidates: how many of them the second stage may read.
        read: what it reads of one.
        blend, blend_weight: how both orders are joined.
    """

    encoder: str
    query_instruction: str
    reranker: str | None
    reranker_model: str | None
    mode: Mode
    fusion: Fusion | None
    refined: bool
    candidates: int
    read: Reading | None
    blend: Blend
    blend_weight: float | None


@dataclass(frozen=True, slots=True)
class Distribution:
    """Where values lay: `edges` (n), rising, and the shares below the first, between them, and
    from the last on (n + 1)."""

    edges: tuple[float, ...]
    shares: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Reference:
    """How queries and their best hits were distributed at calibration, for `retrieval drift`.

    Attributes:
        queries: how many.
        relevance: of each query's best candidate.
        length: of each query, in characters.
        under_at: the relevance at the threshold of `recall:0.9`.
        under: share of queries whose best candidate is below it.
        unanswered: share of queries for which nothing at all was found.
    """

    queries: int
    relevance: Distribution
    length: Distribution
    under_at: float
    under: float
    unanswered: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """What a score means on a collection's own data (`retrieval calibrate`).

    Attributes:
        pipeline: what the scores were made by; with anything else they mean something else.
        signal: the score that is read.
        method: "isotonic" interpolates between the knots; "platt" is the sigmoid of slope × score
            + intercept.
        knots: (score, probability), rising, of "isotonic".
        slope, intercept: of "platt".
        recall: (level, score): hits of at least this score keep that share of the relevant ones
            among the candidates, in the mean over queries.
        precision: (level, score): of hits with at least this score at least that share is
            relevant. Levels that cannot be had are left out of both.
        cascade: (drop, keep): first-stage scores below and above which the second stage is not
            needed; None where it was not asked for or cannot be had.
        names: thresholds by names of the user's own, such as {"strict": "precision:0.9"}.
        queries, judged, relevant: how many queries were measured, with how many judged and
            relevant hits.
        brier, brier_before: mean squared error of the probability on held-out queries, and of
            the uncalibrated relevance (None where there is none).
        ece: expected calibration error on held-out queries, ten bins of equal width.
        reference: for `retrieval drift`.
        created: when, in ISO 8601 and UTC.
    """

    pipeline: Pipeline
    signal: Signal
    method: Literal["isotonic", "platt"]
    knots: tuple[tuple[float, float], ...] = ()
    slope: float = 0.0
    intercept: float = 0.0
    recall: tuple[tuple[float, float], ...] = ()
    precision: tuple[tuple[float, float], ...] = ()
    cascade: tuple[float, float] | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    queries: int = 0
    judged: int = 0
    relevant: int = 0
    brier: float = 0.0
    brier_before: float | None = None
    ece: float = 0.0
    reference: Reference | None = None
    created: str = ""


@dataclass(frozen=True, slots=True)
class Tuning:
    """What was decided by measurement on a collection's own data; empty at first.

    It changes how a collection is searched, never what is stored.
    """

    defaults: SearchDefaults = SearchDefaults()
    calibration: Calibration | None = None


NO_TUNING = Tuning()
