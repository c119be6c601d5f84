"""From rows of the order to batches: groups drawn, and tokenised as a stage reads them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from retrieval.models.tokenization.token_batch import Tokenized
from retrieval.models.tokenization.tokenizer import Tokenizer
from retrieval.training.batches import GroupBatch, Rows
from retrieval.training.groups import Group, Texts, groups_of
from retrieval.types import FloatArray


@dataclass(frozen=True, slots=True)
class Template:
    """How an encoder reads a kind of text: its tokeniser, and what stands around the text."""

    tokenizer: Tokenizer
    instruction: str = ""
    suffix: str = ""
    examples: str = ""

    def encode(self, texts: Sequence[str], instruction: str | None = None) -> Tokenized:
        """Token ids; `instruction` stands in for the run's own."""
        prefix = self.instruction if instruction is None else instruction
        return self.tokenizer.encode(texts, prefix, suffix=self.suffix, examples=self.examples)


@dataclass(frozen=True, slots=True)
class GuideVectors:
    """A guide's vectors of the training set: of texts as queries, and as passages, by number."""

    queries: dict[int, FloatArray]
    passages: dict[int, FloatArray]


@dataclass(frozen=True, slots=True)
class EncoderCollator:
    """Draws groups and tokenises their texts for a bi-encoder."""

    valid_label_columns: ClassVar[tuple[str, ...]] = ()  # the trainer asks

    texts: Texts
    group_size: int
    seed: int
    query: Template
    passage: Template
    guide: GuideVectors | None = None

    def __call__(self, rows: Sequence[dict[str, int]]) -> dict[str, GroupBatch]:
        """What the trainer hands to the loss."""
        return {
            "batch_input_ids": self.batch(groups_of(self.texts, rows, self.group_size, self.seed))
        }

    def batch(self, groups: Sequence[Group]) -> GroupBatch:
        """The batch of some groups."""
        by_prompt: dict[str | None, list[int]] = defaultdict(list)
        for place, one in enumerate(groups):
            by_prompt[one.prompt].append(place)
        parts: list[tuple[Tokenizer, Tokenized]] = []
        queries = np.empty(len(groups), dtype=np.int64)
        start = 0
        for prompt, places in by_prompt.items():
            own = [self.texts.texts[groups[place].query] for place in places]
            parts.append((self.query.tokenizer, self.query.encode(own, prompt)))
            queries[places] = start + np.arange(len(places))
            start += len(places)
        keys, valid = padded_keys(groups, self.group_size)
        distinct, rows = np.unique(np.where(valid, keys, keys[0, 0]), return_inverse=True)
        passages = [self.texts.texts[key] for key in distinct.tolist()]
        parts.append((self.passage.tokenizer, self.passage.encode(passages)))
        return GroupBatch(
            inputs=Rows(tuple(parts)),
            queries=queries,
            passages=start + rows.reshape(keys.shape),
            valid=valid,
            keys=keys,
            answers=tuple(self.texts.answers[one.query] for one in groups),
            teacher=teacher_scores(groups, valid),
            guide=self._guide(groups, keys, valid),
        )

    def _guide(
        self, groups: Sequence[Group], keys: NDArray[np.int64], valid: NDArray[np.bool_]
    ) -> tuple[FloatArray, FloatArray] | None:
        if self.guide is None:
            return None
        queries = np.stack([self.guide.queries[one.query] for one in groups])
        found = np.zeros((*keys.shape, queries.shape[1]), dtype=np.float32)
        for place in zip(*np.nonzero(valid), strict=True):
            found[place] = self.guide.passages[int(keys[place])]
        return queries, found


@dataclass(frozen=True, slots=True)
class PairCollator:
    """Draws groups and tokenises them as pairs for a cross-encoder."""

    valid_label_columns: ClassVar[tuple[str, ...]] = ()  # the trainer asks

    texts: Texts
    group_size: int
    seed: int
    tokenizer: Tokenizer

    def __call__(self, rows: Sequence[dict[str, int]]) -> dict[str, GroupBatch]:
        """What the trainer hands to the loss."""
        return {
            "batch_input_ids": self.batch(groups_of(self.texts, rows, self.group_size, self.seed))
        }

    def batch(self, groups: Sequence[Group]) -> GroupBatch:
        """The batch of some groups."""
        keys, valid = padded_keys(groups, self.group_size)
        passages = np.zeros(keys.shape, dtype=np.int64)
        passages[valid] = np.arange(int(valid.sum()))
        pairs = [
            (f"{one.prompt or ''}{self.texts.texts[one.query]}", self.texts.texts[key])
            for one in groups
            for key in one.passages
        ]
        return GroupBatch(
            inputs=Rows(((self.tokenizer, self.tokenizer.encode_pairs(pairs)),)),
            queries=None,
            passages=passages,
            valid=valid,
            keys=keys,
            answers=tuple(self.texts.answers[one.query] for one in groups),
            teacher=teacher_scores(groups, valid),
        )


def padded_keys(groups: Sequence[Group], width: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The passages' numbers int64 (B, width), -1 where a group has fewer, and where it has one."""
    keys = np.full((len(groups), width), -1, dtype=np.int64)
    for place, one in enumerate(groups):
        keys[place, : len(one.passages)] = one.passages
    return keys, keys >= 0


def teacher_scores(groups: Sequence[Group], valid: NDArray[np.bool_]) -> FloatArray | None:
    """float32 (B, G); None where an example has none."""
    if any(one.teacher is None for one in groups):
        return None
    scores = np.zeros(valid.shape, dtype=np.float32)
    scores[valid] = [score for one in groups for score in one.teacher or ()]
    return scores
