"""Training queries that are evaluation queries, or nearly: a figure on those would be too good."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from retrieval.errors import InvalidInput
from retrieval.evaluation.judged import JudgedQueries
from retrieval.training.data.judged import content
from retrieval.training.examples import TrainingExample
from retrieval.training.near_duplicates import QUERY_WORDS, NearDuplicates, normalised

THRESHOLD = 0.8
"""Of the words that either query has, the share that both have, from which they are one. SciFact's
own training split has 72 pairs with its test split: most are a claim and its opposite, answered by
the same abstract."""
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Leak:
    """A training query that is an evaluation query, or nearly.

    Attributes:
        query: of the training example.
        where: the example was read from.
        other: the evaluation's query.
        other_where: the set and the query's id there.
        exact: they are the same after normalisation.
    """

    query: str
    where: str
    other: str
    other_where: str
    exact: bool

    def __str__(self) -> str:
        how = "is" if self.exact else "is nearly"
        query, other = self.query[:80], self.other[:80]
        return f"{self.where or 'an example'}: {query!r} {how} {other!r} ({self.other_where})"


@dataclass(frozen=True, slots=True)
class Leaks:
    """What training and evaluation have in common.

    Attributes:
        queries: pairs of them, in the order of the examples.
        examples: how many examples have such a query.
        passages: how many training positives are positives of the evaluation, too. That is normal
            where both are asked of one corpus, and no leak.
    """

    queries: tuple[Leak, ...]
    examples: int
    passages: int


def find_leaks(
    examples: Sequence[TrainingExample],
    evaluation: Sequence[JudgedQueries],
    *,
    threshold: float = THRESHOLD,
) -> Leaks:
    """Compare the queries of examples with those of judged sets.

    Two queries are one where they are the same after normalisation (NFKC, letter case,
    punctuation), or share words enough (Chinese and others: pairs of characters).

    Args:
        examples: to train on.
        evaluation: that will be measured on; its documents are read where it has any.
        threshold: the least Jaccard index, above 0 up to 1.

    Raises:
        InvalidInput: a threshold out of bounds.
        CorpusError: a line of an evaluation's documents is bad.

    Example:
        >>> from retrieval.evaluation.judged import JudgedQueries
        >>> from retrieval.training.data.leaks import find_leaks
        >>> from retrieval.training.examples import TrainingExample
        >>> test = JudgedQueries("faq", "test", {"q1": "When does it close?"}, {"q1": {"d": 1}})
        >>> example = TrainingExample("when does it close", ("At ten.",), where="own.jsonl:1")
        >>> print(*find_leaks([example], [test]).queries)
        own.jsonl:1: 'when does it close' is 'When does it close?' (faq test, query q1)
    """
    places = [(judged, id_) for judged in evaluation for id_ in judged.queries]
    texts = [judged.queries[id_] for judged, id_ in places]
    known = NearDuplicates(texts, threshold, words=QUERY_WORDS)
    exactly = [normalised(text) for text in texts]
    leaks: list[Leak] = []
    touched = 0
    for one in examples:
        own, found = normalised(one.query), known.of(one.query)
        touched += bool(found)
        for at, _ in found:
            judged, id_ = places[at]
            where = f"{judged.name} {judged.split}, query {id_}"
            leaks.append(Leak(one.query, one.where, texts[at], where, own == exactly[at]))
    passages = _shared_passages(examples, evaluation)
    return Leaks(tuple(leaks), touched, passages)


def check_leaks(
    examples: Sequence[TrainingExample],
    evaluation: Sequence[JudgedQueries],
    *,
    allow: bool = False,
    threshold: float = THRESHOLD,
) -> Leaks:
    """`find_leaks`, and refuse what it finds.

    Args:
        examples, evaluation, threshold: see `find_leaks`.
        allow: True only says what is there.

    Raises:
        InvalidInput: there are leaks; the first are named.
        CorpusError: as `find_leaks`.
    """
    leaks = find_leaks(examples, evaluation, threshold=threshold)
    if leaks.queries and not allow:
        first = "\n".join(f"  {leak}" for leak in leaks.queries[:_SHOWN])
        more = len(leaks.queries) - _SHOWN
        exact = sum(leak.exact for leak in leaks.queries)
        raise InvalidInput(
            f"{leaks.examples:,} of {len(examples):,} training queries are queries of the "
            f"evaluation, or nearly ({exact:,} pairs are the same):\n{first}"
            + (f"\n  and {more:,} more pairs" if more > 0 else "")
            + "\nFigures measured there would be too good",
            fix="Leave those examples out (--drop-leaks), measure on other queries, or allow it "
            "(--allow-leaks).",
        )
    return leaks


def without_leaks(examples: Iterable[TrainingExample], leaks: Leaks) -> list[TrainingExample]:
    """The examples whose queries are in no pair of `leaks`."""
    leaked = {leak.query for leak in leaks.queries}
    return [one for one in examples if one.query not in leaked]


def _shared_passages(
    examples: Sequence[TrainingExample], evaluation: Sequence[JudgedQueries]
) -> int:
    own = {normalised(text) for one in examples for text in one.positives}
    shared: set[str] = set()
    for judged in evaluation:
        wanted = {
            key for grades in judged.qrels.values() for key, grade in grades.items() if grade > 0
        }
        for document in judged.documents() or ():
            if document.id in wanted:
                shared |= {normalised(content(document)), normalised(document.text)} & own
    return len(shared)
