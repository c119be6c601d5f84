"""What is won on a task, and lost elsewhere, when either stage is tuned and merged?

SciFact's training claims, less those that nearly are test claims, with hard negatives mined from
its documents, tune the starter's encoder and the starter's cross-encoder, each from its original.
Both are merged with their originals, half and half, which was settled beforehand. Shown are test
sets that nothing was chosen on: of an encoder vectors alone, of a reranker its order of hybrid
search's candidates, alone and joined with the first stage's. Differences are against the original,
or for a reranker against the first stage, with 95% intervals (paired bootstrap over queries).

    python benchmarks/tuning.py --stage encoder --work DIR --json FILE

What lies in DIR is not made again, and a training that was killed goes on.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from _judged import add_data_option
from _report import OURS, Row, machine, parser, report

from retrieval.api import lent_models
from retrieval.api.ingest import ingest
from retrieval.api.measure_stages import JudgedCollection, StageScores, System, measure_stages
from retrieval.api.merge import merge
from retrieval.api.mine import mine
from retrieval.evaluation.judged import JudgedQueries
from retrieval.evaluation.judgements import load_judgements
from retrieval.evaluation.significance import bootstrap_interval
from retrieval.index.store import Store
from retrieval.training.data.prepare import prepare_data
from retrieval.training.mining.settings import MiningSettings
from retrieval.training.run import train_encoder, train_reranker
from retrieval.training.settings import EncoderTraining, RerankerTraining, Stage
from retrieval.types import BlendChoice

TASK = ("scifact", "train", "test")
GENERAL: dict[str, tuple[tuple[str, str], ...]] = {
    "encoder": (("cranfield", "test"), ("cisi", "test")),
    "reranker": (("msmarco-dl20-pool", "test"), ("cranfield", "test")),
}
MINING = {
    # claims are judged by what they cite, so that few neighbours answer one unlabelled; a margin
    # of cosines would leave out the nearest, which are what has to be told apart
    "encoder": ("none", MiningSettings(negatives=8, rank_to=30, sampling="random")),
    "reranker": (
        "starter",
        MiningSettings(negatives=5, rank_to=50, sources="hybrid", relative_margin=0.05),
    ),
}
BLENDS: tuple[BlendChoice, ...] = ("none", "auto")
SETTINGS: dict[str, dict[str, Any]] = {
    "encoder": {
        "learning_rate": 2e-5,
        "num_train_epochs": 1,
        "per_device_train_batch_size": 32,
        "dropout": 0.0,
        "train_group_size": 4,
        "passage_max_len": 320,
        "query_max_len": 64,
    },
    "reranker": {
        "learning_rate": 2e-5,
        "num_train_epochs": 2,
        "per_device_train_batch_size": 8,
        "dropout": 0.0,
        "train_group_size": 4,
        "max_len": 320,
    },
}


def add_candidates_option(options: argparse.ArgumentParser) -> None:
    """How many of hybrid search's candidates a reranker reads."""
    options.add_argument("--candidates", type=int, default=50, help="re-ranked of each query")


def note(text: str) -> None:
    """Say how far it is."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def indexed(judged: JudgedQueries, work: Path) -> str:
    """The collection of a set's documents, whole, by the original encoder; made once."""
    mark = work / f"{judged.name}.indexed"
    if not mark.exists():
        note(f"indexing {judged.name}")
        assert judged.corpus_file is not None
        ingest(judged.corpus_file, judged.name, store=str(work / "store"), encoder="starter",
               max_tokens=None)  # fmt: skip
        mark.touch()
    return judged.name


def in_collections(sets: Sequence[JudgedQueries], work: Path) -> list[JudgedCollection]:
    """The sets, each in its collection by the original encoder."""
    store = Store(str(work / "store"))
    return [JudgedCollection(one, store, (indexed(one, work),)) for one in sets]


def mined(stage: str, work: Path, data: Path) -> tuple[Path, Path]:
    """Training and dev examples with hard negatives; test claims are no part of them."""
    folder, train, test = TASK
    store = str(work / "store")
    if not (work / "examples.jsonl").exists():
        judged = load_judgements(data / folder, test)
        prepare_data(
            [data / folder], work / "examples.jsonl", split=train, evaluation=[judged],
            with_leaks="drop", dev=0.1, dev_out=work / "examples.dev.jsonl",
        )  # fmt: skip
    collection = indexed(load_judgements(data / folder, test), work)
    out = []
    for part in ("examples.jsonl", "examples.dev.jsonl"):
        lines = (work / part).read_text("utf-8").splitlines()
        kept = {json.loads(line)["query_id"] for line in lines}
        judged = load_judgements(data / folder, train)
        own = replace(
            judged,
            queries={key: text for key, text in judged.queries.items() if key in kept},
            qrels={key: grades for key, grades in judged.qrels.items() if key in kept},
        )
        output = work / f"{stage}.{part}"
        note(f"mining {output.name}")
        teacher, settings = MINING[stage]
        mine(own, output, collection=collection, store=store, teacher=teacher, settings=settings)
        out.append(output)
    return out[0], out[1]


