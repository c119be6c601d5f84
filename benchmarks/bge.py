"""Do BGE's rules matter: pooling, instruction, length, thresholds, number formats, libraries?

Real weights of bge-small-en-v1.5 and ms-marco-MiniLM-L12-v2. What its authors ask for is tried and
left out on judged sets, with the difference's 95% interval (paired bootstrap over queries); cosines
and scores of related and unrelated pairs are counted; the same texts go through every library that
is installed. Nothing is chosen here, so test splits are used.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import _bge_peers
import _bge_rules
from _bge_rules import Weights
from _judged import PYTHON_DOCS, Judged, add_data_option, load, missing
from _report import Row, machine, parser, report, table
from _vectors import add_vectors_option

from retrieval.models.load import load_reranker
from retrieval.models.resolve import resolve
from retrieval.types import Reranker

ENCODER = "BAAI/bge-small-en-v1.5"
RERANKER = "cross-encoder/ms-marco-MiniLM-L12-v2"
PARAGRAPHS = "xquad-en"
"""Few paragraphs and many questions: small differences show, and reading it again takes no time."""

SHORT_QUERIES = ("scifact", "msmarco-dl20-pool", PYTHON_DOCS, PARAGRAPHS)
QUICK_DOCUMENTS, QUICK_QUERIES = 200, 40
PACKAGES = ("FlagEmbedding", "sentence-transformers", "langchain-community", "ir-measures")


@dataclass(frozen=True, slots=True)
class Bench:
    """What all sections need: where the sets are, how much of them is read, and the models."""

    data: Path
    quick: bool
    weights: Weights
    encoder: str
    reranker: str

    def judged(self, folder: str) -> Judged:
        few = (QUICK_DOCUMENTS, QUICK_QUERIES) if self.quick else (None, None)
        return load(self.data, folder, "test", *few)

    def second_stage(self) -> Reranker:
        loaded = load_reranker(self.reranker)
        assert loaded is not None
        return loaded


def pooling(bench: Bench) -> Iterator[Row]:
    for folder in (PARAGRAPHS,) if bench.quick else ("scifact", PARAGRAPHS):
        yield from _bge_rules.pooling(bench.weights, bench.judged(folder))


def instruction(bench: Bench) -> Iterator[Row]:
    for folder in SHORT_QUERIES[-1:] if bench.quick else SHORT_QUERIES:
        again = folder == PARAGRAPHS
        yield from _bge_rules.instruction(bench.weights, bench.judged(folder), passages=again)


def symmetric(bench: Bench) -> Iterator[Row]:
    yield from _bge_rules.symmetric(bench.weights, bench.judged(PARAGRAPHS))


def length(bench: Bench) -> Iterator[Row]:
    yield from _bge_rules.lengths(bench.weights, bench.judged(PARAGRAPHS))


def cosines(bench: Bench) -> Iterator[Row]:
    yield from _bge_rules.cosine_rows(bench.weights, bench.judged("scifact"))


def scores(bench: Bench) -> Iterator[Row]:
    pairs = 40 if bench.quick else 300
    yield from _bge_rules.score_rows(
        bench.weights, bench.second_stage(), bench.judged("scifact"), pairs
    )


def formats(bench: Bench) -> Iterator[Row]:
    """benchmarks/int8.py does the same on SciFact."""
    yield from _bge_rules.formats(bench.weights, bench.judged(PARAGRAPHS))


def libraries(bench: Bench) -> Iterator[Row]:
    judged = bench.judged("scifact")
    yield from _bge_peers.agreement(
        resolve(bench.encoder, "encoder").path,
        resolve(bench.reranker, "reranker").path,
        [passage.content for passage in judged.passages],
        list(judged.beir.queries.values()),
    )


SECTIONS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    section.__name__: section
    for section in (
        pooling, instruction, symmetric, length, cosines, scores, formats, libraries,
    )
}  # fmt: skip
NOT_QUICK = ("formats",)


def options() -> argparse.ArgumentParser:
    result = parser(__doc__.splitlines()[0])
    add_data_option(result)
    add_vectors_option(result)
    result.add_argument("--encoder", default=ENCODER, help=f"name or folder; {ENCODER}")
    result.add_argument("--reranker", default=RERANKER, help=f"name or folder; {RERANKER}")
    result.add_argument("--sections", nargs="+", choices=SECTIONS, help="only these")
    return result


def main() -> int:
    arguments = options().parse_args()
    before = machine()
    lacking = missing(arguments.data, [name for name in SHORT_QUERIES if name != PYTHON_DOCS])
    if lacking:
        print(f"{arguments.data} lacks {', '.join(lacking)}; see --data")
        return 2
    bench = Bench(
        arguments.data,
        arguments.quick,
        # the weights' fingerprint: what another file of that name gives is not this one's
        Weights(
            arguments.encoder,
            arguments.vectors_dir,
            resolve(arguments.encoder, "encoder").fingerprint,
        ),
        arguments.encoder,
        arguments.reranker,
    )
    chosen = arguments.sections or [
        name for name in SECTIONS if not (arguments.quick and name in NOT_QUICK)
    ]
    rows: list[Row] = []
    done: list[str] = []
    for name in chosen:
        print(name, file=sys.stderr, flush=True)
        own = list(SECTIONS[name](bench))
        print(table(own), end="\n\n", flush=True)
        rows += own
        done.append(name)
        # after each: a run that is stopped leaves what it has found
        report(
            rows,
            file=arguments.json,
            packages=PACKAGES,
            at_start=before,
            notes={"encoder": arguments.encoder, "reranker": arguments.reranker, "sections": done},
            quiet=True,
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
