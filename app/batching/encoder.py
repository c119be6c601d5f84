"""An encoder whose callers share batches, with a cache of query vectors."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from app.batching.batcher import Batcher
from app.batching.cache import ByteCache, CachedBatcher, digest
from app.batching.deadline import Control, current
from app.batching.tokens import text_tokens
from app.types import Observer, TextKind
from retrieval.errors import InvalidInput
from retrieval.types import (
    Encoder,
    EncoderInfo,
    Encoding,
    FloatArray,
    LexicalWeights,
    ProgressCallback,
    TokenCounter,
)

ARRAY_BYTES = 112
"""What a numpy array takes beside its numbers."""

ROW_BYTES = 160

UNCOUNTED = -1


@dataclass(frozen=True, slots=True)
class Outputs:
    """What the model computes for a text; texts with the same outputs share a call of it."""

    kind: TextKind
    lexical: bool = False
    token_vectors: bool = False

    @property
    def one_vector(self) -> bool:
        """Whether it is one vector alone, which every encoder gives."""
        return not (self.lexical or self.token_vectors)


@dataclass(frozen=True, slots=True)
class Row:
    """What the model says of one text. tokens: `UNCOUNTED` where it did not count them."""

    vector: FloatArray
    tokens: int
    truncated: bool
    lexical: LexicalWeights | None = None
    token_vectors: FloatArray | None = None

    def size(self) -> int:
        """Bytes in memory."""
        arrays = [self.vector]
        size = ROW_BYTES
        if self.lexical is not None:
            size += ARRAY_BYTES + self.lexical.indices.nbytes
            arrays.append(self.lexical.values)
        if self.token_vectors is not None:
            arrays.append(self.token_vectors)
        return size + sum(ARRAY_BYTES + array.nbytes for array in arrays)


QueryCache: TypeAlias = ByteCache[Row]


def query_cache(max_bytes: int, observer: Observer | None = None) -> QueryCache:
    """A cache of query vectors; may be shared by several encoders."""
    return ByteCache("queries", max_bytes, Row.size, observer=observer)


class BatchedEncoder:
    """Implements `retrieval.types.Encoder` over a batcher, and `MultiEncoder` where `encoder` does.

    Results are the wrapped encoder's. What is encoded for the running request follows its
    `deadline.current()`; every method raises also what `Batcher.run` does.

    Args:
        encoder: the real one; must be usable from the batcher's thread.
        name: of the batcher.
        budget: estimated tokens in a batch.
        window_ms, joined: see `Batcher`.
        cache: where the vectors of queries are kept; None keeps none.
        settings: what changes vectors beside what `info` says (dtype), where a cache is shared.
        observer: gets the events of the batcher.
    """

    encode_all: Callable[..., Encoding]
    """As `MultiEncoder` has it; the attribute is there only where the wrapped encoder has it."""

    encode_tokens: Any
    """The wrapped encoder's own, where it has it, for late interaction: runs in the caller."""

    def __init__(
        self,
        encoder: Encoder,
        *,
        name: str = "encoder",
        budget: int = 4096,
        window_ms: float = 1.0,
        joined: bool = True,
        cache: QueryCache | None = None,
        settings: str = "",
        observer: Observer | None = None,
    ) -> None:
        self.inner = encoder
        self._inner_all: Callable[..., Encoding] | None = getattr(encoder, "encode_all", None)
        if self._inner_all is not None:
            self.encode_all = self._encode_all
        if hasattr(encoder, "encode_tokens"):
            self.encode_tokens = encoder.encode_tokens
        # The name is left out: the same weights give the same vectors under any.
        info = replace(encoder.info, model="")
        self._identity = digest(type(encoder).__name__, settings, repr(info))
        limit = info.max_length
        instruction = {
            "query": len(info.query_examples + info.query_text("")) // 4,
            "passage": len(info.passage_instruction) // 4,
        }
        self.batcher: Batcher[tuple[Outputs, str], Row] = Batcher(
            name,
            self._compute,
            cost=lambda item: min(text_tokens(item[1], limit) + instruction[item[0].kind], limit),
            budget=budget,
            window_ms=window_ms,
            joined=joined,
            observer=observer,
        )
        self._cached = CachedBatcher(self.batcher, cache, self._keys)

    @property
    def info(self) -> EncoderInfo:
        """The wrapped encoder's."""
        return self.inner.info

    @property
    def token_counter(self) -> TokenCounter:
        """The wrapped encoder's."""
        return self.inner.token_counter

    def encode_queries(
        self, queries: Sequence[str], *, progress: ProgressCallback | None = None
    ) -> FloatArray:
        """float32 (n, dimension), as the wrapped encoder's."""
        rows = self._rows(queries, Outputs("query"), progress)
        if rows is None:
            return self.inner.encode_queries(queries, progress=progress)
        return self._vectors(rows)

    def encode_passages(
        self, passages: Sequence[str], *, progress: ProgressCallback | None = None
    ) -> Encoding:
        """As the wrapped encoder's."""
        rows = self._rows(passages, Outputs("passage"), progress)
        if rows is None:
            return self.inner.encode_passages(passages, progress=progress)
        return self._encoding(rows, passages, Outputs("passage"))

    async def encode_async(
        self,
        texts: Sequence[str],
        kind: TextKind,
        control: Control | None = None,
        *,
        lexical: bool = False,
        token_vectors: bool = False,
    ) -> Encoding:
        """Texts of either kind on the event loop: holds no thread while it waits.

        Args:
            texts, kind: what to encode.
            control: of the request; None for `current()`.
            lexical, token_vectors: what else is wanted, of an encoder that has it.

        Raises: as `Batcher.run_async`.
        """
        outputs = Outputs(kind, lexical, token_vectors)
        if self._inner_all is None and not outputs.one_vector:
            raise InvalidInput(
                f"the encoder {self.info.model} gives one vector per text; term weights or token "
                "vectors were requested from it",
                fix="Use BAAI/bge-m3, which gives both.",
            )
        items = [(outputs, text) for text in texts]
        try:
            rows = await self._cached.values_async(items, control or current())
        except InvalidInput:  # numbered by its batch; by itself, this call's texts are numbered
            rows = await asyncio.to_thread(self._rows_of, texts, outputs)
        return self._encoding(rows, texts, outputs)

    def tokens(self, texts: Sequence[str], kind: TextKind = "query") -> int:
        """Estimated tokens, as `Admission.enter` takes them."""
        return self.batcher.tokens([(Outputs(kind), text) for text in texts])

    def close(self) -> None:
        """Finish what was accepted, end the batcher, and close the wrapped encoder."""
        self.batcher.close()
        close = getattr(self.inner, "close", None)
        if close is not None:
            close()

    # --- internal

    def _encode_all(
        self,
        texts: Sequence[str],
        kind: TextKind,
        *,
        lexical: bool = False,
        token_vectors: bool = False,
        progress: ProgressCallback | None = None,
    ) -> Encoding:
        outputs = Outputs(kind, lexical, token_vectors)
        rows = self._rows(texts, outputs, progress) if kind in ("query", "passage") else None
        if rows is None:
            assert self._inner_all is not None
            return self._inner_all(
                texts, kind, lexical=lexical, token_vectors=token_vectors, progress=progress
            )
        return self._encoding(rows, texts, outputs)

    def _rows(
        self, texts: Sequence[str], outputs: Outputs, progress: ProgressCallback | None
    ) -> list[Row] | None:
        """None where the wrapped encoder must see this call's own texts: to refuse them."""
        if not (isinstance(texts, list | tuple) and all(isinstance(one, str) for one in texts)):
            return None
        try:
            return self._cached.values([(outputs, text) for text in texts], progress) or None
        except InvalidInput:
            return None

    def _keys(self, items: Sequence[tuple[Outputs, str]]) -> list[bytes]:
        """Passages are not kept."""
        if any(outputs.kind == "passage" for outputs, _ in items):
            return []
        return [digest(self._identity, repr(outputs), text) for outputs, text in items]

    def _compute(self, items: Sequence[tuple[Outputs, str]]) -> list[Row]:
        """What the batcher calls: a call of the model for each kind of outputs."""
        texts: dict[Outputs, dict[str, None]] = {}  # the same query of several requests comes once
        for outputs, text in items:
            texts.setdefault(outputs, {})[text] = None
        rows = {
            outputs: dict(zip(own, self._rows_of(list(own), outputs), strict=True))
            for outputs, own in texts.items()
        }
        return [rows[outputs][text] for outputs, text in items]

    def _rows_of(self, texts: Sequence[str], outputs: Outputs) -> list[Row]:
        """A call of the model. Rows hold copies: a view would keep the whole batch alive."""
        everything = self._inner_all
        if everything is not None and (outputs.kind == "query" or not outputs.one_vector):
            encoding = everything(
                texts, outputs.kind, lexical=outputs.lexical, token_vectors=outputs.token_vectors
            )
        elif outputs.kind == "query":
            vectors = self.inner.encode_queries(texts)
            return [Row(vector.copy(), UNCOUNTED, False) for vector in vectors]
        else:
            encoding = self.inner.encode_passages(texts)
        lexical, token_vectors = encoding.lexical, encoding.token_vectors
        return [
            Row(
                vector.copy(),
                int(encoding.tokens[index]),
                bool(encoding.truncated[index]),
                None if lexical is None else _copy(lexical[index]),
                None if token_vectors is None else token_vectors[index].copy(),
            )
            for index, vector in enumerate(encoding.vectors)
        ]

    def _vectors(self, rows: Sequence[Row]) -> FloatArray:
        vectors = np.empty((len(rows), self.info.dimension), dtype=np.float32)
        for index, row in enumerate(rows):
            vectors[index] = row.vector
        return vectors

    def _encoding(self, rows: Sequence[Row], texts: Sequence[str], outputs: Outputs) -> Encoding:
        """Rows as one; copies, since what a cache keeps must not change with what a caller does."""
        tokens = [
            self._count(text, outputs.kind) if row.tokens == UNCOUNTED else row.tokens
            for row, text in zip(rows, texts, strict=True)
        ]
        limit = self.info.max_length
        truncated = [
            row.truncated or count > limit for row, count in zip(rows, tokens, strict=True)
        ]
        lexical = [_copy(row.lexical) for row in rows if row.lexical is not None]
        token_vectors = [row.token_vectors.copy() for row in rows if row.token_vectors is not None]
        return Encoding(
            self._vectors(rows),
            np.array(tokens, dtype=np.int64),
            np.array(truncated, dtype=np.bool_),
            lexical if outputs.lexical else None,
            token_vectors if outputs.token_vectors else None,
        )

    def _count(self, text: str, kind: TextKind) -> int:
        info, counter = self.info, self.token_counter
        whole = info.query_text(text) if kind == "query" else info.passage_instruction + text
        return len(counter.token_offsets(whole)) + counter.special_tokens


def _copy(weights: LexicalWeights) -> LexicalWeights:
    return LexicalWeights(weights.indices.copy(), weights.values.copy())
