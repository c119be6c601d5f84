"""What both stages are trained on, whatever file it was read from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TrainingExample:
    """A query, passages that answer it, and passages that do not.

    Attributes:
        query: the question, without an instruction.
        positives: at least one passage that answers it, as the models read it (title and text).
        negatives: passages that do not answer it; may be empty.
        positive_scores: a teacher's score of each positive; None where there is no teacher.
        negative_scores: likewise, of each negative.
        prompt: the instruction of this query, instead of the run's; None for the run's.
        query_id: of the query; "" where the file has none.
        positive_ids: of each positive; empty where the file has none.
        negative_ids: likewise, of each negative.
        where: the file and line it was read from, for messages.

    Example:
        >>> from retrieval.training.examples import TrainingExample
        >>> example = TrainingExample("when does it close?", ("The gate closes at ten.",))
        >>> example.negatives
        ()
    """

    query: str
    positives: tuple[str, ...]
    negatives: tuple[str, ...] = ()
    positive_scores: tuple[float, ...] | None = None
    negative_scores: tuple[float, ...] | None = None
    prompt: str | None = None
    query_id: str = ""
    positive_ids: tuple[str, ...] = ()
    negative_ids: tuple[str, ...] = ()
    where: str = ""
