"""Folders that FlagEmbedding's own fine-tuning writes load here, with its own scores.

They hold weights, tokeniser and config.json, and say nothing of pooling or instruction: what is
missing must be named by our errors, given, and then be the same in every tool.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from training.loaders import (
    PAIRS,
    PASSAGES,
    QUERIES,
    flag_scores,
    flag_vectors,
    our_encoder,
    our_reranker,
    sentence_scores,
    sentence_vectors,
)

from retrieval.api.merge import merge
from retrieval.errors import ModelSettingUnknown
from retrieval.models.resolve import resolve
from retrieval.training.data.flag_jsonl import write_flag_jsonl
from retrieval.training.examples import TrainingExample
from retrieval.training.saving import write_encoder_files, write_reranker_files

INSTRUCTION = "Represent this sentence for searching relevant passages: "
EXAMPLES = [
    TrainingExample("what is a bi-encoder?", ("one text, one vector",), ("a dog", "the fox")),
    TrainingExample("北京是什么？", ("北京是中国的首都",), ("上海是中国最大的城市", "a dog")),
    TrainingExample("copies a tree", ("copies a whole directory tree",), ("Return it", "fox")),
    TrainingExample("the path", ("Return the path of the file",), ("a dog", "the fox jumps")),
]

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("FlagEmbedding") is None, reason="FlagEmbedding is not installed"
)


def fine_tuned(stage: str, model: Path, folder: Path, **options: object) -> Path:
    """What FlagEmbedding's own entry point saves after three steps on the CPU."""
    data = folder / "train.jsonl"
    write_flag_jsonl(data, EXAMPLES)
    settings = {
        "model_name_or_path": model, "train_data": data, "cache_path": folder / "cache",
        "output_dir": folder / "tuned", "train_group_size": 2, "query_max_len": 32,
        "passage_max_len": 64, "learning_rate": 1e-3, "max_steps": 3, "save_steps": 1000,
        "per_device_train_batch_size": 2, "report_to": "none", **options,
    }  # fmt: skip
    arguments = [str(part) for name, value in settings.items() for part in (f"--{name}", value)]
    module = f"FlagEmbedding.finetune.{stage}.encoder_only.base"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", module, *arguments, "--use_cpu"],
        capture_output=True, text=True, env=environment, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return folder / "tuned"


def test_an_encoder(tiny_bert_encoder: Path, tmp_path: Path) -> None:
    tuned = fine_tuned(
        "embedder", tiny_bert_encoder, tmp_path, temperature=0.02, sentence_pooling_method="mean",
        normalize_embeddings=True, query_instruction_for_retrieval=INSTRUCTION,
        query_instruction_format="{}{}",
    )  # fmt: skip
    assert not (tuned / "modules.json").exists()
    with pytest.raises(ModelSettingUnknown, match=r"declares no pooling.*pooling='cls' \| 'mean'"):
        resolve(tuned, "encoder")
    settings = {"pooling": "mean", "query_instruction": INSTRUCTION}
    ours = our_encoder(tuned, **settings).encode_queries([*QUERIES, *PASSAGES])
    theirs = flag_vectors(tuned, [*QUERIES, *PASSAGES], INSTRUCTION, "mean")
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    untuned = our_encoder(tiny_bert_encoder, **settings).encode_queries([*QUERIES, *PASSAGES])
    assert np.abs(ours - untuned).max() > 1e-3, "three steps must have changed something"

    merged = merge(
        [tuned, tiny_bert_encoder], tmp_path / "merged", weights=[1.0, 0.0], options=settings
    ).model.path  # what is said once holds for all, and then it stands in the folder
    np.testing.assert_allclose(
        our_encoder(merged).encode_queries([*QUERIES, *PASSAGES]), theirs, atol=1e-4
    )
    write_encoder_files(tuned, resolve(tuned, "encoder", **settings).spec)
    found = sentence_vectors(tuned, [*QUERIES, *PASSAGES], "query")
    np.testing.assert_allclose(found, theirs, atol=1e-4)
    assert resolve(tuned, "encoder").spec.query_instruction == INSTRUCTION


def test_a_reranker(tiny_xlmr_reranker: Path, tmp_path: Path) -> None:
    tuned = fine_tuned("reranker", tiny_xlmr_reranker, tmp_path)
    theirs = flag_scores(tuned)
    np.testing.assert_allclose(our_reranker(tuned).score(PAIRS).values, theirs, atol=1e-4)
    untuned = our_reranker(tiny_xlmr_reranker).score(PAIRS).values
    assert np.abs(theirs - untuned).max() > 1e-3, "three steps must have changed something"
    write_reranker_files(tuned, resolve(tuned, "reranker").spec)
    np.testing.assert_allclose(sentence_scores(tuned), theirs, atol=1e-4)
    np.testing.assert_allclose(flag_scores(tuned), theirs, atol=1e-6)
    assert json.loads((tuned / "config.json").read_text("utf-8"))["architectures"] == [
        "XLMRobertaForSequenceClassification"
    ]
