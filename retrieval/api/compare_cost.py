"""How long a comparison will take, from a few texts that its models are tried on."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from retrieval.api.compare_models import ComparedModels, Key
from retrieval.evaluation.settings import PassageLength, Setting
from retrieval.search.excerpts import EXCERPT_TOKENS, LONGER, TITLE_TOKENS, tokens
from retrieval.search.rerank import WHOLE_BEST
from retrieval.types import Document

TIMED = 10
LEAST_TIMED = 5
TIMED_SECONDS = 5.0
"""Searches that give a setting's milliseconds, after one that is not counted: no more than the
least after so many seconds."""

_SAMPLE = 200
_PROBED = 12
_SECONDS_A_PASSAGE = 0.0015
"""Beside its vector: splitting, BM25 terms, writing. With hashed words for vectors, SciFact's
abstracts took 1.3 ms (19,000 passages) to 1.7 ms (5,183) each on a busy machine."""

_SECONDS_A_SEARCH = 0.008
"""Of a first stage; on ADI and SciFact 1 ms by BM25, 5 to 20 ms by vectors and both."""

_NEW_SHARE = 0.4
"""Of a further first stage's candidates, those that none before had found: between hybrid, vectors
and BM25 0.34 to 0.38 on 20 claims of SciFact (50 candidates), 0.23 on ADI (25)."""


@dataclass(frozen=True, slots=True)
class CorpusSample:
    """How many documents there are, and some of them as the models read them."""

    documents: int
    texts: tuple[str, ...]


def sample_corpus(documents: Iterable[Document], seed: int = 0) -> CorpusSample:
    """Read all documents once and keep some, each with the same chance."""
    chance = random.Random(seed)
    kept: list[str] = []
    count = 0
    for count, document in enumerate(documents, start=1):
        text = f"{document.title} {document.text}".strip()
        if len(kept) < _SAMPLE:
            kept.append(text)
        elif (place := chance.randrange(count)) < _SAMPLE:
            kept[place] = text
    return CorpusSample(count, tuple(kept))


def estimated_seconds(
    settings: Sequence[Setting],
    models: ComparedModels,
    corpus: CorpusSample,
    queries: Sequence[str],
    *,
    indexing: bool,
) -> float:
    """About how long it takes to measure these settings; each model is tried on a few texts.

    Args:
        settings: that are still to be measured, by encoder and number format together.
        corpus: what they search.
        queries: all of them.
        indexing: whether the corpus is encoded.
    """
    encoders, rerankers = _rates(settings, models, corpus, queries)
    query = statistics.fmean(map(tokens, queries)) + 8
    total = 0.0
    if indexing:
        for key, seconds in encoders.items():
            lengths = [one.passages for one in settings if (one.encoder, one.dtype) == key]
            longest = models.longest(key[0])
            total += _indexing(corpus, dict.fromkeys(lengths), longest, seconds)
    for key, seconds in rerankers.items():
        own = [one for one in settings if _reranker(one) == key]
        total += len(queries) * seconds * _read_tokens(own, corpus, query)
    for one in settings:
        read = _reading(one, corpus, query, one.candidates)
        seconds = (
            rerankers.get(_reranker(one), 0.0) * read + encoders[one.encoder, one.dtype] * query
        )
        alone = seconds + _SECONDS_A_SEARCH
        timed = min(TIMED, max(LEAST_TIMED, TIMED_SECONDS / alone))
        total += (timed + 1) * alone + len(queries) * _SECONDS_A_SEARCH
    return total


def _rates(
    settings: Sequence[Setting],
    models: ComparedModels,
    corpus: CorpusSample,
    queries: Sequence[str],
) -> tuple[dict[Key, float], dict[Key, float]]:
    """Seconds a token of every encoder and reranker, by the estimate of tokens that all else here
    goes by."""
    parts = [corpus.texts[:_PROBED], corpus.texts[_PROBED : 2 * _PROBED]]
    pairs = [[(queries[at % len(queries)], text) for at, text in enumerate(part)] for part in parts]
    encoders: dict[Key, float] = {}
    rerankers: dict[Key, float] = {}
    for one in settings:
        if (one.encoder, one.dtype) not in encoders:
            most = models.longest(one.encoder)
            encode = models.plain_encoder(one).encode_passages
            encoders[one.encoder, one.dtype] = _rate(encode, parts, most)
        reranker = models.plain_reranker(one)
        if reranker is not None and _reranker(one) not in rerankers:
            most = reranker.info.max_length
            rerankers[_reranker(one)] = _rate(reranker.score, pairs, most)
    return encoders, rerankers


def _rate(
    work: Callable[[Any], object], parts: Sequence[Sequence[str | tuple[str, str]]], most: int
) -> float:
    """Seconds a token of the faster part: the first may compile, another may be disturbed."""
    rates = []
    for part in parts:
        if not part:
            continue
        started = time.perf_counter()
        work(part)
        taken = time.perf_counter() - started
        texts = [one if isinstance(one, str) else " ".join(one) for one in part]
        rates.append(taken / max(1.0, sum(min(tokens(text), most) for text in texts)))
    return min(rates, default=0.0)


def _reranker(setting: Setting) -> Key:
    return (setting.reranker or "", setting.dtype)


def _indexing(
    corpus: CorpusSample, lengths: Iterable[PassageLength], longest: int, seconds: float
) -> float:
    """Of all lengths of passages; a document that fits into one of each is encoded once."""
    total, texts, passages = 0.0, set(), 0.0
    for length in lengths:
        most = min(length.max_tokens or longest, longest) if length.max_tokens != "default" else 256
        for text in corpus.texts:
            size = tokens(text)
            if length.max_tokens is None or size <= most:
                passages += 1
                if text not in texts:
                    total += min(size, longest)
                texts.add(text)
            else:
                step = most - (length.overlap or 0)
                passages += -(-size // step)
                total += size * most / step
    share = corpus.documents / max(len(corpus.texts), 1)
    return share * (total * seconds + passages * _SECONDS_A_PASSAGE)


def _read_tokens(settings: Sequence[Setting], corpus: CorpusSample, query: float) -> float:
    """Tokens of a query's pairs that one reranker reads for these settings, each pair once."""
    deepest: dict[tuple[object, ...], Setting] = {}
    for one in settings:
        first = (
            one.encoder, one.dtype, one.passages, one.instruction, one.mode, one.fusion, one.read
        )  # fmt: skip
        if first not in deepest or deepest[first].candidates < one.candidates:
            deepest[first] = one
    read: Mapping[str | None, list[float]] = {}
    for one in deepest.values():
        read = {
            **read,
            one.read: [*read.get(one.read, []), _reading(one, corpus, query, one.candidates)],
        }
    return sum(max(own) + _NEW_SHARE * (sum(own) - max(own)) for own in read.values())


def _reading(setting: Setting, corpus: CorpusSample, query: float, candidates: int) -> float:
    """Tokens of a query's pairs in one setting."""
    if setting.reranker is None or not corpus.texts:
        return 0.0
    most = setting.passages.max_tokens
    whole = [min(tokens(text), most if isinstance(most, int) else 512.0) for text in corpus.texts]
    mean = statistics.fmean(whole)
    if setting.read != "excerpts":
        return candidates * (mean + query)
    cut = statistics.fmean(
        size if size <= LONGER * EXCERPT_TOKENS else EXCERPT_TOKENS + TITLE_TOKENS for size in whole
    )
    best = min(candidates, WHOLE_BEST)
    return best * (mean + query) + (candidates - best) * (cut + query)
