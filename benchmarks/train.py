"""How many passages a second does fine-tuning an encoder learn from, beside FlagEmbedding's trainer
and sentence-transformers'?

All three train the same weights on the same examples with the same batch, group, lengths,
optimiser and loss (InfoNCE, temperature 0.02, in-batch and hard negatives), in processes that take
turns.
The time of a step is that between the trainer's own events; the first step, which warms up, is left
out. Memory is the process's peak less what it had when training began.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _report import OURS, Row, machine, parser, report
from transformers import AutoTokenizer, TrainerCallback

from retrieval.models.resolve import resolve

ST, CACHED = "sentence-transformers", "sentence-transformers, cached"
FLAG = "FlagEmbedding"
OURS_CACHED = f"{OURS}, cached"
SYSTEMS = (OURS, ST, FLAG, OURS_CACHED, CACHED)
MEDIAN_TOKENS, SPREAD = 150, 0.6
"""Of passages: a log-normal distribution, as of paragraphs cut at headings."""


class Clock(TrainerCallback):
    """When each step ended, and the memory when training began."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.before = 0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        self.times.append(time.perf_counter())

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.times.append(time.perf_counter())

    def result(self) -> dict[str, Any]:
        """Seconds of each step but the first, and mebibytes on top."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        seconds = [b - a for a, b in zip(self.times, self.times[1:], strict=False)]
        return {"seconds": seconds[1:], "mib": (peak - self.before) / 1024}


def write_data(path: Path, model: Path, queries: int, negatives: int, longest: int) -> None:
    """Examples of whole words, in lengths as real passages have them."""
    draw = random.Random(0)
    tokenizer = AutoTokenizer.from_pretrained(model)
    words = sorted(word for word in tokenizer.get_vocab() if word.isalpha() and len(word) > 2)

    def text(tokens: float) -> str:
        return " ".join(draw.choice(words) for _ in range(max(4, min(longest, round(tokens)))))

    def passage() -> str:
        return text(draw.lognormvariate(0, SPREAD) * MEDIAN_TOKENS)

    with path.open("w", encoding="utf-8") as file:
        for _ in range(queries):
            record = {
                "query": text(draw.uniform(6, 18)),
                "pos": [passage()],
                "neg": [passage() for _ in range(negatives)],
            }
            file.write(json.dumps(record) + "\n")


def ours(task: dict[str, Any], cached: bool) -> dict[str, Any]:
    """This library's trainer."""
    from retrieval.training import loop
    from retrieval.training.run import train_encoder
    from retrieval.training.settings import EncoderTraining

    clock = Clock()
    make = loop.Loop._trainer

    def with_clock(self: Any, progress: Any) -> Any:
        trainer = make(self, progress)
        trainer.add_callback(clock)
        return trainer

    loop.Loop._trainer = with_clock  # type: ignore[method-assign]
    train_encoder(
        EncoderTraining(
            model=task["model"],
            train_data=(task["data"],),
            output_dir=task["out"],
            dev_share=0,
            max_steps=task["steps"],
            num_train_epochs=1,
            per_device_train_batch_size=task["batch"],
            train_group_size=task["group"],
            query_max_len=task["longest"],
            passage_max_len=task["longest"],
            query_instruction_for_retrieval="",
            gradient_cache="on" if cached else "off",
            dtype="fp32",
            tensorboard=False,
            device="cpu",
        )
    )
    return clock.result()


def sentence_transformers(task: dict[str, Any], cached: bool) -> dict[str, Any]:
    """sentence-transformers' trainer with its own loss, columns and collator."""
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import (
        CachedMultipleNegativesRankingLoss,
        MultipleNegativesRankingLoss,
    )

    model = SentenceTransformer(task["model"], device="cpu")
    model.max_seq_length = task["longest"]
    records = [json.loads(line) for line in Path(task["data"]).read_text("utf-8").splitlines()]
    columns: dict[str, list[str]] = {
        "anchor": [one["query"] for one in records],
        "positive": [one["pos"][0] for one in records],
    }
    for place in range(task["group"] - 1):
        columns[f"negative_{place}"] = [one["neg"][place] for one in records]
    loss: Any = MultipleNegativesRankingLoss(model, scale=50.0)
    if cached:
        # its own packing by tokens, with our budget
        loss = CachedMultipleNegativesRankingLoss(model, scale=50.0, mini_batch_num_tokens=2048)
    clock = Clock()
    SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(
            output_dir=task["out"],
            max_steps=task["steps"],
            per_device_train_batch_size=task["batch"],
            use_cpu=True,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            logging_steps=1,
            learning_rate=2e-5,
        ),
        train_dataset=Dataset.from_dict(columns),
        loss=loss,
        callbacks=[clock],
    ).train()
    return clock.result()


