"""The recipe of the starter's own second stage: data, hard negatives, training, merging, figures.

MiniLM-L12's cross-encoder is tuned with a LoRA adapter on training splits with open licences, and
merged half and half with its original, both settled beforehand, on:

- scifact, train (CC BY 4.0, ODC-By 1.0), less what nearly are test claims
- pubmedqa, train (MIT), less what nearly are test questions
- xquad-en, questions of every second paragraph (CC BY-SA 4.0); the others are reported
- musique-train100 (MIT), a sample of a training split
- titles and texts of Python's own documentation (PSF), drawn

    python benchmarks/starter_reranker.py --work DIR --json FILE --delta FILE

What lies in DIR is not made again, and a training that was killed goes on. The delta is the
difference between the merged model and its original: two narrow matrices for each wide one.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from _judged import add_data_option
from _report import OURS, machine, parser, report
from safetensors.numpy import load_file, save_file
from tuning import add_candidates_option, indexed, note, reranker_rows

from retrieval.api.merge import merge
from retrieval.api.mine import mine
from retrieval.evaluation.judged import JudgedQueries
from retrieval.evaluation.judgements import load_judgements
from retrieval.models.resolve import resolve
from retrieval.training.data.prepare import prepare_data
from retrieval.training.data.reading import load_examples
from retrieval.training.mining.settings import MiningSettings
from retrieval.training.run import train_reranker
from retrieval.training.settings import RerankerTraining

ORIGINAL = "cross-encoder/ms-marco-MiniLM-L12-v2@int8-origin"
SEED = 42
RANK = 16
PYTHON_PAIRS = 500
MINING = MiningSettings(negatives=5, rank_to=50, sources="hybrid", relative_margin=0.05)
PLAIN_MINING = MiningSettings(negatives=5, rank_to=50, relative_margin=0.05)
TRAINING = {
    "learning_rate": 3e-4,
    "num_train_epochs": 1,
    "per_device_train_batch_size": 8,
    "train_group_size": 4,
    "max_len": 256,
    "dropout": 0.0,
    "lora_rank": RANK,
    "lora_alpha": 32,
    "dev_share": 0.05,
    "eval_steps": 100,
    "seed": SEED,
}
MOST_QUERIES = 100
"""Of a set that is reported, at equal distances."""


def half_of_paragraphs(judged: JudgedQueries, half: int) -> JudgedQueries:
    """Questions of every second paragraph, by the paragraphs' ids."""
    ids = sorted({key for grades in judged.qrels.values() for key in grades})
    own = set(ids[half::2])
    return only(judged, [query for query, grades in judged.qrels.items() if own >= set(grades)])


def with_own_paragraphs(judged: JudgedQueries, work: Path) -> JudgedQueries:
    """The questions among their own paragraphs: the reported half's are no negatives either."""
    own = {key for grades in judged.qrels.values() for key in grades}
    assert judged.corpus_file is not None
    lines = judged.corpus_file.read_text("utf-8").splitlines(keepends=True)
    kept = work / "xquad-en-half.jsonl"
    kept.write_text("".join(one for one in lines if json.loads(one)["_id"] in own), "utf-8")
    return replace(judged, name=kept.stem, corpus_file=kept)


def only(judged: JudgedQueries, kept: list[str]) -> JudgedQueries:
    """Some of the queries."""
    return replace(
        judged,
        queries={one: judged.queries[one] for one in kept},
        qrels={one: judged.qrels[one] for one in kept},
    )


