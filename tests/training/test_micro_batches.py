"""Batches in parts: the same loss and gradients as in one piece, with and without dropout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from retrieval.training.encoder import prepare_encoder
from retrieval.training.examples import TrainingExample
from retrieval.training.micro_batches import MicroBatches, parts_of
from retrieval.training.reranker import prepare_reranker
from retrieval.training.settings import EncoderTraining, RerankerTraining

EXAMPLES = [
    TrainingExample(
        f"query about topic {n}", (f"topic {n} " * (n % 7 + 2),), (f"other {n}", "so " * n)
    )
    for n in range(1, 25)
]


def _gradients(trainable, *, tokens: int, cached: bool, seed: int = 7):
    model = trainable.model.train()
    model.zero_grad()
    torch.manual_seed(seed)
    loss = MicroBatches(model, trainable.output, trainable.objective, tokens=tokens, cached=cached)
    batch = trainable.collate([{"example": n, "epoch": 0} for n in range(16)])
    value = loss([{"input_ids": batch["batch_input_ids"]}])
    value.backward()
    grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return value.item(), grads


@pytest.fixture(params=["encoder", "reranker"])
def make(request, tiny_bert_encoder: Path, tiny_bert_reranker: Path) -> Callable:
    def prepared(dropout: float):
        kind = request.param
        path = tiny_bert_encoder if kind == "encoder" else tiny_bert_reranker
        settings = {"encoder": EncoderTraining, "reranker": RerankerTraining}[kind](
            model=str(path), train_data=("x",), output_dir="x", train_group_size=3
        )
        prepare = {"encoder": prepare_encoder, "reranker": prepare_reranker}[kind]
        trainable = prepare(settings, EXAMPLES, [], "cpu")
        for module in trainable.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = dropout
        network = trainable.model[0].auto_model
        network.config.attention_probs_dropout_prob = dropout
        return trainable

    return prepared


def test_parts_are_sorted_and_bounded() -> None:
    import numpy as np

    lengths = np.array([3, 9, 1, 9, 40, 2])
    parts = parts_of(lengths, 20)
    assert sorted(np.concatenate(parts).tolist()) == list(range(6))
    assert parts[0].tolist() == [4]  # longer than the budget: by itself
    for part in parts[1:]:
        assert len(part) * lengths[part].max() <= 20


def test_the_gradient_cache_changes_nothing(make) -> None:
    """One piece, many parts, many parts with the cache: one loss, the same gradients."""
    trainable = make(0.0)
    whole = _gradients(trainable, tokens=10**6, cached=False)
    for tokens, cached in ((64, False), (64, True), (10**6, True)):
        found = _gradients(trainable, tokens=tokens, cached=cached)
        assert found[0] == pytest.approx(whole[0], abs=1e-5)
        for name, gradient in whole[1].items():
            torch.testing.assert_close(found[1][name], gradient, rtol=1e-4, atol=1e-6)


def test_the_second_pass_drops_what_the_first_has_dropped(make) -> None:
    trainable = make(0.2)
    plain = _gradients(trainable, tokens=64, cached=False)
    cached = _gradients(trainable, tokens=64, cached=True)
    other = _gradients(trainable, tokens=64, cached=True, seed=8)
    assert cached[0] == pytest.approx(plain[0], abs=1e-5)
    assert other[0] != pytest.approx(plain[0], abs=1e-4)  # dropout does something
    for name, gradient in plain[1].items():
        torch.testing.assert_close(cached[1][name], gradient, rtol=1e-4, atol=1e-6)


def test_random_numbers_go_on_alike(make) -> None:
    """Whether the cache is used must not change which numbers the next step draws."""
    trainable = make(0.2)
    after = []
    for cached in (False, True):
        _gradients(trainable, tokens=64, cached=cached)
        after.append(torch.rand(3))
    torch.testing.assert_close(after[0], after[1])
