"""From examples to batches: which passages a query meets, as token ids.

What is drawn for a query in an epoch follows from the seed, the epoch and the query alone. So a run
that was cut off goes on with the batches that it would have had.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from retrieval.models.engines.base import TokenBatch
from retrieval.models.tokenization.token_batch import Tokenized
from retrieval.models.tokenization.tokenizer import Tokenizer
from retrieval.training.examples import TrainingExample
from retrieval.types import FloatArray


@dataclass(frozen=True, slots=True)
class Group:
    """A query and the passages it meets in a batch: keys of `Texts`, the answer first."""

    query: int
    passages: tuple[int, ...]
    teacher: tuple[float, ...] | None
    prompt: str | None


class Texts:
    """The distinct texts of a training set by number, and which of them answer which query.

    Queries that are written alike are one: what answers it in any example is never its negative.
    """

    def __init__(self, examples: Sequence[TrainingExample]) -> None:
        self.examples = examples
        self.texts: list[str] = []
        self._keys: dict[str, int] = {}
        answers: dict[int, set[int]] = defaultdict(set)
        for one in examples:
            query = self.key(one.query)
            answers[query].update(self.key(text) for text in one.positives)
            for text in one.negatives:
                self.key(text)
        self.answers: dict[int, NDArray[np.int64]] = {
            query: np.fromiter(sorted(keys), dtype=np.int64) for query, keys in answers.items()
        }

    def key(self, text: str) -> int:
        """The number of a text; a new one for a new text."""
        found = self._keys.get(text)
        if found is None:
            found = self._keys[text] = len(self.texts)
            self.texts.append(text)
        return found

    def group(self, index: int, size: int, seed: str) -> Group:
        """A positive and up to `size - 1` negatives of an example, drawn by `seed`.

        A negative is drawn once at most: a query with few of them has a smaller group. One that
        answers the query in another example is left out.
        """
        one = self.examples[index]
        draw = random.Random(seed)
        query = self._keys[one.query]
        answers = set(self.answers[query].tolist())
        answer = draw.randrange(len(one.positives))
        keys = [self._keys[text] for text in one.negatives]
        allowed = [place for place, key in enumerate(keys) if key not in answers]
        chosen = draw.sample(allowed, min(size - 1, len(allowed)))
        teacher = None
        if one.positive_scores is not None and one.negative_scores is not None:
            teacher = (
                one.positive_scores[answer],
                *(one.negative_scores[place] for place in chosen),
            )
        return Group(
            query=query,
            passages=(self._keys[one.positives[answer]], *(keys[place] for place in chosen)),
            teacher=teacher,
            prompt=one.prompt,
        )


def draws(examples: int, epochs: float, seed: int) -> list[tuple[int, int]]:
    """The order of a run: (example, epoch), each epoch shuffled by itself."""
    order: list[tuple[int, int]] = []
    wanted = max(1, round(examples * epochs))
    epoch = 0
    while len(order) < wanted:
        one = list(range(examples))
        random.Random(f"{seed}/{epoch}").shuffle(one)
        order += [(example, epoch) for example in one]
        epoch += 1
    return order[:wanted]


class Inputs(Protocol):
    """Rows of token ids that a model reads, and how to pad some of them to a batch."""

    @property
    def lengths(self) -> NDArray[np.int64]:
        """int64 (rows,): tokens of each."""
        ...

    def batch(self, rows: NDArray[np.int64]) -> TokenBatch:
        """These rows, padded to the longest of them."""
        ...


@dataclass(frozen=True, slots=True)
class Rows:
    """`Inputs` of several tokenised lists, one after the other."""

    parts: tuple[tuple[Tokenizer, Tokenized], ...]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """int64 (rows,): tokens of each."""
        return np.concatenate([tokenized.lengths for _, tokenized in self.parts])

    def batch(self, rows: NDArray[np.int64]) -> TokenBatch:
        """These rows, padded to the longest of them."""
        found: list[tuple[NDArray[np.int64], TokenBatch]] = []
        start = 0
        for tokenizer, tokenized in self.parts:
            places = np.flatnonzero((rows >= start) & (rows < start + len(tokenized)))
            if len(places):
                found.append((places, tokenizer.pad(rows[places] - start, tokenized)))
            start += len(tokenized)
        if len(found) == 1:
            return found[0][1]
        return _joined(found, len(rows), self.parts[0][0].pad_id)


def _joined(
    found: Sequence[tuple[NDArray[np.int64], TokenBatch]], rows: int, pad_id: int
) -> TokenBatch:
    width = max(batch.input_ids.shape[1] for _, batch in found)
    ids = np.full((rows, width), pad_id, dtype=np.int64)
    mask = np.zeros((rows, width), dtype=np.int64)
    types = None if found[0][1].token_type_ids is None else np.zeros_like(mask)
    for places, batch in found:
        length = batch.input_ids.shape[1]
        ids[places, :length] = batch.input_ids
        mask[places, :length] = batch.attention_mask
        if types is not None and batch.token_type_ids is not None:
            types[places, :length] = batch.token_type_ids
    return TokenBatch(ids, mask, types)


@dataclass(frozen=True, slots=True)
class GroupBatch:
    """B queries with G passages each; where a group is smaller, `valid` is False.

    Attributes:
        inputs: what the model computes: every distinct text, or every pair, once.
        queries: int64 (B,), each query's row of the inputs; of pairs, None.
        passages: int64 (B, G), each passage's or pair's row.
        valid: bool (B, G).
        keys: int64 (B, G), the passages' numbers in the training set, -1 where there is none.
        answers: of each query, the numbers of all passages that answer it.
        teacher: float32 (B, G), a teacher's scores, where every example has them.
        guide: float32 (B, d) and (B, G, d), a guide's vectors, where there is one.
    """

    inputs: Inputs
    queries: NDArray[np.int64] | None
    passages: NDArray[np.int64]
    valid: NDArray[np.bool_]
    keys: NDArray[np.int64]
    answers: tuple[NDArray[np.int64], ...]
    teacher: FloatArray | None = None
    guide: tuple[FloatArray, FloatArray] | None = None


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


def groups_of(
    texts: Texts, rows: Sequence[dict[str, int]], group_size: int, seed: int
) -> list[Group]:
    """The groups of some rows of the order, as `draws` made it."""
    return [
        texts.group(row["example"], group_size, f"{seed}/{row['epoch']}/{row['example']}")
        for row in rows
    ]


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
