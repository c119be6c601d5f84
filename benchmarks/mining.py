"""How many mined hard negatives answer their query after all, and what does mining 1 M texts take?

SciFact's training queries, each with its first labelled document alone; the others are hidden. Our
mining, FlagEmbedding's rule (hn_mine: nearest passages of a range of ranks, drawn, filled up at
random; the script is no part of its package, so the rule is written down here) and
sentence-transformers' own mine_hard_negatives get the same vectors of the same encoder. A negative
is false by labels where any split labels it for the query, hidden ones too, or for a query in
nearly the same words; and answered where a judge that is neither encoder nor teacher scores it at
least as high as the labelled document. Hardness is the negative's cosine over the positive's, so
that shares are compared among systems that are equally hard.

`--memory` mines with vectors that are drawn, as many as asked for, in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _judged import add_data_option
from _mining import KnownVectors, Task, false_by_labels, task_of
from _report import OURS, Row, machine, parser, report

from retrieval.api.mine import mine
from retrieval.models.load import load_encoder, load_reranker
from retrieval.training.mining.candidates import MiningQuery, Text
from retrieval.training.mining.exact import VectorFile
from retrieval.training.mining.pool import PlainPool
from retrieval.training.mining.settings import MiningSettings
from retrieval.types import Encoding, Reranker

FLAG, ST = "FlagEmbedding's rule", "sentence-transformers"
Negatives = dict[str, list[str]]
"""Query id → document ids."""

QUICK_QUERIES, QUICK_DOCUMENTS, QUICK_TEXTS = 24, 150, 20_000


def flag_rule(task: Task, low: int, high: int, count: int) -> Negatives:
    """Draw from a range of ranks what is no positive of the query; fill up from anywhere."""
    draw = random.Random(42)
    ids = list(task.documents)
    found: Negatives = {}
    for query, ranked in task.ranked(high).items():
        own = [one for one in ranked[low:high] if one != task.positives[query]]
        taken = draw.sample(own, count) if len(own) > count else own
        while len(taken) < count:
            more = draw.choice(ids)
            if more != task.positives[query]:
                taken.append(more)
        found[query] = taken
    return found


def st_mined(task: Task, count: int, **options: Any) -> Negatives:
    """sentence-transformers' function on the same vectors."""
    from datasets import Dataset
    from sentence_transformers.util import mine_hard_negatives

    random.seed(42)
    pairs = {
        "query": [task.queries[one] for one in task.positives],
        "positive": [task.documents[one] for one in task.positives.values()],
    }
    mined = mine_hard_negatives(
        Dataset.from_dict(pairs),
        task.as_sentence_transformer(),  # type: ignore[arg-type]
        corpus=list(task.documents.values()),
        num_negatives=count,
        output_format="triplet",
        verbose=False,
        **options,
    )
    by_text = {text: id_ for id_, text in task.documents.items()}
    by_query = {text: id_ for id_, text in task.queries.items()}
    found: Negatives = {query: [] for query in task.positives}
    for row in mined:
        found[by_query[row["query"]]].append(by_text[row["negative"]])
    return found


def ours_mined(task: Task, teacher: Any, scratch: Path, **options: Any) -> Negatives:
    """Our mining on the same vectors."""
    corpus = scratch / "corpus.jsonl"
    records = ({"_id": id_, "text": text} for id_, text in task.documents.items())
    corpus.write_text("".join(json.dumps(one) + "\n" for one in records), encoding="utf-8")
    output = scratch / "mined.jsonl"
    settings = MiningSettings(**options)
    mine(
        task.examples(), output, corpus=corpus, encoder=task.encoder, teacher=teacher,
        settings=settings, restart=True,
    )  # fmt: skip
    lines = map(json.loads, output.read_text(encoding="utf-8").splitlines())
    return {line["query_id"]: line.get("neg_id", []) for line in lines}


