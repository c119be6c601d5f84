"""How should the starter's second stage be joined with the first: alone, or blended by RRF?

For each judged set and each first stage (hybrid, dense): nDCG@10 of the first stage, of MaxSim's
order alone (`none`), and of both orders fused by reciprocal ranks (`rrf`), on the same 50
candidates. The choice is made on training splits; the other sets are there to contradict it.
`rrf - none` comes with its 95% interval (paired bootstrap over queries). The file is written after
each split; a run that was stopped is continued with --resume.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _report import OURS, Row, machine, parser, report

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from retrieval import ingest
from retrieval import open as open_collection
from retrieval.evaluation.beir import BeirSet, load_beir
from retrieval.evaluation.metrics import compare, measure
from retrieval.fusion import rrf
from retrieval.models.load import load_encoder, load_reranker
from retrieval.models.rerankers.late_interaction import LateInteractionReranker
from retrieval.types import Document, Encoder, Hit, Mode, Reranker

MEASURE = "nDCG@10"
TOKEN_VECTORS = 2 * 2**30
"""Bytes: both first stages and all splits of a set meet the same passages again."""

CANDIDATES = 50
MODES: tuple[Mode, ...] = ("hybrid", "dense")
Run = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Case:
    """A split of a set. `chooses`: a training split, in the encoder's language."""

    folder: str
    split: str
    chooses: bool
    language: str = "en"

    @property
    def name(self) -> str:
        role = "choice" if self.chooses else "check"
        return f"{self.folder}/{self.split} ({role}, {self.language})"


CASES = (
    Case("scifact", "train", chooses=True),
    Case("pubmedqa", "train", chooses=True),
    Case("musique-train100", "test", chooses=True),  # drawn from MuSiQue's training split
    Case("scifact", "test", chooses=False),
    Case("pubmedqa", "test", chooses=False),
    Case("cranfield", "test", chooses=False),
    Case("cisi", "test", chooses=False),
    Case("cmrc2018", "train", chooses=False, language="zh"),  # the encoder reads English only
)
QUICK = (CASES[1], CASES[2])


class Measured:
    """The rows so far, written to the file after each set, so that a run can be continued.

    Args:
        file: the JSON file; None keeps nothing.
        settings: what must be the same for the rows of an earlier run to count.
        resume: take the rows of the file, where it is there and has the same settings.
    """

    def __init__(self, file: Path | None, settings: dict[str, Any], *, resume: bool) -> None:
        self.file, self.settings = file, settings
        self.rows: list[Row] = []
        self.done: list[str] = []
        self._before = machine()
        if resume and file is not None and file.exists():
            content = json.loads(file.read_text(encoding="utf-8"))
            notes = content.get("notes", {})
            if notes.get("settings") != settings:
                raise SystemExit(
                    f"{file} was measured with {notes.get('settings')}, this run has {settings}. "
                    "Leave --resume out to begin anew."
                )
            self.rows = [Row(**row) for row in content["rows"]]
            self.done = list(notes["done"])

    def add(self, case: Case, rows: Iterable[Row]) -> None:
        self.rows += rows
        self.done.append(case.name)
        self.write(quiet=True)

    def write(self, *, quiet: bool) -> None:
        report(
            self.rows,
            file=self.file,
            packages=("qdrant-edge-py", "ir-measures"),
            at_start=self._before,
            notes={"settings": self.settings, "done": self.done},
            quiet=quiet,
        )


def measure_folder(
    data: Path,
    cases: list[Case],
    encoder: Encoder,
    reranker: Reranker,
    measured: Measured,
    *,
    queries: int,
    documents: int | None,
) -> None:
    """All splits of one set: its documents are encoded once, and their token vectors kept."""
    sets = {case: load_beir(data / case.folder, case.split) for case in cases}
    chosen = {case: sample(beir, queries) for case, beir in sets.items()}
    judged = {
        document
        for case, beir in sets.items()
        for query in chosen[case]
        for document in beir.qrels[query]
    }
    with tempfile.TemporaryDirectory(prefix="starter-blend-") as store:
        ingest(
            corpus(sets[cases[0]], judged, documents),
            "set",
            store=store,
            encoder=encoder,
            max_tokens=None,  # one passage a document, as the judgements are
        )
        with open_collection("set", store=store, encoder=encoder, reranker=reranker) as retriever:
            for case, beir in sets.items():
                print(case.name, flush=True)
                found: list[Row] = []
                for mode in MODES:
                    results = retriever.search_batch(
                        [beir.queries[query] for query in chosen[case]],
                        mode=mode,
                        candidates=CANDIDATES,
                        top_k=CANDIDATES,
                        blend="none",
                    )
                    runs: dict[str, Run] = {"first stage": {}, "none": {}, "rrf": {}}
                    for query, result in zip(chosen[case], results, strict=True):
                        for blend, order in orders(result.hits).items():
                            runs[blend][query] = {
                                document: 1.0 / rank for rank, document in enumerate(order, start=1)
                            }
                    qrels = {query: beir.qrels[query] for query in chosen[case]}
                    found += rows(case, mode, runs, qrels)
                measured.add(case, found)


