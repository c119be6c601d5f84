"""Searches of one collection on a server: one request for all that is asked at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from retrieval.errors import InvalidInput
from retrieval.index.point_store import TOKENS, Narrowed, Nearest
from retrieval.index.server.errors import OverLimit
from retrieval.index.server.place import Place
from retrieval.index.server.schema import query_fields, search_params

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

_Hits: TypeAlias = list[tuple[str, float, dict[str, Any]]]
"""(id, score, payload), best first."""

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
            found += [[(key, score) for key, score, _ in hits] for hits in answers]
            if payloads is not None:
                payloads.update((key, payload) for hits in answers for key, _, payload in hits)
        return found

    def _query(self, request: Nearest, with_payload: bool) -> dict[str, Any]:
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
        return query_fields(fitting, self._place.names, params, limits, with_payload=with_payload)

    def _answers(self, requests: list[dict[str, Any]]) -> list[_Hits]:
        connection = self._place.connection
        plain = connection.is_local or connection.options.grpc
        call = self._by_the_client(requests) if plain else self._by_rest(requests)
        try:
            return self._place.read("search", call)
        except OverLimit as refusal:
            if refusal.most is not None or len(requests) == 1:
                raise
            # together they cost more than a minute's tokens
            middle = len(requests) // 2
            return self._answers(requests[:middle]) + self._answers(requests[middle:])

    def _by_the_client(
        self, requests: list[dict[str, Any]]
    ) -> Callable[[QdrantClient], list[_Hits]]:
        from qdrant_client import models

        asked = [models.QueryRequest(**{**one, "query": _listed(one["query"])}) for one in requests]

        def search(client: QdrantClient) -> list[_Hits]:
            # what the client's own method adds is a deep copy of every request
            answers = client._client.query_batch_points(
                self._place.collection, requests=asked, **self._place.connection.reading
            )
            return [
                [(str(hit.id), hit.score, hit.payload or {}) for hit in answer.points]
                for answer in answers
            ]

        return search

    def _by_rest(self, requests: list[dict[str, Any]]) -> Callable[[QdrantClient], list[_Hits]]:
        """The same without an object for each number and hit, as `upserts.py` writes points."""
        import orjson

        body = orjson.dumps(
            {"searches": requests}, default=_as_json, option=orjson.OPT_SERIALIZE_NUMPY
        )
        wanted = self._place.connection.reading["consistency"]
        params = {} if wanted is None else {"consistency": getattr(wanted, "value", wanted)}

        def search(client: QdrantClient) -> list[_Hits]:
            answer = client.http.client.request(
                type_=dict[str, Any],
                method="POST",
                url="/collections/{collection_name}/points/query/batch",
                path_params={"collection_name": self._place.collection},
                params=params,
                headers={"Content-Type": "application/json"},
                content=body,
            )
            return [
                [(str(hit["id"]), hit["score"], hit.get("payload") or {}) for hit in one["points"]]
                for one in answer["result"]
            ]

        return search


def _listed(query: Any) -> Any:
    return query.tolist() if isinstance(query, np.ndarray) else query


def _as_json(model: Any) -> Any:
    """A model of the client's inside of a body."""
    return model.model_dump(mode="json", exclude_unset=True, exclude_none=True, by_alias=True)
