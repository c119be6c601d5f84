"""What does ingestion cost beside encoding, a second time, and in memory?

Throughput: `retrieval.ingest` of SciFact's documents with the starter (reading, splitting, hashing,
encoding, writing) against `encode_passages` alone on the very passages it makes, in turns. A second
ingestion of the same file, with the texts it encodes counted. Memory: files of 1,000, 10,000 and
50,000 short documents with a small model of random weights, a fresh process for each: the most that
was resident, and the most of it that belongs to no file, over what was there before.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from _index_worker import memory
from _report import OURS, Row, in_turns, machine, median, parser, report, spread
from _shapes import SHAPES, make, models_folder
from _texts import SHARED_DATA, Source, source, texts

SIZES = (1_000, 10_000, 50_000)
DOCUMENTS = 1_000
WARM_UP = 16
MIB = 2**20


class Counting:
    """An encoder that counts the passages it was given."""

    def __init__(self, encoder: Any) -> None:
        self._encoder = encoder
        self.passages = 0
        self.seen: list[str] | None = None

    @property
    def info(self) -> Any:
        return self._encoder.info

    @property
    def token_counter(self) -> Any:
        return self._encoder.token_counter

    def encode_queries(self, queries: Sequence[str], **options: Any) -> Any:
        return self._encoder.encode_queries(queries, **options)

    def encode_passages(self, passages: Sequence[str], **options: Any) -> Any:
        self.passages += len(passages)
        if self.seen is not None:
            self.seen += passages
        return self._encoder.encode_passages(passages, **options)


def write_corpus(file: Path, contents: Sequence[str]) -> Path:
    """A file of documents as `retrieval.ingest` reads it."""
    with file.open("w", encoding="utf-8") as out:
        for number, text in enumerate(contents):
            out.write(json.dumps({"id": f"d{number}", "text": text}, ensure_ascii=False) + "\n")
    return file


def throughput(origin: Source, documents: int, rounds: int, folder: Path) -> list[Row]:
    """Passages a second, encoding alone and ingesting, and the second ingestion."""
    from retrieval import ingest
    from retrieval.models.load import load_encoder

    encoder = load_encoder("all-MiniLM-L6-v2")
    corpus = write_corpus(folder / "corpus.jsonl", texts(origin, "real", documents))
    # once uncounted: shapes are seen, files are in the page cache, and the passages are known
    counting = Counting(encoder)
    counting.seen = []
    ingest(corpus, "warm", store=folder / "warm", encoder=counting)
    passages = counting.seen
    counting.seen = None
    runs = iter(range(rounds))

    def whole() -> float:
        store = folder / f"store-{next(runs)}"
        start = time.perf_counter()
        report_ = ingest(corpus, "docs", store=store, encoder=encoder)
        seconds = time.perf_counter() - start
        assert report_.passages == len(passages), (report_.passages, len(passages))
        return seconds

    def alone() -> float:
        start = time.perf_counter()
        encoder.encode_passages(passages)
        return time.perf_counter() - start

    seconds = in_turns({"encoding alone": alone, "ingest": whole}, rounds)
    case = f"{documents:,} documents, {len(passages):,} passages"
    rows = []
    for name, times in seconds.items():
        rows.append(Row(case, name, "throughput", len(passages) / median(times), "passages/s"))
        rows.append(Row(case, name, "spread", 100 * spread(times), "%"))
    first = median(seconds["ingest"])
    more = 100 * (first / median(seconds["encoding alone"]) - 1)
    rows.append(Row(case, "ingest", "longer by", more, "%"))
    return rows + second(corpus, folder / "store-0", encoder, first, case)


def second(corpus: Path, store: Path, encoder: Any, first: float, case: str) -> list[Row]:
    """The same corpus into the same collection."""
    from retrieval import ingest

    counting = Counting(encoder)
    start = time.perf_counter()
    again = ingest(corpus, "docs", store=store, encoder=counting)
    seconds = time.perf_counter() - start
    where = f"{case}, ingested again"
    return [
        Row(where, OURS, "time", seconds, "s"),
        Row(where, OURS, "of the first", 100 * seconds / first, "%"),
        Row(where, OURS, "passages encoded", counting.passages, ""),
        Row(where, OURS, "documents unchanged", again.unchanged, ""),
    ]


def peak(corpus: str, model: str, store: str) -> dict[str, float]:
    """Bytes and seconds of one ingestion in this process."""
    from retrieval import ingest
    from retrieval.models.load import load_encoder

    encoder = load_encoder(model)
    encoder.encode_passages(["a text", "another text that is longer"])
    before = memory()
    anonymous = [before["RssAnon"]]
    start = time.perf_counter()
    ingest(
        corpus, "docs", store=store, encoder=encoder,
        progress=lambda _: anonymous.append(memory()["RssAnon"]),
    )  # fmt: skip
    seconds = time.perf_counter() - start
    after = memory()
    return {
        "seconds": seconds,
        "before": before["VmRSS"],
        "peak": after["VmHWM"],
        "growth": max(after["VmHWM"] - before["VmRSS"], 0),
        "own": max(max(anonymous), after["RssAnon"]) - before["RssAnon"],
    }


def peaks(origin: Source, sizes: Sequence[int], models: Path, folder: Path) -> list[Row]:
    """Memory by the number of documents."""
    model = make(SHAPES["tiny"], models)
    # Once uncounted: a later start finds the compiled graph and needs less.
    _peak(write_corpus(folder / "warm.jsonl", texts(origin, "short", WARM_UP)), model, folder)
    rows = []
    for size in sizes:
        print(f"memory, {size:,} documents", file=sys.stderr, flush=True)
        corpus = write_corpus(folder / f"{size}.jsonl", texts(origin, "short", size))
        found = _peak(corpus, model, folder)
        case = f"memory, {size:,} documents"
        for metric in ("before", "peak", "growth", "own"):
            name = {"growth": "growth", "own": "growth not of files"}.get(metric, metric)
            rows.append(Row(case, OURS, name, found[metric] / MIB, "MiB"))
        rows.append(Row(case, OURS, "rate", size / found["seconds"], "documents/s"))
    return rows


def _peak(corpus: Path, model: Path, folder: Path) -> dict[str, float]:
    # spawned: nothing of this process is there
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=spawn) as pool:
        given = str(corpus), str(model), str(folder / f"store-of-{corpus.stem}")
        return pool.submit(peak, *given).result()


def options() -> argparse.ArgumentParser:
    result = parser(__doc__.splitlines()[0])
    result.add_argument("--data", type=Path, default=SHARED_DATA, help="folder with scifact/")
    result.add_argument("--documents", type=int, help="to ingest; 1000, or 60 with --quick")
    result.add_argument("--rounds", type=int, help="3, or 1 with --quick")
    result.add_argument(
        "--sizes", type=int, nargs="+", help="of memory: 1000 10000 50000; 200 400 if quick"
    )
    result.add_argument("--only", choices=("throughput", "memory"), help="one of the questions")
    result.add_argument("--models-dir", type=Path, help="keeps models and compiled graphs")
    return result


def main() -> int:
    arguments = options().parse_args()
    before = machine()
    quick = arguments.quick
    documents = arguments.documents or (60 if quick else DOCUMENTS)
    rounds = arguments.rounds or (1 if quick else 3)
    sizes = arguments.sizes or ([200, 400] if quick else list(SIZES))
    origin = source(arguments.data)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="ingest-") as scratch:
        folder = Path(scratch)
        if arguments.only != "memory":
            rows += throughput(origin, documents, rounds, folder)
        if arguments.only != "throughput":
            with models_folder(arguments.models_dir) as models:
                rows += peaks(origin, sizes, models, folder)
    report(
        rows,
        file=arguments.json,
        packages=("qdrant-edge-py",),
        at_start=before,
        notes={"source": origin.name, "rounds": rounds, "encoder": "starter; of memory: tiny"},
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
