"""How should the starter's second stage be joined with the first: alone, or blended by RRF?

For each judged set and each first stage (hybrid, dense): nDCG@10 of the first stage, of MaxSim's
order alone (`none`), and of both orders fused by reciprocal ranks (`rrf`), on the same 50
candidates. The choice is made on training splits; the other sets are there to contradict it.
`rrf - none` comes with its 95% interval (paired bootstrap over queries).
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from _report import OURS, Row, machine, parser, report

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from retrieval import ingest
from retrieval import open as open_collection
from retrieval.evaluation.beir import BeirSet, load_beir
from retrieval.evaluation.measures import compare, measure
from retrieval.fusion import rrf
from retrieval.models.load import load_encoder, load_reranker
from retrieval.types import Document, Encoder, Hit, Mode, Reranker

MEASURE = "nDCG@10"
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


def measure_case(
    beir: BeirSet,
    case: Case,
    encoder: Encoder,
    reranker: Reranker,
    *,
    queries: int,
    documents: int | None,
) -> Iterator[Row]:
    """The rows of one set: every first stage, without and with each blend."""
    chosen = sample(beir, queries)
    with tempfile.TemporaryDirectory(prefix="starter-blend-") as store:
        ingest(
            corpus(beir, chosen, documents),
            "set",
            store=store,
            encoder=encoder,
            max_tokens=None,  # one passage a document, as the judgements are
        )
        with open_collection("set", store=store, encoder=encoder, reranker=reranker) as retriever:
            for mode in MODES:
                results = retriever.search_batch(
                    [beir.queries[query] for query in chosen],
                    mode=mode,
                    candidates=CANDIDATES,
                    top_k=CANDIDATES,
                    blend="none",
                )
                runs: dict[str, Run] = {"first stage": {}, "none": {}, "rrf": {}}
                for query, result in zip(chosen, results, strict=True):
                    for blend, order in orders(result.hits).items():
                        runs[blend][query] = {
                            document: 1.0 / rank for rank, document in enumerate(order, start=1)
                        }
                yield from rows(case, mode, runs, {query: beir.qrels[query] for query in chosen})


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


def corpus(beir: BeirSet, queries: list[str], documents: int | None) -> Iterator[Document]:
    """All documents, or those judged for the queries and the first `documents` besides."""
    judged = {document for query in queries for document in beir.qrels[query]}
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
    return result


def main() -> int:
    arguments = options().parse_args()
    before = machine()
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
    encoder = load_encoder("starter")
    reranker = load_reranker("starter", encoder=encoder)
    assert reranker is not None
    rows: list[Row] = []
    for case in cases:
        print(case.name, flush=True)
        beir = load_beir(arguments.data / case.folder, case.split)
        rows += measure_case(
            beir,
            case,
            encoder,
            reranker,
            queries=queries,
            documents=300 if arguments.quick else None,
        )
    report(rows, file=arguments.json, packages=("qdrant-edge-py", "ir-measures"), at_start=before)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
