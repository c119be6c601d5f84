"""How should the second stage's scores be joined with the first's: not at all, by ranks, by scores?

For each judged set, encoder and first stage, the retriever finds 50 candidates, each reranker reads
them once, and every way of joining orders the same two lists of scores. Ways are compared by how
much nDCG@10 they gain over the first stage's own order, with 95% intervals (queries drawn again
within each set); what counts is the set where a way gains least, for a second stage should never
make a search worse. The choice is made on training splits; --splits test looks at the choice alone,
once. Rerankers: a cross-encoder, and late interaction (MaxSim) over the encoder's token vectors.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from _judged import Run, add_data_option
from _report import Row, machine, parser, report
from _sets import TEST, TRAIN, Case, collection, documents_of, missing_sets, queries_of
from fusion import mean_differences
from numpy.typing import NDArray

from retrieval import LateInteractionReranker
from retrieval.evaluation.judged import JudgedQueries
from retrieval.evaluation.metrics import measure_per_query
from retrieval.fusion import dbsf, rrf
from retrieval.models.load import load_encoder, load_reranker
from retrieval.types import Encoder, Mode, ProgressCallback, Reranker, Scores, SearchResult

STARTER = "starter"
LATE = "late-interaction"
OLD_STARTER = "sentence-transformers/all-MiniLM-L6-v2"
MEASURE = "nDCG@10"
CANDIDATES = 50
MODES: tuple[Mode, ...] = ("hybrid", "dense", "sparse")
TOKEN_VECTORS = 2 * 2**30
"""Bytes: all modes meet the same passages again."""

QUICK = (TRAIN[1], TRAIN[2])
QUICK_DOCUMENTS, QUICK_QUERIES = 300, 20
CHOSEN = ("none", "rrf k=20", "scores 0.4", "scores 0.75", "scores 8")
"""What training splits spoke for: behind vectors, behind hybrid search, behind BM25."""

Floats = NDArray[np.float64]

Join = Callable[[Floats, Floats], Floats]
"""(first stage's scores, best first; reranker's scores) → scores of the final order."""


def one_scale(scores: Floats) -> Floats:
    """Standardised: mean 0, deviation 1; 0 where all are equal."""
    deviation = scores.std(ddof=1) if len(scores) > 1 else 0.0
    return (scores - scores.mean()) / deviation if deviation else np.zeros_like(scores)


def unit(scores: Floats) -> Floats:
    """The smallest 0, the largest 1."""
    width = np.ptp(scores)
    return (scores - scores.min()) / width if width else np.zeros_like(scores)


def ways() -> dict[str, Join]:
    """Every way of joining that was tried, by name; weights are the reranker's."""
    found: dict[str, Join] = {"none": lambda first, second: second}
    for k in (2, 5, 20, 60):
        found[f"rrf k={k}"] = lambda first, second, k=k: by_rank(first, second, k)
    for weight in (0.25, 0.4, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0, 6.0, 8.0, 12.0):
        found[f"scores {weight:g}"] = lambda first, second, w=weight: by_score(first, second, w)
        found[f"min-max {weight:g}"] = lambda first, second, w=weight: (
            unit(first) + w * unit(second)
        )
    # the reranker's own scale is kept: what it is sure of weighs more in this query
    for weight in (0.1, 0.2, 0.3, 0.5, 1.0):
        found[f"logit {weight:g}"] = lambda first, second, w=weight: one_scale(first) + w * second
    for weight in (2.0, 4.0, 6.0):
        found[f"sigmoid {weight:g}"] = lambda first, second, w=weight: (
            one_scale(first) + w / (1.0 + np.exp(-second))
        )
    for weight in (0.005, 0.01, 0.02, 0.04):
        found[f"raw {weight:g}"] = lambda first, second, w=weight: first + w * second
    return found


