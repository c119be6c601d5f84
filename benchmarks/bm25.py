"""Is this library's BM25 as good as bm25s's, in English and in Chinese?

Each judged set is indexed by words in an embedded index, its language told by "auto", and by bm25s
(PyPI) as its documentation shows: with its defaults, with PyStemmer, and for Chinese with jieba's
words. All read title and text, and give the best 100. nDCG@10 and recall@100, their differences
with 95% intervals (paired bootstrap over queries), seconds to index, and queries a second, one at a
time, from the query's text to document ids; systems take turns in blocks of queries.

With --older the other system is this library with the rules of words that collections had before.
Nothing is tuned on test splits: what training splits say is measured with --splits train.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from _judged import (
    Judged,
    Run,
    add_data_option,
    difference_rows,
    fill,
    load,
    manifest,
    missing,
)
from _report import OURS, Row, machine, median, parser, report

from retrieval.evaluation.metrics import measure
from retrieval.index.bm25 import VERSION, bm25_info
from retrieval.index.embedded.index import EmbeddedIndex

MEASURES = ("nDCG@10", "recall@100")
LIMIT = 100
BLOCK = 50
"""Queries of a turn."""

ENGLISH, CHINESE = "en", "zh"
SETS = {
    "scifact": ENGLISH, "cranfield": ENGLISH, "cisi": ENGLISH, "cacm": ENGLISH, "npl": ENGLISH,
    "pubmedqa": ENGLISH, "musique-train100": ENGLISH, "xquad-en": ENGLISH, "cmrc2018": CHINESE,
    "xquad-zh": CHINESE,
}  # fmt: skip
TESTS = ("scifact", "cranfield", "cmrc2018", "xquad-zh", "xquad-en", "npl", "cisi", "cacm")
TRAINS = ("scifact", "pubmedqa", "cmrc2018", "musique-train100")
QUICK = ("scifact", "xquad-zh")
QUICK_DOCUMENTS, QUICK_QUERIES = 500, 60

Ranked = list[tuple[str, float]]
"""Document ids with scores, best first."""


@dataclass(frozen=True, slots=True)
class System:
    """index_seconds: what indexing took. search: from a query's text to at most 100 documents."""

    name: str
    index_seconds: float
    search: Callable[[str], Ranked]


def ours(judged: Judged, store: Path, rules: int = VERSION) -> tuple[System, str]:
    """This library through its embedded index, and the language it found.

    Args:
        rules: by which words are told, see `retrieval.index.bm25.VERSION`.
    """
    start = time.perf_counter()
    made = manifest("set", 1, judged.passages)
    made = replace(made, bm25=bm25_info(made.bm25.language, version=rules))
    index = EmbeddedIndex.create(store, "set", made)
    fill(index, judged.passages, None)
    index.optimize()
    seconds = time.perf_counter() - start

    def search(text: str) -> Ranked:
        found = index.search(mode="sparse", limit=LIMIT, text=text)
        return [(one.passage.document_id, one.score) for one in found]

    name = OURS if rules == VERSION else f"{OURS}, rules {rules}"
    return System(name, seconds, search), index.manifest.bm25.language


Words = Literal["defaults", "stemmed", "jieba", "jieba for search"]


def peers(judged: Judged, language: str, left_out: dict[str, str]) -> list[System]:
    """bm25s in its ways for this language; what is not installed is named in `left_out`."""
    chosen: tuple[tuple[Words, str], ...] = (
        (("jieba", "jieba"), ("jieba for search", "jieba"))
        if language == CHINESE
        else (("defaults", "bm25s"), ("stemmed", "Stemmer"))
    )
    systems = []
    for words, package in chosen:
        name = f"bm25s, {words}"
        if any(importlib.util.find_spec(one) is None for one in ("bm25s", package)):
            left_out[name] = f"bm25s or {package} is not installed"
        else:
            systems.append(_bm25s(name, judged, words))
    return systems


def _bm25s(name: str, judged: Judged, words: Words) -> System:
    import bm25s

    split = _tokens(words)
    ids = [passage.document_id for passage in judged.passages]
    start = time.perf_counter()
    index = bm25s.BM25()
    index.index(split([passage.content for passage in judged.passages]), show_progress=False)
    seconds = time.perf_counter() - start
    known = set(index.vocab_dict)
    most = min(LIMIT, len(ids))

    def search(text: str) -> Ranked:
        # it cannot look for words that it never saw
        tokens = [token for token in split([text])[0] if token in known]
        if not tokens:
            return []
        found, scores = index.retrieve([tokens], k=most, show_progress=False, n_threads=1)
        pairs = zip(found[0].tolist(), scores[0].tolist(), strict=True)
        return [(ids[number], score) for number, score in pairs if score > 0]

    return System(name, seconds, search)


