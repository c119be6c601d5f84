"""nDCG@10 during training, on examples that are not trained on: which checkpoint is the best."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from retrieval.evaluation.metrics import measure
from retrieval.training.examples import TrainingExample
from retrieval.types import FloatArray

MEASURE = "nDCG@10"
MOST_PASSAGES = 1000
"""Passages that an encoder's dev queries are searched in: measured often, and on small machines."""


class DevSet:
    """Queries with their answers, and the passages among which these are to be found.

    An encoder searches all passages of the dev examples, and of the training examples until there
    are `MOST_PASSAGES`; a reranker orders each query's own passages.

    Args:
        examples: the dev examples.
        others: the training examples.
    """

    def __init__(
        self, examples: Sequence[TrainingExample], others: Sequence[TrainingExample] = ()
    ) -> None:
        self.examples = list(examples)
        passages = dict.fromkeys(
            text for one in examples for text in (*one.positives, *one.negatives)
        )
        for one in others:
            if len(passages) >= MOST_PASSAGES:
                break
            passages |= dict.fromkeys((*one.positives, *one.negatives))
        self.passages = list(passages)
        self._place = {text: place for place, text in enumerate(self.passages)}
        self._qrels = {
            str(number): {str(self._place[text]): 1 for text in one.positives}
            for number, one in enumerate(self.examples)
        }

    def pairs(self) -> list[tuple[str, str]]:
        """Each query with each of its own passages, in the order of the examples."""
        return [
            (f"{one.prompt or ''}{one.query}", text)
            for one in self.examples
            for text in (*one.positives, *one.negatives)
        ]

    def of_vectors(self, queries: FloatArray, passages: FloatArray) -> float:
        """nDCG@10 of vectors (queries, d) and (passages, d) by their dot product."""
        run: dict[str, Mapping[str, float]] = {}
        for number, scores in enumerate(queries @ passages.T):
            best = np.argsort(-scores, kind="stable")[:10]
            run[str(number)] = {str(place): float(scores[place]) for place in best}
        return self._value(run)

    def of_scores(self, scores: NDArray[np.float64]) -> float:
        """nDCG@10 of the scores of `pairs`, (pairs,)."""
        run: dict[str, Mapping[str, float]] = {}
        start = 0
        for number, one in enumerate(self.examples):
            own = dict.fromkeys((*one.positives, *one.negatives))
            size = len(one.positives) + len(one.negatives)
            values = scores[start : start + size]
            start += size
            texts = (*one.positives, *one.negatives)
            run[str(number)] = {
                str(self._place[text]): float(value)
                for text, value in zip(texts, values, strict=True)
                if text in own
            }
        return self._value(run)

    def _value(self, run: Mapping[str, Mapping[str, float]]) -> float:
        return measure(self._qrels, run, (MEASURE,))[MEASURE]


Evaluate = Callable[[], float]
"""Measures the model as it is, in evaluation mode."""