def rows_of(
    case: str, system: str, task: Task, found: Negatives, judge: Reranker, seconds: float
) -> Iterator[Row]:
    """Hardness, and the shares of false negatives."""
    pairs = [(query, one) for query, own in found.items() for one in own]
    total = max(len(pairs), 1)
    labelled = [false_by_labels(task, query, one) for query, one in pairs]
    asked = [(task.queries[query], task.documents[one]) for query, one in pairs]
    bars = [(task.queries[q], task.documents[one]) for q, one in task.positives.items()]
    least = dict(zip(task.positives, judge.score(bars).values, strict=True))
    scores = judge.score(asked).values if asked else np.zeros(0)
    answered = [score >= least[query] for (query, _), score in zip(pairs, scores, strict=True)]
    hardness = [task.cosine(query, one) / task.cosine(query, task.positives[query])
                for query, one in pairs]  # fmt: skip
    ranks = task.ranks()
    values = (
        ("negatives", len(pairs) / max(len(found), 1), "a query"),
        ("hardness", float(np.mean(hardness or [0])), "cosine ratio"),
        ("mean rank", float(np.mean([ranks[q].get(one, 0) for q, one in pairs] or [0])), ""),
        ("false by labels", 100 * sum(labelled) / total, "%"),
        ("labels", sum(labelled), "pairs"),
        ("answered by the judge", 100 * sum(answered) / total, "%"),
        ("time", seconds, "s"),
    )
    for metric, value, unit in values:
        yield Row(case, system, metric, round(float(value), 4), unit)


def quality(arguments: argparse.Namespace) -> list[Row]:
    """All systems, in cases that are equally hard."""
    documents = QUICK_DOCUMENTS if arguments.quick else arguments.documents
    queries = QUICK_QUERIES if arguments.quick else arguments.limit
    encoder = KnownVectors(load_encoder("starter"))
    task = task_of(arguments.data, encoder, queries, documents)
    teacher = load_reranker("starter")
    judge = load_reranker(arguments.judge)
    assert judge is not None
    count = arguments.negatives
    task.ranks()  # all vectors, which are in nobody's time
    high = min(210, len(task.documents) // 2)
    drawn: dict[str, Any] = {"rank_from": 10, "rank_to": high, "sampling": "random"}
    top: dict[str, Any] = {"rank_to": min(100, len(task.documents))}
    ranges: dict[str, Any] = {"range_min": 10, "range_max": high, "sampling_strategy": "random"}
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)

        def ours(teacher: Any, **options: Any) -> Callable[[], Negatives]:
            return lambda: ours_mined(task, teacher, scratch, negatives=count, **options)

        cases: list[tuple[str, str, Callable[[], Negatives]]] = [
            ("drawn from ranks 10 on", FLAG, lambda: flag_rule(task, 10, high, count)),
            ("drawn from ranks 10 on", ST, lambda: st_mined(task, count, **ranges)),
            ("drawn from ranks 10 on", OURS, ours(teacher, **drawn)),
            ("the nearest", FLAG, lambda: flag_rule(task, 0, count + 1, count)),
            ("the nearest", ST, lambda: st_mined(task, count)),
            ("the nearest", f"{ST}, margin", lambda: st_mined(task, count, relative_margin=0.05)),
            ("the nearest", f"{OURS}, labels and texts alone", ours("none", **top)),
            ("the nearest", f"{OURS}, cosines as teacher", ours("encoder", **top)),
            ("the nearest", OURS, ours(teacher, **top)),
        ]
        rows: list[Row] = []
        for case, system, run in cases:
            start = time.perf_counter()
            found = run()
            rows += rows_of(case, system, task, found, judge, time.perf_counter() - start)
            print(f"{case}: {system}", file=sys.stderr, flush=True)
    return rows


