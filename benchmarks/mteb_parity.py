"""Does mteb say the same of this library as of sentence-transformers, and how long does it take?

The same weights, in fp32, through `retrieval mteb` (`run_tasks`) and through mteb's own wrappers of
sentence-transformers, on tasks of five kinds made from sets that lie here; and the second stage on
candidates that a task brings. Differences above 1e-4 are an exit status of 1.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
from _judged import add_data_option, load, missing
from _mteb_tasks import tasks
from _report import OURS, Row, machine, parser, report

from retrieval.integrations.mteb import run_tasks
from retrieval.models.load import load_encoder, load_reranker
from retrieval.models.resolve import resolve

ENCODERS = ("all-MiniLM-L6-v2", "BAAI/bge-small-en-v1.5")
RERANKER = "cross-encoder/ms-marco-MiniLM-L12-v2"
SET, OTHERS = "npl", ("msmarco-dl20-pool", "xquad-en")
PEER = "sentence-transformers"
LARGEST = 1e-4
QUICK, FULL = (60, 8), (200, 40)
GROUP = 60
"""Texts of each set that are clustered, at most."""

PACKAGES = ("mteb", "sentence-transformers", "datasets", "scikit-learn")


def peer_encoder(folder: Path, max_length: int) -> Any:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")
    model.max_seq_length = max_length
    return model


def peer_reranker(folder: Path, max_length: int) -> Any:
    from sentence_transformers import CrossEncoder

    return CrossEncoder(str(folder), device="cpu", max_length=max_length)


def peer_score(model: Any, task: Any) -> tuple[float, float]:
    """The main score, and the seconds it took."""
    import mteb

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = mteb.evaluate(
            model, task, cache=None, co2_tracker=False, show_progress_bar=False
        ).task_results[0]
    (scores,) = result.scores["test"]
    return float(scores["main_score"]), float(result.evaluation_time)


def rows(case: str, ours: tuple[float, float], peer: tuple[float, float]) -> Iterator[Row]:
    for system, (score, seconds) in ((OURS, ours), (PEER, peer)):
        yield Row(case, system, "main score", score, "")
        yield Row(case, system, "difference", abs(score - peer[0]), "")
        yield Row(case, system, "time", round(seconds, 2), "s")


def first_stage(name: str, make: dict[str, Callable[[], Any]]) -> Iterator[Row]:
    found = resolve(name, "encoder")
    encoder = load_encoder(name, dtype="fp32", device="cpu")
    peer = peer_encoder(found.path, encoder.info.max_length)
    for kind, task in make.items():
        print(f"  {name}: {kind}", file=sys.stderr, flush=True)
        theirs = peer_score(peer, task())
        (score,) = run_tasks([task()], encoder=encoder)
        case = f"{kind} ({score.measure}), {name}"
        yield from rows(case, (score.first, score.seconds), theirs)


def second_stage(name: str, first: str, make: dict[str, Callable[[], Any]]) -> Iterator[Row]:
    found = resolve(name, "reranker")
    reranker = load_reranker(name, dtype="fp32", device="cpu")
    assert reranker is not None
    peer = peer_reranker(found.path, reranker.info.max_length)
    print(f"  {name}: reranking", file=sys.stderr, flush=True)
    theirs = peer_score(peer, make["reranking"]())
    encoder = load_encoder(first, dtype="fp32", device="cpu")
    (score,) = run_tasks([make["reranking"]()], encoder=encoder, reranker=reranker)
    assert score.second is not None
    assert score.second_seconds is not None
    ours = (score.second, score.second_seconds)
    yield from rows(f"reranking ({score.measure}), {name}", ours, theirs)


def main() -> int:
    options = parser(__doc__.splitlines()[0])
    add_data_option(options)
    options.add_argument("--encoders", nargs="+", default=ENCODERS, help="names or folders")
    options.add_argument("--reranker", default=RERANKER, help="name or folder, or none")
    options.add_argument("--set", default=SET, help=f"what most tasks are made from; {SET}")
    options.add_argument("--documents", type=int, default=FULL[0], help=f"of it; {FULL[0]}")
    options.add_argument("--queries", type=int, default=FULL[1], help=f"of it; {FULL[1]}")
    arguments = options.parse_args()
    before = machine()
    datasets.disable_progress_bars()
    if lacking := missing(arguments.data, [arguments.set, *OTHERS]):
        print(f"{arguments.data} lacks {', '.join(lacking)}; see --data")
        return 2
    documents, queries = QUICK if arguments.quick else (arguments.documents, arguments.queries)
    judged = load(arguments.data, arguments.set, "test", documents, queries)
    group = min(GROUP, documents // 2)
    groups = {name: load(arguments.data, name, "test", group, 1).passages for name in OTHERS}
    groups[arguments.set] = judged.passages[:group]
    make = tasks(judged, groups)
    found = [row for name in arguments.encoders for row in first_stage(name, make)]
    if arguments.reranker != "none":
        found += second_stage(arguments.reranker, arguments.encoders[0], make)
    sizes = {
        "set": arguments.set,
        "documents": len(judged.passages),
        "queries": len(judged.beir.queries),
    }
    report(found, file=arguments.json, packages=PACKAGES, at_start=before, notes=sizes)
    different = [row for row in found if row.metric == "difference" and row.value > LARGEST]
    for row in different:
        print(f"{row.case}: differs by {row.value:.2g}, more than {LARGEST:g}", file=sys.stderr)
    return 1 if different else 0


if __name__ == "__main__":
    raise SystemExit(main())
