"""Second stage by a cross-encoder: query and passage are read together and get one score."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from retrieval._validate import check_pairs, check_texts, whole_number
from retrieval.errors import InvalidInput, ModelSettingUnknown
from retrieval.models import cache_dir as cache
from retrieval.models.batching import run_batches, unique_pairs
from retrieval.models.engines import load_engine
from retrieval.models.forks import LoadedHere
from retrieval.models.rerankers.long_passages import LongPassages, most_overlap, window_pairs
from retrieval.models.rerankers.pace import SECONDS, tokens_per_second
from retrieval.models.rerankers.scores import check_scores, sigmoid
from retrieval.models.resolve import resolve
from retrieval.models.tokenization.cache import TokenCache
from retrieval.models.tokenization.token_batch import PairIds
from retrieval.models.tokenization.tokenizer import Tokenizer, cuts
from retrieval.types import FloatArray, ProgressCallback, RerankerInfo, ResolvedModel, Scores

if TYPE_CHECKING:
    from retrieval.models.engines.base import Dtype, EngineName

SLICE = 8192
"""Pairs that are tokenised and sorted by length together: bounds memory, whatever their number."""

SLICE_CHARS = 2**22
"""Characters of these pairs: bounds memory, whatever the passages' length."""

TOKEN_CACHE_BYTES = 64 * 2**20
"""Some 60,000 passages of 200 tokens."""


