"""What does a search take whose second stage reads excerpts, and what does it lose by them?

A judged set is indexed, one passage per document, and its queries are searched one at a time,
each system taking its turn: by default (on a CPU as many candidates as fit into half a second), all
candidates whole and as excerpts, the reranker in its own number format and in int8, and without
re-ranking. Milliseconds of the whole search and of its second
stage (p50, p95), nDCG@10, and its difference to reading everything with the 95% interval of a
paired bootstrap over queries. The split is a training split by default: what is chosen by these
figures must not be chosen on a test set.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from _judged import Judged, Run, add_data_option, difference_rows, load, missing
from _report import Row, machine, parser, report
from _shapes import models_folder

from retrieval import Document, Store, ingest
from retrieval import open as open_collection
from retrieval.errors import RetrievalError
from retrieval.evaluation.metrics import measure
from retrieval.models.load import load_encoder, load_reranker
from retrieval.models.rerankers.cross_encoder import CrossEncoderReranker
from retrieval.models.rerankers.pace import SECONDS, tokens_per_second
from retrieval.search.excerpts import EXCERPT_TOKENS, Excerpts
from retrieval.search.plan import SearchPlan
from retrieval.search.retriever import TwoStageRetriever

MEASURE = "nDCG@10"
FULL = "full"
QUICK_DOCUMENTS, QUICK_QUERIES = 200, 8
WARM_UP = 2


@dataclass
class System:
    """A way to search, what it took and what it found."""

    retriever: TwoStageRetriever
    options: dict[str, Any]
    total_ms: list[float] = field(default_factory=list)
    rerank_ms: list[float] = field(default_factory=list)
    run: Run = field(default_factory=dict)

    def search(self, query: str, text: str) -> None:
        started = time.perf_counter()
        result = self.retriever.search(text, top_k=10, **self.options)
        self.total_ms.append(1000 * (time.perf_counter() - started))
        self.rerank_ms.append(result.timings.rerank_ms)
        self.run[query] = {hit.passage.document_id: 1.0 / hit.rank for hit in result.hits}


class Sized(TwoStageRetriever):
    """Reads excerpts of another size."""

    tokens = EXCERPT_TOKENS

    def plan(self, **options: Any) -> SearchPlan:
        plan = super().plan(**options)
        return replace(plan, excerpts=Excerpts(self.index.manifest.bm25, self.tokens))


def options() -> argparse.ArgumentParser:
    result = parser(__doc__.splitlines()[0])
    add_data_option(result)
    result.add_argument("--set", default="scifact", help="folder of the judged set; scifact")
    result.add_argument("--split", default="train", help="its split; train")
    result.add_argument("--queries", type=int, default=60, help="evenly from the split; 60")
    result.add_argument("--candidates", type=int, default=50, help="that are re-ranked; 50")
    result.add_argument("--encoder", default="starter", help="name or folder; starter")
    result.add_argument("--reranker", default="starter", help="name or folder; starter")
    result.add_argument("--threads", type=int, help="of each model; all cores")
    result.add_argument(
        "--tokens",
        type=int,
        nargs="+",
        default=[EXCERPT_TOKENS],
        help=f"of an excerpt, one or more sizes; {EXCERPT_TOKENS}",
    )
    result.add_argument("--no-int8", action="store_true", help="leave out the reranker in int8")
    result.add_argument("--store", type=Path, help="keeps the collection for the next run")
    return result


@contextlib.contextmanager
def searching(judged: Judged, arguments: argparse.Namespace, root: Path) -> Iterator[Any]:
    """The systems by name, over one collection."""
    store = Store(root)
    encoder = load_encoder(arguments.encoder, threads=arguments.threads)
    if "reading" not in store.names():
        documents = (Document(p.document_id, p.text, title=p.title) for p in judged.passages)
        ingest(documents, "reading", store=store, encoder=encoder, max_tokens=None)
    retriever = open_collection("reading", store=store, encoder=encoder, reranker=None)
    with contextlib.closing(retriever):
        systems = {"first stage alone": System(retriever, {"rerank": False})}
        formats = ["auto"] if arguments.no_int8 else ["auto", "int8"]
        for dtype in formats:
            try:
                reranker = load_reranker(
                    arguments.reranker, encoder=encoder, dtype=dtype, threads=arguments.threads
                )
            except RetrievalError as error:
                print(f"left out: {dtype}: {error}", file=sys.stderr, flush=True)
                continue
            second = TwoStageRetriever(encoder, retriever.index, reranker)
            suffix = "" if dtype == "auto" else f", {dtype}"
            if isinstance(reranker, CrossEncoderReranker):
                # Measured now: what is kept may be from a busier hour of the machine.
                rate = tokens_per_second(
                    reranker, reranker.engine, threads=arguments.threads, cache_dir=None
                )
                reranker.info = replace(reranker.info, default_tokens=int(rate * SECONDS))
                print(f"{reranker.engine}: {rate:.0f} tokens/s", file=sys.stderr, flush=True)
            systems[f"default{suffix}"] = System(second, {})
            given = {"candidates": arguments.candidates}
            systems[f"{FULL}{suffix}"] = System(second, {**given, "read": "full"})
            for tokens in arguments.tokens:
                sized = Sized(encoder, retriever.index, reranker)
                sized.tokens = tokens
                name = f"excerpts of {tokens}{suffix}"
                systems[name] = System(sized, {**given, "read": "excerpts"})
        yield systems


def rows(case: str, qrels: dict[str, dict[str, int]], systems: dict[str, System]) -> list[Row]:
    found = []
    for name, system in systems.items():
        for what, times in (("search", system.total_ms), ("second stage", system.rerank_ms)):
            for at in (50, 95):
                value = float(np.percentile(times[WARM_UP:], at))
                found.append(Row(case, name, f"{what} p{at}", round(value, 1), "ms"))
        value = measure(qrels, system.run, [MEASURE])[MEASURE]
        found.append(Row(case, name, MEASURE, round(value, 4), ""))
    for name, system in systems.items():
        if name != FULL:
            found += difference_rows(
                case, name, qrels, systems[FULL].run, FULL, system.run, [MEASURE]
            )
    return found


def main() -> int:
    arguments = options().parse_args()
    before = machine()
    if lacking := missing(arguments.data, [arguments.set]):
        print(f"{arguments.data} lacks {', '.join(lacking)}; see --data")
        return 2
    count = QUICK_QUERIES if arguments.quick else arguments.queries
    judged = load(
        arguments.data, arguments.set, arguments.split,
        *((QUICK_DOCUMENTS, count) if arguments.quick else (None, None)),
    )  # fmt: skip
    asked = list(judged.beir.queries.items())
    asked = asked[:: max(1, len(asked) // count)][:count]
    qrels = {query: judged.beir.qrels[query] for query, _ in asked}
    with (
        models_folder(arguments.store) as root,
        searching(judged, arguments, root) as systems,
    ):
        for text in [text for _, text in asked][:WARM_UP]:  # graphs are compiled, shapes are seen
            for system in systems.values():
                system.search("warm up", text)
                system.run.clear()
        for query, text in asked:
            for system in systems.values():
                system.search(query, text)
        engines = {
            name: str(getattr(system.retriever.reranker, "engine", ""))
            for name, system in systems.items()
        }
        case = f"{arguments.set}/{arguments.split}, {arguments.candidates} candidates"
        found = rows(f"{case}, {len(asked)} queries", qrels, systems)
    report(
        found,
        file=arguments.json,
        packages=("qdrant-edge-py", "ir-measures"),
        at_start=before,
        notes={"encoder": arguments.encoder, "reranker": arguments.reranker, "engines": engines},
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