class DrawnVectors:
    """An encoder whose vectors are drawn: what is around it takes the memory."""

    def __init__(self, dimension: int) -> None:
        from retrieval.types import EncoderInfo

        self.info = EncoderInfo("drawn", "sha256:0", dimension, "mean", True, "", "", 512)
        self._random = np.random.default_rng(0)

    def encode_passages(self, passages: Sequence[str]) -> Encoding:
        """Vectors of length 1."""
        made = self._random.standard_normal((len(passages), self.info.dimension), dtype=np.float32)
        made /= np.linalg.norm(made, axis=1, keepdims=True)
        none = np.zeros(len(passages), dtype=np.int64)
        return Encoding(made, none, none.astype(np.bool_))


def memory_of(texts: int, dimension: int, queries: int) -> dict[str, float]:
    """Run in a process of its own: a pool of drawn vectors, searched for some queries."""
    import resource

    def resident() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    before = resident()
    words = [f"w{number}" for number in range(5000)]
    draw = random.Random(0)
    passages = (Text(f"{number} {' '.join(draw.choices(words, k=30))}") for number in range(texts))
    encoder: Any = DrawnVectors(dimension)
    with tempfile.TemporaryDirectory() as folder:
        vectors = VectorFile(Path(folder) / "q", dimension, "float32")
        vectors.fill(queries, lambda a, b: encoder.encode_passages([""] * (b - a)).vectors,
                     block=1024)  # fmt: skip
        pool = PlainPool(passages, Path(folder), encoder, MiningSettings(rank_to=200))
        pool.prepare(vectors)
        start = time.perf_counter()
        asked = [MiningQuery("q", (), frozenset())] * 32
        for first in range(0, queries, 32):
            pool.find(asked, first)
        seconds = time.perf_counter() - start
        disk = sum(path.stat().st_size for path in Path(folder).iterdir()) / 2**20
        pool.close()
    return {"resident": resident(), "before": before, "seconds": seconds, "disk": disk}


def memory(arguments: argparse.Namespace) -> Iterator[Row]:
    """What mining takes as the corpus grows."""
    most = QUICK_TEXTS if arguments.quick else arguments.texts
    for dimension in (384, 1024):
        for texts in (most // 10, most):
            command = [sys.executable, __file__, "--worker", str(texts), str(dimension)]
            ran = subprocess.run(command, check=True, capture_output=True, text=True)
            found = json.loads(ran.stdout)
            case = f"{texts:,} texts, {dimension} dimensions, 1,024 queries"
            for metric, value, unit in (
                ("most resident", found["resident"], "MiB"),
                ("before", found["before"], "MiB"),
                ("vectors as float32", texts * dimension * 4 / 2**20, "MiB"),
                ("on disk", found["disk"], "MiB"),
                ("search", found["seconds"], "s"),
            ):
                yield Row(case, OURS, metric, round(value, 2), unit)


def options() -> argparse.ArgumentParser:
    result = parser(__doc__.splitlines()[0])
    add_data_option(result)
    result.add_argument("--limit", type=int, help="only the first N queries")
    result.add_argument("--documents", type=int, help="only N documents, labelled ones first")
    result.add_argument("--negatives", type=int, default=7, help="of a query")
    result.add_argument("--judge", default="maxsim", help="a reranker that is not the teacher")
    result.add_argument("--memory", action="store_true", help="memory with drawn vectors alone")
    result.add_argument("--texts", type=int, default=1_000_000, help="of --memory")
    result.add_argument("--worker", type=int, nargs=2, help=argparse.SUPPRESS)
    return result


def main() -> int:
    arguments = options().parse_args()
    if arguments.worker:
        print(json.dumps(memory_of(*arguments.worker, queries=1024)))
        return 0
    before = machine()
    rows: list[Row] = []
    if not arguments.memory:
        if not (arguments.data / "scifact" / "corpus.jsonl").is_file():
            print(f"{arguments.data} lacks scifact; see --data")
            return 2
        rows += quality(arguments)
    if arguments.memory or arguments.quick:
        rows += memory(arguments)
    notes = {"limit": arguments.limit, "negatives": arguments.negatives, "judge": arguments.judge}
    packages = ("sentence-transformers", "FlagEmbedding")
    report(rows, file=arguments.json, packages=packages, at_start=before, notes=notes)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
