"""Vectors, term weights and scores of texts, from the event loop straight into the batchers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from app.backend.calls import Calls
from app.backend.models import Models, check_dimensions
from app.batching.tokens import pair_tokens
from app.types import Caller, Embedded, EmbeddedSparse, Reranked, TextKind
from retrieval._validate import unicode_text
from retrieval.errors import InvalidInput
from retrieval.types import Encoding, FloatArray


class Texts:
    """What the models say of texts, without any collection.

    Args:
        calls: admission and time of requests.
        models: those that run.
    """

    def __init__(self, calls: Calls, models: Models) -> None:
        self._calls = calls
        self._models = models

    async def embed(
        self,
        caller: Caller,
        texts: Sequence[str],
        *,
        kind: TextKind,
        model: str | None = None,
        dimensions: int | None = None,
        timeout_ms: float | None = None,
    ) -> Embedded:
        """Vectors of texts.

        Args:
            caller: the caller.
            texts: at least one, none of them blank.
            kind: whether they get the encoder's instruction for queries or that for passages.
            model: which encoder; None for the default.
            dimensions: the vectors are cut to this many and normalised again.
            timeout_ms: None for the setting's.

        Raises:
            InvalidInput: no texts, a blank one, or dimensions the model was not trained for.
        """
        found, name = await self._encoded(
            caller, texts, kind, model, timeout_ms, dimensions=dimensions
        )
        return Embedded(_cut(found.vectors, dimensions), found.tokens, found.truncated, name)

    async def embed_sparse(
        self,
        caller: Caller,
        texts: Sequence[str],
        *,
        kind: TextKind,
        model: str | None = None,
        timeout_ms: float | None = None,
    ) -> EmbeddedSparse:
        """Term weights of texts; takes what `embed` takes, but no dimensions.

        Raises:
            InvalidInput: no texts, a blank one, or a model without term weights; says which has.
        """
        found, name = await self._encoded(caller, texts, kind, model, timeout_ms, lexical=True)
        assert found.lexical is not None
        return EmbeddedSparse(found.lexical, found.tokens, name)

    async def rerank(
        self,
        caller: Caller,
        query: str,
        texts: Sequence[str],
        *,
        model: str | None = None,
        timeout_ms: float | None = None,
    ) -> Reranked:
        """Scores of texts, which may be blank, for a query.

        Raises:
            InvalidInput: no texts, or a blank query.
            NotHere: the service has no reranker.
        """
        control = self._calls.control(caller, timeout_ms)
        reranker = self._models.reranker_if_loaded(model)
        if reranker is None:
            reranker = await self._calls.others.run(
                control, lambda: self._models.reranker(model), until=control.deadline
            )
        _check_texts([query], "query")
        _check_texts(texts, "texts", may_be_empty=True)
        pairs = [(query, text) for text in texts]
        longest = reranker.info.max_length
        work = {reranker.batcher: reranker.tokens(pairs)}
        with self._calls.admission.enter(caller.key_id, work), self._calls.counted("rerank"):
            scores = await reranker.score_async(pairs, control)
        tokens = scores.tokens
        if tokens is None:  # a reranker that does not count them
            tokens = np.array([pair_tokens(*pair, longest) for pair in pairs], dtype=np.int64)
        return Reranked(
            scores=scores.values,
            relevance=reranker.relevance(scores.values),
            tokens=tokens,
            truncated=scores.truncated,
            model=reranker.info.model,
        )

    async def _encoded(
        self,
        caller: Caller,
        texts: Sequence[str],
        kind: TextKind,
        model: str | None,
        timeout_ms: float | None,
        *,
        dimensions: int | None = None,
        lexical: bool = False,
    ) -> tuple[Encoding, str]:
        """What the encoder of that name makes of texts, and its own name."""
        control = self._calls.control(caller, timeout_ms)
        encoder = self._models.encoder_if_loaded(model)
        if encoder is None:
            encoder = await self._calls.others.run(
                control, lambda: self._models.encoder(model), until=control.deadline
            )
        _check_texts(texts, "texts")
        if dimensions is not None:
            check_dimensions(encoder.info, dimensions)
        work = {encoder.batcher: encoder.tokens(texts, kind)}
        with self._calls.admission.enter(caller.key_id, work), self._calls.counted("encode"):
            found = await encoder.encode_async(list(texts), kind, control, lexical=lexical)
        return found, encoder.info.model


def _check_texts(texts: Sequence[str], name: str, *, may_be_empty: bool = False) -> None:
    """Refuse what no model can read.

    Raises:
        InvalidInput: says which text, and why.
    """
    if isinstance(texts, str) or not texts:
        raise InvalidInput(
            f"{name} is {'one text' if texts else 'empty'}, expected a list of texts",
            fix="Send at least one text, in a list.",
        )
    for number, text in enumerate(texts):
        which = f"text {number} of {name}" if name == "texts" else f"the {name}"
        if not isinstance(text, str):
            raise InvalidInput(
                f"{which} is a {type(text).__name__}, expected text (str)",
                fix="Send texts as JSON strings.",
            )
        if not text.strip() and not may_be_empty:
            raise InvalidInput(f"{which} is empty", fix="Leave it out, or give it some words.")
        unicode_text(text, which, fix="Send the text in UTF-8.")


def _cut(vectors: FloatArray, dimensions: int | None) -> FloatArray:
    """The first `dimensions` numbers of each vector, scaled to length 1 again."""
    if dimensions is None or dimensions == vectors.shape[1]:
        return vectors
    cut = vectors[:, :dimensions]
    lengths = np.linalg.norm(cut, axis=1, keepdims=True)
    shorter: FloatArray = (cut / np.maximum(lengths, np.finfo(np.float32).tiny)).astype(np.float32)
    return shorter
