"""Teachers: what scores positives and candidates, so that false negatives show."""

from __future__ import annotations

import hashlib
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from retrieval.index.bm25 import Bm25Terms, bm25_info
from retrieval.types import Bm25Info, Encoder, FloatArray, Reranker

Floats = NDArray[np.float64]
Group = tuple[str, Sequence[str]]
"""A query and passages."""

StoredVectors = Callable[[Sequence[str]], Mapping[str, FloatArray]]

_VECTORS = 20_000
"""Vectors that the encoder as a teacher has made and keeps: 80 MiB with 1,024 dimensions."""
_DECIMALS = 6
"""Scores are written so: what float32 can tell apart."""


class Teacher(Protocol):
    """Scores passages of queries.

    Attributes:
        name: for reports.
        fingerprint: another where the scores would be others.
        whole: scores are relative to the passages of a query that are scored together, so that
            all of its candidates must be.
    """

    name: str
    fingerprint: str
    whole: bool

    def score(self, groups: Sequence[Group]) -> list[Floats]:
        """Raw scores, float64 (passages,) of each group."""
        ...

    def relevance(self, scores: Floats) -> Floats:
        """Scores mapped monotonically: 1 is surely relevant, 0 surely not."""
        ...


class RerankerTeacher:
    """A cross-encoder, a language model or late interaction."""

    whole = False

    def __init__(self, reranker: Reranker) -> None:
        self.name = reranker.info.model
        self.fingerprint = f"{reranker.info.fingerprint}/{reranker.info.max_length}"
        self._reranker = reranker

    def score(self, groups: Sequence[Group]) -> list[Floats]:
        """See `Teacher`."""
        pairs = [(query, text) for query, texts in groups for text in texts]
        values = self._reranker.score(pairs).values if pairs else np.zeros(0)
        return _split(np.round(values, _DECIMALS), groups)

    def relevance(self, scores: Floats) -> Floats:
        """The reranker's: sigmoid of logits, clipped cosines."""
        return self._reranker.relevance(scores)


class EncoderTeacher:
    """The cosines of a bi-encoder, as NV-Retriever's margins are of (Moreira et al. 2024).

    Args:
        encoder: of queries, and of passages that have no vector yet.
        stored: texts → vectors of those that have one, see `Candidates.vectors`.
    """

    whole = False

    def __init__(self, encoder: Encoder, stored: StoredVectors) -> None:
        self.name = encoder.info.model
        self.fingerprint = hashlib.sha256(repr(encoder.info).encode()).hexdigest()
        self._encoder = encoder
        self._stored = stored
        self._known: OrderedDict[str, FloatArray] = OrderedDict()

    def score(self, groups: Sequence[Group]) -> list[Floats]:
        """See `Teacher`."""
        texts = list(dict.fromkeys(text for _, own in groups for text in own))
        vectors = dict(self._stored(texts))
        missing = [text for text in texts if text not in vectors and text not in self._known]
        if missing:
            encoded = self._encoder.encode_passages(missing).vectors
            self._known.update(zip(missing, encoded, strict=True))
        vectors = {text: self._known[text] for text in texts if text not in vectors} | vectors
        queries = list(dict.fromkeys(query for query, _ in groups))
        asked = dict(zip(queries, self._encoder.encode_queries(queries), strict=True))
        scores = [
            np.array([_cosine(asked[query], vectors[text]) for text in own], dtype=np.float64)
            for query, own in groups
        ]
        while len(self._known) > _VECTORS:
            self._known.popitem(last=False)
        return scores

    def relevance(self, scores: Floats) -> Floats:
        """The cosines themselves."""
        return scores


class Bm25Teacher:
    """BM25 with the frequencies of words in a sample of the corpus.

    Args:
        sample: texts of it.
        info: how terms are made; None finds the language in the sample.
    """

    whole = True
    name = "BM25"

    def __init__(self, sample: Iterable[str], info: Bm25Info | None = None) -> None:
        texts = list(sample)
        found = info or bm25_info("auto", texts)
        self._terms = Bm25Terms(found)
        self._documents: Counter[int] = Counter()
        for text in texts:
            self._documents.update(self._terms.passage(text).indices)
        self._total = len(texts)
        counts = sorted(self._documents.items())
        self.fingerprint = hashlib.sha256(repr((found, counts)).encode()).hexdigest()

    def score(self, groups: Sequence[Group]) -> list[Floats]:
        """See `Teacher`."""
        return [self._of_query(query, texts) for query, texts in groups]

    def relevance(self, scores: Floats) -> Floats:
        """s / (1 + s): BM25 has no scale of its own."""
        return scores / (1.0 + scores)

    def _of_query(self, query: str, texts: Sequence[str]) -> Floats:
        terms = self._terms.query(query)
        weights = {
            term: weight * self._idf(term)
            for term, weight in zip(terms.indices, terms.values, strict=True)
        }
        scores = []
        for text in texts:
            own = self._terms.passage(text)
            parts = zip(own.indices, own.values, strict=True)
            scores.append(sum(value * weights.get(term, 0.0) for term, value in parts))
        found: Floats = np.array(scores, dtype=np.float64)
        return np.round(found, _DECIMALS)

    def _idf(self, term: int) -> float:
        have = self._documents.get(term, 0)
        return float(np.log1p((self._total - have + 0.5) / (have + 0.5)))


class EnsembleTeacher:
    """The mean of several teachers' scores, each z-normalised over a query's passages.

    Its scores tell the passages of one query apart; they do not compare between queries.
    """

    whole = True

    def __init__(self, members: Sequence[Teacher]) -> None:
        self.name = " + ".join(one.name for one in members)
        self.fingerprint = "+".join(one.fingerprint for one in members)
        self._members = list(members)

    def score(self, groups: Sequence[Group]) -> list[Floats]:
        """See `Teacher`."""
        each = [[_normalised(own) for own in one.score(groups)] for one in self._members]
        means: list[Floats] = [np.stack(own).mean(axis=0) for own in zip(*each, strict=True)]
        return [np.round(own, _DECIMALS) for own in means]

    def relevance(self, scores: Floats) -> Floats:
        """The sigmoid: 0.5 is the mean of the query's passages."""
        return 1.0 / (1.0 + np.exp(-scores))


def _normalised(scores: Floats) -> Floats:
    deviation = scores.std() if len(scores) else 0.0
    return np.zeros_like(scores) if deviation < 1e-12 else (scores - scores.mean()) / deviation


def _cosine(one: FloatArray, other: FloatArray) -> float:
    a, b = one.astype(np.float64), other.astype(np.float64)
    length = float(np.linalg.norm(a) * np.linalg.norm(b))
    return round(float(a @ b) / length, _DECIMALS) if length else 0.0


def _split(values: Floats, groups: Sequence[Group]) -> list[Floats]:
    ends = np.cumsum([len(texts) for _, texts in groups])
    return np.split(values, ends[:-1]) if len(groups) else []
