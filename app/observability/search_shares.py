"""Shares of the latest searches, for `/metrics`: unanswered, and how far they have drifted."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from retrieval import SearchResult
from retrieval.evaluation.drift import LEAST, LoggedSearch, drift_of
from retrieval.types import Reference

WINDOW = 1000
"""Of a collection's latest searches."""

MOST_COLLECTIONS = 100
"""The longest unsearched one is forgotten first: labels must not grow without bounds."""


@dataclass(slots=True)
class _Searches:
    reference: Reference | None = None
    latest: deque[LoggedSearch] = field(default_factory=lambda: deque(maxlen=WINDOW))


class SearchShares(Collector):
    """Keeps the latest searches of each collection, and computes shares when it is asked."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._collections: OrderedDict[str, _Searches] = OrderedDict()

    def add(
        self, collection: str, reference: Reference | None, results: Iterable[SearchResult]
    ) -> None:
        """Searches that were answered; `reference` of the collection's calibration."""
        with self._lock:
            kept = self._collections.setdefault(collection, _Searches())
            self._collections.move_to_end(collection)
            if reference != kept.reference:
                kept.reference = reference
                kept.latest.clear()  # they meant something else
            for one in results:
                known = one.best_relevance if one.relevance_is == "probability" else None
                kept.latest.append(LoggedSearch(len(one.query), len(one.hits), known))
            while len(self._collections) > MOST_COLLECTIONS:
                self._collections.popitem(last=False)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """What Prometheus is told."""
        with self._lock:
            kept = {n: (one.reference, list(one.latest)) for n, one in self._collections.items()}
        unanswered, under, psi = (
            GaugeMetricFamily(f"retrieval_{name}", text, labels=labels)
            for name, text, labels in (
                (
                    "search_unanswered_share",
                    f"Of the latest {WINDOW} searches: those without a hit.",
                    ["collection"],
                ),
                (
                    "search_under_threshold_share",
                    "Those whose best candidate is below the calibrated recall of 0.9.",
                    ["collection"],
                ),
                (
                    "search_drift_psi",
                    "Population stability index against the calibration; above 0.25: label again.",
                    ["collection", "of"],
                ),
            )
        )
        for name, (reference, searches) in kept.items():
            if searches:
                share = sum(not one.hits for one in searches) / len(searches)
                unanswered.add_metric([name], share)
            if reference is None or len(searches) < LEAST:
                continue
            found = drift_of(reference, searches)
            under.add_metric([name], found.under)
            psi.add_metric([name, "length"], found.length.psi)
            if found.relevance is not None:
                psi.add_metric([name, "relevance"], found.relevance.psi)
        yield from (unanswered, under, psi)
