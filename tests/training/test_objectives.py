"""Losses against those of sentence-transformers and FlagEmbedding, on the same numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from retrieval.training import objectives
from retrieval.training.batches import GroupBatch
from retrieval.training.encoder_objective import EncoderObjective
from retrieval.training.reranker import PairObjective


class _NoInputs:
    lengths = np.zeros(0, dtype=np.int64)


def _batch(keys: np.ndarray, answers=None, teacher=None, guide=None) -> GroupBatch:
    rows = len(keys)
    valid = keys >= 0
    passages = np.zeros(keys.shape, dtype=np.int64)
    passages[valid] = rows + np.arange(int(valid.sum()))
    return GroupBatch(
        inputs=_NoInputs(),
        queries=np.arange(rows),
        passages=passages,
        valid=valid,
        keys=keys,
        answers=tuple(answers or [keys[row, :1] for row in range(rows)]),
        teacher=teacher,
        guide=guide,
    )


def _vectors(rows: int, seed: int = 0, size: int = 16) -> torch.Tensor:
    found = torch.randn(rows, size, generator=torch.Generator().manual_seed(seed))
    return found.requires_grad_()


def test_info_nce_is_that_of_sentence_transformers() -> None:
    """Scale 50 is temperature 0.02; three negatives each, and in-batch ones."""
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    keys = np.arange(6 * 4).reshape(6, 4)
    vectors = _vectors(6 + 24)
    ours = EncoderObjective(0.02)(vectors, _batch(keys))
    passages = vectors[6:].reshape(6, 4, -1)
    theirs = MultipleNegativesRankingLoss(None, scale=50.0).compute_loss_from_embeddings(
        [vectors[:6], *passages.unbind(1)], None
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("distilled", [False, True])
@pytest.mark.parametrize("in_batch", [False, True])
def test_losses_are_those_of_flag_embedding(distilled: bool, in_batch: bool) -> None:
    from FlagEmbedding.finetune.embedder.encoder_only.base.modeling import (
        BiEncoderOnlyEmbedderModel,
    )

    keys = np.arange(5 * 3).reshape(5, 3)
    vectors = _vectors(5 + 15, seed=1)
    teacher = np.random.default_rng(3).normal(size=(5, 3)).astype(np.float32)
    kind = "kl_div" if distilled else "none"
    ours = EncoderObjective(0.02, in_batch=in_batch, distillation=kind)(
        vectors, _batch(keys, teacher=teacher)
    )
    model = BiEncoderOnlyEmbedderModel.__new__(BiEncoderOnlyEmbedderModel)
    torch.nn.Module.__init__(model)
    model.temperature, model.kd_loss_type = 0.02, "kl_div"
    model.normalize_embeddings = True
    model.cross_entropy = torch.nn.CrossEntropyLoss()
    loss = model._compute_in_batch_neg_loss if in_batch else model._compute_no_in_batch_neg_loss
    targets = torch.softmax(torch.from_numpy(teacher), dim=-1) if distilled else None
    unit = objectives.unit(vectors)
    _, theirs = loss(unit[:5], unit[5:], teacher_targets=targets)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_reranker_losses_are_those_of_the_peers() -> None:
    """Listwise as FlagEmbedding, LambdaLoss and binary as sentence-transformers."""
    from sentence_transformers.cross_encoder.losses import LambdaLoss

    scores = _vectors(6, seed=2, size=5)
    valid = torch.ones(6, 5, dtype=torch.bool)
    plain = torch.nn.functional.cross_entropy(scores, torch.zeros(6, dtype=torch.long))
    torch.testing.assert_close(objectives.listwise(scores, valid), plain)

    class Given(torch.nn.Module):
        num_labels, device = 1, torch.device("cpu")

        def preprocess(self, pairs, **_):
            rows = torch.tensor([[int(query), int(passage)] for query, passage in pairs])
            return {"rows": rows}

        def forward(self, given):
            return {"scores": scores[given["rows"][:, 0], given["rows"][:, 1]]}

    queries = [str(row) for row in range(6)]
    passages = [[str(column) for column in range(5)] for _ in range(6)]
    labels = [torch.tensor([1.0, 0, 0, 0, 0]) for _ in range(6)]
    theirs = LambdaLoss(Given())([queries, passages], labels)
    torch.testing.assert_close(objectives.lambda_loss(scores, valid), theirs, rtol=1e-5, atol=1e-6)


def test_smaller_groups_change_nothing_for_the_others() -> None:
    """A place without a passage has no part in any loss."""
    scores = torch.tensor([[2.0, 1.0, 0.5], [0.3, 0.9, 77.0]])
    valid = torch.tensor([[True, True, True], [True, True, False]])
    teacher = torch.tensor([[3.0, 1.0, 0.0], [2.0, 1.0, -9.0]])
    for loss in (objectives.listwise, objectives.lambda_loss, objectives.binary):
        other = scores.clone()
        other[1, 2] = -3.0
        torch.testing.assert_close(loss(scores, valid), loss(other, valid))
    for distil in (objectives.distil_kl, objectives.distil_margin_mse):
        other = scores.clone()
        other[1, 2] = -3.0
        torch.testing.assert_close(distil(scores, teacher, valid), distil(other, teacher, valid))
    expected = ((2 - 1 - 2) ** 2 + (2 - 0.5 - 3) ** 2 + (0.3 - 0.9 - 1) ** 2) / 3
    assert objectives.distil_margin_mse(scores, teacher, valid).item() == pytest.approx(expected)


def test_what_answers_a_query_is_not_its_negative() -> None:
    """Passage 9 answers both queries; as the other's positive it is left out of the loss."""
    keys = np.array([[9, 1], [5, 2]])
    vectors = _vectors(2 + 4, seed=4)
    both = _batch(keys, answers=[np.array([9]), np.array([5, 9])])
    one = _batch(keys, answers=[np.array([9]), np.array([5])])
    masked, plain = EncoderObjective(0.05)(vectors, both), EncoderObjective(0.05)(vectors, one)
    assert masked.item() < plain.item()
    (gradient,) = torch.autograd.grad(EncoderObjective(0.05)(vectors, both), vectors)
    # passage 9 still moves, since it answers the first query
    assert gradient[2].norm().item() > 0


