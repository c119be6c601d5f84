"""An encoder whose callers share batches, with the vectors of queries that were asked before."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, Protocol, TypeAlias

from app.batching.batcher import Lane
from app.batching.cache import digest
from app.batching.deadline import Control, current
from app.batching.encoder_rows import (
    QueryCache,
    Row,
    Wanted,
    encoding_of,
    own_row,
    rows_of,
    vectors_of,
)
from app.batching.futures import result_of
from app.batching.token_estimates import text_tokens
from app.types import Observer, TextKind
from retrieval.errors import InvalidInput
from retrieval.types import (
    Encoder,
    EncoderInfo,
    Encoding,
    FloatArray,
    ProgressCallback,
    TokenCounter,
)

_Item: TypeAlias = tuple[Wanted, str]


class EncodeAll(Protocol):
    """`retrieval.types.MultiEncoder.encode_all`."""

    def __call__(
        self,
        texts: Sequence[str],
        kind: Literal["query", "passage"],
        *,
        lexical: bool = False,
        token_vectors: bool = False,
        progress: ProgressCallback | None = None,
    ) -> Encoding:
        """Dense vectors and what else is asked for."""
        ...


class BatchedEncoder:
    """Implements `retrieval.types.Encoder` over a lane, and `MultiEncoder` where `encoder` does.

    Results are the wrapped encoder's. What is encoded for the running request follows its
    `control.current()`.

    Args:
        encoder: the real one; must be usable from the lane's thread.
        name: of the lane; None takes "encoder".
        budget: estimated tokens in a batch.
        window_ms, joined: see `Lane`.
        cache: where the vectors of queries are kept; None keeps none.
        settings: what changes vectors beside what `info` says (dtype), where a cache is shared.
        observer: is told what the lane does.
    """

    encode_all: EncodeAll
    """As `MultiEncoder` has it; the attribute is there only where the wrapped encoder has it."""

    encode_tokens: Any
    """The wrapped encoder's own, where it has it, for late interaction: runs in the caller."""

    def __init__(
        self,
        encoder: Encoder,
        *,
        name: str | None = None,
        budget: int = 4096,
        window_ms: float = 1.0,
        joined: bool = True,
        cache: QueryCache | None = None,
        settings: str = "",
        observer: Observer | None = None,
    ) -> None:
        self.inner = encoder
        self.cache = cache
        self._all: EncodeAll | None = getattr(encoder, "encode_all", None)
        if self._all is not None:
            self.encode_all = self._encode_all
        if hasattr(encoder, "encode_tokens"):
            self.encode_tokens = encoder.encode_tokens
        # The name is left out: the same weights give the same vectors under any.
        about = replace(encoder.info, model="")
        self._about = digest(type(encoder).__name__, settings, repr(about))
        limit = about.max_length
        extra = {
            "query": len(about.query_instruction) // 4,
            "passage": len(about.passage_instruction) // 4,
        }
        self.lane: Lane[_Item, Row] = Lane(
            name or "encoder",
            self._run,
            cost=lambda item: min(text_tokens(item[1], limit) + extra[item[0].kind], limit),
            budget=budget,
            window_ms=window_ms,
            joined=joined,
            observer=observer,
        )

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
        """float32 (n, dimension), as the wrapped encoder's. Raises also as `Lane.run_now`."""
        if not _are_texts(queries):
            return self.inner.encode_queries(queries, progress=progress)
        try:
            return vectors_of(self._rows(queries, Wanted("query"), progress), self.info.dimension)
        except InvalidInput:  # raised again with this call's own numbering of texts
            return self.inner.encode_queries(queries, progress=progress)

    def encode_passages(
        self, passages: Sequence[str], *, progress: ProgressCallback | None = None
    ) -> Encoding:
        """As the wrapped encoder's. Raises also what `Lane.run_now` does."""
        if not _are_texts(passages):
            return self.inner.encode_passages(passages, progress=progress)
        wanted = Wanted("passage")
        try:
            return encoding_of(self._rows(passages, wanted, progress), passages, wanted, self.inner)
        except InvalidInput:
            return self.inner.encode_passages(passages, progress=progress)

    def embed(self, texts: Sequence[str], kind: TextKind) -> Encoding:
        """Vectors, tokens and truncation of texts of either kind; queries through the cache."""
        if not _are_texts(texts):
            return self._direct(texts, kind)
        try:
            return encoding_of(self._rows(texts, Wanted(kind)), texts, Wanted(kind), self.inner)
        except InvalidInput:
            return self._direct(texts, kind)

    async def aencode(
        self,
        texts: Sequence[str],
        kind: TextKind,
        control: Control | None = None,
        *,
        lexical: bool = False,
        token_vectors: bool = False,
    ) -> Encoding:
        """`embed`, or `encode_all`, for the event loop: holds no thread while it waits.

        Args:
            texts, kind: what to encode.
            control: of the request; None for `control.current()`.
            lexical, token_vectors: what else is wanted, of an encoder that has it.

        Raises: as `Lane.run_now`; a cancelled task takes its texts out of the queue.
        """
        control = control or current()
        wanted = Wanted(kind, lexical, token_vectors)
        supported = wanted.plain or self._all is not None
        if not (_are_texts(texts) and supported):
            return await asyncio.to_thread(self._direct, texts, kind, lexical, token_vectors)
        keys, rows, missing = self._look_up(texts, wanted)
        try:
            if missing:
                items = [(wanted, texts[index]) for index in missing]
                computed = await result_of(self.lane.submit(items, control), control)
                self._keep(keys, rows, missing, computed)
        except InvalidInput:
            return await asyncio.to_thread(self._direct, texts, kind, lexical, token_vectors)
        return encoding_of(rows, texts, wanted, self.inner)

    def cost(self, texts: Sequence[str], kind: TextKind = "query") -> int:
        """Estimated tokens, as `Admission.enter` takes them."""
        return self.lane.cost([(Wanted(kind), text) for text in texts])

    def close(self) -> None:
        """Finish what was accepted, end the lane, and close the wrapped encoder."""
        self.lane.close()
        close = getattr(self.inner, "close", None)
        if close is not None:
            close()

    # --- inside -----------------------------------------------------------------------------

    def _encode_all(
        self,
        texts: Sequence[str],
        kind: Literal["query", "passage"],
        *,
        lexical: bool = False,
        token_vectors: bool = False,
        progress: ProgressCallback | None = None,
    ) -> Encoding:
        assert self._all is not None
        wanted = Wanted(kind, lexical, token_vectors)
        if _are_texts(texts) and kind in ("query", "passage"):
            try:
                return encoding_of(self._rows(texts, wanted, progress), texts, wanted, self.inner)
            except InvalidInput:
                pass  # raised again with this call's own numbering of texts
        return self._all(
            texts, kind, lexical=lexical, token_vectors=token_vectors, progress=progress
        )

    def _direct(
        self,
        texts: Sequence[str],
        kind: TextKind,
        lexical: bool = False,
        token_vectors: bool = False,
    ) -> Encoding:
        """The wrapped encoder's own answer, or error, past the lane."""
        if self._all is not None:
            return self._all(texts, kind, lexical=lexical, token_vectors=token_vectors)
        if lexical or token_vectors:
            raise InvalidInput(
                f"the encoder {self.info.model} gives one vector a text; term weights or token "
                "vectors were asked of it",
                fix="Use BAAI/bge-m3, which gives both.",
            )
        if kind == "passage":
            return self.inner.encode_passages(texts)
        vectors = self.inner.encode_queries(texts)
        rows: list[Row | None] = [Row(vector, -1, False) for vector in vectors]
        return encoding_of(rows, texts, Wanted(kind), self.inner)

    def _rows(
        self, texts: Sequence[str], wanted: Wanted, progress: ProgressCallback | None = None
    ) -> list[Row | None]:
        keys, rows, missing = self._look_up(texts, wanted)
        if not missing:
            if progress is not None and texts:
                progress(len(texts), len(texts))
            return rows
        known, total = len(texts) - len(missing), len(texts)

        def report(done: int, _: int) -> None:
            assert progress is not None
            progress(known + done, total)

        computed = self.lane.run_now(
            [(wanted, texts[index]) for index in missing],
            progress=None if progress is None else report,
        )
        self._keep(keys, rows, missing, computed)
        return rows

    def _look_up(
        self, texts: Sequence[str], wanted: Wanted
    ) -> tuple[list[bytes], list[Row | None], list[int]]:
        """Keys and rows of the texts, and what is missing. Passages are not kept."""
        if self.cache is None or wanted.kind != "query" or not texts:
            return [], [None] * len(texts), list(range(len(texts)))
        keys = [digest(self._about, repr(wanted), text) for text in texts]
        rows = self.cache.get(keys)
        return keys, rows, [index for index, row in enumerate(rows) if row is None]

    def _keep(
        self, keys: list[bytes], rows: list[Row | None], missing: list[int], computed: list[Row]
    ) -> None:
        for index, row in zip(missing, computed, strict=True):
            rows[index] = row
        if keys and self.cache is not None:
            self.cache.put(
                (keys[index], own_row(row)) for index, row in zip(missing, computed, strict=True)
            )

    def _run(self, items: Sequence[_Item]) -> list[Row]:
        """What the lane calls: a call of the model for each thing that is wanted."""
        places: dict[Wanted, list[int]] = {}
        for place, (wanted, _) in enumerate(items):
            places.setdefault(wanted, []).append(place)
        rows: list[Row | None] = [None] * len(items)
        for wanted, own in places.items():
            # The same query of several requests at once is computed once.
            unique = {text: i for i, text in enumerate(dict.fromkeys(items[p][1] for p in own))}
            computed = self._compute(list(unique), wanted)
            for place in own:
                rows[place] = computed[unique[items[place][1]]]
        return [row for row in rows if row is not None]

    def _compute(self, texts: list[str], wanted: Wanted) -> list[Row]:
        if self._all is not None and (wanted.kind == "query" or not wanted.plain):
            encoding = self._all(
                texts, wanted.kind, lexical=wanted.lexical, token_vectors=wanted.token_vectors
            )
        elif wanted.kind == "query":
            return [Row(vector, -1, False) for vector in self.inner.encode_queries(texts)]
        else:
            encoding = self.inner.encode_passages(texts)
        return rows_of(encoding)


def _are_texts(texts: object) -> bool:
    """Whether they are texts; what else is given, the wrapped encoder answers or refuses."""
    return (
        isinstance(texts, list | tuple)
        and len(texts) > 0
        and all(isinstance(text, str) for text in texts)
    )
