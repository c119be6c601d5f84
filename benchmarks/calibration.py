"""Do calibrated probabilities and thresholds hold what they promise on queries never seen?

Each set's queries are searched once, as a user's would be (hybrid search with the starter's
reranker, and vectors alone). Then, many times, a random half of the queries is calibrated on and
the other half looked at: the mean miss rate at `recall:LEVEL`, which conformal risk control bounds
by 1 - LEVEL; the precision at `precision:LEVEL`; the Brier score of the probability beside that of
the uncalibrated relevance, and the expected calibration error. Nothing is tuned here.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from _judged import add_data_option
from _report import OURS, Row, machine, parser, report
from _sets import Case, collection, documents_of, missing_sets, queries_of

from retrieval.api.calibrate import searched
from retrieval.evaluation.calibration import (
    Judged,
    brier,
    expected_calibration_error,
    fitted,
    pooled,
    precision_threshold,
    recall_threshold,
    reliability,
)
from retrieval.evaluation.candidate_scores import Seen
from retrieval.models.load import load_encoder, load_reranker
from retrieval.search.options import SearchArguments

CASES = (Case("scifact", "test"), Case("pubmedqa", "test"), Case("xquad-en", "test"))
QUICK_DOCUMENTS, QUICK_QUERIES, QUICK_SPLITS = 200, 60, 20
RECALL, PRECISION = (0.8, 0.9, 0.95), (0.6, 0.8, 0.9)
WAYS: dict[str, tuple[str, SearchArguments]] = {
    "hybrid, reranked": ("stage2", {}),
    "vectors": ("stage1", {"mode": "dense", "rerank": False}),
}


@dataclass(frozen=True, slots=True)
class Looked:
    """One split: miss rates and precisions by level on the half that was not calibrated on."""

    missed: dict[float, float]
    precision: dict[float, float]
    brier: float
    before: float
    ece: float


def look(learned: Sequence[Judged], fresh: Sequence[Judged], before: Sequence[Judged]) -> Looked:
    """Calibrate on one half and look at the other; `before`: its uncalibrated relevance."""
    scores, labels = pooled(fresh)
    probability = fitted(learned, "isotonic")(scores)
    missed, precision = {}, {}
    for level in RECALL:
        at = recall_threshold(learned, level)
        if at is not None:
            rates = [np.mean(~(q.scores[q.relevant] >= at)) for q in fresh if q.relevant.any()]
            missed[level] = float(np.mean(rates))
    for level in PRECISION:
        at = precision_threshold(learned, level)
        if at is not None and (scores >= at).any():
            precision[level] = float(labels[scores >= at].mean())
    raw, raw_labels = pooled(before)
    return Looked(
        missed,
        precision,
        brier(probability, labels),
        brier(raw, raw_labels),
        expected_calibration_error(reliability(probability, labels)),
    )


def rows_of(
    name: str, queries: Sequence[Judged], before: Sequence[Judged], splits: int
) -> Iterator[Row]:
    """What `splits` random halves showed, in the mean."""
    random = np.random.default_rng(0)
    seen = []
    for _ in range(splits):
        order = random.permutation(len(queries))
        half = len(order) // 2
        left, right = ([queries[row] for row in part] for part in (order[:half], order[half:]))
        seen.append(look(left, right, [before[row] for row in order[half:]]))
    for level in RECALL:
        rates = [one.missed[level] for one in seen if level in one.missed]
        if rates:
            mean = round(float(np.mean(rates)), 4)
            yield Row(f"{name}, recall:{level}", OURS, "miss rate", mean, "share")
            error = round(float(np.std(rates) / np.sqrt(len(rates))), 4)
            yield Row(f"{name}, recall:{level}", OURS, "its standard error", error, "share")
    for level in PRECISION:
        shares = [one.precision[level] for one in seen if level in one.precision]
        case = f"{name}, precision:{level}"
        yield Row(case, OURS, "to be had", len(shares) / splits, "share of splits")
        if shares:
            yield Row(case, OURS, "precision", round(float(np.mean(shares)), 4), "share")
    for metric, values in (
        ("Brier score", [one.brier for one in seen]),
        ("Brier score before", [one.before for one in seen]),
        ("ECE", [one.ece for one in seen]),
        ("splits that it is better in", [float(one.brier < one.before) for one in seen]),
    ):
        yield Row(name, OURS, metric, round(float(np.mean(values)), 4), "")


def main() -> int:
    arguments = options().parse_args()
    before = machine()
    if missing := missing_sets(arguments.data, CASES):
        print(f"{arguments.data} lacks {', '.join(missing)}; see --data")
        return 2
    documents = QUICK_DOCUMENTS if arguments.quick else None
    most = QUICK_QUERIES if arguments.quick else arguments.queries
    splits = QUICK_SPLITS if arguments.quick else arguments.splits
    encoder = load_encoder("starter")
    reranker = load_reranker("starter", encoder=encoder)
    rows: list[Row] = []
    for case in CASES[1:2] if arguments.quick else CASES:
        judged = queries_of(arguments.data, case, most)
        print(f"{case.name}: {len(judged.queries)} queries", file=sys.stderr, flush=True)
        source = documents_of(arguments.data, case, documents, judged)
        with (
            tempfile.TemporaryDirectory() as store,
            collection(source, store, encoder, reranker) as retriever,
        ):
            for way, (signal, search) in WAYS.items():
                seen = Seen(judged, 1)
                for id_, text in judged.queries.items():
                    seen.add(id_, searched(retriever, [text], search)[0])
                queries, uncalibrated = seen.of(signal), seen.of("before")
                rows += rows_of(f"{case.name}, {way}", queries, uncalibrated, splits)
    notes = {"queries": most, "splits": splits}
    packages = ("scikit-learn", "scipy", "qdrant-edge-py")
    report(rows, file=arguments.json, packages=packages, at_start=before, notes=notes)
    return 0


def options() -> argparse.ArgumentParser:
    result = parser(__doc__.splitlines()[0])
    add_data_option(result)
    result.add_argument("--queries", type=int, default=400, help="of each set, at most")
    result.add_argument("--splits", type=int, default=200, help="random halves")
    return result


if __name__ == "__main__":
    raise SystemExit(main())