def by_score(first: Floats, second: Floats, weight: float) -> Floats:
    """As the retriever's blend "scores" sums them."""
    legs = [
        [(f"{row:09d}", float(score)) for row, score in enumerate(own)] for own in (first, second)
    ]
    summed = dict(dbsf(legs, (1.0, weight)))
    return np.array([summed[f"{row:09d}"] for row in range(len(first))])


def by_rank(first: Floats, second: Floats, k: int) -> Floats:
    """As the retriever's blend "rrf" sums them."""
    names = [f"{row:09d}" for row in range(len(first))]
    order = [names[row] for row in np.lexsort((np.arange(len(second)), -second))]
    summed = dict(rrf([names, order], k))
    return np.array([summed[name] for name in names])


def final_order(result: SearchResult, join: Join | None) -> list[str]:
    """Documents in the order that a way of joining gives; None for the first stage's."""
    hits = sorted(result.hits, key=lambda hit: hit.stage1_rank)
    if join is not None and hits:
        first = np.array([hit.stage1_score for hit in hits])
        second = np.array([hit.stage2_score for hit in hits], dtype=np.float64)
        scores = join(first, second)
        hits = [
            hits[r]
            for r in sorted(range(len(hits)), key=lambda r: (-scores[r], hits[r].passage.id))
        ]
    return list(dict.fromkeys(hit.passage.document_id for hit in hits))


class Remembering:
    """A reranker that reads no pair twice: the modes share most of their candidates."""

    def __init__(self, reranker: Reranker) -> None:
        self._reranker = reranker
        self._known: dict[tuple[str, str], float] = {}
        self.info = reranker.info

    def score(
        self, pairs: Sequence[tuple[str, str]], *, progress: ProgressCallback | None = None
    ) -> Scores:
        new = [pair for pair in dict.fromkeys(pairs) if pair not in self._known]
        if new:
            values = self._reranker.score(new, progress=progress).values.tolist()
            self._known.update(zip(new, values, strict=True))
        found = np.array([self._known[pair] for pair in pairs], dtype=np.float64)
        return Scores(found, np.zeros(len(pairs), dtype=np.bool_))

    def relevance(self, scores: Floats) -> Floats:
        return self._reranker.relevance(scores)


Gains = dict[str, dict[str, Floats]]
"""Setting (encoder, mode, reranker) → way → of each query the measure; "first stage" among them."""


def measured(
    case: Case,
    beir: JudgedQueries,
    encoder: Encoder,
    rerankers: Mapping[str, Reranker],
    tried: Mapping[str, Join],
    arguments: argparse.Namespace,
) -> Gains:
    """What every way makes of the same candidates and the same scores."""
    most = QUICK_DOCUMENTS if arguments.quick else None
    found: Gains = {}
    texts = list(beir.queries.values())
    with (
        tempfile.TemporaryDirectory(prefix="second-stage-") as store,
        collection(documents_of(arguments.data, case, most, beir), store, encoder, None) as opened,
    ):
        for name, reranker in rerankers.items():
            opened.reranker = Remembering(reranker)
            for mode in arguments.modes:
                results = opened.search_batch(
                    texts,
                    mode=mode,
                    candidates=CANDIDATES,
                    top_k=CANDIDATES,
                    blend="none",
                    read="full" if name == LATE else arguments.read,
                )
                own: dict[str, Floats] = {}
                for way, join in {"first stage": None, **tried}.items():
                    run: Run = {
                        query: {document: 1 / rank for rank, document in enumerate(order, start=1)}
                        for query, order in zip(
                            beir.queries, (final_order(one, join) for one in results), strict=True
                        )
                    }
                    values = measure_per_query(beir.qrels, run, [MEASURE])[MEASURE]
                    own[way] = np.array(list(values.values()))
                found[f"{encoder.info.model}, {mode}, {name}"] = own
    return found


