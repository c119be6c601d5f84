"""What mining starts from: queries with what answers them, and what a first stage found."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from retrieval.training.examples import TrainingExample
from retrieval.training.mining.exact import VectorFile
from retrieval.types import FloatArray

_POSITION = "#passage="


@dataclass(frozen=True, slots=True)
class Text:
    """A passage as the models read it, and what is known of where it is from.

    Attributes:
        text: title and text.
        id: written as `pos_id` or `neg_id`: `rules.md`, or `rules.md#passage=3` where its document
            has several; "" where nothing is known.
    """

    text: str
    id: str = ""

    @property
    def document(self) -> str:
        """Id of its document; "" where nothing is known."""
        return self.id.rpartition(_POSITION)[0] or self.id

    @property
    def keys(self) -> tuple[str, ...]:
        """What makes two passages one: their text, blanks aside, or their document."""
        own = text_key(self.text)
        return (own, self.document) if self.id else (own,)


def passage_name(document: str, position: int, passages: int) -> str:
    """The id of a passage: its document's where that has no other passage."""
    return document if passages == 1 else f"{document}{_POSITION}{position}"


def text_key(text: str) -> str:
    """A key for a text that no document's id equals; blanks and line ends do not count."""
    words = " ".join(text.split()).encode("utf-8", "surrogatepass")
    return "\0" + hashlib.blake2b(words, digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class Found:
    """A candidate: what a source found at a rank (from 1), with the source's own score."""

    passage: Text
    source: str
    rank: int
    score: float


@dataclass(frozen=True, slots=True)
class MiningQuery:
    """A query, and what is known to answer it or not.

    Attributes:
        text: the question, without an instruction.
        positives: for each judgement the passages among which the one that answers is: one,
            where the passage itself was judged; all of a document, where that was.
        relevant: keys (see `Text.keys`) of all that answers it, of the lowest grades, too.
        negatives: likewise, what was judged not to answer it.
        given: negatives that the input came with.
        id, prompt, where: as of a `TrainingExample`.
    """

    text: str
    positives: tuple[tuple[Text, ...], ...]
    relevant: frozenset[str]
    negatives: tuple[tuple[Text, ...], ...] = ()
    given: tuple[Text, ...] = ()
    id: str = ""
    prompt: str | None = None
    where: str = ""

    @staticmethod
    def of(example: TrainingExample, *, judged: bool = False) -> MiningQuery:
        """A training example as what is to be mined for; whether its negatives were judged."""
        positives = _texts(example.positives, example.positive_ids)
        negatives = _texts(example.negatives, example.negative_ids)
        return MiningQuery(
            text=example.query,
            positives=tuple((one,) for one in positives),
            relevant=keys_of(positives),
            negatives=tuple((one,) for one in negatives) if judged else (),
            given=() if judged else negatives,
            id=example.query_id,
            prompt=example.prompt,
            where=example.where,
        )


def keys_of(passages: Iterable[Text]) -> frozenset[str]:
    """The keys of all of them."""
    return frozenset(key for one in passages for key in one.keys)


def _texts(texts: Sequence[str], ids: Sequence[str]) -> tuple[Text, ...]:
    return tuple(Text(text, id_) for text, id_ in zip(texts, ids or [""] * len(texts), strict=True))


class Candidates(Protocol):
    """Where candidates come from: a collection, or a pool of texts."""

    @property
    def fingerprint(self) -> str:
        """Another where it would find something else."""
        ...

    def prepare(
        self, queries: VectorFile, progress: Callable[[str, int, int], None] | None = None
    ) -> None:
        """The long work before the first batch; vectors of all queries are in their order."""
        ...

    def find(
        self, queries: Sequence[MiningQuery], first: int
    ) -> list[tuple[MiningQuery, list[Found]]]:
        """The queries with their passages filled in, and their candidates: of each source in
        order of rank.

        Args:
            queries: a batch of them.
            first: place of the first of them among all queries.
        """
        ...

    def vectors(self, texts: Sequence[str]) -> Mapping[str, FloatArray]:
        """The passage vectors (dimension,) of those of these texts that `find` has met last."""
        ...


@dataclass(slots=True)
class Mined:
    """What became of one query, as the file of finished queries keeps it.

    Attributes:
        positives, negatives: the passages.
        scores: the teacher's raw scores of positives, then negatives; empty without a teacher.
        relevance: likewise, its relevance.
        ranks: of each negative in its source; 0 for one that no source found.
        sources: of each negative: a first stage's name, "judged" or "given".
        looked_at: how many candidates were looked at.
        dropped: reason → how many of them.
        chosen: positives that are the best of several passages of a judged document.
    """

    positives: list[Text]
    negatives: list[Text] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    relevance: list[float] = field(default_factory=list)
    ranks: list[int] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    looked_at: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    chosen: int = 0
