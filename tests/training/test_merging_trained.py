"""What is fine-tuned here is merged with what it was tuned from, as it is, without a notice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from training.loaders import PAIRS, QUERIES, our_encoder, our_reranker
from training.training_data import run, settings_for, write_examples

from retrieval.api.merge import merge
from retrieval.models.resolve import resolve


def scores(folder: Path, stage: str) -> Any:
    if stage == "encoder":
        return our_encoder(folder).encode_queries(QUERIES)
    return our_reranker(folder).score(PAIRS).values


@pytest.mark.parametrize("stage", ["encoder", "reranker"])
def test_half_of_a_tuned_model(
    stage: str, tmp_path: Path, tiny_bert_encoder: Path, tiny_bert_reranker: Path
) -> None:
    original = {"encoder": tiny_bert_encoder, "reranker": tiny_bert_reranker}[stage]
    data = write_examples(tmp_path / "train.jsonl", queries=20)
    tuned = tmp_path / "tuned"
    run(settings_for(stage, original, data, tuned, num_train_epochs=1))
    report = merge([tuned, original], tmp_path / "half", weights="equal")
    assert report.notices == ()
    names = ("pooling", "normalize", "max_length", "query_instruction", "score_head")
    for name in names:
        assert getattr(report.model.spec, name) == getattr(resolve(original, stage).spec, name)
    whole = merge([tuned, original], tmp_path / "whole", weights=[1.0, 0.0]).model.path
    np.testing.assert_allclose(scores(whole, stage), scores(tuned, stage), atol=1e-5)
    assert np.abs(scores(report.model.path, stage) - scores(tuned, stage)).max() > 1e-4
