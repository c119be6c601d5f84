"""Dropout of a run: every place of it, in each family, and only while training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from reference.modern_models import modernbert_config
from training.training_data import run, settings_for, write_examples

from retrieval.training.dropout import set_dropout


def _model(family: str) -> Any:
    from transformers import (
        BertConfig,
        BertModel,
        ModernBertModel,
        XLMRobertaConfig,
        XLMRobertaModel,
    )

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 64, "vocab_size": 600}
    if family == "modernbert":
        config = modernbert_config()
        config.attention_dropout = 0.3  # the published models have none; tuned ones may
        return ModernBertModel(config)
    if family == "bert":
        return BertModel(BertConfig(**sizes))
    return XLMRobertaModel(XLMRobertaConfig(**sizes))


@pytest.mark.parametrize("family", ["bert", "xlmr", "modernbert"])
def test_every_dropout_is_set(family: str) -> None:
    model = _model(family).train()
    tokens = torch.randint(5, 100, (2, 12))

    def differs() -> bool:
        with torch.no_grad():
            first, second = (model(input_ids=tokens).last_hidden_state for _ in range(2))
        return not torch.equal(first, second)

    assert differs()
    set_dropout(model, 0.0)
    assert not differs()
    set_dropout(model, 0.5)
    assert differs()


def test_a_run_without_dropout_does_not_depend_on_its_draws(
    tmp_path: Path, tiny_bert_encoder: Path
) -> None:
    """Two ways through the batches draw other numbers; without dropout the losses are the same."""
    data = write_examples(tmp_path / "train.jsonl", queries=16)

    def losses(name: str, **more: Any) -> list[float]:
        more |= {"max_steps": 4, "dev_share": 0.0}
        report = run(settings_for("encoder", tiny_bert_encoder, data, tmp_path / name, **more))
        return [loss for _, loss in report.losses]

    whole = losses("whole", dropout=0.0, gradient_cache="off")
    parts = losses("parts", dropout=0.0, gradient_cache="on", micro_batch_tokens=32)
    assert parts == pytest.approx(whole, abs=1e-4)
    assert losses("own") != pytest.approx(whole, abs=1e-4)  # the model's own 0.1
    config = json.loads((tmp_path / "whole" / "config.json").read_text())
    assert config["hidden_dropout_prob"] == 0.1  # the folder's next user decides anew
