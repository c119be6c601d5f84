"""Whether searches today are still like those that a collection was calibrated on."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrieval._validate import is_number, is_whole_number
from retrieval.errors import CorpusError
from retrieval.evaluation.lines import records
from retrieval.types import Distribution, Reference

if TYPE_CHECKING:  # the service imports this for its metrics, and must not wait for numpy
    import numpy as np
    from numpy.typing import NDArray

LEAST = 100
"""Searches; of fewer, chance alone moves a tenth of them anywhere."""

NOTABLE, LARGE = 0.1, 0.25
"""Of the population stability index, as those who have used it since the 1990s read it."""

_BINS = 10


@dataclass(frozen=True, slots=True)
class LoggedSearch:
    """What the service's log says of a search.

    Attributes:
        length: of the query, in characters.
        hits: how many were returned.
        relevance: the highest among the candidates; None where nothing was found, or where it was
            no probability.
    """

    length: int
    hits: int
    relevance: float | None


def distribution(values: NDArray[np.float64]) -> Distribution:
    """The deciles of values, equal ones once, and the shares between them."""
    import numpy as np

    edges = np.unique(np.quantile(values, np.linspace(0, 1, _BINS + 1)[1:-1]))
    return Distribution(
        tuple(edges.tolist()), tuple(_shares(values, tuple(edges.tolist())).tolist())
    )


def _shares(values: NDArray[np.float64], edges: Sequence[float]) -> NDArray[np.float64]:
    import numpy as np

    counts = np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1)
    return np.asarray(counts / max(len(values), 1))


@dataclass(frozen=True, slots=True)
class Shift:
    """How far a distribution has moved.

    psi: the population stability index. bins: of the distribution. before, after: values then and
    now.
    """

    psi: float
    bins: int
    before: int
    after: int

    @property
    def chance(self) -> float:
        """What psi exceeds in one of 20 cases though nothing has moved, with so many values."""
        from scipy.stats import chi2

        if self.bins < 2:
            return math.inf
        quantile = float(chi2.ppf(0.95, self.bins - 1))
        return quantile * (1 / max(self.after, 1) + 1 / max(self.before, 1))

    @property
    def verdict(self) -> str:
        """In a word; only what is more than chance counts."""
        if self.psi <= max(NOTABLE, self.chance):
            return "stable"
        return "moved far" if self.psi > LARGE else "moved"


def shift(then: Distribution, before: int, values: Sequence[float]) -> Shift:
    """The population stability index of values against a distribution of `before` values.

    Method: the symmetrised Kullback–Leibler divergence of binned shares (Lewis 1994), with half a
    value added to each bin; what chance alone reaches follows from its approximate χ² distribution
    (Yurdakul and Naranjo, Statistical properties of the population stability index, 2020).

    Args:
        then: of the values at calibration.
        before: how many these were.
        values: of now.

    Example:
        >>> import numpy as np
        >>> then = distribution(np.arange(100.0))
        >>> shift(then, 100, list(range(100))).verdict, shift(then, 100, [200.0] * 100).verdict
        ('stable', 'moved far')
    """
    import numpy as np

    bins, n = len(then.shares), len(values)
    old = (np.array(then.shares) * before + 0.5) / (before + 0.5 * bins)
    new = _shares(np.array(values, dtype=np.float64), then.edges)
    new = (new * n + 0.5) / (n + 0.5 * bins)
    psi = float(np.sum((new - old) * np.log(new / old)))
    return Shift(psi, bins, before, n)


@dataclass(frozen=True, slots=True)
class DriftReport:
    """Searches of now against those at calibration; shares are of all searches.

    relevance, length: how far the best candidates' relevance, and the queries' lengths, have moved;
    None where no search has one. under: share whose best candidate is below the threshold of
    recall:0.9. unanswered: share that found nothing, or nothing relevant enough. then: the
    calibration's own figures.
    """

    searches: int
    relevance: Shift | None
    length: Shift
    under: float
    unanswered: float
    then: Reference
    notices: tuple[str, ...] = ()

    @property
    def label_again(self) -> bool:
        """Whether new judgements are due."""
        shifts = (self.relevance, self.length)
        far = any(one is not None and one.verdict == "moved far" for one in shifts)
        return far or self.under - self.then.under > 0.1

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {**asdict(self), "label_again": self.label_again}

    def as_text(self) -> str:
        """For a terminal."""
        rows = [f"{self.searches:,} searches against {self.then.queries:,} at calibration"]
        for name, one in (
            ("relevance of the best", self.relevance),
            ("length of queries", self.length),
        ):
            if one is not None:
                rows.append(
                    f"  {name:<22} PSI {one.psi:.3f} (chance alone: up to {one.chance:.3f}): "
                    f"{one.verdict}"
                )
        rows += [
            f"  {'best under recall:0.9':<22} {self.under:.1%}, was {self.then.under:.1%}",
            f"  {'no hit':<22} {self.unanswered:.1%}, was {self.then.unanswered:.1%}",
            "Label again: judge a sample of today's queries (retrieval questions --log), and "
            "calibrate anew."
            if self.label_again
            else "The calibration still fits these searches.",
        ]
        return "\n".join([*rows, *(f"note: {notice}" for notice in self.notices)])


def drift_of(
    reference: Reference, searches: Sequence[LoggedSearch], notices: Sequence[str] = ()
) -> DriftReport:
    """How searches of now differ from those at calibration.

    Args:
        reference: of the calibration.
        searches: at least one.
        notices: to be passed on.
    """
    best = [one.relevance for one in searches if one.relevance is not None]
    told = list(notices)
    if len(searches) < LEAST:
        told.append(
            f"{len(searches)} searches are few: from about {LEAST} on, the figures say something."
        )
    count = len(searches)
    return DriftReport(
        searches=count,
        relevance=shift(reference.relevance, reference.queries, best) if best else None,
        length=shift(reference.length, reference.queries, [float(s.length) for s in searches]),
        under=sum(s.relevance is None or s.relevance < reference.under_at for s in searches)
        / count,
        unanswered=sum(not one.hits for one in searches) / count,
        then=reference,
        notices=tuple(told),
    )


def read_search_log(
    path: str | os.PathLike[str], collection: str, *, since: str = ""
) -> tuple[list[LoggedSearch], list[str]]:
    """A collection's searches in the service's log, and sentences about what was passed over.

    Args:
        path: lines of JSON, as the service writes them with the setting `search_log`.
        collection: whose searches.
        since: only those from this time on, in ISO 8601, such as 2026-11-01.

    Raises:
        CorpusError: the file cannot be read, a line is no record of a search, or none is left.
    """
    found: list[LoggedSearch] = []
    other = uncalibrated = 0
    torn: list[str] = []
    for where, record in records(Path(path), torn=torn):
        length, hits = record.get("characters"), record.get("hits")
        if not is_whole_number(length, 0) or not is_whole_number(hits, 0):
            raise CorpusError(
                f'{where} is no search: expected "characters" and "hits" as numbers',
                fix="Give the file that the service's setting search_log names.",
            )
        if record.get("collection") != collection or str(record.get("time", "")) < since:
            other += 1
            continue
        relevance = record.get("best_relevance")
        if not is_number(relevance) or record.get("relevance_is") != "probability":
            uncalibrated += relevance is not None
            relevance = None
        assert isinstance(length, int)
        assert isinstance(hits, int)
        found.append(LoggedSearch(length, hits, relevance))
    if not found:
        raise CorpusError(
            f"{path} has no search of the collection {collection!r}"
            + (f" since {since}" if since else ""),
            fix="Name the collection that was searched, and a time before its searches.",
        )
    notices = list(torn)
    if uncalibrated:
        notices.append(
            f"{uncalibrated:,} searches were not what the calibration is for (another mode or "
            "number of candidates): their relevance was left out."
        )
    return found, notices
