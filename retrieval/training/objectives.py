"""Losses of both stages, as functions of similarities and scores: nothing here knows a model.

Shapes: B queries, each with a group of G passages, of which the first answers it; `valid` (B, G)
is False where a group has fewer.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_FAR_BELOW = -1e4  # a logit that no softmax sees, finite in fp16 as well


def info_nce(scores: Tensor, answers: Tensor, left_out: Tensor) -> Tensor:
    """The contrastive loss InfoNCE (van den Oord et al. 2018): cross-entropy against one answer.

    Args:
        scores: (B, N), similarities of queries and passages divided by the temperature.
        answers: int64 (B,), the column of each query's answer.
        left_out: bool (B, N), passages that are no negatives of a query, nor there.

    Returns:
        The mean over the queries, a scalar.
    """
    own = functional.one_hot(answers, scores.shape[1]).bool()
    return functional.cross_entropy(
        scores.masked_fill(left_out & ~own, _FAR_BELOW), answers, reduction="mean"
    )


def distil_kl(scores: Tensor, teacher: Tensor, valid: Tensor) -> Tensor:
    """Cross-entropy between the teacher's and the student's softmax over each group.

    It differs from their Kullback-Leibler divergence by the teacher's entropy, a constant; this is
    FlagEmbedding's `kl_div`.

    Args:
        scores, teacher, valid: (B, G).
    """
    student = functional.log_softmax(scores.masked_fill(~valid, _FAR_BELOW), dim=-1)
    wanted = functional.softmax(teacher.masked_fill(~valid, -torch.inf), dim=-1)
    return -(student * wanted).masked_fill(~valid, 0.0).sum(-1).mean()


def distil_margin_mse(scores: Tensor, teacher: Tensor, valid: Tensor) -> Tensor:
    """Mean squared error of margins between the answer and the others (Hofstätter et al. 2020).

    Args:
        scores, teacher, valid: (B, G).
    """
    wanted = teacher[:, :1] - teacher[:, 1:]
    found = scores[:, :1] - scores[:, 1:]
    there = valid[:, 1:]
    return ((found - wanted) ** 2)[there].sum() / there.sum().clamp(min=1)


def listwise(scores: Tensor, valid: Tensor) -> Tensor:
    """Cross-entropy of each group's softmax against its answer: how BGE's rerankers are trained.

    Args:
        scores, valid: (B, G).
    """
    answers = torch.zeros(len(scores), dtype=torch.long, device=scores.device)
    return functional.cross_entropy(scores.masked_fill(~valid, _FAR_BELOW), answers)


def binary(scores: Tensor, valid: Tensor) -> Tensor:
    """Binary cross-entropy of every pair by itself, so that scores are comparable over queries.

    Args:
        scores, valid: (B, G).
    """
    labels = torch.zeros_like(scores)
    labels[:, 0] = 1.0
    return functional.binary_cross_entropy_with_logits(scores[valid], labels[valid])


def lambda_loss(scores: Tensor, valid: Tensor, *, mu: float = 10.0) -> Tensor:
    """LambdaLoss with the weights NDCG-Loss2++ (Wang et al. 2018), a bound of 1 - nDCG.

    Args:
        scores, valid: (B, G).
        mu: the weight of NDCG-Loss2 beside LambdaRank's.
    """
    gain = torch.zeros_like(scores)
    gain[:, 0] = 1.0  # one answer: the ideal nDCG is 1
    sorted_scores, order = scores.masked_fill(~valid, -torch.inf).sort(dim=-1, descending=True)
    gain = gain.gather(-1, order)
    there = valid.gather(-1, order)
    ranks = torch.arange(1, scores.shape[1] + 1, device=scores.device, dtype=scores.dtype)
    discount = torch.log2(1.0 + ranks)
    gains = (gain[:, :, None] - gain[:, None, :]).abs()
    rank_lambda = (1 / discount[:, None] - 1 / discount[None, :]).abs()
    apart = (ranks[:, None] - ranks[None, :]).abs().long()
    nearer, farther = torch.log2(apart.clamp(min=1) + 1.0), torch.log2(apart + 2.0)
    loss2 = (1 / nearer - 1 / farther).abs().masked_fill(apart == 0, 0.0)
    weights = (mu * loss2 + rank_lambda) * gains
    pairs = (gain[:, :, None] > gain[:, None, :]) & there[:, :, None] & there[:, None, :]
    finite = sorted_scores.masked_fill(~there, 0.0)
    differences = finite[:, :, None] - finite[:, None, :]
    losses = -functional.logsigmoid(differences) / torch.log(torch.tensor(2.0)) * weights.detach()
    return losses[pairs].sum() / pairs.sum().clamp(min=1)


def unit(vectors: Tensor, dimension: int | None = None) -> Tensor:
    """Vectors cut to a dimension and of length 1."""
    cut = vectors if dimension is None else vectors[..., :dimension]
    return functional.normalize(cut, dim=-1)
