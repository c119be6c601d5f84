"""Do searches still find what they found? The defaults on every judged set, against stored figures.

The starter pair as `retrieval.open` makes it: dense and hybrid, each as the first stage leaves it
and re-ranked with every default, on at most `QUERIES` questions a set at equal distances, with
whole documents as passages (python-docs: split as `retrieval index` splits); Chinese by BM25 alone;
and the BM25 run of TREC DL 2020 that comes with its pool, re-ranked. nDCG@10 of each question is
compared with the one in results/quality.json.

A row is worse, and the exit status 1, where its mean fell by more than 0.003 *and* the 95% interval
of the difference (paired bootstrap over questions) lies below 0. All sets together are a row, too,
so that a little lost everywhere is seen. What rounding on another CPU or in bf16 moves is a few
neighbours in a few questions, to both sides, and stays within that. `--json
benchmarks/results/quality.json` makes what was measured the new yardstick.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _judged import Run, add_data_option, fill, load, manifest
from _report import Row, machine, parser, table, versions
from _sets import PYTHON_DOCS, Case, collection, documents_of, missing_sets, queries_of
from fusion import mean_differences
from numpy.typing import NDArray
from second_stage import MEASURE, Remembering

from retrieval import Document
from retrieval._files import atomic_write
from retrieval.evaluation.judged import JudgedQueries
from retrieval.evaluation.metrics import measure_per_query
from retrieval.index.embedded.index import EmbeddedIndex
from retrieval.models.load import load_encoder, load_reranker
from retrieval.search.options import SearchArguments
from retrieval.search.rerank import read_candidates
from retrieval.types import Candidate, Encoder, Mode, Reranker, SearchResult

STORED = Path(__file__).resolve().parent / "results" / "quality.json"
QUERIES = 60
NOISE = 0.003
MODES: tuple[Mode, ...] = ("dense", "hybrid")

SETS = (
    Case("cranfield", "test"),
    Case("cisi", "test"),
    Case("pubmedqa", "test"),
    Case("musique-train100", "test"),
    Case("xquad-en", "test", half=1),
    Case("scifact", "test"),
    Case(PYTHON_DOCS, "test"),
    Case("npl", "test"),
)
WORDS = (Case("cmrc2018", "test", language="zh"), Case("xquad-zh", "test", language="zh"))
"""By BM25 alone: the starter reads English."""

WORDS_QUERIES = 400
READING: SearchArguments = {"candidates": 50, "read": "excerpts", "top_k": 20}
"""As on a CPU that is fast enough; left out, the machine's own rate would decide."""

DL20 = Case("msmarco-dl20-pool", "test_full_judgements")
QUICK = Case("musique-train100", "test")
QUICK_DOCUMENTS, QUICK_QUERIES = 200, 12

PerQuery = dict[str, float]
Measured = dict[str, PerQuery]
"""Row, as in "scifact/test, dense, re-ranked" → query → nDCG@10."""

FIRST, RERANKED = "first stage", "re-ranked"


def values_of(beir: JudgedQueries, orders: Mapping[str, Sequence[str]]) -> PerQuery:
    """The measure of each query, of documents best first."""
    run: Run = {
        query: {document: 1 / rank for rank, document in enumerate(dict.fromkeys(order), start=1)}
        for query, order in orders.items()
    }
    return {
        query: round(value, 4)
        for query, value in measure_per_query(beir.qrels, run, [MEASURE])[MEASURE].items()
    }


def both_stages(
    data: Path, case: Case, encoder: Encoder, reranker: Reranker, *, quick: bool
) -> Measured:
    """Dense and hybrid, before and after the second stage."""
    beir = queries_of(data, case, QUICK_QUERIES if quick else QUERIES)
    documents = documents_of(data, case, QUICK_DOCUMENTS if quick else None, beir)
    found: Measured = {}
    with (
        tempfile.TemporaryDirectory(prefix="quality-") as store,
        collection(documents, store, encoder, Remembering(reranker)) as opened,
    ):
        for mode in MODES:
            for stage in (FIRST, RERANKED):
                results = opened.search_batch(
                    list(beir.queries.values()), mode=mode, rerank=stage == RERANKED, **READING
                )
                name = f"{'quick ' if quick else ''}{case.name}, {mode}, {stage}"
                orders = zip(beir.queries, map(documents_found, results), strict=True)
                found[name] = values_of(beir, dict(orders))
    return found


def documents_found(result: SearchResult) -> list[str]:
    return [hit.passage.document_id for hit in result.hits]


def by_words(data: Path, case: Case) -> Measured:
    """BM25 alone."""
    beir = queries_of(data, case, WORDS_QUERIES)
    passages = load(data, case.folder, case.split).passages
    orders = {}
    with (
        tempfile.TemporaryDirectory(prefix="quality-") as store,
        EmbeddedIndex.create(store, "set", manifest("set", 1, passages)) as index,
    ):
        fill(index, passages, None)
        for query, text in beir.queries.items():
            found = index.search(mode="sparse", limit=10, text=text)
            orders[query] = [one.passage.document_id for one in found]
    return {f"{case.name}, sparse, {FIRST}": values_of(beir, orders)}


