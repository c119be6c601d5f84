"""A running service of ours as a searcher of an evaluation: requests, waits and errors."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from retrieval.errors import CollectionNotFound, Fault, InvalidInput
from retrieval.types import (
    BlendChoice,
    Candidate,
    Fusion,
    Hit,
    Mode,
    Passage,
    SearchResult,
    Timings,
)
from retrieval.types.closing import Closing

if TYPE_CHECKING:
    import httpx

_SECONDS = 120.0
"""For one answer."""

_MOST_WAIT_S = 60.0
_MOST_TRIES = 5
"""Where a key's limit of requests is reached, or the service's queue is full."""


class ServiceClient(Closing):
    """Searches over HTTP, one at a time."""

    def __init__(
        self, url: str, api_key: str | None, fields: Mapping[str, Any], fusion: Fusion | None
    ) -> None:
        import httpx

        if not url.startswith(("http://", "https://")):
            raise InvalidInput(
                f"the service is {url!r}, expected its address",
                fix="Write it with http:// or https://, such as http://127.0.0.1:7860.",
            )
        if "@" in urlsplit(url).netloc:
            raise InvalidInput(
                "the service's address holds a name or a password, which reports would show",
                fix="Leave it out of the address, and give a key as --api-key @FILE.",
            )
        self._url = url.rstrip("/").removesuffix("/v1")
        headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        try:
            self._client = httpx.Client(
                base_url=self._url, headers=headers, timeout=_SECONDS, follow_redirects=True
            )
        except (httpx.InvalidURL, UnicodeEncodeError, ValueError) as error:
            raise InvalidInput(
                f"the service {url!r} cannot be called ({error})",
                fix="Check the address, and that the key is plain letters and digits.",
            ) from error
        self._fields = {name: value for name, value in fields.items() if value is not None}
        self._fusion = fusion
        self._waited_s = 0.0
        self.reranked = 0
        """The most candidates that a search has re-ranked."""

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def about(self) -> dict[str, Any]:
        """What the service says of itself."""
        return self._answer("GET", "/v1/service", None, "limits")

    def search_batch(
        self,
        queries: Sequence[str],
        *,
        top_k: int,
        candidates: int | None,
        fetch: int | None,
        mode: Mode | None,
        rerank: bool,
        blend: BlendChoice | None,
        min_relevance: float | str | None,
    ) -> list[SearchResult]:
        """One result a query; numbers and blend are those that the client was made with."""
        fields = {**self._fields, "mode": mode, "min_relevance": min_relevance}
        if self._fusion is not None and mode == "hybrid":
            fields["fusion"] = asdict(self._fusion)
        return [self._searched({**fields, "query": query}, rerank=rerank) for query in queries]

    def _searched(self, fields: dict[str, Any], *, rerank: bool) -> SearchResult:
        """One query, asked without a second stage and, with `rerank`, with it."""
        first_ms, first = self._timed({**fields, "rerank": False})
        last_ms, last = self._timed({**fields, "rerank": True}) if rerank else (first_ms, first)
        self.reranked = max(self.reranked, last["reranked"])
        return SearchResult(
            query=fields["query"],
            hits=tuple(_hit(one) for one in last["hits"]),
            candidates=tuple(
                Candidate(_passage(one["passage"]), one["stage1_score"], one["rank"])
                for one in first["hits"]
            ),
            mode=last["mode"],
            blend=last["blend"],
            encoder=last["models"]["encoder"],
            reranker=last["models"]["reranker"],
            timings=Timings(0.0, first_ms, last_ms - first_ms if rerank else 0.0, last_ms),
            notices=tuple(dict.fromkeys([*first["notices"], *last["notices"]])),
            reranked=last["reranked"],
        )

    def _timed(self, fields: dict[str, Any]) -> tuple[float, dict[str, Any]]:
        """The wall time of the request that was answered, in milliseconds, and the answer."""
        started = time.perf_counter()
        waited = self._waited_s
        answer = self._answer("POST", "/v1/search", fields, "hits")
        seconds = time.perf_counter() - started - (self._waited_s - waited)
        return 1000 * seconds, answer

    def _answer(
        self, method: str, path: str, fields: dict[str, Any] | None, expected: str
    ) -> dict[str, Any]:
        """The body of an answer, which must have what is expected in it."""
        import httpx

        for left in reversed(range(_MOST_TRIES)):
            begun = time.perf_counter()
            try:
                answer = self._client.request(method, path, json=fields)
            except httpx.TimeoutException as error:
                raise Fault(
                    f"the service at {self._url} did not answer within {_SECONDS:g} s",
                    fix="See what it is doing, and measure again when it is idle.",
                ) from error
            except (httpx.TransportError, httpx.InvalidURL, httpx.TooManyRedirects) as error:
                raise InvalidInput(
                    f"no service answers at {self._url} ({error})",
                    fix="Start it with `retrieval serve`, or correct the address.",
                ) from error
            if answer.status_code != 429 or not left:
                break
            time.sleep(_pause(answer))
            self._waited_s += time.perf_counter() - begun
        body = _body(answer)
        if answer.status_code == 200 and body is not None and expected in body:
            return body
        raise self._error(answer, body)

    def _error(self, answer: httpx.Response, body: dict[str, Any] | None) -> Exception:
        told = (body or {}).get("error")
        if not isinstance(told, dict) or "problem" not in told:
            kind = answer.headers.get("content-type", "no content type").partition(";")[0]
            return InvalidInput(
                f"what answers at {self._url} is not a service of this library (HTTP "
                f"{answer.status_code}, {kind})",
                fix="Give the address of a `retrieval serve`, without a path.",
            )
        problem, fix = str(told["problem"]), str(told.get("fix", ""))
        if answer.status_code in (401, 403):
            return InvalidInput(
                f"the service at {self._url} refuses the key: {problem}",
                fix="Give one of its keys: --api-key KEY, or --api-key @FILE.",
            )
        if told.get("code") == "collection_not_found":
            return CollectionNotFound(f"at the service {self._url} {problem}", fix=fix)
        if answer.status_code >= 500 or answer.status_code == 429:
            return Fault(f"the service at {self._url} failed: {problem}", fix=fix)
        return InvalidInput(f"the service at {self._url} refuses the search: {problem}", fix=fix)


def _pause(answer: httpx.Response) -> float:
    """Seconds that the service asks for."""
    try:
        return min(max(float(answer.headers.get("retry-after", "1")), 0.1), _MOST_WAIT_S)
    except ValueError:
        return 1.0


def _body(answer: httpx.Response) -> dict[str, Any] | None:
    try:
        body = answer.json()
    except ValueError:
        return None
    return body if isinstance(body, dict) else None


def _passage(body: Mapping[str, Any]) -> Passage:
    return Passage(
        id=body["id"],
        document_id=body["document_id"],
        position=body["position"],
        text=body["text"],
        start=body["start"],
        end=body["end"],
        title=body["title"],
        headings=tuple(body["headings"]),
        metadata=body["metadata"],
        source=body["source"],
    )


def _hit(body: Mapping[str, Any]) -> Hit:
    return Hit(
        passage=_passage(body["passage"]),
        rank=body["rank"],
        score=body["score"],
        relevance=body["relevance"],
        stage1_rank=body["stage1_rank"],
        stage1_score=body["stage1_score"],
        stage2_rank=body["stage2_rank"],
        stage2_score=body["stage2_score"],
    )
