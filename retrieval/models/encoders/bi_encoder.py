"""First stage: a bi-encoder turns queries and passages into vectors to be compared by cosine."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from retrieval._validate import check_texts, whole_number
from retrieval.errors import InvalidInput, ModelFault
from retrieval.models.batching import run_batches
from retrieval.models.encoders.settings import check_truncation, encoder_info, resolve_encoder
from retrieval.models.encoders.vectors import unit_vectors
from retrieval.models.engines import load_engine
from retrieval.models.engines.base import Dtype, Engine, EngineName, Head
from retrieval.models.engines.hardware import check_devices
from retrieval.models.examples import QueryExamples
from retrieval.models.forks import LoadedHere
from retrieval.models.tokenization.prefetch import tokenized_slices
from retrieval.models.tokenization.tokenizer import Tokenized, Tokenizer
from retrieval.types import (
    EncoderInfo,
    Encoding,
    FloatArray,
    Pooling,
    ProgressCallback,
    ResolvedModel,
    TokenCounter,
)
from retrieval.types.closing import Closing


class BiEncoder(Closing):
    """A bi-encoder on any engine; implements `retrieval.types.MultiEncoder`, less lexical weights.

    Texts are sorted by length and run in batches of a token budget, while the next ones are
    tokenised; results are in input order and do not depend, beyond rounding, on what else is
    encoded with them. May be used from several threads, and as a context manager that closes it.

    Args:
        model: `auto`, a name from `retrieval models`, a folder, a hub id, or a resolved model.
        engine, device, dtype, threads: see `retrieval.models.engines.load_engine`.
        devices: several devices that share large inputs, instead of `device`; see there.
        deterministic: each text is computed alone, without padding, so that its vector is the same
            to the last bit, whatever other texts are in the batch. Slower, most of all for short
            texts.
        query_instruction: put before queries verbatim; None for the model's own, "" for none.
        query_suffix: put behind queries verbatim, likewise (bge-en-icl and what is made from it).
        query_examples: few-shot examples before a query's instruction, on top of `max_length`: see
            `retrieval.models.examples`.
        pooling: `cls`, `mean` or `last`; None for the model's own.
        max_length: longest text in tokens, special tokens included; None for the model's own.
        truncate_dim: cut vectors to that many dimensions and normalise them again; for models that
            were trained for it (Matryoshka representations, Kusupati et al. 2022).
        allow_untrained_truncation: cut to dimensions that the model does not declare, too.
        calibration: texts by which dtype="int8" sets its scales; None for built-in ones.
        token_budget: padded tokens in a batch; None for what the engine runs fastest.
        cache_dir: where compiled graphs are kept; None for the user's cache folder.

    Raises:
        ModelNotFound: no such model, or its files are incomplete.
        ModelSettingUnknown: nothing declares its pooling or maximum length.
        InvalidInput: an argument that cannot be used, or the model is not an encoder.
        ModelFault: the weights do not load, or a worker process died.

    Example:
        >>> from retrieval import BiEncoder
        >>> with BiEncoder("starter") as encoder:
        ...     queries = encoder.encode_queries(["when are expenses paid?"])
        ...     passages = encoder.encode_passages(["Travel costs are paid back in ten days."])
        >>> passages.vectors.shape
        (1, 384)
        >>> cosines = queries @ passages.vectors.T
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | ResolvedModel = "auto",
        *,
        engine: EngineName = "auto",
        device: str = "auto",
        devices: Sequence[str] | None = None,
        dtype: Dtype = "auto",
        deterministic: bool = False,
        query_instruction: str | None = None,
        query_suffix: str | None = None,
        query_examples: QueryExamples | None = None,
        pooling: Pooling | None = None,
        max_length: int | None = None,
        truncate_dim: int | None = None,
        allow_untrained_truncation: bool = False,
        calibration: Sequence[str] | None = None,
        token_budget: int | None = None,
        threads: int | None = None,
        cache_dir: Path | None = None,
    ) -> None:
        if token_budget is not None:
            whole_number(token_budget, "token_budget")
        if query_instruction is not None:
            check_texts([query_instruction], "query_instruction")
        first_device = check_devices(device, devices)[0]
        resolved = resolve_encoder(
            model,
            first_device,
            query_instruction=query_instruction,
            query_suffix=query_suffix,
            query_examples=query_examples,
            pooling=pooling,
            max_length=max_length,
        )
        self._info, head = encoder_info(resolved)
        self._full_dimension = self._info.dimension
        if truncate_dim is not None:
            check_truncation(resolved.spec, truncate_dim, allow_untrained_truncation)
            self._info = replace(self._info, dimension=truncate_dim)
        self._normalize = resolved.spec.normalize
        self._token_budget = token_budget
        self._max_batch = 1 if deterministic else None
        self._tokenizer = Tokenizer(resolved.path, self._info.max_length, cache_dir=cache_dir)
        self._load: Callable[[Head], Engine] = partial(
            load_engine,
            resolved.path,
            engine=engine,
            device=device,
            devices=devices,
            dtype=dtype,
            threads=threads,
            cache_dir=cache_dir,
            calibration=calibration,
        )
        # Whether an instruction fits is settled now, not at the first query.
        for kind in ("query", "passage"):
            self._tokens(kind)([""])
        self._engine = self._load(head)
        self._token_engine: Engine | None = None
        self._token_engine_lock = threading.Lock()
        self._closed = False
        self._loaded = LoadedHere()
        try:
            self._check_dimension()
        except BaseException:
            self.close()
            raise

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

    def close(self) -> None:
        """End the processes of further devices; nothing can be encoded after that."""
        with self._token_engine_lock:
            self._closed = True
            for engine in (self._engine, self._token_engine):
                close = getattr(engine, "close", None)
                if close is not None:
                    close()

    def encode_queries(
        self, queries: Sequence[str], *, progress: ProgressCallback | None = None
    ) -> FloatArray:
        """float32 (n, dimension), with the query instruction put before each text.

        Raises:
            InvalidInput: an element is not a str, or the encoder was closed.
            ModelFault: the device failed or gave numbers that are not finite, or a worker died.
        """
        check_texts(queries, "query")
        return self._encode(queries, "query", progress).vectors

    def encode_passages(
        self, passages: Sequence[str], *, progress: ProgressCallback | None = None
    ) -> Encoding:
        """Vectors float32 (n, dimension) of passages, with the token counts and what was cut.

        Raises: as `encode_queries`.
        """
        check_texts(passages, "passage")
        return self._encode(passages, "passage", progress)

    def encode_all(
        self,
        texts: Sequence[str],
        kind: Literal["query", "passage"],
        *,
        lexical: bool = False,
        token_vectors: bool = False,
        progress: ProgressCallback | None = None,
    ) -> Encoding:
        """Dense vectors float32 (n, dimension) and, where asked for, those of `encode_tokens`.

        Raises:
            InvalidInput: `lexical`, which only bge-m3 gives; otherwise as `encode_queries`.
        """
        _check_kind(texts, kind)
        if lexical:
            raise InvalidInput(
                f"lexical weights were requested from {self._info.model}, which has no such output",
                fix="Use BAAI/bge-m3, or a folder of a model fine-tuned from it with its "
                "sparse_linear.pt and colbert_linear.pt; BM25 needs neither.",
            )
        encoding = self._encode(texts, kind, progress)
        if not token_vectors:
            return encoding
        return replace(encoding, token_vectors=self.encode_tokens(texts, kind))

    def encode_tokens(
        self, texts: Sequence[str], kind: Literal["query", "passage"]
    ) -> list[FloatArray]:
        """For each text, float32 (tokens, dimension): last hidden states, each L2-normalised.

        Special tokens are kept, and instructions are put before the text as for the text's own
        vector. What late interaction compares (Khattab and Zaharia 2020).

        Raises: as `encode_queries`.
        """
        _check_kind(texts, kind)
        self._check_open()  # before the lock, which a thread of the parent may have held
        with self._token_engine_lock:
            self._check_open()
            if self._token_engine is None:
                self._token_engine = self._load("tokens")
            engine = self._token_engine
        results: list[FloatArray] = []
        with closing(tokenized_slices(self._tokens(kind), texts)) as slices:
            for start, tokenized in slices:
                results.extend(self._token_vectors(engine, tokenized, start))
        return results

    def _encode(
        self, texts: Sequence[str], kind: str, progress: ProgressCallback | None
    ) -> Encoding:
        self._check_open()
        total = len(texts)
        vectors = np.empty((total, self._info.dimension), dtype=np.float32)
        tokens = np.empty(total, dtype=np.int64)
        truncated = np.empty(total, dtype=np.bool_)
        with closing(tokenized_slices(self._tokens(kind), texts)) as slices:
            for start, tokenized in slices:
                stop = start + len(tokenized)
                tokens[start:stop] = tokenized.full_lengths
                truncated[start:stop] = tokenized.truncated
                self._pooled_vectors(tokenized, vectors[start:stop], start, total, progress)
        return Encoding(vectors=vectors, tokens=tokens, truncated=truncated)

    def _tokens(self, kind: str) -> Callable[[Sequence[str]], Tokenized]:
        """What reads texts of that kind, with what stands before and behind them."""
        info = self._info
        if kind == "passage":
            return partial(self._tokenizer.encode, prefix=info.passage_instruction)
        return partial(
            self._tokenizer.encode,
            prefix=info.query_instruction,
            suffix=info.query_suffix,
            examples=info.query_examples,
        )

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
            max_batch=self._max_batch,
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
            engine,
            self._tokenizer,
            tokenized,
            consume=keep,
            token_budget=self._token_budget,
            max_batch=self._max_batch,
        )
        return results

    def _finished(
        self, vectors: FloatArray, texts: NDArray[np.int64], normalize: bool
    ) -> FloatArray:
        """Vectors cut to (n, dimension) and normalised in float32, once known to be finite."""
        who = f"{self._info.model} ({self.engine})"
        return unit_vectors(vectors[:, : self._info.dimension], texts, who, normalize=normalize)

    def _check_dimension(self) -> None:
        """Run one short text: what is declared and what comes out must agree before any use."""
        tokenized = self._tokenizer.encode(["a"])
        output = self._engine.run(self._tokenizer.pad(np.zeros(1, dtype=np.int64), tokenized))
        if output.shape[1] != self._full_dimension:
            raise ModelFault(
                f"{self._info.model} was declared to give {self._full_dimension} dimensions, but "
                f"gives {output.shape[1]}",
                fix="The files are not those of this model: fetch it again, or give its folder.",
            )

    def _check_open(self) -> None:
        self._loaded.check(self._info.model)
        if self._closed:
            raise InvalidInput(
                f"the encoder {self._info.model} was closed, and cannot encode any more",
                fix="Load it again.",
            )


def _check_kind(texts: Sequence[str], kind: str) -> None:
    if kind not in ("query", "passage"):
        raise InvalidInput(f"kind={kind!r} was given", fix="Choose 'query' or 'passage'.")
    check_texts(texts, kind)
