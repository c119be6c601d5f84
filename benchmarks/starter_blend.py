"""How should the starter's second stage be joined with the first: alone, or blended by RRF?

For each judged set and each first stage (hybrid, dense): nDCG@10 of the first stage, of MaxSim's
order alone (`none`), and of both orders fused by reciprocal ranks (`rrf`), on the same 50
candidates. The choice is made on training splits; the other sets are there to contradict it.
`rrf` against `none` comes with its 95% interval (paired bootstrap over queries).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass

from _judged import Judged, Run, add_data_option, difference_rows, load, missing
from _report import OURS, Row, machine, parser, report

from retrieval import Document, ingest
from retrieval import open as open_collection
from retrieval.evaluation.metrics import measure
from retrieval.fusion import rrf
from retrieval.models.load import load_encoder, load_reranker
from retrieval.models.rerankers.late_interaction import LateInteractionReranker
from retrieval.types import Encoder, Hit, Mode, Reranker

MEASURE = "nDCG@10"
TOKEN_VECTORS = 2 * 2**30
"""Bytes: both first stages meet the same passages again."""

CANDIDATES = 50
MODES: tuple[Mode, ...] = ("hybrid", "dense")
QUICK_DOCUMENTS, QUICK_QUERIES = 300, 30


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


def measure_set(name: str, judged: Judged, encoder: Encoder, reranker: Reranker) -> Iterator[Row]:
    """The rows of a split, one passage per document, as the judgements are."""
    documents = (Document(p.document_id, p.text, title=p.title) for p in judged.passages)
    queries, qrels = judged.beir.queries, judged.beir.qrels
    with tempfile.TemporaryDirectory(prefix="starter-blend-") as store:
        ingest(documents, "set", store=store, encoder=encoder, max_tokens=None)
        with open_collection("set", store=store, encoder=encoder, reranker=reranker) as retriever:
            for mode in MODES:
                results = retriever.search_batch(
                    list(queries.values()),
                    mode=mode,
                    candidates=CANDIDATES,
                    top_k=CANDIDATES,
                    blend="none",
                )
                runs: dict[str, Run] = {"first stage": {}, "none": {}, "rrf": {}}
                for query, result in zip(queries, results, strict=True):
                    for blend, order in orders(result.hits).items():
                        ranked = enumerate(order, start=1)
                        runs[blend][query] = {document: 1.0 / rank for rank, document in ranked}
                case = f"{name}, {mode}, {len(queries)} queries"
                for blend, run in runs.items():
                    value = measure(qrels, run, [MEASURE])[MEASURE]
                    yield Row(f"{case}, {blend}", OURS, MEASURE, round(value, 4), "")
                yield from difference_rows(
                    case, "rrf", qrels, runs["none"], "none", runs["rrf"], [MEASURE]
                )


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


def starter_reranker(encoder: Encoder) -> Reranker:
    """The starter's second stage, with room for the token vectors of a whole set."""
    starter = load_reranker("starter", encoder=encoder)
    assert isinstance(starter, LateInteractionReranker)
    return LateInteractionReranker(
        starter.encoder, max_cache_bytes=TOKEN_VECTORS, name=starter.info.model
    )


def options() -> argparse.ArgumentParser:
    result = parser(__doc__.splitlines()[0])
    add_data_option(result)
    result.add_argument("--queries", type=int, default=200, help="the first N of a set, 200")
    result.add_argument("--sets", nargs="+", metavar="NAME", help="only these folders")
    return result


def main() -> int:
    arguments = options().parse_args()
    before = machine()
    known = QUICK if arguments.quick and not arguments.sets else CASES
    cases = [case for case in known if arguments.sets is None or case.folder in arguments.sets]
    lacking = missing(arguments.data, [case.folder for case in cases])
    if lacking or not cases:
        print(f"{arguments.data} lacks {', '.join(lacking) or arguments.sets}; see --data, --sets")
        return 2
    encoder = load_encoder("starter")
    rows: list[Row] = []
    for case in cases:
        few = (QUICK_DOCUMENTS, QUICK_QUERIES) if arguments.quick else (None, arguments.queries)
        judged = load(arguments.data, case.folder, case.split, *few)
        print(case.name, file=sys.stderr, flush=True)
        rows += measure_set(case.name, judged, encoder, starter_reranker(encoder))
    report(
        rows,
        file=arguments.json,
        packages=("qdrant-edge-py", "ir-measures"),
        at_start=before,
        notes={"candidates": CANDIDATES, "queries": arguments.queries},
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