def orders(hits: tuple[Hit, ...]) -> dict[str, list[str]]:
    """Document ids in the order of the first stage, of the second, and of both fused.

    Fused by passage id, as the retriever does.
    """
    document = {hit.passage.id: hit.passage.document_id for hit in hits}
    first = [hit.passage.id for hit in sorted(hits, key=lambda hit: hit.stage1_rank)]
    second = [hit.passage.id for hit in hits]
    fused = [passage for passage, _ in rrf([first, second])]
    return {
        name: [document[passage] for passage in ids]
        for name, ids in (("first stage", first), ("none", second), ("rrf", fused))
    }


def rows(
    case: Case, mode: Mode, runs: Mapping[str, Run], qrels: Mapping[str, Mapping[str, int]]
) -> Iterator[Row]:
    where = f"{case.name}, {mode}, {len(qrels)} queries"
    for blend, run in runs.items():
        value = measure(qrels, run, [MEASURE])[MEASURE]
        yield Row(f"{where}, {blend}", OURS, MEASURE, round(value, 4), "")
    difference = compare(qrels, runs["none"], runs["rrf"], [MEASURE])[MEASURE]
    for metric, value in (
        (f"{MEASURE}, difference", difference.difference),
        (f"{MEASURE}, 95% from", difference.low),
        (f"{MEASURE}, 95% to", difference.high),
    ):
        yield Row(f"{where}, rrf - none", OURS, metric, round(value, 4), "")


def sample(beir: BeirSet, queries: int) -> list[str]:
    """At most `queries` query ids, the same ones every time."""
    ids = sorted(beir.queries)
    return ids if len(ids) <= queries else sorted(random.Random(0).sample(ids, queries))


def corpus(beir: BeirSet, judged: set[str], documents: int | None) -> Iterator[Document]:
    """All documents, or those judged for the queries and the first `documents` besides."""
    for number, document in enumerate(beir.documents() or ()):
        if documents is None or number < documents or document.id in judged:
            yield document


def options() -> argparse.ArgumentParser:
    result = parser(__doc__.splitlines()[0])
    result.add_argument(
        "--data",
        type=Path,
        default=Path(__file__).resolve().parent.parent.parent / "shared" / "data",
        help="folder of the judged sets in BEIR layout (../shared/data beside the checkout)",
    )
    result.add_argument("--queries", type=int, help="queries a set; 200, or 30 with --quick")
    result.add_argument("--sets", nargs="+", metavar="NAME", help="only these folders")
    result.add_argument(
        "--resume", action="store_true", help="go on where the run that wrote --json FILE ended"
    )
    return result


def main() -> int:
    arguments = options().parse_args()
    cases = [
        case
        for case in (QUICK if arguments.quick and not arguments.sets else CASES)
        if arguments.sets is None or case.folder in arguments.sets
    ]
    missing = sorted({c.folder for c in cases if not (arguments.data / c.folder).is_dir()})
    if missing or not cases:
        print(f"{arguments.data} lacks {', '.join(missing) or arguments.sets}; see --data, --sets")
        return 2
    queries = arguments.queries or (30 if arguments.quick else 200)
    documents = 300 if arguments.quick else None
    settings = {"queries": queries, "documents": documents, "candidates": CANDIDATES}
    measured = Measured(arguments.json, settings, resume=arguments.resume)
    encoder = load_encoder("starter")
    for folder in dict.fromkeys(case.folder for case in cases):
        left = [c for c in cases if c.folder == folder and c.name not in measured.done]
        if left:
            measure_folder(
                arguments.data,
                left,
                encoder,
                starter_reranker(encoder),  # a cache for each set
                measured,
                queries=queries,
                documents=documents,
            )
    measured.write(quiet=False)
    return 0


def starter_reranker(encoder: Encoder) -> Reranker:
    """The starter's second stage, with room for the token vectors of a whole set."""
    starter = load_reranker("starter", encoder=encoder)
    assert isinstance(starter, LateInteractionReranker)
    return LateInteractionReranker(
        starter.encoder, max_cache_bytes=TOKEN_VECTORS, name=starter.info.model
    )


if __name__ == "__main__":
    raise SystemExit(main())
