"""A cascade: candidates whose first-stage score settles them are not read by the reranker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from retrieval.errors import InvalidInput
from retrieval.search.hits import first_stage_hits
from retrieval.search.relevance import Relevance
from retrieval.types import Calibration, Candidate, Hit

KEEP_PRECISION = 0.9
"""Of the candidates that are kept unread at least that share is relevant, and so it is what is
said of their relevance."""

DROP_RECALL = 0.98
"""Of the relevant candidates at least that share is not dropped unread."""


def cascade_of(relevance: Relevance, collection: str) -> tuple[float, float]:
    """(drop, keep): the first-stage scores below and from which nothing has to be read.

    Raises:
        InvalidInput: the collection was not calibrated for it, or not for this search.
    """
    calibration: Calibration | None = relevance.calibration
    if calibration is None or calibration.cascade is None:
        why = "its calibration has none"
        if calibration is None:
            why = "it has no calibration that holds for this search"
        raise InvalidInput(
            f"cascade was asked for, and of the collection {collection!r} {why}",
            fix="Calibrate it for one (retrieval calibrate JUDGEMENTS --cascade --mode dense), or "
            "leave cascade out.",
        )
    return calibration.cascade


def parted(
    candidates: Sequence[Candidate], cascade: tuple[float, float]
) -> tuple[list[Hit], list[Candidate]]:
    """Those that are kept unread, as hits, and those that must be read; the others are dropped."""
    drop, keep = cascade
    kept = [
        replace(hit, relevance=KEEP_PRECISION)
        for hit in first_stage_hits([one for one in candidates if one.score >= keep], False)
    ]
    return kept, [one for one in candidates if drop <= one.score < keep]
