"""What `Hit.relevance` means in a search, and which hits a `min_relevance` lets through.

Without a calibration it is the reranker's sigmoid, or a cosine: an order, cut to a scale from 0 to
1. With one (`retrieval calibrate`) that was made with the same models and settings, it is the
probability of being relevant, and thresholds can be asked for by what they promise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise

from retrieval.errors import InvalidInput
from retrieval.types import Calibration, Hit, Pipeline, RelevanceScale


@dataclass(frozen=True, slots=True)
class Relevance:
    """The meaning of relevance in one search, and the least that a hit must have.

    Attributes:
        scale: what `Hit.relevance` is; None where no stage has such a scale.
        calibration: the collection's, where it holds for this search.
        least: relevance below which hits are left out.
        least_signal: score, of the calibration's signal, below which they are.
        notices: what a user should know of it.
    """

    scale: RelevanceScale | None
    calibration: Calibration | None = None
    least: float | None = None
    least_signal: float | None = None
    notices: tuple[str, ...] = ()

    @property
    def limited(self) -> bool:
        """Whether any hit may be left out."""
        return self.least is not None or self.least_signal is not None

    @property
    def of_first_stage(self) -> bool:
        """Whether passages that no reranker read have a relevance, too."""
        return self.calibration is not None and self.calibration.signal == "stage1"

    def told(self, hits: Sequence[Hit]) -> list[Hit]:
        """The hits, with the probability as their relevance where there is a calibration."""
        if self.calibration is None:
            return list(hits)
        return [replace(hit, relevance=probability(self.calibration, hit)) for hit in hits]

    def kept(self, hits: Sequence[Hit]) -> list[Hit]:
        """Those that are relevant enough; those without a relevance are not."""
        if self.least_signal is not None:
            assert self.calibration is not None
            scores = [signal_of(self.calibration, hit) for hit in hits]
            return [
                hit
                for hit, score in zip(hits, scores, strict=True)
                if score is not None and score >= self.least_signal
            ]
        if self.least is None:
            return list(hits)
        return [h for h in hits if h.relevance is not None and h.relevance >= self.least]


def signal_of(calibration: Calibration, hit: Hit) -> float | None:
    """The score of a hit that a calibration reads; None where the reranker did not read the hit."""
    if calibration.signal == "stage1":
        return hit.stage1_score
    if calibration.signal == "stage2" or hit.stage2_score is None:
        return hit.stage2_score if calibration.pipeline.reranker is not None else hit.score
    return hit.score


def probability(calibration: Calibration, hit: Hit) -> float | None:
    """How likely a hit is relevant, from 0 to 1; None where the reranker did not read it."""
    score = signal_of(calibration, hit)
    return None if score is None else probability_at(calibration, score)


def probability_at(calibration: Calibration, score: float) -> float:
    """How likely a hit of that score is relevant, from 0 to 1."""
    if calibration.method == "platt":
        logit = calibration.slope * score + calibration.intercept
        return 1.0 / (1.0 + math.exp(-logit)) if logit > -700 else 0.0
    knots = calibration.knots
    if score <= knots[0][0]:
        return knots[0][1]
    for (x0, y0), (x1, y1) in pairwise(knots):
        if score <= x1:
            return y0 + (y1 - y0) * (score - x0) / (x1 - x0)
    return knots[-1][1]


def relevance_of(
    asked: float | str | None,
    now: Pipeline,
    calibration: Calibration | None,
    scale: RelevanceScale | None,
    collection: str,
    *,
    by_default: bool = False,
) -> Relevance:
    """Settle what relevance means in a search.

    Args:
        asked: the option `min_relevance`; 0 leaves nothing out, whatever the default is.
        now: what makes the scores of this search.
        calibration: of the collection, if it has one.
        scale: what relevance is without a calibration.
        collection: its name.
        by_default: `asked` is the collection's default: where it cannot be applied, a notice
            says so.

    Raises:
        InvalidInput: `asked` cannot be applied to this search.
    """
    notices: list[str] = []
    changed = [] if calibration is None else differences(calibration.pipeline, now)
    if changed:
        meaning = {
            None: "there is no relevance",
            "cosine": "relevance is a cosine, not a probability",
            "sigmoid": "relevance is the reranker's sigmoid, not a probability",
        }[scale if scale != "probability" else None]
        notices.append(
            f"The calibration of {collection!r} does not hold for this search "
            f"({'; '.join(changed)}): {meaning}. `retrieval calibrate` makes a new one."
        )
        calibration = None
    if calibration is not None:
        scale = "probability"
    settled = Relevance(scale, calibration, notices=tuple(notices))
    if asked is None or asked == 0:
        return settled
    try:
        return _limited(settled, asked, now, collection, void=bool(changed))
    except InvalidInput as error:
        if not by_default:
            raise
        told = f"The collection's default min_relevance was not applied: {error.problem}."
        return replace(settled, notices=(*notices, told))


def _limited(
    settled: Relevance, asked: float | str, now: Pipeline, collection: str, *, void: bool
) -> Relevance:
    if isinstance(asked, str):
        if settled.calibration is None:
            what = "a calibration that does not hold for this search" if void else "no calibration"
            raise InvalidInput(
                f"min_relevance is {asked!r}, and the collection {collection!r} has {what}",
                fix="Calibrate it with the settings that it is searched with (retrieval calibrate "
                "JUDGEMENTS --collection NAME), or give a number from 0 to 1.",
            )
        return replace(settled, least_signal=threshold_at(settled.calibration, asked))
    if settled.scale is None:
        way = "refine" if now.refined else f"{now.mode} search"
        raise InvalidInput(
            f"min_relevance needs a relevance scale, and {way} without a reranker has none",
            fix="Re-rank, or use mode='dense' without refine, or calibrate the collection for this "
            "way of searching (retrieval calibrate), or leave min_relevance out.",
        )
    if settled.calibration is not None:
        return replace(settled, least=asked)
    what = "the reranker's sigmoid" if settled.scale == "sigmoid" else "a cosine"
    told = (
        f"min_relevance was held against {what}, which orders hits but is no probability of being "
        "relevant; `retrieval calibrate` makes it one from judged queries."
    )
    return replace(settled, least=asked, notices=(*settled.notices, told))


def threshold_at(calibration: Calibration, asked: str) -> float:
    """The score, of the calibration's signal, that a threshold named by its promise stands for.

    Args:
        calibration: of the collection.
        asked: `recall:0.95`, `precision:0.9`, or one of the calibration's names.

    Raises:
        InvalidInput: there is no such threshold; the message lists those there are.
    """
    kind, _, written = calibration.names.get(asked, asked).partition(":")
    table = {"recall": calibration.recall, "precision": calibration.precision}.get(kind)
    try:
        level = float(written)
    except ValueError:
        level = math.nan
    if table is None or not 0 < level < 1:
        names = ", ".join(map(repr, calibration.names)) or "none has been given one"
        raise InvalidInput(
            f"min_relevance is {asked!r}, expected a number from 0 to 1, recall:LEVEL, "
            f"precision:LEVEL with a level between 0 and 1, or a name ({names})",
            fix="Write, for example, recall:0.95, or name one: retrieval calibrate --name "
            "strict=precision:0.9.",
        )
    for have, score in table:
        if have >= level - 1e-9:
            return score
    had = f"up to {kind}:{table[-1][0]:g}" if table else f"of {kind} at no level"
    raise InvalidInput(
        f"min_relevance is {asked!r}, and the calibration's {calibration.queries} judged queries "
        f"give thresholds {had}",
        fix="Ask for less, or calibrate on more judged queries.",
    )


_NAMES = {
    "query_instruction": "the query instruction",
    "refined": "refine",
    "blend_weight": "the blend's weight",
    "candidates": "the number of candidates",
}


def differences(then: Pipeline, now: Pipeline) -> list[str]:
    """What of a pipeline is another than when it was calibrated, a phrase each."""
    found = []
    follow = {"reranker_model"}
    if then.reranker != now.reranker:
        follow |= {"read", "blend", "blend_weight"}  # of the reranker: said with it
    for one in fields(Pipeline):
        was, is_ = getattr(then, one.name), getattr(now, one.name)
        if was == is_ or one.name in follow:
            continue
        if one.name == "encoder":
            found.append("the encoder is another")
        elif one.name == "reranker":
            found.append(
                f"the reranker is {now.reranker_model or 'none'}, "
                f"it was {then.reranker_model or 'none'}"
            )
        else:
            found.append(f"{_NAMES.get(one.name, one.name)} is {_said(is_)}, it was {_said(was)}")
    return found


def _said(value: object) -> str:
    return "none" if value is None else repr(value)
