"""First stage: a bi-encoder turns queries and passages into vectors to be compared by cosine."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import InvalidInput, ModelFault, ModelSettingUnknown
from retrieval.models.batching import TOKEN_BUDGET, run_batches
from retrieval.models.engines import load_engine
from retrieval.models.engines.base import Dtype, Engine, EngineName, Head
from retrieval.models.tokenization import Tokenized, Tokenizer, check_texts
from retrieval.types import (
    EncoderInfo,
    Encoding,
    FloatArray,
    Pooling,
    ProgressCallback,
    ResolvedModel,
    TokenCounter,
)

SLICE = 16_384
"""Texts that are tokenised and sorted by length together: bounds memory, whatever their number."""


class BiEncoder:
    """A bi-encoder on any engine; implements `retrieval.types.Encoder`.

    Texts are sorted by length and run in batches of a token budget; results are in input order
    and do not depend, beyond rounding, on what else is encoded with them. May be used from several
    threads.

    Args:
        model: `auto`, a name from `retrieval models`, a folder, a hub id, or a resolved model.
        engine, device, dtype, threads: see `retrieval.models.engines.load_engine`.
        query_instruction: put before queries verbatim; None for the model's own, "" for none.
        pooling: `cls`, `mean` or `last`; None for the model's own.
        max_length: longest text in tokens, special tokens included; None for the model's own.
        token_budget: padded tokens in a batch.
        cache_dir: where compiled graphs are kept; None for the user's cache folder.

    Raises:
        ModelNotFound: no such model, or its files are incomplete.
        ModelSettingUnknown: nothing declares its pooling or maximum length.
        InvalidInput: an argument that cannot be used, or the model is no encoder.
        ModelFault: the weights do not load.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | ResolvedModel = "auto",
        *,
        engine: EngineName = "auto",
        device: str = "auto",
        dtype: Dtype = "auto",
        query_instruction: str | None = None,
        pooling: Pooling | None = None,
        max_length: int | None = None,
        token_budget: int = TOKEN_BUDGET,
        threads: int | None = None,
        cache_dir: Path | None = None,
    ) -> None:
        if token_budget < 1:
            raise InvalidInput(
                f"token_budget={token_budget} was given, expected at least 1",
                fix="Give a positive number of tokens, or leave it out.",
            )
        if query_instruction is not None:
            check_texts([query_instruction], "query_instruction")
        resolved = _resolve(model, device, query_instruction, pooling, max_length)
        self._info, head = _info(resolved)
        self._normalize = resolved.spec.normalize
        self._token_budget = token_budget
        self._tokenizer = Tokenizer(resolved.path, self._info.max_length, cache_dir=cache_dir)
        self._load: Callable[[Head], Engine] = partial(
            load_engine,
            resolved.path,
            engine=engine,
            device=device,
            dtype=dtype,
            threads=threads,
            cache_dir=cache_dir,
        )
        # Whether an instruction fits is settled now, not at the first query.
        self._tokenizer.encode([""], prefix=self._info.query_instruction)
        self._tokenizer.encode([""], prefix=self._info.passage_instruction)
        self._engine = self._load(head)
        self._token_engine: Engine | None = None
        self._token_engine_lock = threading.Lock()
        self._check_dimension()

    @property
    def info(self) -> EncoderInfo:
        """What a collection must remember of this encoder."""
        return self._info

    @property
    def token_counter(self) -> TokenCounter:
        """The tokeniser, for splitting documents by this encoder's own tokens."""
        return self._tokenizer

    @property
    def engine(self) -> str:
        """How it runs, for notices and reports, as in `openvino bf16 on cpu`."""
        return f"{self._engine.name} {self._engine.dtype} on {self._engine.device}"

    def encode_queries(
        self, queries: Sequence[str], *, progress: ProgressCallback | None = None
    ) -> FloatArray:
        """float32 (n, dimension), with the query instruction put before each text.

        Raises:
            InvalidInput: an element is not a str.
            ModelFault: the device failed or gave numbers that are not finite.
        """
        check_texts(queries, "query")
        return self._encode(queries, self._info.query_instruction, progress).vectors

    def encode_passages(
        self, passages: Sequence[str], *, progress: ProgressCallback | None = None
    ) -> Encoding:
        """Vectors float32 (n, dimension) of passages, with the token counts and what was cut.

        Raises: as `encode_queries`.
        """
        check_texts(passages, "passage")
        return self._encode(passages, self._info.passage_instruction, progress)

    def encode_tokens(
        self, texts: Sequence[str], kind: Literal["query", "passage"]
    ) -> list[FloatArray]:
        """Of each text float32 (tokens, dimension): last hidden states, each L2-normalised.

        Special tokens are kept, and instructions are put before the text as for the text's own
        vector. What late interaction compares (Khattab and Zaharia 2020).

        Raises: as `encode_queries`.
        """
        if kind not in ("query", "passage"):
            raise InvalidInput(f"kind={kind!r} was given", fix="Choose 'query' or 'passage'.")
        check_texts(texts, kind)
        instruction = getattr(self._info, f"{kind}_instruction")
        with self._token_engine_lock:
            if self._token_engine is None:
                self._token_engine = self._load("tokens")
        engine = self._token_engine
        results: list[FloatArray] = []
        for start in range(0, len(texts), SLICE):
            tokenized = self._tokenizer.encode(texts[start : start + SLICE], prefix=instruction)
            results.extend(self._token_vectors(engine, tokenized, start))
        return results

    def _encode(
        self, texts: Sequence[str], instruction: str, progress: ProgressCallback | None
    ) -> Encoding:
        total = len(texts)
        vectors = np.empty((total, self._info.dimension), dtype=np.float32)
        tokens = np.empty(total, dtype=np.int64)
        truncated = np.empty(total, dtype=np.bool_)
        for start in range(0, total, SLICE):
            stop = min(start + SLICE, total)
            tokenized = self._tokenizer.encode(texts[start:stop], prefix=instruction)
            tokens[start:stop] = tokenized.full_lengths
            truncated[start:stop] = tokenized.truncated
            self._pooled_vectors(tokenized, vectors[start:stop], start, total, progress)
        return Encoding(vectors=vectors, tokens=tokens, truncated=truncated)

    def _pooled_vectors(
        self,
        tokenized: Tokenized,
        into: FloatArray,
        start: int,
        total: int,
        progress: ProgressCallback | None,
    ) -> None:
        def keep(indices: NDArray[np.int64], output: FloatArray) -> None:
            into[indices] = self._finished(output, start + indices, self._normalize)

        def report(done: int, _: int) -> None:
            if progress is not None:
                progress(start + done, total)

        run_batches(
            self._engine,
            self._tokenizer,
            tokenized,
            consume=keep,
            token_budget=self._token_budget,
            progress=report,
        )

    def _token_vectors(self, engine: Engine, tokenized: Tokenized, start: int) -> list[FloatArray]:
        lengths = tokenized.lengths
        results: list[FloatArray] = [np.empty((0, 0), dtype=np.float32)] * len(tokenized)

        def keep(indices: NDArray[np.int64], output: FloatArray) -> None:
            real = np.arange(output.shape[1]) < lengths[indices][:, None]
            texts = np.repeat(start + indices, lengths[indices])
            # Indexing copies: views would keep the whole padded batch in memory.
            states = self._finished(output[real], texts, True)
            ends = np.cumsum(lengths[indices])
            for index, end in zip(indices, ends, strict=True):
                results[index] = states[end - lengths[index] : end]

        run_batches(
            engine, self._tokenizer, tokenized, consume=keep, token_budget=self._token_budget
        )
        return results

    def _finished(
        self, vectors: FloatArray, texts: NDArray[np.int64], normalize: bool
    ) -> FloatArray:
        """Vectors (n, dimension) normalised in float32, once they are known to be finite."""
        if not normalize:
            norms = np.ones(len(vectors), dtype=np.float32)
            fine = np.isfinite(vectors).all(axis=1)
        else:
            norms = np.linalg.norm(vectors, axis=1)
            fine = np.isfinite(norms) & (norms > 0)
        bad = np.flatnonzero(~fine)
        if len(bad):
            raise ModelFault(
                f"{self._info.model} ({self.engine}) gave a vector that is zero or not finite for "
                f"text {int(texts[bad].min())}",
                fix="Try dtype='fp32'. If that gives the same, the weights are damaged: "
                "fetch the model again.",
            )
        result: FloatArray = (vectors / norms[:, None]).astype(np.float32, copy=False)
        return result

    def _check_dimension(self) -> None:
        """Run one short text: what is declared and what comes out must agree before any use."""
        tokenized = self._tokenizer.encode(["a"])
        output = self._engine.run(self._tokenizer.pad(np.zeros(1, dtype=np.int64), tokenized))
        if output.shape[1] != self._info.dimension:
            raise ModelFault(
                f"{self._info.model} was declared to give {self._info.dimension} dimensions, but "
                f"gives {output.shape[1]}",
                fix="The files are not those of this model: fetch it again, or give its folder.",
            )