def reranked_run(data: Path, encoder: Encoder, reranker: Reranker) -> Measured:
    """TREC DL 2020: the BM25 run that comes with the pool, as a search reads candidates."""
    beir = queries_of(data, DL20, None)
    by_id = {one.document_id: one for one in load(data, DL20.folder, DL20.split).passages}
    found: dict[str, list[Candidate]] = {query: [] for query in beir.queries}
    lines = (data / DL20.folder / "run.bm25.top100.tsv").read_text(encoding="utf-8").splitlines()
    for line in lines:
        query, document, rank, score = line.split("\t")
        if query in found:
            found[query].append(Candidate(by_id[document], float(score), int(rank)))
    measured: Measured = {}
    whole = Remembering(reranker)
    one = iter([Document("one", "A search plan needs a collection.")])
    with (
        tempfile.TemporaryDirectory(prefix="quality-") as store,
        collection(one, store, encoder, whole) as opened,
    ):
        for blend in ("auto", "none"):
            plan = opened.plan(
                mode="sparse", candidates=100, read="excerpts", top_k=100, blend=blend
            )
            read = read_candidates(list(beir.queries.values()), list(found.values()), plan, None)
            orders = {
                query: [hit.passage.document_id for hit in own.hits]
                for query, own in zip(beir.queries, read, strict=True)
            }
            name = f"{DL20.folder}, BM25 run, {RERANKED}"
            measured[name if blend == "auto" else f"{name}, blend none"] = values_of(beir, orders)
        orders = {query: [c.passage.document_id for c in own] for query, own in found.items()}
        measured[f"{DL20.folder}, BM25 run, {FIRST}"] = values_of(beir, orders)
    return measured


def measure_all(arguments: argparse.Namespace) -> Iterator[Measured]:
    """Every row, set by set; --quick rows are part of a whole run, too."""
    data, only = arguments.data, arguments.sets
    encoder = load_encoder(arguments.encoder)
    reranker = load_reranker(arguments.reranker, encoder=encoder)
    assert reranker is not None
    if not missing_sets(data, [QUICK]):
        yield both_stages(data, QUICK, encoder, reranker, quick=True)
    if arguments.quick:
        return
    for case in (DL20, *WORDS, *SETS):
        if missing_sets(data, [case]) or (only and case.folder not in only):
            continue
        print(case.name, file=sys.stderr, flush=True)
        if case in WORDS:
            yield by_words(data, case)
        elif case is DL20:
            yield reranked_run(data, encoder, reranker)
        else:
            yield both_stages(data, case, encoder, reranker, quick=False)


def compared(now: Measured, stored: Measured) -> tuple[list[Row], list[str]]:
    """A line for each row, and the names of those that are worse than stored."""
    rows: list[Row] = []
    worse: list[str] = []
    changes: dict[str, list[NDArray[np.float64]]] = {}
    together: dict[str, list[NDArray[np.float64]]] = {}
    for name, values in now.items():
        rows.append(Row(name, "", MEASURE, mean_of(values.values()), ""))
        before = stored.get(name)
        if before is None or before.keys() != values.keys():
            continue
        difference = np.array([value - before[query] for query, value in values.items()])
        stage = f"all sets, {name.rpartition(', ')[2]}"
        changes.setdefault(name, []).append(difference)
        if not name.startswith("quick "):
            together.setdefault(stage, []).append(difference)
    changes |= together
    for name, differences in changes.items():
        mean, low, high = (
            float(one[0]) for one in mean_differences([own[:, None] for own in differences])
        )
        for what, value in (("change", mean), ("95% from", low), ("95% to", high)):
            rows.append(Row(name, "", what, round(value, 4), ""))
        if mean < -NOISE and high < 0:
            worse.append(name)
    order = {name: place for place, name in enumerate(dict.fromkeys((*now, *changes)))}
    return sorted(rows, key=lambda row: order[row.case]), worse


def mean_of(values: Iterable[float]) -> float:
    return round(float(np.mean(list(values))), 4)


def write(file: Path, found: Measured, before: Mapping[str, Any], seconds: float) -> None:
    content = {
        "machine": before,
        "versions": versions(("qdrant-edge-py", "ir-measures")),
        "command": shlex.join(["python", *sys.argv]),
        "notes": {"queries of a set": QUERIES, "seconds": round(seconds)},
        "means": {name: mean_of(values.values()) for name, values in found.items()},
        "queries": found,
    }
    text = json.dumps(content, ensure_ascii=False, indent=1)
    # a line for each row's questions, not for each question
    text = re.sub(r'\n {3}("[^"]*": [\d.]+)', r" \1", text)
    with atomic_write(file) as out:
        out.write(text + "\n")


def main() -> int:
    options = parser(__doc__.splitlines()[0])
    add_data_option(options)
    options.add_argument("--against", type=Path, default=STORED, help="stored figures")
    options.add_argument("--sets", nargs="+", metavar="NAME", help="only these folders")
    options.add_argument("--encoder", default="starter", metavar="MODEL", help="another pair:")
    options.add_argument("--reranker", default="starter", metavar="MODEL", help="for comparison")
    arguments = options.parse_args()
    before, started = machine(), time.perf_counter()
    found: Measured = {}
    for own in measure_all(arguments):
        found |= own
        if arguments.json is not None:  # a run that is stopped has what it measured
            write(arguments.json, found, before, time.perf_counter() - started)
    if not found:
        print(f"{arguments.data} has none of the sets; see --data")
        return 2
    known = arguments.against.is_file()
    stored = json.loads(arguments.against.read_text(encoding="utf-8")) if known else {}
    rows, worse = compared(found, stored.get("queries", {}))
    print(table(rows))
    seconds = time.perf_counter() - started
    unknown = [name for name in found if name not in stored.get("queries", {})]
    print(f"\n{len(found)} rows in {seconds:.0f} s; {len(unknown)} of them have no stored figures")
    for name in worse:
        print(f"worse beyond noise: {name}")
    return 1 if worse else 0


if __name__ == "__main__":
    raise SystemExit(main())