def tuned(stage: Stage, work: Path, data: Path) -> tuple[str, Path, Path]:
    """The folders of the original, tuned and merged model."""
    train, dev = mined(stage, work, data)
    common: dict[str, Any] = {
        "model": "starter",
        "train_data": (str(train),),
        "dev_data": str(dev),
        "output_dir": str(work / f"{stage}-tuned"),
        **SETTINGS[stage],
    }
    if stage == "encoder":
        found = train_encoder(EncoderTraining(**common), on_notice=note, on_line=note)
    else:
        found = train_reranker(RerankerTraining(**common), on_notice=note, on_line=note)
    note(found.as_text())
    merged = work / f"{stage}-merged"
    if not merged.exists():
        merge([found.output, "starter"], merged, kind=stage)
    (work / f"{stage}.json").write_text(json.dumps(found.as_dict(), indent=2))
    return "starter", found.output, merged


def encoder_rows(models: Mapping[str, Any], sets: list[JudgedQueries], work: Path) -> Iterator[Row]:
    """Vectors alone, of each model on each set, against the original."""
    for judged in sets:
        before: StageScores | None = None
        for name, model in models.items():
            given = in_collections([judged], work) if name == "original" else [judged]
            [found] = measure_stages(given, encoder=model, systems=("dense",))
            before = before or found
            note(f"{name} on {judged.name}: {found.measure} {found.value:.4f}")
            yield from rows_of(judged, name, found, before)


def reranker_rows(
    models: Mapping[str, Any], sets: list[JudgedQueries], work: Path, candidates: int
) -> Iterator[Row]:
    """Each reranker's order of the same hybrid candidates, alone and joined, against hybrid."""
    collections = in_collections(sets, work)
    systems: tuple[System, ...] = ("hybrid", "two-stage")
    with contextlib.ExitStack() as stack:
        encoder = stack.enter_context(lent_models.loaded_encoder("starter", {}))
        rerankers = [
            stack.enter_context(lent_models.loaded_reranker(one, encoder, {}))
            for one in models.values()
        ]
        for judged, collection in zip(sets, collections, strict=True):
            for blend in BLENDS:  # each pair is scored once
                note(f"measuring {judged.name} with blend {blend}")
                first, *seconds = measure_stages(
                    [collection], encoder=encoder, reranker=rerankers, systems=systems,
                    candidates=candidates, blend=blend,
                )  # fmt: skip
                if blend == BLENDS[0]:
                    yield from rows_of(judged, "first stage", first, first)
                for name, one in zip(models, seconds, strict=True):
                    note(f"{name} on {judged.name}, {blend}: {one.value:.4f}")
                    yield from rows_of(judged, f"{name}, blend {blend}", one, first)


def rows_of(
    judged: JudgedQueries, system: str, found: StageScores, before: StageScores
) -> Iterator[Row]:
    """The mean, and the difference with its interval."""
    case = f"{judged.name}/{judged.split}, {len(judged.queries)} queries"
    differences = np.array([found.per_query[key] - before.per_query[key] for key in judged.queries])
    yield Row(case, system, found.measure, round(found.value, 4), "")
    yield Row(case, system, "difference", round(float(differences.mean()), 4), "")
    low, high = bootstrap_interval(differences[None])
    yield Row(case, system, "low", round(float(low[0]), 4), "")
    yield Row(case, system, "high", round(float(high[0]), 4), "")


def main() -> None:
    """Tune, measure, print and write."""
    options = parser(__doc__ or "")
    add_data_option(options)
    options.add_argument("--stage", choices=("encoder", "reranker"), default="encoder")
    options.add_argument("--work", type=Path, required=True, help="folder of what is made")
    add_candidates_option(options)
    args: argparse.Namespace = options.parse_args()
    started = machine()
    args.work.mkdir(parents=True, exist_ok=True)
    original, best, merged = tuned(args.stage, args.work, args.data)
    models = {"original": original, "tuned": best, "merged": merged}
    sets = [load_judgements(args.data / TASK[0], TASK[2])]
    sets += [load_judgements(args.data / name, split) for name, split in GENERAL[args.stage]]
    if args.quick:
        sets = [one.first(20) for one in sets[:2]]
    rows = (
        encoder_rows(models, sets, args.work)
        if args.stage == "encoder"
        else reranker_rows(models, sets, args.work, args.candidates)
    )
    run = json.loads((args.work / f"{args.stage}.json").read_text())
    notes = {key: run[key] for key in ("queries", "steps", "best_step", "seconds", "before")}
    notes |= {"after": run["after"], "settings": SETTINGS[args.stage], "system": OURS}
    notes |= {"candidates": args.candidates} if args.stage == "reranker" else {}
    packages = ("sentence-transformers", "accelerate")
    report(list(rows), file=args.json, packages=packages, at_start=started,
           notes=notes)  # fmt: skip


if __name__ == "__main__":
    main()