class CrossEncoderReranker:
    """Scores (query, passage) pairs with a sequence classifier that has one logit.

    Pairs of all queries share batches of like length under a token budget, and the same pair of
    texts is computed once. A query keeps up to three quarters of `max_length` (as in
    FlagReranker); the rest is for the passage, and only the passage is cut to fit. Passages' token
    ids are kept, so that a passage that was scored before is not tokenised again. May be used from
    several threads.

    Args:
        model: a name from `retrieval models`, a folder, a hub id, or a resolved model.
        engine, device, devices, dtype, threads: see `retrieval.models.engines.load_engine`.
        deterministic: each pair is computed alone, so that its score cannot depend, not even in
            its last bit, on what else is scored; slower.
        max_length: longest pair in tokens, special tokens included; None takes the model's own.
        long_passages: how a passage is read that does not fit beside its query. `truncate`:
            it is cut. `windows`: it is read in parts, of which the best gives the score
            (see `retrieval.models.rerankers.long_passages`). `error`: a pair that would be cut is
            refused.
        window_overlap: tokens that two neighbouring windows share; beside a query that leaves
            little room, at most three quarters of a window.
        token_budget: padded tokens in a batch; None for what suits the engine.
        token_cache_bytes: size of the cache of token ids; 0 keeps none.
        calibration: texts on which dtype="int8" is calibrated; None for built-in ones.
        cache_dir: where compiled graphs are kept; None for the user's cache folder.

    Raises:
        ModelNotFound: no such model, or its files are incomplete.
        ModelSettingUnknown: it gives several logits, or its longest input is declared nowhere.
        InvalidInput: the model is not a cross-encoder, or an argument cannot be used.
        ModelFault: the weights do not load.

    Example:
        >>> from retrieval import CrossEncoderReranker
        >>> reranker = CrossEncoderReranker("BAAI/bge-reranker-base")  # doctest: +SKIP
        >>> scores = reranker.score([("a query", "a passage")])  # doctest: +SKIP
        >>> reranker.relevance(scores.values)  # float64 (1,), from 0 to 1  # doctest: +SKIP
        array([0.27])
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | ResolvedModel,
        *,
        engine: EngineName = "auto",
        device: str = "auto",
        devices: Sequence[str] | None = None,
        dtype: Dtype = "auto",
        deterministic: bool = False,
        max_length: int | None = None,
        long_passages: LongPassages = "truncate",
        window_overlap: int = 64,
        token_budget: int | None = None,
        token_cache_bytes: int = TOKEN_CACHE_BYTES,
        calibration: Sequence[str] | None = None,
        threads: int | None = None,
        cache_dir: Path | None = None,
    ) -> None:
        if token_budget is not None:
            whole_number(token_budget, "token_budget")
        whole_number(token_cache_bytes, "token_cache_bytes", least=0)
        whole_number(window_overlap, "window_overlap", least=0)
        if long_passages not in ("truncate", "windows", "error"):
            raise InvalidInput(
                f"long_passages={long_passages!r} was given",
                fix="Choose 'truncate', 'windows' or 'error'.",
            )
        if calibration is not None:
            check_texts(calibration, "calibration text")
        resolved = _resolved(model, max_length)
        length = resolved.spec.max_length
        if length is None:
            raise ModelSettingUnknown(
                f"the reranker {resolved.spec.name} does not declare how many tokens it takes",
                fix="Pass max_length=… (CLI: --max-length).",
            )
        self._tokenizer = Tokenizer(resolved.path, length, cache_dir=cache_dir)
        room = self._tokenizer.pair_room - 1  # beside a query of one token
        if long_passages == "windows" and window_overlap > most_overlap(room):
            raise InvalidInput(
                f"window_overlap={window_overlap} was given, but max_length={length} leaves a "
                f"window at most {room} tokens, of which {most_overlap(room)} may be shared",
                fix="Give a smaller window_overlap or a larger max_length.",
            )
        self._long_passages = long_passages
        self._overlap = window_overlap
        self._token_budget = token_budget
        self._max_batch = 1 if deterministic else None
        self.token_cache = TokenCache(token_cache_bytes)
        """Passages' token ids."""
        self._engine = load_engine(
            resolved.path,
            "logits",
            engine=engine,
            device=device,
            devices=devices,
            dtype=dtype,
            threads=threads,
            cache_dir=cache_dir,
            calibration=calibration,
        )
        self.info = RerankerInfo(
            model=resolved.spec.name,
            fingerprint=resolved.fingerprint,
            kind="cross-encoder",
            max_length=length,
            # measured on MiniLM-L12; what was not measured should not have the last word either
            default_blend="scores",
            # On a CPU tokens are dear; whoever says how long passages are read has decided.
            default_read="excerpts" if self._on_cpu and long_passages == "truncate" else "full",
        )
        self._threads = threads
        self._cache_dir = cache_dir
        self._loaded = LoadedHere()

    @property
    def engine(self) -> str:
        """How it runs, for notices and reports, as in `openvino bf16 on cpu`."""
        return f"{self._engine.name} {self._engine.dtype} on {self._engine.device}"

    def settle_pace(self) -> float | None:
        """On a CPU, let searches that say nothing read what takes this machine about half a second.

        The rate is measured once for each machine, in a second or so, and kept in the cache folder.

        Returns:
            Tokens that it reads in a second; None where nothing was measured.
        """
        if self.info.default_read == "full":
            return None
        folder = cache.default_cache_dir() if self._cache_dir is None else Path(self._cache_dir)
        # Workers on further devices are other processes, whose time is not this one's.
        alone = "," not in self._engine.device
        rate = tokens_per_second(
            self, self.engine, threads=self._threads, cache_dir=folder, alone=alone
        )
        self.info = replace(self.info, default_tokens=int(rate * SECONDS))
        return rate

    @property
    def _on_cpu(self) -> bool:
        return self._engine.device.startswith("cpu")

    def close(self) -> None:
        """End the processes of further devices, if there are any; nothing can be scored then."""
        close = getattr(self._engine, "close", None)
        if close is not None:
            close()

    def score(
        self, pairs: Sequence[tuple[str, str]], *, progress: ProgressCallback | None = None
    ) -> Scores:
        """Raw logits float64 (n,), in the order of `pairs`, their tokens, and which were cut.

        With long_passages="windows", `spans` holds the part of each passage that gave its score,
        (0, len(passage)) where it was read whole; then only pairs with a long query are cut.

        Args:
            pairs: (query, passage) texts; queries may differ.
            progress: called with pairs done and in total.

        Raises:
            InvalidInput: an element is not a pair of str, or would be cut with
                long_passages="error".
            ModelFault: the device failed, or a score is not a finite number.
        """
        check_pairs(pairs)
        self._loaded.check(self.info.model)
        unique, row_of = unique_pairs(pairs)
        sizes = [len(query) + len(passage) for query, passage in unique]
        slices = list(cuts(sizes, SLICE, SLICE_CHARS))
        if self._long_passages == "error":
            self._refuse_long(unique, slices, row_of)
        done = _Done(np.bincount(row_of, minlength=len(unique)), len(pairs), progress)
        values = np.empty(len(unique), dtype=np.float64)
        truncated = np.empty(len(unique), dtype=np.bool_)
        tokens = np.empty(len(unique), dtype=np.int64)
        spans = np.empty((len(unique), 2), dtype=np.int64)
        for start, stop in slices:
            part = self._score_slice(unique[start:stop], start, done)
            values[start:stop], truncated[start:stop] = part.values, part.truncated
            if part.tokens is not None:
                tokens[start:stop] = part.tokens
            if part.spans is not None:
                spans[start:stop] = part.spans
        check_scores(values, unique, f"{self.info.model} ({self.engine})")
        return Scores(
            values=values[row_of],
            truncated=truncated[row_of],
            tokens=tokens[row_of],
            spans=spans[row_of] if self._long_passages == "windows" else None,
        )

    def relevance(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """The sigmoid of raw logits, in float64: monotone and in [0, 1]."""
        return sigmoid(scores)

    def _score_slice(self, pairs: list[tuple[str, str]], start: int, done: _Done) -> Scores:
        ids = self._tokenizer.read_pairs(pairs, cache=self.token_cache)
        windows = None
        truncated = ids.query_cut
        if self._long_passages == "windows":
            windows = window_pairs(self._tokenizer, pairs, ids, self._overlap)
            tokenized = self._tokenizer.join_pairs(ids, windows.rows, windows.passages)
        else:
            tokenized = self._tokenizer.join_pairs(ids)
            truncated = truncated | ids.passage_cut
        logits = np.empty(len(tokenized), dtype=np.float64)
        left = None if windows is None else np.bincount(windows.rows)

        def consume(indices: NDArray[np.int64], output: FloatArray) -> None:
            logits[indices] = output.reshape(len(indices))
            read = indices
            if windows is not None and left is not None:
                np.subtract.at(left, windows.rows[indices], 1)
                read = np.unique(windows.rows[indices])
                read = read[left[read] == 0]  # a pair is done with its last window
            done.add(start + read)

        run_batches(
            self._engine,
            self._tokenizer,
            tokenized,
            token_budget=self._token_budget,
            max_batch=self._max_batch,
            consume=consume,
        )
        if windows is None:
            return Scores(logits, truncated, ids.full_lengths)
        best = windows.best(logits)
        return Scores(logits[best], truncated, ids.full_lengths, windows.spans[best])

    def _refuse_long(
        self,
        pairs: list[tuple[str, str]],
        slices: list[tuple[int, int]],
        row_of: NDArray[np.int64],
    ) -> None:
        """Raise InvalidInput if a pair would be cut, before anything is computed."""
        for start, stop in slices:
            ids = self._tokenizer.read_pairs(pairs[start:stop], cache=self.token_cache)
            bad = np.flatnonzero(ids.query_cut | ids.passage_cut)
            if len(bad):
                index = int(np.flatnonzero(row_of == start + bad[0])[0])
                raise self._too_long(ids, int(bad[0]), index)

    def _too_long(self, ids: PairIds, row: int, index: int) -> InvalidInput:
        """The error for row `row` of `ids`, which is pair `index` of the caller's."""
        limit = self.info.max_length
        if ids.query_cut[row]:
            return InvalidInput(
                f"the query of pair {index} has {ids.queries.lengths[row]} tokens and the pair "
                f"{ids.full_lengths[row]}; {self.info.model} reads {limit} of a pair, of which "
                f"the query may take {ids.query_room}",
                fix="Shorten the query, or choose long_passages='truncate', which cuts it.",
            )
        return InvalidInput(
            f"pair {index} has {ids.full_lengths[row]} tokens, but {self.info.model} reads {limit}",
            fix="Split its passage, or choose long_passages='windows' (its best part counts) or "
            "'truncate' (its end is not read).",
        )


class _Done:
    """Counts the caller's pairs as their rows are done."""

    def __init__(
        self, repeats: NDArray[np.int64], total: int, progress: ProgressCallback | None
    ) -> None:
        self._repeats = repeats
        self._total = total
        self._progress = progress
        self._done = 0

    def add(self, rows: NDArray[np.int64]) -> None:
        if self._progress is not None and len(rows):
            self._done += int(self._repeats[rows].sum())
            self._progress(self._done, self._total)


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
            fix="Use LateInteractionReranker(encoder), or load_reranker('maxsim').",
        )
    if head != "classification":
        raise InvalidInput(
            f"{model.spec.name} has the score head {head or 'none'}, expected a classification "
            "head with one logit",
            fix="Load it with load_reranker(), which chooses by the score head, or use a "
            "cross-encoder such as BAAI/bge-reranker-v2-m3.",
        )
    return model
