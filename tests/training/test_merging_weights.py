"""How much of each model: given, equal, or from losses that equal those of a naive computation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from training.loaders import our_encoder, our_reranker

from retrieval.errors import InvalidInput
from retrieval.training.examples import TrainingExample
from retrieval.training.merging.choosing import SweepPoint, choose, pareto_front
from retrieval.training.merging.weights import (
    check_examples,
    encoder_loss,
    equal_weights,
    given_weights,
    loss_weights,
    reranker_loss,
)

EXAMPLES = [
    TrainingExample("what is a bi-encoder?", ("one text, one vector",), ("a dog", "the fox")),
    TrainingExample("北京是什么？", ("北京是中国的首都",), ("上海是最大的城市", "a dog")),
    TrainingExample("a fox?", ("the fox", "the quick brown fox"), ("a dog",)),
]


def test_given_weights() -> None:
    assert given_weights([0.7, 0.3], 2).values == (0.7, 0.3)
    assert given_weights([1 / 3] * 3, 3).values == (1 / 3,) * 3
    assert given_weights([2, 6], 2, normalize=True).values == (0.25, 0.75)
    assert given_weights([1.5, -0.5], 2, extrapolate=True).values == (1.5, -0.5)
    assert equal_weights(4).values == (0.25,) * 4
    with pytest.raises(InvalidInput, match="1 weights were given for 2 models"):
        given_weights([1.0], 2)
    with pytest.raises(InvalidInput, match=r"0\.5, 0\.4 sum to 0\.9, expected 1.*--normalize"):
        given_weights([0.5, 0.4], 2)
    with pytest.raises(InvalidInput, match=r"-0\.5 is negative.*--extrapolate"):
        given_weights([1.5, -0.5], 2)
    with pytest.raises(InvalidInput, match="sum to 0, expected 1"):
        given_weights([0.0, 0.0], 2, normalize=True)
    with pytest.raises(InvalidInput, match="a weight is nan"):
        given_weights([float("nan"), 1.0], 2)


def test_weights_from_losses_are_those_of_lm_cocktail() -> None:
    losses = [0.3, 2.0, 1.1]
    expected = torch.softmax(-torch.tensor(losses, dtype=torch.float64) / 5.0, -1).tolist()
    found = loss_weights(losses, 8)
    np.testing.assert_allclose(found.values, expected, atol=1e-12)
    assert sum(found.values) == pytest.approx(1.0, abs=1e-12)
    assert loss_weights([0.0, 5000.0], 8, temperature=0.1).values == (1.0, 0.0)
    with pytest.raises(InvalidInput, match="the temperature is 0"):
        loss_weights(losses, 8, temperature=0)


def test_the_loss_of_an_encoder(tiny_xlmr_encoder: Path) -> None:
    encoder = our_encoder(tiny_xlmr_encoder, query_instruction="查询: ")
    texts = ["one text, one vector", "a dog", "the fox", "北京是中国的首都", "上海是最大的城市"]
    texts += ["the quick brown fox"]
    queries = torch.from_numpy(encoder.encode_queries([one.query for one in EXAMPLES]))
    passages = torch.from_numpy(encoder.encode_passages(texts).vectors)
    scores = queries @ passages.T / 0.05
    scores[2, 5] = -torch.inf  # the third example's other positive
    expected = torch.nn.functional.cross_entropy(scores, torch.tensor([0, 3, 2]))
    assert encoder_loss(encoder, EXAMPLES) == pytest.approx(float(expected), abs=1e-4)
    assert float(expected) > 0.01


def test_the_loss_of_a_reranker(tiny_bert_reranker: Path) -> None:
    reranker = our_reranker(tiny_bert_reranker)
    expected = []
    for one in EXAMPLES:
        pairs = [(one.query, text) for text in (one.positives[0], *one.negatives)]
        scores = torch.from_numpy(reranker.score(pairs).values)[None]
        expected.append(float(torch.nn.functional.cross_entropy(scores, torch.tensor([0]))))
    assert reranker_loss(reranker, EXAMPLES) == pytest.approx(np.mean(expected), abs=1e-6)


def test_examples_that_say_nothing() -> None:
    bare = TrainingExample("q", ("p",), prompt="other: ")
    said: list[str] = []
    assert check_examples([*EXAMPLES, bare], "reranker", said.append) == EXAMPLES
    assert said == ["1 examples without negatives are left out of the loss"]
    assert check_examples([*EXAMPLES, bare], "encoder", said.append) == [*EXAMPLES, bare]
    assert "1 examples have a prompt of their own" in said[-1]
    with pytest.raises(InvalidInput, match=r"none of the 1 examples.*a reranker needs negatives"):
        check_examples([bare], "reranker", said.append)
    with pytest.raises(InvalidInput, match="none of the 0 examples"):
        check_examples([], "encoder", said.append)


def point(share: float, task: float, **general: float) -> SweepPoint:
    return SweepPoint(share, task, general)


def test_the_front_and_the_rule() -> None:
    original = point(0.0, 0.60, cisi=0.30, cranfield=0.40)
    points = [
        original,
        point(0.25, 0.63, cisi=0.31, cranfield=0.41),  # better in both: the original is beaten
        point(0.5, 0.66, cisi=0.295, cranfield=0.395),
        point(0.75, 0.65, cisi=0.29, cranfield=0.40),  # beaten by the one before
        point(1.0, 0.68, cisi=0.28, cranfield=0.42),
    ]
    assert pareto_front(points) == [1, 4]  # 1.0: the mean is 0.35, as at 0.5
    assert points[4].general_loss(original) == pytest.approx(0.02)
    assert choose(points, original, 0.01) == 2
    assert choose(points, original, 0.02) == 4
    assert choose(points, original, 0.0) == 1
    worse = [original, point(1.0, 0.5, cisi=0.9, cranfield=0.9)]
    assert choose(worse, original, 0.01) == 0
    assert pareto_front(worse) == [0, 1]
    # a tie goes to the one that loses less, then to less of the tuned model
    ties = [point(0.0, 0.6), point(0.5, 0.7), point(1.0, 0.7)]
    assert choose(ties, ties[0], 0.01) == 1
