"""bge-m3 whole: dense vectors, lexical weights and multi-vectors from one pass through the model.

Chen et al. 2024, "M3-Embedding: Multi-Linguality, Multi-Functionality, Multi-Granularity Text
Embeddings Through Self-Knowledge Distillation".
"""

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

from retrieval._validate import check_texts, whole_number
from retrieval.errors import InvalidInput
from retrieval.models.batching import run_batches
from retrieval.models.encoders.bge_m3_heads import (
    M3Folder,
    lexical_weights,
)
from retrieval.models.encoders.bge_m3_scores import M3Output, Outputs, score_pairs
from retrieval.models.encoders.settings import encoder_info
from retrieval.models.encoders.vectors import check_finite, unit_vectors
from retrieval.models.engines import load_engine
from retrieval.models.engines.base import Dtype, Engine, EngineName, Head
from retrieval.models.forks import LoadedHere
from retrieval.models.resolve import resolve
from retrieval.models.tokenization.tokenizer import Tokenized, Tokenizer
from retrieval.types import (
    EncoderInfo,
    Encoding,
    FloatArray,
    ProgressCallback,
    ResolvedModel,
    Scores,
    TokenCounter,
)
from retrieval.types.closing import Closing

SLICE = 16_384
"""Texts that are tokenised and sorted by length together."""


