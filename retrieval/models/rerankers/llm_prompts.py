"""The prompts of language models that rerank, token by token as FlagEmbedding makes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval._validate import without_surrogates
from retrieval.errors import ModelNotFound
from retrieval.models.model_folder import own_config
from retrieval.models.score_modules import AnswerTokens
from retrieval.types import ResolvedModel

PROMPT = (
    "Given a query A and a passage B, determine whether the passage contains an answer to the "
    "query by providing a prediction of either 'Yes' or 'No'."
)
LIGHTWEIGHT_PROMPT = "Predict whether passage B contains an answer to query A."


@dataclass(frozen=True, slots=True)
class Prompts:
    """Token ids of n prompts.

    rows: the ids. queries: int64 (n,), tokens before the passage. prompt: tokens behind it.
    full: int64 (n,), tokens before truncation. truncated: bool (n,).
    """

    rows: list[NDArray[np.int64]]
    queries: NDArray[np.int64]
    prompt: int
    full: NDArray[np.int64]
    truncated: NDArray[np.bool_]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """int64 (n,): tokens of each prompt."""
        return np.array([len(row) for row in self.rows], dtype=np.int64)


class Template:
    """Turns pairs into prompts, token by token as FlagEmbedding does.

    `<bos>A: query⏎B: passage⏎prompt`, its four parts tokenised on their own.
    """

    def __init__(self, model: ResolvedModel, prompt: str, max_length: int) -> None:
        tokenizer = load_tokenizer(model)
        self._backend = tokenizer.backend_tokenizer
        first = tokenizer.bos_token_id
        if first == tokenizer.pad_token_id and model.spec.score_head == "yes-logit":
            first = None
        self._first = [] if first is None else [int(first)]
        (self._line,), (self._prompt,) = self._ids(["\n"]), self._ids([without_surrogates(prompt)])
        (yes,) = self._ids(["Yes"])
        self.answer = AnswerTokens(int(yes[0]))
        self._max_length = max_length

    def fill(self, pairs: Sequence[tuple[str, str]]) -> Prompts:
        """The prompt of each (query, passage) pair, cut to `max_length`."""
        queries = _each(self._ids, [without_surrogates(f"A: {query}") for query, _ in pairs])
        passages = _each(self._ids, [without_surrogates(f"B: {passage}") for _, passage in pairs])
        ending = self._line + self._prompt
        rows, starts, full = [], [], []
        for query, passage in zip(queries, passages, strict=True):
            start = self._first + query[: self._max_length * 3 // 4] + self._line
            # FlagEmbedding grants the pair the length of the prompt once more.
            room = self._max_length + len(ending) - len(start)
            kept = passage[: min(self._max_length, room)]
            rows.append(np.array(start + kept + ending, dtype=np.int64))
            starts.append(len(start))
            full.append(
                len(self._first) + len(query) + len(self._line) + len(passage) + len(ending)
            )
        lengths = np.array([len(row) for row in rows], dtype=np.int64)
        counted = np.array(full, dtype=np.int64)
        return Prompts(
            rows=rows,
            queries=np.array(starts, dtype=np.int64),
            prompt=len(ending),
            full=counted,
            truncated=counted > lengths,
        )

    def _ids(self, texts: list[str]) -> list[list[int]]:
        encoded = self._backend.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in encoded]


def load_tokenizer(model: ResolvedModel) -> Any:
    """The folder's tokeniser, of transformers, without truncation or padding.

    Raises:
        ModelNotFound: it has none that can be read.
    """
    from transformers import AutoTokenizer

    from retrieval.models.engines.modules import quiet

    with quiet():
        try:
            options = own_config(model.path)
            tokenizer: Any = AutoTokenizer.from_pretrained(
                str(model.path), local_files_only=True, trust_remote_code=False, **options
            )
            backend = tokenizer.backend_tokenizer
        except Exception as error:  # the one boundary: whatever transformers raises
            raise ModelNotFound(
                f"the model folder {model.path} has no tokeniser that can be read "
                f"({type(error).__name__}: {str(error).strip()[:200]})",
                fix="Give a folder that holds tokenizer.json beside config.json.",
            ) from error
    backend.no_truncation()
    backend.no_padding()
    return tokenizer


def _each(encode: Callable[[list[str]], list[list[int]]], texts: list[str]) -> list[list[int]]:
    """Token ids of each text; a text that occurs in many pairs is read once."""
    unique = list(dict.fromkeys(texts))
    ids = dict(zip(unique, encode(unique), strict=True))
    return [ids[text] for text in texts]
