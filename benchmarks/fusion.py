"""How should vectors and BM25 be fused: by ranks or by scores, with which k, with which weights?

Each leg gives its best 100 passages, found in an embedded index with the starter's vectors; each
setting of `retrieval.fusion` joins the same two lists. The choice is made on training splits in
English, the encoder's language: the mean over the sets of nDCG@10, and its difference from the
library's default with a 95% interval (queries drawn again within each set, 10,000 times). The best
of many settings looks better than it is. Chinese is there to see what happens with a leg that
knows nothing. What was chosen is then measured on test splits, once, with --splits test.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from _judged import Judged, Run, add_data_option, fill, load, manifest, missing
from _report import Row, machine, parser, report
from _vectors import Vectors, add_vectors_option, starter
from numpy.typing import NDArray

from retrieval.evaluation.metrics import measure_per_query
from retrieval.fusion import RRF_K, dbsf, rrf
from retrieval.index.embedded.index import EmbeddedIndex
from retrieval.types import Fusion

MEASURES = ("nDCG@10", "recall@100")
LIMIT = 100
KS = (1, 2, 5, 10, 20, 40, 60, 100)
WEIGHTS = ((3, 1), (2, 1), (3, 2), (1, 1), (2, 3), (1, 2), (1, 3))
"""Of vectors and of BM25."""

SAMPLES = 10_000

Leg = list[tuple[str, float]]
"""(document id, score), best first."""

PerSetting = dict[str, dict[str, NDArray[np.float64]]]
"""Setting → measure → values of all queries, in the same order."""


@dataclass(frozen=True, slots=True)
class Case:
    folder: str
    split: str
    language: str = "en"


TRAIN = (
    Case("scifact", "train"),
    Case("pubmedqa", "train"),
    Case("musique-train100", "test"),  # drawn from MuSiQue's training split
    Case("cmrc2018", "train", "zh"),
)
TEST = tuple(Case(name, "test") for name in ("scifact", "cranfield", "cisi", "npl", "cacm", "adi"))
CHOSEN = ("DBSF 1:1", "RRF k=2 1:1")
"""What training splits spoke for; looked at on test splits."""

QUICK = (TRAIN[1], TRAIN[2])
QUICK_DOCUMENTS, QUICK_QUERIES = 300, 60

Join = Callable[[Leg, Leg], list[tuple[str, float]]]


def settings(weights: Sequence[tuple[int, int]], ks: Sequence[int]) -> dict[str, Join]:
    """Every way of joining a dense and a BM25 leg, by name."""

    def by_rank(k: int, own: tuple[int, int]) -> Join:
        return lambda dense, words: rrf([[i for i, _ in dense], [i for i, _ in words]], k, own)

    def by_score(own: tuple[int, int]) -> Join:
        return lambda dense, words: dbsf([dense, words], own)

    found: dict[str, Join] = {"dense": lambda dense, _: dense, "BM25": lambda _, words: words}
    for own in weights:
        for k in ks:
            found[f"RRF k={k} {own[0]}:{own[1]}"] = by_rank(k, own)
    for own in weights:
        found[f"DBSF {own[0]}:{own[1]}"] = by_score(own)
    return found


def default_setting() -> str:
    """The name of what the library does when nothing is said."""
    chosen = Fusion()
    dense, words = (int(weight) for weight in chosen.weights[:2])
    name = f"RRF k={chosen.k}" if chosen.method == "rrf" else "DBSF"
    return f"{name} {dense}:{words}"


def legs(judged: Judged, vectors: Vectors, limit: int = LIMIT) -> dict[str, tuple[Leg, Leg]]:
    """The best `limit` of both legs for each query."""
    passages = vectors.passages([passage.content for passage in judged.passages])
    queries = vectors.queries(list(judged.beir.queries.values()))
    found: dict[str, tuple[Leg, Leg]] = {}
    with tempfile.TemporaryDirectory(prefix="fusion-") as store:
        made = manifest("set", passages.shape[1], judged.passages)
        with EmbeddedIndex.create(store, "set", made) as index:
            fill(index, judged.passages, passages)
            for (query, text), vector in zip(judged.beir.queries.items(), queries, strict=True):
                dense = index.search(mode="dense", limit=limit, vector=vector)
                words = index.search(mode="sparse", limit=limit, text=text)
                found[query] = (
                    [(one.passage.document_id, one.score) for one in dense],
                    [(one.passage.document_id, one.score) for one in words],
                )
    return found


def per_query(
    judged: Judged, vectors: Vectors, tried: Mapping[str, Join], limit: int = LIMIT
) -> PerSetting:
    """What every setting makes of the same two legs."""
    both = legs(judged, vectors, limit)
    result: PerSetting = {}
    for name, join in tried.items():
        run: Run = {
            query: {
                document: 1.0 / rank
                for rank, (document, _) in enumerate(join(*found)[:LIMIT], start=1)
            }
            for query, found in both.items()
        }
        values = measure_per_query(judged.beir.qrels, run, MEASURES)
        result[name] = {m: np.array(list(values[m].values())) for m in values}
    return result


def mean_differences(
    sets: Sequence[NDArray[np.float64]], *, seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Of each setting the mean over sets of its mean difference, and its 95% interval.

    Args:
        sets: of each set the differences (queries, settings).
    """
    random = np.random.default_rng(seed)
    drawn = np.zeros((SAMPLES, sets[0].shape[1]))
    for differences in sets:
        count = len(differences)
        for start in range(0, SAMPLES, 500):
            # how often each query is drawn, the same for all settings
            times = random.multinomial(count, np.full(count, 1.0 / count), size=500)
            drawn[start : start + 500] += times @ differences / (count * len(sets))
    point = np.mean([differences.mean(axis=0) for differences in sets], axis=0)
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    return point, low, high