def _resolve(
    model: str | os.PathLike[str] | ResolvedModel,
    device: str,
    query_instruction: str | None,
    pooling: Pooling | None,
    max_length: int | None,
) -> ResolvedModel:
    if not isinstance(model, ResolvedModel):
        from retrieval.models.resolve import choose_models, resolve

        if model == "auto":
            model = choose_models("auto", "none", device=device).encoder
        return resolve(
            model,
            "encoder",
            pooling=pooling,
            query_instruction=query_instruction,
            max_length=max_length,
        )
    spec = model.spec
    if spec.kind != "encoder":
        raise InvalidInput(
            f"{spec.name} is a {spec.kind}, expected an encoder",
            fix="Choose an encoder, such as BAAI/bge-small-en-v1.5.",
        )
    return replace(
        model,
        spec=replace(
            spec,
            pooling=pooling or spec.pooling,
            max_length=max_length or spec.max_length,
            query_instruction=(
                spec.query_instruction if query_instruction is None else query_instruction
            ),
        ),
    )


def _info(resolved: ResolvedModel) -> tuple[EncoderInfo, Pooling]:
    spec = resolved.spec
    for setting in ("pooling", "dimension", "max_length"):
        if getattr(spec, setting) is None:
            raise ModelSettingUnknown(
                f"nothing declares the {setting} of {spec.name}",
                fix=f"Give {setting}=…, as its authors describe it.",
            )
    assert spec.pooling is not None
    assert spec.dimension is not None
    assert spec.max_length is not None
    if spec.pooling not in _HEADS:
        raise InvalidInput(
            f"pooling={spec.pooling!r} was given", fix="Choose 'cls', 'mean' or 'last'."
        )
    info = EncoderInfo(
        model=spec.name,
        fingerprint=resolved.fingerprint,
        dimension=spec.dimension,
        pooling=spec.pooling,
        normalize=spec.normalize,
        query_instruction=spec.query_instruction,
        passage_instruction=spec.passage_instruction,
        max_length=spec.max_length,
    )
    return info, spec.pooling


_HEADS: tuple[Pooling, ...] = ("cls", "mean", "last")