class BGEM3(Closing):
    """bge-m3 on any engine; implements `retrieval.types.MultiEncoder`.

    Where only dense vectors are wanted, the model runs without computing the other tokens' last
    layer. The model takes no instruction. May be used from several threads.

    Args:
        model: `BAAI/bge-m3`, a folder of it or of a model fine-tuned from it, or a resolved model.
        engine, device, devices, dtype, threads: see `retrieval.models.engines.load_engine`.
        max_length: longest text in tokens, special tokens included; None for the model's own.
        calibration: texts by which dtype="int8" sets its scales; None for built-in ones.
        token_budget: padded tokens in a batch; None for what the engine runs fastest.
        deterministic: each text alone, so that its outputs cannot depend on the others.
        cache_dir: where compiled graphs are kept; None for the user's cache folder.

    Raises:
        ModelNotFound: no such model, or its files are incomplete.
        InvalidInput: an argument that cannot be used, or the model is not an encoder.
        ModelFault: the weights do not load.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | ResolvedModel = "BAAI/bge-m3",
        *,
        engine: EngineName = "auto",
        device: str = "auto",
        devices: Sequence[str] | None = None,
        dtype: Dtype = "auto",
        max_length: int | None = None,
        calibration: Sequence[str] | None = None,
        token_budget: int | None = None,
        threads: int | None = None,
        cache_dir: Path | None = None,
        deterministic: bool = False,
    ) -> None:
        if token_budget is not None:
            whole_number(token_budget, "token_budget")
        resolved = model
        if not isinstance(resolved, ResolvedModel):
            resolved = resolve(resolved, "encoder", pooling="cls", max_length=max_length)
        self._info = _info(resolved, max_length)
        self._folder = M3Folder(resolved.path, self._info)
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
        self._loaded = LoadedHere()
        self._lock = threading.Lock()
        self._engines: dict[Head, Engine] = {}

    @property
    def info(self) -> EncoderInfo:
        """What a collection must remember of its dense vectors."""
        return self._info

    @property
    def token_counter(self) -> TokenCounter:
        """The tokeniser, for splitting documents by this encoder's own tokens."""
        return self._tokenizer

    @property
    def engine(self) -> str:
        """How it runs, for notices and reports, as in `openvino bf16 on cpu`."""
        with self._lock:
            loaded = next(iter(self._engines.values()), None)
        engine = loaded or self._engine("cls")
        return f"{engine.name} {engine.dtype} on {engine.device}"

    def encode(
        self,
        texts: Sequence[str],
        kind: Literal["query", "passage"],
        *,
        dense: bool = True,
        sparse: bool = True,
        multi_vector: bool = True,
        progress: ProgressCallback | None = None,
    ) -> M3Output:
        """The asked outputs of each text, in input order.

        Args:
            texts: queries or passages.
            kind: which of both they are: what `info` says goes before one of that kind.
            dense, sparse, multi_vector: which outputs to compute. Multi-vectors take 4 KiB a token.
            progress: called with texts done and in total.

        Raises:
            InvalidInput: an element is not a str, an unknown kind, or no output is asked for.
            ModelNotFound: the folder has no sparse_linear.pt or colbert_linear.pt.
            ModelFault: the device failed or gave numbers that are not finite.
        """
        if kind not in ("query", "passage"):
            raise InvalidInput(f"kind={kind!r} was given", fix="Choose 'query' or 'passage'.")
        if not (dense or sparse or multi_vector):
            raise InvalidInput(
                "no output was asked for",
                fix="Set at least one of dense, sparse and multi_vector to True.",
            )
        check_texts(texts, kind)
        self._loaded.check(self._info.model)
        output = Outputs(len(texts), self._info.dimension, dense, sparse, multi_vector)
        for start in range(0, len(texts), SLICE):
            tokenized = self._tokenizer.encode(
                texts[start : start + SLICE], prefix=getattr(self._info, f"{kind}_instruction")
            )
            self._run(tokenized, output, start, len(texts), progress)
        return M3Output(
            dense=output.dense,
            sparse=output.sparse,
            multi_vectors=output.multi_vectors,
            tokens=output.tokens,
            truncated=output.truncated,
        )

    def encode_queries(
        self, queries: Sequence[str], *, progress: ProgressCallback | None = None
    ) -> FloatArray:
        """Dense vectors float32 (n, dimension). Raises: as `encode`."""
        vectors = self.encode(
            queries, "query", sparse=False, multi_vector=False, progress=progress
        ).dense
        assert vectors is not None
        return vectors

    def encode_passages(
        self, passages: Sequence[str], *, progress: ProgressCallback | None = None
    ) -> Encoding:
        """Dense vectors float32 (n, dimension), tokens, what was cut. Raises: as `encode`."""
        output = self.encode(
            passages, "passage", sparse=False, multi_vector=False, progress=progress
        )
        assert output.dense is not None
        return Encoding(output.dense, output.tokens, output.truncated)

    def encode_all(
        self,
        texts: Sequence[str],
        kind: Literal["query", "passage"],
        *,
        lexical: bool = False,
        token_vectors: bool = False,
        progress: ProgressCallback | None = None,
    ) -> Encoding:
        """Dense vectors float32 (n, dimension) and what else is asked for, from one pass.

        lexical: term weights. token_vectors: multi-vectors, see `M3Output`. Raises: as `encode`.
        """
        output = self.encode(
            texts, kind, sparse=lexical, multi_vector=token_vectors, progress=progress
        )
        assert output.dense is not None
        return Encoding(
            output.dense, output.tokens, output.truncated, output.sparse, output.multi_vectors
        )

    def encode_tokens(
        self, texts: Sequence[str], kind: Literal["query", "passage"]
    ) -> list[FloatArray]:
        """Multi-vectors, as late interaction compares them. Raises: as `encode`."""
        vectors = self.encode(texts, kind, dense=False, sparse=False).multi_vectors
        assert vectors is not None
        return vectors

    def close(self) -> None:
        """End the processes of further devices. A later call would load the model again."""
        with self._lock:
            for engine in self._engines.values():
                close = getattr(engine, "close", None)
                if close is not None:
                    close()
            self._engines.clear()

    def score(
        self,
        pairs: Sequence[tuple[str, str]],
        weights: tuple[float, float, float] = (0.4, 0.2, 0.4),
        *,
        progress: ProgressCallback | None = None,
    ) -> Scores:
        """The weighted mean of the dense, sparse and multi-vector scores of (query, passage) pairs.

        Args:
            pairs: texts; queries may differ.
            weights: of the dense, the sparse and the multi-vector score.
            progress: called with pairs done and in total.

        Raises:
            InvalidInput: weights that cannot be used; otherwise as `encode`.
        """
        return score_pairs(self.encode, self._info, pairs, weights, progress)

    def _run(
        self,
        tokenized: Tokenized,
        output: Outputs,
        start: int,
        total: int,
        progress: ProgressCallback | None,
    ) -> None:
        stop = start + len(tokenized)
        output.tokens[start:stop] = tokenized.full_lengths
        output.truncated[start:stop] = tokenized.truncated
        lengths = tokenized.lengths
        only_dense = output.sparse is None and output.multi_vectors is None
        heads = None if only_dense else self._folder.heads()
        special = self._folder.special_ids() if output.sparse is not None else frozenset()
        engine = self._engine("cls" if only_dense else "tokens")
        who = f"{self._info.model} ({self.engine})"

        def keep(indices: NDArray[np.int64], states: FloatArray) -> None:
            texts = start + indices
            if output.dense is not None:
                first = states if only_dense else states[:, 0]
                output.dense[texts] = unit_vectors(first, texts, who)
            if heads is None:
                return
            sizes = lengths[indices]
            real = states[np.arange(states.shape[1]) < sizes[:, None]]
            ends = np.cumsum(sizes)
            if output.sparse is not None:
                weights = heads.token_weights(real)
                check_finite(weights, np.repeat(texts, sizes), who)
                for text, index, size, end in zip(texts, indices, sizes, ends, strict=True):
                    output.sparse[text] = lexical_weights(
                        tokenized.row(int(index)), weights[end - size : end], special
                    )
            if output.multi_vectors is not None:
                vectors = heads.token_vectors(real)
                check_finite(vectors, np.repeat(texts, sizes), who)
                for text, size, end in zip(texts, sizes, ends, strict=True):
                    # A copy: a view would keep the whole batch in memory.
                    output.multi_vectors[text] = vectors[end - size + 1 : end].copy()

        def report(done: int, _: int) -> None:
            if progress is not None:
                progress(start + done, total)

        run_batches(
            engine,
            self._tokenizer,
            tokenized,
            consume=keep,
            token_budget=self._token_budget,
            max_batch=self._max_batch,
            progress=report,
        )

    def _engine(self, head: Head) -> Engine:
        with self._lock:
            if head not in self._engines:
                self._engines[head] = self._load(head)
            return self._engines[head]


def _info(resolved: ResolvedModel, max_length: int | None) -> EncoderInfo:
    spec = resolved.spec
    if spec.kind != "encoder" or spec.pooling != "cls" or not spec.dimension or not spec.max_length:
        raise InvalidInput(
            f"{spec.name} is not bge-m3: expected an encoder with CLS pooling, and its dimension "
            "and maximum length known",
            fix="Give BAAI/bge-m3, or a folder of it or of a model fine-tuned from it.",
        )
    info, _ = encoder_info(resolved)
    return replace(info, normalize=True, max_length=max_length or info.max_length)
