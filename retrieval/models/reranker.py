"""Second stage by a cross-encoder: query and passage are read together and get one score."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import InvalidInput, ModelFault, ModelSettingUnknown
from retrieval.models.batching import TOKEN_BUDGET, run_batches
from retrieval.models.checks import check_pairs
from retrieval.models.engines import load_engine
from retrieval.models.resolve import resolve
from retrieval.models.tokenization import Tokenizer
from retrieval.types import FloatArray, ProgressCallback, RerankerInfo, ResolvedModel, Scores

if TYPE_CHECKING:
    from retrieval.models.engines.base import Dtype, EngineName

SLICE = 8192
"""Pairs that are tokenised and sorted by length together: bounds memory, whatever their number."""


class CrossEncoderReranker:
    """Scores (query, passage) pairs with a sequence classifier that has one logit.

    Pairs of all queries share batches of like length under a token budget, and the same pair of
    texts is computed once. A query keeps up to three quarters of `max_length` (as in
    FlagReranker); what is left is the passage's, which alone is cut to fit.

    Args:
        model: a name from `retrieval models`, a folder, a hub id, or a resolved model.
        engine, device, dtype, threads: see `retrieval.models.engines.load_engine`.
        max_length: longest pair in tokens, special tokens included; None takes the model's own.
        token_budget: padded tokens in a batch.
        cache_dir: where compiled graphs are kept; None for the user's cache folder.

    Raises:
        ModelNotFound: no such model, or its files are incomplete.
        ModelSettingUnknown: it gives several logits, or its longest input is declared nowhere.
        InvalidInput: the model is no cross-encoder, or an argument cannot be used.
        ModelFault: the weights do not load.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | ResolvedModel,
        *,
        engine: EngineName = "auto",
        device: str = "auto",
        dtype: Dtype = "auto",
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
        resolved = _resolved(model, max_length)
        length = resolved.spec.max_length
        if length is None:
            raise ModelSettingUnknown(
                f"the reranker {resolved.spec.name} does not declare how many tokens it takes",
                fix="Pass max_length=… (CLI: --max-length).",
            )
        self._tokenizer = Tokenizer(resolved.path, length, cache_dir=cache_dir)
        self._engine = load_engine(
            resolved.path,
            "logits",
            engine=engine,
            device=device,
            dtype=dtype,
            threads=threads,
            cache_dir=cache_dir,
        )
        self._token_budget = token_budget
        self.info = RerankerInfo(
            model=resolved.spec.name,
            fingerprint=resolved.fingerprint,
            kind="cross-encoder",
            max_length=length,
        )

    @property
    def engine(self) -> str:
        """How it runs, for notices and reports, as in `openvino bf16 on cpu`."""
        return f"{self._engine.name} {self._engine.dtype} on {self._engine.device}"

    def score(
        self, pairs: Sequence[tuple[str, str]], *, progress: ProgressCallback | None = None
    ) -> Scores:
        """Raw logits float64 (n,), in the order of `pairs`, and which pairs were cut.

        Args:
            pairs: (query, passage) texts; queries may differ.
            progress: called with pairs done and in total.

        Raises:
            InvalidInput: an element is not a pair of str.
            ModelFault: the device failed, or a score is not a finite number.
        """
        check_pairs(pairs)
        places: dict[tuple[str, str], int] = {}
        row_of = np.fromiter(
            (places.setdefault((query, passage), len(places)) for query, passage in pairs),
            dtype=np.int64,
            count=len(pairs),
        )
        unique = list(places)
        repeats = np.bincount(row_of, minlength=len(unique))
        values = np.empty(len(unique), dtype=np.float64)
        truncated = np.empty(len(unique), dtype=np.bool_)
        done = 0
        for start in range(0, len(unique), SLICE):
            stop = min(start + SLICE, len(unique))
            tokenized = self._tokenizer.encode_pairs(unique[start:stop])
            truncated[start:stop] = tokenized.truncated

            def consume(indices: NDArray[np.int64], logits: FloatArray, base: int = start) -> None:
                nonlocal done
                values[base + indices] = logits.reshape(len(indices))
                if progress is not None:
                    done += int(repeats[base + indices].sum())
                    progress(done, len(pairs))

            run_batches(
                self._engine,
                self._tokenizer,
                tokenized,
                token_budget=self._token_budget,
                consume=consume,
            )
        self._check_finite(values, unique)
        return Scores(values=values[row_of], truncated=truncated[row_of])

    def relevance(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """The sigmoid of raw logits, in float64: monotone and in [0, 1]."""
        return sigmoid(scores)

    def _check_finite(self, values: NDArray[np.float64], pairs: list[tuple[str, str]]) -> None:
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            query, passage = pairs[int(bad[0])]
            raise ModelFault(
                f"{self.info.model} ({self.engine}) gave {values[bad[0]]} as the score of "
                f"{len(bad)} of {len(pairs)} pairs, the first being ({query[:60]!r}, "
                f"{passage[:60]!r}); expected finite numbers",
                fix="Try dtype='fp32'. If that gives the same, the weights are damaged: "
                "fetch the model again.",
            )


def sigmoid(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 / (1 + exp(-x)) in float64, which rounds monotonically. NaN stays NaN."""
    x = np.asarray(scores, dtype=np.float64)
    with np.errstate(over="ignore", under="ignore"):  # exp(800) is inf, and 1 / inf the right 0
        result: NDArray[np.float64] = 1.0 / (1.0 + np.exp(-x))
    return result


def _resolved(
    model: str | os.PathLike[str] | ResolvedModel, max_length: int | None
) -> ResolvedModel:
    if not isinstance(model, ResolvedModel):
        model = resolve(model, "reranker", max_length=max_length)
    elif max_length is not None:
        model = replace(model, spec=replace(model.spec, max_length=max_length))
    head = model.spec.score_head
    if head == "maxsim":
        raise InvalidInput(
            f"{model.spec.name} is scored by late interaction, expected a cross-encoder",
            fix="Use LateInteractionReranker(encoder), or load_reranker('starter').",
        )
    if head != "classification":
        raise InvalidInput(
            f"{model.spec.name} has the score head {head or 'none'}, expected a classification "
            "head with one logit",
            fix="Use a cross-encoder such as BAAI/bge-reranker-v2-m3.",
        )
    return model