def thinned(judged: JudgedQueries) -> JudgedQueries:
    """At most `MOST_QUERIES`, at equal distances."""
    names = list(judged.queries)
    if len(names) <= MOST_QUERIES:
        return judged
    picked = [names[place * len(names) // MOST_QUERIES] for place in range(MOST_QUERIES)]
    return only(judged, picked)


def sources(data: Path, work: Path) -> Iterator[tuple[str, JudgedQueries]]:
    """Judged queries to train on, by set; none of them is reported."""
    for name in ("scifact", "pubmedqa"):
        kept_file = work / f"{name}.jsonl"
        if not kept_file.exists():
            prepare_data(
                [data / name], kept_file, evaluation=[load_judgements(data / name, "test")],
                with_leaks="drop",
            )  # fmt: skip
        kept = {one.query_id for one in load_examples(kept_file)}
        judged = load_judgements(data / name, "train")
        yield name, only(judged, [one for one in judged.queries if one in kept])
    yield (
        "xquad-en",
        with_own_paragraphs(
            half_of_paragraphs(load_judgements(data / "xquad-en", "test"), 0), work
        ),
    )
    yield "musique-train100", load_judgements(data / "musique-train100", "test")


def mined(data: Path, work: Path) -> list[Path]:
    """Training data with hard negatives, a file for each set."""
    found = []
    for name, judged in sources(data, work):
        output = work / f"{name}.mined.jsonl"
        collection = indexed(judged, work)
        note(f"mining {name}")
        mine(judged, output, collection=collection, store=str(work / "store"), teacher="encoder",
             settings=MINING)  # fmt: skip
        found.append(output)
    pairs = work / "python-docs.jsonl"
    if not pairs.exists():
        prepare_data(["python-docs"], work / "python-docs.all.jsonl", pairs=("titles", "headings"))
        lines = (work / "python-docs.all.jsonl").read_text("utf-8").splitlines(keepends=True)
        drawn = np.random.default_rng(SEED).permutation(len(lines))[:PYTHON_PAIRS]
        pairs.write_text("".join(lines[place] for place in sorted(drawn)), "utf-8")
    output = work / "python-docs.mined.jsonl"
    note("mining python-docs")
    mine(pairs, output, encoder="starter", teacher="encoder", settings=PLAIN_MINING)
    return [with_negatives(one) for one in (*found, output)]


def with_negatives(mined: Path) -> Path:
    """The queries that have any: a reranker learns from differences."""
    kept = mined.with_suffix(".kept.jsonl")
    lines = mined.read_text("utf-8").splitlines(keepends=True)
    kept.write_text("".join(line for line in lines if json.loads(line)["neg"]), "utf-8")
    return kept


def as_difference(original: Path, merged: Path, delta: Path, out: Path) -> dict[str, float]:
    """Write what the merged model differs by, and the folder that the original becomes by it.

    Of each matrix that was tuned the file has two narrow ones in half precision, `….left` and
    `….right`, whose product is the nearest difference of that rank (Eckart and Young 1936).
    Products and sums of half-precision numbers are exact in float64, and one rounding to float32
    follows: the sum is the same bytes on every machine.

    Returns:
        How many bytes the difference has, and how far a weight is from the merged model's.
    """
    before, after = (load_file(one / "model.safetensors") for one in (original, merged))
    parts: dict[str, Any] = {}
    made = dict(before)
    for name, old in before.items():
        gap = after[name].astype(np.float64) - old
        if not gap.any():
            continue
        u, s, v = np.linalg.svd(gap, full_matrices=False)
        root = np.sqrt(s[:RANK])
        left = np.ascontiguousarray(u[:, :RANK] * root, dtype=np.float16)
        right = np.ascontiguousarray(root[:, None] * v[:RANK], dtype=np.float16)
        parts[f"{name}.left"], parts[f"{name}.right"] = left, right
        made[name] = (old + left.astype(np.float64) @ right.astype(np.float64)).astype(np.float32)
    save_file(parts, delta)
    if not out.exists():
        shutil.copytree(merged, out)
    save_file(made, out / "model.safetensors", metadata={"format": "pt"})
    worst = max(float(abs(made[name] - after[name]).max()) for name in before)
    return {"bytes": delta.stat().st_size, "largest_error": worst}


def main() -> None:
    """Make, measure, print and write."""
    options = parser(__doc__ or "")
    add_data_option(options)
    options.add_argument("--work", type=Path, required=True, help="folder of what is made")
    options.add_argument("--delta", type=Path, required=True, help="file of the difference")
    add_candidates_option(options)
    args: argparse.Namespace = options.parse_args()
    started = machine()
    args.work.mkdir(parents=True, exist_ok=True)
    files = mined(args.data, args.work)
    settings = RerankerTraining(
        model=ORIGINAL,
        train_data=tuple(map(str, files)),
        output_dir=str(args.work / "tuned"),
        **TRAINING,  # type: ignore[arg-type]
    )
    found = train_reranker(settings, on_notice=note, on_line=note)
    note(found.as_text())
    merged = args.work / "merged"
    if not merged.exists():
        merge([found.output, ORIGINAL], merged, kind="reranker")
    original = resolve(ORIGINAL, "reranker").path
    summed = args.work / "summed"
    delta = as_difference(original, merged, args.delta, summed)
    note(f"the delta has {delta['bytes']:,} bytes")
    sets = [load_judgements(args.data / "scifact", "test")]
    sets += [load_judgements(args.data / "msmarco-dl20-pool", "test")]
    more = [load_judgements(args.data / name, "test") for name in ("cranfield", "pubmedqa")]
    more.append(half_of_paragraphs(load_judgements(args.data / "xquad-en", "test"), 1))
    sets += [thinned(one) for one in more]
    if args.quick:
        sets = [one.first(10) for one in sets]
    models = {"original": ORIGINAL, "merged": str(summed)}
    rows = list(reranker_rows(models | {"tuned": str(found.output)}, sets[:1], args.work,
                              args.candidates))  # fmt: skip
    rows += reranker_rows(models, sets[1:], args.work, args.candidates)
    notes = {"data": found.data, "queries": found.queries, "steps": found.steps}
    notes |= {"seconds": round(found.seconds), "before": found.before, "after": found.after}
    notes |= {"settings": TRAINING, "delta": delta, "system": OURS}
    notes["candidates"] = args.candidates
    report(rows, file=args.json, at_start=started, notes=notes)


if __name__ == "__main__":
    main()
