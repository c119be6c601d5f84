"""Two processes under torchrun learn what one learns from batches of twice the size."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from training.training_data import run, settings_for, write_examples

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "cache"), [("encoder", "on"), ("encoder", "off"), ("reranker", "on")]
)
def test_two_processes_are_one(
    stage: str, cache: str, tmp_path: Path, make_tiny_model: Callable[..., Path]
) -> None:
    model = make_tiny_model(
        "bert", stage, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    data = write_examples(tmp_path / "train.jsonl", queries=16)
    more = {"dev_share": 0, "num_train_epochs": 1, "gradient_cache": cache, "seed": 3}
    one = run(
        settings_for(stage, model, data, tmp_path / "one", per_device_train_batch_size=8, **more)
    )
    more = {**more, "per_device_train_batch_size": 4, "device": "cpu"}
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--master-port", "0", "--standalone"]
    command += [str(Path(__file__).with_name("training_data.py"))]
    command += [stage, str(model), str(data), str(tmp_path / "two"), json.dumps(more)]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    record = json.loads((tmp_path / "two" / "training.json").read_text("utf-8"))
    assert record["steps"] == one.steps == 2
    losses = [loss for _, loss in record["losses"]]
    np.testing.assert_allclose(losses, [loss for _, loss in one.losses], atol=1e-4)
    ours = load_file(tmp_path / "two" / "model.safetensors")
    for name, tensor in load_file(tmp_path / "one" / "model.safetensors").items():
        if not name.endswith("key.bias"):  # no loss depends on it
            np.testing.assert_allclose(ours[name], tensor, atol=2e-4, err_msg=name)
