"""Examples of the same query become one, without passages that contradict each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from retrieval.training.examples import TrainingExample

REPEATED = "passages that the same query has already"
CONTRADICTED = "negatives that are positives of the same query"
UNANSWERED = "queries without a positive"


@dataclass(slots=True)
class _Side:
    """Positives or negatives of one query, each text once."""

    texts: dict[str, tuple[str, float | None]] = field(default_factory=dict)

    def add(
        self, texts: tuple[str, ...], ids: tuple[str, ...], scores: tuple[float, ...] | None
    ) -> int:
        """Take up what is new; how many were there already."""
        before = len(self.texts)
        for at, text in enumerate(texts):
            known = (ids[at] if ids else "", None if scores is None else scores[at])
            self.texts.setdefault(text, known)
        return len(texts) - (len(self.texts) - before)

    def ids(self) -> tuple[str, ...]:
        ids = tuple(id_ for id_, _ in self.texts.values())
        return ids if all(ids) else ()

    def scores(self) -> tuple[float, ...] | None:
        scores = tuple(score for _, score in self.texts.values() if score is not None)
        return scores if len(scores) == len(self.texts) and scores else None


def merge_queries(
    examples: Iterable[TrainingExample],
) -> tuple[list[TrainingExample], Counter[str]]:
    """One example for each query: with all of its positives and negatives, each once.

    In a batch, another example's positives count as negatives: a query that is there twice would
    be taught that its own answer is none. Examples with other prompts, and those that a teacher
    has scored beside those that none has, stay apart.

    Args:
        examples: may have no positives, where another example of the same query has some.

    Returns:
        The examples in the order in which their queries came first, and what was dropped: reason →
        how many.

    Example:
        >>> from retrieval.training.data.merging import merge_queries
        >>> from retrieval.training.examples import TrainingExample
        >>> one = TrainingExample("when?", ("At ten.",), ("At noon.", "Never."))
        >>> other = TrainingExample("when?", ("At noon.",))
        >>> merged, dropped = merge_queries([one, other])
        >>> merged[0].positives, merged[0].negatives
        (('At ten.', 'At noon.'), ('Never.',))
        >>> dict(dropped)
        {'negatives that are positives of the same query': 1}
    """
    firsts: dict[tuple[str, str | None, bool], TrainingExample] = {}
    sides: dict[tuple[str, str | None, bool], tuple[_Side, _Side]] = {}
    dropped: Counter[str] = Counter()
    for one in examples:
        scored = one.positive_scores is not None or one.negative_scores is not None
        key = (" ".join(one.query.split()), one.prompt, scored)
        firsts.setdefault(key, one)
        positives, negatives = sides.setdefault(key, (_Side(), _Side()))
        dropped[REPEATED] += positives.add(one.positives, one.positive_ids, one.positive_scores)
        dropped[REPEATED] += negatives.add(one.negatives, one.negative_ids, one.negative_scores)
    merged: list[TrainingExample] = []
    for key, first in firsts.items():
        positives, negatives = sides[key]
        for text in positives.texts.keys() & negatives.texts.keys():
            del negatives.texts[text]
            dropped[CONTRADICTED] += 1
        if not positives.texts:
            dropped[UNANSWERED] += 1
            continue
        merged.append(
            replace(
                first,
                positives=tuple(positives.texts),
                negatives=tuple(negatives.texts),
                positive_scores=positives.scores(),
                negative_scores=negatives.scores(),
                positive_ids=positives.ids(),
                negative_ids=negatives.ids(),
            )
        )
    return merged, +dropped
