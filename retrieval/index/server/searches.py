"""Searches of one collection on a server: one request for all that is asked at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from retrieval.errors import InvalidInput
from retrieval.index.point_store import TOKENS, Narrowed, Nearest
from retrieval.index.server.errors import OverLimit
from retrieval.index.server.place import Place
from retrieval.index.server.schema import query_request, search_params

if TYPE_CHECKING:
    from qdrant_client import QdrantClient, models

_QUERIES = 64
"""Requests in one search call, so that a large batch is not one long wait."""


class Searches:
    """`PointStore.nearest` of a server."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def nearest(
        self, requests: Sequence[Nearest], payloads: dict[str, dict[str, Any]] | None = None
    ) -> list[list[tuple[str, float]]]:
        """For each request, (id, score) of the best `limit` points; payloads by the same way."""
        return self._place.limits.ask(lambda: self._nearest(requests, payloads))

    def _nearest(
        self, requests: Sequence[Nearest], payloads: dict[str, dict[str, Any]] | None
    ) -> list[list[tuple[str, float]]]:
        limits = self._place.limits
        if limits.results is not None and any(one.limit > limits.results for one in requests):
            raise Narrowed
        asked = [self._query(request, payloads is not None) for request in requests]
        found: list[list[tuple[str, float]]] = []
        size = _QUERIES if limits.searches is None else min(_QUERIES, limits.searches)
        for start in range(0, len(asked), size):
            answers = self._answers(asked[start : start + size])
            found += [[(str(hit.id), hit.score) for hit in one.points] for one in answers]
            if payloads is not None:
                payloads.update(
                    (str(hit.id), hit.payload or {}) for one in answers for hit in one.points
                )
        return found

    def _query(self, request: Nearest, with_payload: bool) -> models.QueryRequest:
        limits = self._place.limits
        if request.exact and not limits.exact and request.using != TOKENS:
            raise InvalidInput(
                "exact is true, and the server does not allow exact searches of the collection "
                f"{self._place.manifest.collection!r} (search_allow_exact of its strict mode)",
                fix="Leave exact out, or let the server allow it.",
            )
        if self._place.connection.is_local:  # which scans everything, and warns of parameters
            params = None
        else:
            params = search_params(request, self._place.manifest.storage, limits)
        fitting = dataclasses.replace(request, where=limits.filter(request.where))
        return query_request(fitting, self._place.names, params, limits, with_payload=with_payload)

    def _answers(self, requests: list[models.QueryRequest]) -> list[models.QueryResponse]:
        try:
            return self._place.read("search", self._search(requests))
        except OverLimit as refusal:
            if refusal.most is not None or len(requests) == 1:
                raise
            # together they cost more than a minute's tokens
            middle = len(requests) // 2
            return self._answers(requests[:middle]) + self._answers(requests[middle:])

    def _search(
        self, requests: list[models.QueryRequest]
    ) -> Callable[[QdrantClient], list[models.QueryResponse]]:
        def search(client: QdrantClient) -> list[models.QueryResponse]:
            # what the client's own method adds is a deep copy of every request
            remote = client._client
            return remote.query_batch_points(
                self._place.collection, requests=requests, **self._place.connection.reading
            )

        return search