def flag_embedding(task: dict[str, Any]) -> dict[str, Any]:
    """FlagEmbedding's runner, as its command starts it."""
    from FlagEmbedding.finetune.embedder.encoder_only.base import (
        EncoderOnlyEmbedderDataArguments,
        EncoderOnlyEmbedderModelArguments,
        EncoderOnlyEmbedderRunner,
        EncoderOnlyEmbedderTrainingArguments,
    )

    clock = Clock()
    runner = EncoderOnlyEmbedderRunner(
        model_args=EncoderOnlyEmbedderModelArguments(model_name_or_path=task["model"]),
        data_args=EncoderOnlyEmbedderDataArguments(
            train_data=[task["data"]],
            train_group_size=task["group"],
            query_max_len=task["longest"],
            passage_max_len=task["longest"],
        ),
        training_args=EncoderOnlyEmbedderTrainingArguments(
            output_dir=task["out"],
            max_steps=task["steps"],
            per_device_train_batch_size=task["batch"],
            use_cpu=True,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            logging_steps=1,
            learning_rate=2e-5,
            temperature=0.02,
            dataloader_drop_last=True,
        ),
    )
    runner.trainer.add_callback(clock)
    runner.trainer.train()
    return clock.result()


def work(system: str, task: dict[str, Any]) -> dict[str, Any]:
    """Train with one system, in this process."""
    import torch

    torch.set_num_threads(task["threads"])
    if system in (OURS, OURS_CACHED):
        return ours(task, cached=system == OURS_CACHED)
    if system in (ST, CACHED):
        return sentence_transformers(task, cached=system == CACHED)
    return flag_embedding(task)


def run(system: str, task: dict[str, Any]) -> dict[str, Any]:
    """Train with one system, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        own = {**task, "out": f"{folder}/out"}
        command = [sys.executable, __file__, "--worker", system, json.dumps(own)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(f"{system} failed:\n{done.stderr[-3000:]}")
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found


def measure(args: argparse.Namespace) -> list[Row]:
    """All systems in turns."""
    model = resolve(args.model, "encoder").path
    steps = 4 if args.quick else args.steps
    batch = 4 if args.quick else args.batch
    case = f"batch {batch}, {args.group} passages a query, up to {args.longest} tokens"
    seconds: dict[str, list[float]] = {system: [] for system in SYSTEMS}
    memory: dict[str, list[float]] = {system: [] for system in SYSTEMS}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "train.jsonl"
        write_data(data, model, batch * steps, args.group - 1, args.longest)
        task = {
            "model": str(model),
            "data": str(data),
            "steps": steps,
            "batch": batch,
            "group": args.group,
            "longest": args.longest,
            "threads": len(os.sched_getaffinity(0)),
        }
        for _ in range(1 if args.quick else args.rounds):
            for system in SYSTEMS:
                found = run(system, task)
                seconds[system] += found["seconds"]
                memory[system].append(found["mib"])
    rows: list[Row] = []
    for system in SYSTEMS:
        mean = statistics.mean(seconds[system])  # each step has other texts
        rows.append(Row(case, system, "passages", batch * args.group / mean, "/s"))
        rows.append(Row(case, system, "memory", statistics.median(memory[system]), "MiB"))
    return rows


def main() -> None:
    """Measure, print and write."""
    if sys.argv[1:2] == ["--worker"]:
        print(json.dumps(work(sys.argv[2], json.loads(sys.argv[3]))))
        return
    options = parser(__doc__ or "")
    options.add_argument("--model", default="starter", help="the encoder that is tuned")
    options.add_argument("--batch", type=int, default=16, help="queries of a batch")
    options.add_argument("--group", type=int, default=2, help="passages of a query")
    options.add_argument("--longest", type=int, default=512, help="tokens of a text")
    options.add_argument("--steps", type=int, default=8, help="of a run, the first not counted")
    options.add_argument("--rounds", type=int, default=2, help="turns of each system")
    args = options.parse_args()
    started = machine()
    packages = ("sentence-transformers", "FlagEmbedding", "accelerate", "peft")
    report(measure(args), file=args.json, packages=packages, at_start=started)


if __name__ == "__main__":
    main()