def rows_of(case: str, found: PerSetting) -> list[Row]:
    return [
        Row(case, name, measure, round(float(values.mean()), 4), "")
        for name, own in found.items()
        for measure, values in own.items()
    ]


def summary(found: Mapping[str, PerSetting], default: str) -> list[Row]:
    """Means over the sets, each setting's difference from the default, best first."""
    case = f"mean of {', '.join(found)}"
    names = list(next(iter(found.values())))
    columns: dict[str, list[Row]] = {name: [] for name in names}
    order: dict[str, float] = {}
    for measure in MEASURES:
        sets = [np.stack([own[name][measure] for name in names], axis=1) for own in found.values()]
        means = np.mean([values.mean(axis=0) for values in sets], axis=0)
        at = names.index(default)
        point, low, high = mean_differences([values - values[:, [at]] for values in sets])
        order = order or dict(zip(names, -means, strict=True))
        for number, name in enumerate(names):
            for what, value in (
                (measure, means[number]),
                (f"{measure}, less {default}", point[number]),
                (f"{measure}, 95% from", low[number]),
                (f"{measure}, 95% to", high[number]),
            ):
                columns[name].append(Row(case, name, what, round(float(value), 4), ""))
    return [row for name in sorted(names, key=order.__getitem__) for row in columns[name]]


def options() -> argparse.ArgumentParser:
    result = parser(__doc__.splitlines()[0])
    add_data_option(result)
    add_vectors_option(result)
    result.add_argument("--splits", choices=("train", "test"), default="train")
    result.add_argument("--sets", nargs="+", metavar="NAME", help="only these folders")
    result.add_argument("--limit", type=int, default=LIMIT, help="passages of each leg, 100")
    result.add_argument(
        "--settings", nargs="+", metavar="NAME", help='only these, such as "RRF k=20 1:1"'
    )
    return result


def chosen_settings(arguments: argparse.Namespace) -> dict[str, Join]:
    """The settings asked for; on test splits the default, its legs and DBSF if none are."""
    default = default_setting()
    tried = settings(WEIGHTS, sorted({*KS, RRF_K}))
    wanted = arguments.settings
    if wanted is None and arguments.splits == "test":
        wanted = ["dense", "BM25", default, *CHOSEN]
    if wanted is None:
        return tried
    unknown = [name for name in wanted if name not in tried]
    if unknown:
        raise SystemExit(f"--settings {unknown[0]!r} is not known; there are: {', '.join(tried)}")
    return {name: tried[name] for name in dict.fromkeys([default, *wanted])}


def main() -> int:
    arguments = options().parse_args()
    before = machine()
    known = TEST if arguments.splits == "test" else QUICK if arguments.quick else TRAIN
    cases = [case for case in known if arguments.sets is None or case.folder in arguments.sets]
    lacking = missing(arguments.data, [case.folder for case in cases])
    if lacking or not cases:
        print(f"{arguments.data} lacks {', '.join(lacking) or arguments.sets}; see --data, --sets")
        return 2
    tried = chosen_settings(arguments)
    vectors = starter(arguments.vectors_dir)
    rows: list[Row] = []
    english: dict[str, PerSetting] = {}
    for case in cases:
        few = (QUICK_DOCUMENTS, QUICK_QUERIES) if arguments.quick else (None, None)
        judged = load(arguments.data, case.folder, case.split, *few)
        print(judged.name, file=sys.stderr, flush=True)
        found = per_query(judged, vectors, tried, arguments.limit)
        sizes = f"{len(judged.passages):,} documents, {len(judged.beir.queries):,} queries"
        rows += rows_of(f"{judged.name}, {case.language}, {sizes}", found)
        if case.language == "en":
            english[judged.name] = found
    if english:
        rows += summary(english, default_setting())
    report(
        rows,
        file=arguments.json,
        packages=("qdrant-edge-py", "ir-measures"),
        at_start=before,
        notes={
            "encoder": "starter (all-MiniLM-L6-v2), reads English only",
            "default": default_setting(),
            "limit of each leg": arguments.limit,
            "weights": "vectors:BM25",
        },
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