def rows_of(case: str, found: Gains) -> list[Row]:
    """The first stage's mean, each way's, and what it gains with its interval."""
    rows = []
    for setting, own in found.items():
        first = own["first stage"]
        names = [name for name in own if name != "first stage"]
        gains = np.stack([own[name] - first for name in names], axis=1)
        mean, low, high = mean_differences([gains])
        at = f"{case}, {len(first)} queries, {setting}"
        rows.append(Row(at, "first stage", MEASURE, round(float(first.mean()), 4), ""))
        for row, name in enumerate(names):
            rows.append(Row(at, name, MEASURE, round(float(own[name].mean()), 4), ""))
            for what, value in (("gain", mean), ("95% from", low), ("95% to", high)):
                rows.append(Row(at, name, what, round(float(value[row]), 4), ""))
    return rows


def summary(found: Mapping[str, Gains]) -> list[Row]:
    """Over the sets: what each way gains where it gains least, and in the mean; best first."""
    rows = []
    for setting in next(iter(found.values())):
        sets = [own[setting] for own in found.values()]
        names = [name for name in sets[0] if name != "first stage"]
        gains = [
            np.stack([own[name] - own["first stage"] for name in names], axis=1) for own in sets
        ]
        least = np.min([own.mean(axis=0) for own in gains], axis=0)
        mean, low, high = mean_differences(gains)
        at = f"{setting}: gain over the first stage, {len(sets)} sets"
        for row in np.argsort(-least, kind="stable"):
            for what, values in (
                ("least", least), ("mean", mean), ("95% from", low), ("95% to", high),
            ):  # fmt: skip
                rows.append(Row(at, names[row], what, round(float(values[row]), 4), ""))
    return rows


def options() -> argparse.ArgumentParser:
    result = parser(__doc__.splitlines()[0])
    add_data_option(result)
    result.add_argument("--splits", choices=("train", "test"), default="train")
    result.add_argument("--queries", type=int, default=100, help="at most N of a set, 100")
    result.add_argument("--sets", nargs="+", metavar="NAME", help="only these folders")
    result.add_argument("--encoders", nargs="+", default=[STARTER, OLD_STARTER], metavar="MODEL")
    result.add_argument(
        "--rerankers", nargs="+", default=[STARTER, LATE], metavar="MODEL",
        help=f"{LATE}: over the encoder's own token vectors",
    )  # fmt: skip
    result.add_argument("--modes", nargs="+", default=list(MODES), choices=MODES)
    result.add_argument(
        "--read", choices=("excerpts", "full"), default="excerpts",
        help="by cross-encoders; excerpts, as on a CPU",
    )  # fmt: skip
    return result


def main() -> int:
    arguments = options().parse_args()
    before = machine()
    known = QUICK if arguments.quick else TRAIN if arguments.splits == "train" else TEST
    cases = [case for case in known if arguments.sets is None or case.folder in arguments.sets]
    lacking = missing_sets(arguments.data, cases)
    if lacking or not cases:
        print(f"{arguments.data} lacks {', '.join(lacking) or arguments.sets}; see --data, --sets")
        return 2
    tried = ways()
    if arguments.splits == "test":
        tried = {name: tried[name] for name in CHOSEN}
    rows: list[Row] = []
    every: dict[str, Gains] = {}
    for case in cases:
        few = QUICK_QUERIES if arguments.quick else arguments.queries
        beir = queries_of(arguments.data, case, few)
        found: Gains = {}
        for name in arguments.encoders[:1] if arguments.quick else arguments.encoders:
            print(f"{case.name}, {name}", file=sys.stderr, flush=True)
            encoder = load_encoder(name)
            rerankers = {
                one: LateInteractionReranker(encoder, max_cache_bytes=TOKEN_VECTORS)
                if one == LATE
                else load_reranker(one)
                for one in arguments.rerankers
            }
            found |= measured(case, beir, encoder, rerankers, tried, arguments)
        rows += rows_of(case.name, found)
        every[case.name] = found
    report(
        rows + summary(every),
        file=arguments.json,
        packages=("qdrant-edge-py", "ir-measures"),
        at_start=before,
        notes={
            "candidates": CANDIDATES,
            "queries": arguments.queries,
            "read": arguments.read,
        },
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