def test_a_guide_sorts_out_negatives_that_it_takes_for_answers() -> None:
    keys = np.array([[0, 1], [2, 3]])
    vectors = _vectors(2 + 4, seed=5)
    queries = np.array([[1, 0], [0, 1]], dtype=np.float32)
    passages = np.array([[[0.8, 0.6], [1, 0]], [[0, 1], [1, 0]]], dtype=np.float32)
    guided = _batch(keys, guide=(queries, passages))
    # the guide finds passages 1 and 3 nearer to the first query than its answer
    left = EncoderObjective(0.05)(vectors, guided)
    unit = objectives.unit(vectors)
    scores = unit[:2] @ unit[2:].T / 0.05
    first = torch.logsumexp(scores[0, [0, 2]], 0) - scores[0, 0]
    second = torch.logsumexp(scores[1], 0) - scores[1, 2]
    torch.testing.assert_close(left, (first + second) / 2)
    strict = EncoderObjective(0.05, guide_margin=0.5)(vectors, guided)
    assert strict.item() < left.item()  # passage 0, 0.4 below the second query's answer


def test_matryoshka_is_the_mean_over_dimensions() -> None:
    keys = np.arange(8).reshape(4, 2)
    vectors = _vectors(4 + 8, seed=6)
    whole = EncoderObjective(0.02, dimensions=(16, 4))(vectors, _batch(keys))
    parts = [EncoderObjective(0.02)(vectors[:, :size], _batch(keys)) for size in (16, 4)]
    torch.testing.assert_close(whole, sum(parts) / 2)


def test_a_reranker_learns_from_teacher_and_labels() -> None:
    keys = np.arange(6).reshape(2, 3)
    teacher = np.array([[3, 0, 0], [1, 2, 0]], dtype=np.float32)
    batch = _batch(keys, teacher=teacher)
    scores = torch.randn(8, generator=torch.Generator().manual_seed(1)).requires_grad_()
    grouped = scores[torch.from_numpy(batch.passages)]
    valid = torch.ones(2, 3, dtype=torch.bool)
    expected = objectives.listwise(grouped, valid) + objectives.distil_kl(
        grouped, torch.from_numpy(teacher), valid
    )
    torch.testing.assert_close(PairObjective("listwise", "kl_div")(scores, batch), expected)