def _tokens(words: Words) -> Callable[[Sequence[str]], list[list[str]]]:
    import bm25s

    if words in ("jieba", "jieba for search"):
        import jieba

        jieba.setLogLevel(60)
        jieba.initialize()  # its dictionary: not a part of indexing
        cut = jieba.lcut if words == "jieba" else jieba.lcut_for_search
        return lambda texts: [[w for w in cut(text.lower()) if w.strip()] for text in texts]
    stemmer: Any = None
    if words == "stemmed":
        import Stemmer

        stemmer = Stemmer.Stemmer("english")

    def tokenize(texts: Sequence[str]) -> list[list[str]]:
        found: list[list[str]] = bm25s.tokenize(
            list(texts), stopwords="en", stemmer=stemmer, return_ids=False, show_progress=False
        )
        return found

    return tokenize


def run_in_turns(
    systems: Sequence[System], queries: dict[str, str]
) -> tuple[dict[str, Run], dict[str, list[float]]]:
    """What each system finds for every query, and the seconds of each of its searches."""
    runs: dict[str, Run] = {system.name: {} for system in systems}
    seconds: dict[str, list[float]] = {system.name: [] for system in systems}
    ids = list(queries)
    for system in systems:
        system.search(queries[ids[0]])
    for start in range(0, len(ids), BLOCK):
        for system in systems:
            for query in ids[start : start + BLOCK]:
                before = time.perf_counter()
                found = system.search(queries[query])
                seconds[system.name].append(time.perf_counter() - before)
                runs[system.name][query] = dict(found)
    return runs, seconds


def measure_set(
    judged: Judged, language: str, left_out: dict[str, str], older: bool = False
) -> tuple[list[Row], str]:
    """The rows of a set, and the language that "auto" found."""
    with tempfile.TemporaryDirectory(prefix="bm25-") as store:
        own, found = ours(judged, Path(store) / "now")
        systems = [own]
        if older:
            systems.append(ours(judged, Path(store) / "before", 1)[0])
        else:
            systems += peers(judged, language, left_out)
        runs, seconds = run_in_turns(systems, judged.beir.queries)
    case = (
        f"{judged.name}, {len(judged.passages):,} documents, {len(judged.beir.queries):,} queries"
    )
    rows = []
    for system in systems:
        values = measure(judged.beir.qrels, runs[system.name], MEASURES)
        rows += [Row(case, system.name, name, round(values[name], 4), "") for name in values]
        rows.append(Row(case, system.name, "indexing", system.index_seconds, "s"))
        rate = 1 / median(seconds[system.name])
        rows.append(Row(case, system.name, "one at a time", rate, "queries/s"))
    for system in systems[1:]:
        rows += difference_rows(
            case, OURS, judged.beir.qrels, runs[system.name], system.name, runs[OURS], MEASURES
        )
    return rows, found


def options() -> argparse.ArgumentParser:
    result = parser(__doc__.splitlines()[0])
    add_data_option(result)
    result.add_argument("--sets", nargs="+", choices=list(SETS), metavar="NAME", help="only these")
    result.add_argument("--splits", nargs="+", choices=("train", "test"), default=["test"])
    result.add_argument(
        "--older", action="store_true", help="beside collections of before, in place of bm25s"
    )
    return result


def main() -> int:
    arguments = options().parse_args()
    before = machine()
    cases = [
        (folder, split)
        for split, folders in (("train", TRAINS), ("test", QUICK if arguments.quick else TESTS))
        if split in arguments.splits
        for folder in (arguments.sets or folders)
    ]
    lacking = missing(arguments.data, [folder for folder, _ in cases])
    if lacking:
        print(f"{arguments.data} lacks {', '.join(lacking)}; see --data, --sets")
        return 2
    rows: list[Row] = []
    left_out: dict[str, str] = {}
    languages: dict[str, str] = {}
    for folder, split in cases:
        # MuSiQue's training questions are called test in its folder
        name = "test" if folder == "musique-train100" else split
        few = QUICK_DOCUMENTS if arguments.quick else None
        judged = load(arguments.data, folder, name, few, QUICK_QUERIES if arguments.quick else None)
        print(judged.name, file=sys.stderr, flush=True)
        found, languages[folder] = measure_set(judged, SETS[folder], left_out, arguments.older)
        rows += found
    report(
        rows,
        file=arguments.json,
        packages=("qdrant-edge-py", "ir-measures", "bm25s", "PyStemmer", "jieba"),
        at_start=before,
        notes={"languages found": languages, "left out": left_out, "limit": LIMIT},
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
