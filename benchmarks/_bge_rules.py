"""What the authors of BGE ask for, each tried and left out, on judged sets and real weights.

Pooling of the first token, an instruction before short queries and nowhere else, 512 tokens,
thresholds of one's own. Vectors are compared exactly, so that nothing but the rule differs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
from _judged import Judged, Run, difference_rows
from _report import Row
from _vectors import Vectors
from numpy.typing import NDArray

from retrieval.evaluation.metrics import measure
from retrieval.models.encoders.bi_encoder import BiEncoder
from retrieval.models.known_models import BGE_ENGLISH_INSTRUCTION
from retrieval.models.load import load_encoder
from retrieval.types import FloatArray, Reranker

MEASURE = "nDCG@10"
DEPTH = 100
LANGCHAIN_INSTRUCTION = "Represent this question for searching relevant passages: "
"""What LangChain's `HuggingFaceBgeEmbeddings` puts before queries where nobody says otherwise."""

PERCENTILES = (0.1, 1, 5, 25, 50, 75, 95, 99, 99.9)
THRESHOLDS = (0.5, 0.6, 0.7, 0.8)


@dataclass(slots=True)
class Weights:
    """One encoder in any of its settings; its vectors are kept in a folder.

    Args:
        name: of the encoder, or its folder.
        folder: where vectors are kept.
        fingerprint: of its weights.
    """

    name: str
    folder: Path
    fingerprint: str
    _loaded: dict[str, Vectors] = field(default_factory=dict)

    def settings(self, **settings: Any) -> Vectors:
        """What it makes of texts, when it is loaded with these options."""
        key = f"{self.fingerprint} {sorted(settings.items())}"
        if key not in self._loaded:
            print(f"  {settings or 'as its authors ask'}", file=sys.stderr, flush=True)
            load: Callable[[], BiEncoder] = lambda: cast(  # noqa: E731
                BiEncoder, load_encoder(self.name, **settings)
            )
            self._loaded[key] = Vectors(self.folder, load, key)
        return self._loaded[key]


def run_of(judged: Judged, queries: FloatArray, passages: FloatArray) -> Run:
    """Of each query its nearest documents by cosine, best first."""
    names = [passage.document_id for passage in judged.passages]
    cosines = queries @ passages.T
    best = np.argsort(-cosines, axis=1, kind="stable")[:, :DEPTH]
    return {
        query: {names[column]: float(row[column]) for column in columns}
        for query, row, columns in zip(judged.beir.queries, cosines, best, strict=True)
    }


def compared(
    case: str, qrels: dict[str, dict[str, int]], runs: Mapping[str, Run], baseline: str
) -> Iterator[Row]:
    """nDCG@10 of each run, and how much better it is than the one named `baseline`."""
    for name, run in runs.items():
        yield Row(case, name, MEASURE, round(measure(qrels, run, [MEASURE])[MEASURE], 4), "")
        if name == baseline:
            continue
        for row in difference_rows("", "", qrels, runs[baseline], baseline, run, [MEASURE]):
            yield Row(case, name, row.metric.removeprefix(f"{MEASURE}, "), row.value, "")


def pooling(weights: Weights, judged: Judged) -> Iterator[Row]:
    """The state of the first token, as trained, against the mean over all tokens."""
    contents = [passage.content for passage in judged.passages]
    texts = list(judged.beir.queries.values())
    runs = {}
    for name, settings in (("cls", {}), ("mean", {"pooling": "mean"})):
        vectors = weights.settings(**settings)
        runs[name] = run_of(judged, vectors.queries(texts), vectors.passages(contents))
    yield from compared(f"pooling, {judged.name}", judged.beir.qrels, runs, "cls")


def instruction(weights: Weights, judged: Judged, *, passages: bool) -> Iterator[Row]:
    """Before queries alone, as trained; nowhere; in LangChain's words; with `passages` before both.

    `passages` reads the whole collection once more.
    """
    contents = [passage.content for passage in judged.passages]
    texts = list(judged.beir.queries.values())
    trained = weights.settings()
    plain, queries = trained.passages(contents), trained.queries(texts)
    none = weights.settings(query_instruction="").queries(texts)
    langchain = weights.settings(query_instruction=LANGCHAIN_INSTRUCTION).queries(texts)
    runs = {
        "before queries": run_of(judged, queries, plain),
        "nowhere": run_of(judged, none, plain),
        "LangChain's wording": run_of(judged, langchain, plain),
    }
    if passages:
        everywhere = weights.settings(passage_instruction=BGE_ENGLISH_INSTRUCTION)
        before = everywhere.passages(contents)
        runs["before queries and passages"] = run_of(judged, queries, before)
        runs["before passages alone"] = run_of(judged, none, before)
    case = f"instruction, {judged.name}, {len(texts)} queries"
    yield from compared(case, judged.beir.qrels, runs, "before queries")


