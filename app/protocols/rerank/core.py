"""Re-ranking for every format that takes a query and texts: the call, its order, the answer."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from fastapi import Request

from app.backend.backend import Backend
from app.errors import BadRequest
from app.protocols.model_calls import (
    PromptUsage,
    TruncatedText,
    check_text,
    model_info,
    truncated_texts,
)
from app.protocols.requests import caller_of, until_gone
from app.protocols.rerank.schemas import (
    ApiVersion,
    BilledUnits,
    Document,
    Meta,
    MetaTokens,
    RankedDocument,
    RerankRequest,
    RerankResponse,
)
from app.types import ModelInfo, Reranked

TEXTS_PER_UNIT = 100
"""Cohere counts one search unit for a query with up to this many documents."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """Scores of all texts, and the indices of the best, best first. model: where it is known."""

    scored: Reranked
    order: list[int]
    model: ModelInfo | None

    @property
    def max_length(self) -> int | None:
        """How many tokens of query and text together the model reads."""
        return None if self.model is None else self.model.max_length

    @property
    def truncated(self) -> list[TruncatedText]:
        """The texts whose ends were not read."""
        return truncated_texts(self.scored.truncated, self.scored.tokens, self.model)

    def results(self, documents: Sequence[Document] | None) -> list[RankedDocument]:
        """The places, best first, with the documents where they are given."""
        return [self._place(at, None if documents is None else documents[at]) for at in self.order]

    def _place(self, at: int, document: Document | None) -> RankedDocument:
        return RankedDocument(
            index=at,
            relevance_score=float(self.scored.relevance[at]),
            raw_score=float(self.scored.scores[at]),
            document={"text": document} if isinstance(document, str) else document,
        )

    def meta(self, version: str, limit_name: str, limit: int | None) -> Meta:
        """What Cohere's clients read beside the results.

        Args:
            version: of Cohere's API.
            limit_name: the request's field that limits how much is read of a document.
            limit: its value, in tokens; where it is less than what the model reads, a warning
                says that it was not applied.
        """
        scored, most = self.scored, self.max_length
        warnings = []
        if limit is not None and limit > 0 and (most is None or limit < most):
            warnings.append(
                f"{limit_name}={limit} was not applied: {scored.model} reads up to {most} tokens "
                "of query and document together"
            )
        cut = int(scored.truncated.sum())
        if cut:
            warnings.append(
                f"{cut} of {len(scored.scores)} documents are, with the query, longer than the "
                f"{most} tokens that {scored.model} reads; their ends were not read"
            )
        return Meta(
            api_version=ApiVersion(version=version),
            billed_units=BilledUnits(search_units=-(-len(scored.scores) // TEXTS_PER_UNIT)),
            tokens=MetaTokens(input_tokens=int(scored.tokens.sum())),
            warnings=warnings or None,
        )


async def rank(
    request: Request,
    backend: Backend,
    query: str,
    texts: Sequence[str],
    *,
    model: str | None = None,
    top_n: int | None = None,
    timeout_ms: float | None = None,
) -> Ranking:
    """Score texts and put them in order: by falling raw score, then by index.

    Raises:
        BadRequest: a text that no model can read.
    """
    check_text("query", query)
    for at, text in enumerate(texts):
        check_text(f"document {at}", text, may_be_blank=True)
    caller = caller_of(request)
    scored = await until_gone(
        request,
        backend.texts.rerank(caller, query, texts, model=model or None, timeout_ms=timeout_ms),
    )
    # a stable sort of the negated scores keeps equal ones in the order of the request
    order: list[int] = np.argsort(-scored.scores, kind="stable")[:top_n].tolist()
    return Ranking(scored, order, model_info(backend, "reranker", scored.model))


async def rerank_documents(
    request: Request, backend: Backend, body: RerankRequest
) -> RerankResponse:
    """The answer of `/v1/rerank`, also to vLLM's `/rerank`."""
    ranking = await rank(
        request,
        backend,
        body.query,
        document_texts(body.documents, body.rank_fields),
        model=body.model,
        top_n=body.top_n,
        timeout_ms=body.timeout_ms,
    )
    return RerankResponse(
        id=f"rerank-{uuid.uuid4().hex}",
        model=ranking.scored.model,
        results=ranking.results(body.documents if body.return_documents else None),
        usage=PromptUsage.of(ranking.scored.tokens),
        meta=ranking.meta("1", "truncate_prompt_tokens", body.truncate_prompt_tokens),
        truncated=ranking.truncated,
    )


def document_texts(documents: Sequence[Document], fields: Sequence[str] | None = None) -> list[str]:
    """What the model reads of each document.

    Of an object that is its "text", or the values of those of `fields` that it has, a line each.

    Raises:
        BadRequest: an object has none of them, or a value is not a text.
    """
    return [
        one if isinstance(one, str) else _text_of(one, at, fields)
        for at, one in enumerate(documents)
    ]


def _text_of(document: Mapping[str, Any], at: int, fields: Sequence[str] | None) -> str:
    names = fields or ["text"]
    values = [document[name] for name in names if name in document]
    if not values or not all(isinstance(value, str) for value in values):
        wanted = " or ".join(repr(name) for name in names)
        raise BadRequest(
            f"documents[{at}] has the keys {sorted(document)[:20]}, expected a text under {wanted}",
            fix='Send each document as a text or as {"text": …}, or name its keys in rank_fields.',
        )
    try:
        orjson.dumps(document)  # it may have to be sent back
    except (TypeError, ValueError) as error:
        raise BadRequest(
            f"documents[{at}] cannot be written as JSON again: {error}",
            fix="Leave out everything but its text.",
        ) from None
    return "\n".join(values)
