"""Small training sets, and runs that another process makes so that it can be killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from retrieval.training.run import train_encoder, train_reranker
from retrieval.training.settings import EncoderTraining, RerankerTraining, make_settings


def write_examples(path: Path, queries: int = 40, seed: int = 1, scored: bool = False) -> Path:
    """Queries that are the first words of their passage, with three negatives each."""
    draw = random.Random(seed)
    words = [f"{a}{b}" for a in "bcdfg" for b in ("one", "two", "red", "sun", "sea")]

    def text(count: int) -> str:
        return " ".join(draw.choice(words) for _ in range(count))

    with path.open("w", encoding="utf-8") as file:
        for number in range(queries):
            answer = f"{number} {text(draw.randrange(8, 20))}"
            record: dict[str, Any] = {
                "query": " ".join(answer.split()[:4]),
                "pos": [answer],
                "neg": [text(draw.randrange(4, 24)) for _ in range(3)],
            }
            if scored:
                record["pos_scores"] = [5.0]
                record["neg_scores"] = [draw.random() for _ in range(3)]
            file.write(json.dumps(record) + "\n")
    return path


def settings_for(stage: str, model: Path, data: Path, out: Path, **more: Any) -> Any:
    """A short run of tiny batches."""
    kind = {"encoder": EncoderTraining, "reranker": RerankerTraining}[stage]
    values = {
        "model": str(model),
        "train_data": [str(data)],
        "output_dir": str(out),
        "num_train_epochs": 2,
        "per_device_train_batch_size": 4,
        "train_group_size": 3,
        "dev_share": 0.2,
        "learning_rate": 1e-3,
        "threads": 1,
        "tensorboard": False,
        "micro_batch_tokens": 256,
    }
    return make_settings(kind, {**values, **more}, "the test")


def run(settings: Any, **options: Any) -> Any:
    """Train a stage."""
    train = train_encoder if settings.stage == "encoder" else train_reranker
    return train(settings, **options)


def kill_when(reached: Callable[[], object], command: Sequence[str], **environment: str) -> None:
    """Run Python with these arguments, and kill it once it is so far."""
    process = subprocess.Popen(
        [sys.executable, *command], env={**os.environ, **environment},
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    deadline = time.monotonic() + 180
    while not reached():
        assert process.poll() is None, process.communicate()[1].decode()[-2000:]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()


if __name__ == "__main__":  # python training_data.py STAGE MODEL DATA OUT JSON
    run(settings_for(sys.argv[1], *map(Path, sys.argv[2:5]), **json.loads(sys.argv[5])))