def symmetric(weights: Weights, judged: Judged) -> Iterator[Row]:
    """Short text against short text: which questions are asked of the same paragraph?"""
    queries = list(judged.beir.queries)
    paragraph = {query: next(iter(grades)) for query, grades in judged.beir.qrels.items()}
    texts = [judged.beir.queries[query] for query in queries]
    plain = weights.settings(query_instruction="").queries(texts)
    before = weights.settings().queries(texts)
    alike = {p: [q for q in queries if paragraph[q] == p] for p in set(paragraph.values())}
    qrels = {q: {other: 1 for other in alike[paragraph[q]] if other != q} for q in queries}
    qrels = {query: grades for query, grades in qrels.items() if grades}

    def run(asked: FloatArray, found: FloatArray) -> Run:
        cosines = asked @ found.T
        np.fill_diagonal(cosines, -1.0)
        best = np.argsort(-cosines, axis=1, kind="stable")[:, :DEPTH]
        return {
            query: {queries[c]: float(row[c]) for c in columns if queries[c] != query}
            for query, row, columns in zip(queries, cosines, best, strict=True)
        }

    runs = {
        "before neither": run(plain, plain),
        "before both": run(before, before),
        "before one": run(before, plain),
    }
    case = f"question against question, {judged.name}, {len(qrels)} questions"
    yield from compared(case, qrels, runs, "before neither")


def lengths(
    weights: Weights, judged: Judged, most: Sequence[int] = (512, 128, 64)
) -> Iterator[Row]:
    """What cutting passages costs: the rest of the text is not searched at all."""
    contents = [passage.content for passage in judged.passages]
    texts = list(judged.beir.queries.values())
    runs = {}
    for length in most:
        vectors = weights.settings() if length == most[0] else weights.settings(max_length=length)
        runs[f"{length} tokens"] = run_of(
            judged, vectors.queries(texts), vectors.passages(contents)
        )
    counts = token_counts(weights, contents)
    cut = {f"{length} tokens": 100 * float((counts > length).mean()) for length in most}
    case = f"length, {judged.name}"
    yield from compared(case, judged.beir.qrels, runs, f"{most[0]} tokens")
    for name, share in cut.items():
        yield Row(case, name, "passages cut", round(share, 1), "%")


def token_counts(weights: Weights, texts: Sequence[str]) -> NDArray[np.int64]:
    """Tokens of each text, special tokens and those beyond the limit included."""
    encoder = weights.settings().encoder
    assert isinstance(encoder, BiEncoder)
    counted = encoder.token_counter.encode(list(texts))
    return np.asarray(counted.full_lengths)


def formats(weights: Weights, judged: Judged) -> Iterator[Row]:
    """Number formats: what a search loses, and how near the vectors stay."""
    contents = [passage.content for passage in judged.passages]
    texts = list(judged.beir.queries.values())
    runs, vectors = {}, {}
    for dtype in ("fp32", "bf16", "int8"):
        loaded = weights.settings(dtype=dtype)
        vectors[dtype] = loaded.passages(contents)
        runs[dtype] = run_of(judged, loaded.queries(texts), vectors[dtype])
    case = f"number format, {judged.name}"
    yield from compared(case, judged.beir.qrels, runs, "fp32")
    for dtype in ("bf16", "int8"):
        near = (vectors["fp32"] * vectors[dtype]).sum(axis=1)
        yield Row(case, dtype, "mean cosine to fp32", round(float(near.mean()), 5), "")
        yield Row(case, dtype, "least cosine to fp32", round(float(near.min()), 5), "")


# --- how large are the numbers? -------------------------------------------------------------


