"""Which passages a query meets in a batch, drawn from examples.

What is drawn for a query in an epoch follows from the seed, the epoch and the query alone. So a run
that was cut off goes on with the batches that it would have had.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retrieval.training.examples import TrainingExample


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


def groups_of(
    texts: Texts, rows: Sequence[dict[str, int]], group_size: int, seed: int
) -> list[Group]:
    """The groups of some rows of the order, as `draws` made it."""
    return [
        texts.group(row["example"], group_size, f"{seed}/{row['epoch']}/{row['example']}")
        for row in rows
    ]