def cosine_rows(weights: Weights, judged: Judged) -> Iterator[Row]:
    """Cosines of related pairs, of pairs drawn at random, and what a threshold would keep."""
    trained = weights.settings()
    passages = trained.passages([passage.content for passage in judged.passages])
    queries = trained.queries(list(judged.beir.queries.values()))
    cosines = queries @ passages.T
    related = related_mask(judged)
    some = passages[:2_000]
    upper = np.triu_indices(len(some), 1)
    groups = {
        "query and its answer": cosines[related],
        "query and any other passage": cosines[~related],
        "two passages": (some @ some.T)[upper],
    }
    yield from spread_rows(f"cosines, {judged.name}", groups, np.arange(0.2, 1.01, 0.1))
    case = f"threshold, {judged.name}"
    for threshold in THRESHOLDS:
        kept = cosines >= threshold
        name = f"cosine of {threshold:g}"
        yield Row(case, name, "answers kept", round(100 * float(kept[related].mean()), 1), "%")
        yield Row(case, name, "others kept", round(100 * float(kept[~related].mean()), 2), "%")
        yield Row(
            case, name, "others a query", round(float((kept & ~related).sum(1).mean()), 1), ""
        )


def score_rows(weights: Weights, reranker: Reranker, judged: Judged, count: int) -> Iterator[Row]:
    """The reranker's logits of answers, of the first stage's best others, and of chance pairs."""
    trained = weights.settings()
    contents = [passage.content for passage in judged.passages]
    texts = list(judged.beir.queries.values())
    cosines = trained.queries(texts) @ trained.passages(contents).T
    related = related_mask(judged)
    chance = np.random.default_rng(0)
    near = np.argsort(-np.where(related, -1.0, cosines), axis=1, kind="stable")[:, :10]
    answers = np.argwhere(related)
    chosen = {
        "query and its answer": answers[chance.permutation(len(answers))[:count]],
        "query and one of its ten nearest others": np.stack(
            [
                rows := chance.integers(0, len(texts), count),
                near[rows, chance.integers(0, 10, count)],
            ],
            axis=1,
        ),
        "query and any other passage": _any_others(chance, related, count),
    }
    groups = {
        name: reranker.score([(texts[row], contents[column]) for row, column in pairs]).values
        for name, pairs in chosen.items()
    }
    yield from spread_rows(f"logits, {judged.name}", groups, np.arange(-12, 12.1, 3))
    for name, values in groups.items():
        relevance = reranker.relevance(values)
        for threshold in (0.1, 0.5, 0.9):
            share = round(100 * float((relevance >= threshold).mean()), 1)
            case = f"relevance, {judged.name}"
            yield Row(case, name, f"{threshold:g} or more", share, "%")


def _any_others(
    chance: np.random.Generator, related: NDArray[np.bool_], count: int
) -> NDArray[np.int64]:
    drawn = np.stack([chance.integers(0, size, 2 * count) for size in related.shape], axis=1)
    return drawn[~related[drawn[:, 0], drawn[:, 1]]][:count]


def related_mask(judged: Judged) -> NDArray[np.bool_]:
    """(queries, passages): whether the passage is judged to be an answer."""
    column = {passage.document_id: i for i, passage in enumerate(judged.passages)}
    mask = np.zeros((len(judged.beir.queries), len(judged.passages)), dtype=np.bool_)
    for row, query in enumerate(judged.beir.queries):
        for document, grade in judged.beir.qrels[query].items():
            if grade > 0 and document in column:
                mask[row, column[document]] = True
    return mask


def spread_rows(
    case: str, groups: Mapping[str, NDArray[Any]], edges: NDArray[np.float64]
) -> Iterator[Row]:
    """Percentiles of each group, and the share of it between neighbouring edges, in percent."""
    for name, values in groups.items():
        for percentile in PERCENTILES:
            value = round(float(np.percentile(values, percentile)), 3)
            yield Row(f"{case}, percentiles", name, f"{percentile:g}%", value, "")
    bounds = [-np.inf, *edges[1:-1], np.inf]
    for name, values in groups.items():
        counts, _ = np.histogram(values, bounds)
        for low, high, count in zip(edges, edges[1:], counts, strict=False):
            share = round(100 * count / len(values), 1)
            yield Row(f"{case}, share", name, f"{low:.2g} to {high:.2g}", share, "%")
