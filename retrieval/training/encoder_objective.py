"""The loss of a batch of groups, from the vectors of its texts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed

from retrieval.training import objectives
from retrieval.training.batches import GroupBatch
from retrieval.training.settings import KdLoss


@dataclass(frozen=True, slots=True)
class EncoderObjective:
    """InfoNCE over a query's own passages and, with `in_batch`, those of the batch's others.

    Left out are passages that answer the query, too, wherever they stand in the training set, and
    those that a guide takes for answers (GISTEmbed, Solatorio 2024).

    Args:
        temperature: similarities are divided by it.
        in_batch: whether other queries' passages are negatives.
        cross_device: and those of other devices, where there are any (RocketQA, Qu et al. 2021).
        distillation: what of a teacher's scores is learned beside or instead of that.
        dimensions: shorter vectors to train for, too (Matryoshka, Kusupati et al. 2022); the loss
            is the mean over them.
        guide_margin: how far below the answer a negative must be for the guide, as a cosine.
    """

    temperature: float
    in_batch: bool = True
    cross_device: bool = True
    distillation: KdLoss = "none"
    dimensions: tuple[int, ...] = ()
    guide_margin: float = 0.0

    def __call__(self, vectors: Tensor, batch: GroupBatch) -> Tensor:
        """The loss, a scalar, of vectors (rows, d)."""
        assert batch.queries is not None
        device = vectors.device
        queries = vectors[torch.from_numpy(batch.queries).to(device)]
        passages = vectors[torch.from_numpy(batch.passages).to(device)]
        columns = _Columns.of(batch, self.in_batch, self.in_batch and self.cross_device)
        left_out = torch.from_numpy(columns.left_out(batch, self.guide_margin)).to(device)
        answers = torch.from_numpy(columns.answers).to(device)
        found = [
            self._at(
                objectives.unit(queries, size),
                objectives.unit(passages, size),
                batch,
                left_out,
                answers,
            )
            for size in self.dimensions or (None,)
        ]
        return torch.stack(found).mean()

    def _at(
        self,
        queries: Tensor,
        passages: Tensor,
        batch: GroupBatch,
        left_out: Tensor,
        answers: Tensor,
    ) -> Tensor:
        own = torch.einsum("bd,bgd->bg", queries, passages) / self.temperature
        loss = queries.new_zeros(())
        if self.distillation != "none":
            valid = torch.from_numpy(batch.valid).to(queries.device)
            teacher = torch.from_numpy(batch.teacher).to(queries.device)
            if self.distillation == "margin_mse":
                return objectives.distil_margin_mse(own, teacher, valid)
            loss = objectives.distil_kl(own, teacher, valid)
        if not self.in_batch:
            return loss + objectives.info_nce(own, answers, left_out)
        everyone = _gathered(passages) if self.cross_device else passages
        scores = queries @ everyone.flatten(0, 1).T / self.temperature
        return loss + objectives.info_nce(scores, answers, left_out)


@dataclass(frozen=True, slots=True)
class _Columns:
    """The passages that each query is compared with: one column each.

    keys: int64 (B, N), the passages' numbers, -1 where there is none. answers: int64 (B,), the
    column of each query's own. guide: float32 (B, N), a guide's cosines, where there is one.
    """

    keys: NDArray[np.int64]
    answers: NDArray[np.int64]
    guide: NDArray[np.float32] | None

    @staticmethod
    def of(batch: GroupBatch, in_batch: bool, cross_device: bool) -> _Columns:
        rows, width = batch.keys.shape
        if not in_batch:
            guide = None
            if batch.guide is not None:
                guide = np.einsum("bd,bgd->bg", batch.guide[0], batch.guide[1])
            return _Columns(batch.keys, np.zeros(rows, dtype=np.int64), guide)
        keys, first, others = batch.keys, 0, None if batch.guide is None else batch.guide[1]
        if cross_device and _world() > 1:
            keys = _gathered(torch.from_numpy(keys)).numpy()
            first = distributed.get_rank() * rows
            if others is not None:
                others = _gathered(torch.from_numpy(others)).numpy()
        guide = None
        if batch.guide is not None and others is not None:
            guide = batch.guide[0] @ others.reshape(-1, others.shape[-1]).T
        answers = (first + np.arange(rows, dtype=np.int64)) * width
        return _Columns(np.repeat(keys.reshape(1, -1), rows, axis=0), answers, guide)

    def left_out(self, batch: GroupBatch, margin: float) -> NDArray[np.bool_]:
        """bool (B, N): no passage, one that answers the query as well, or so says the guide."""
        found = self.keys < 0
        for row, answers in enumerate(batch.answers):
            found[row] |= np.isin(self.keys[row], answers)
        if self.guide is not None:
            own = np.take_along_axis(self.guide, self.answers[:, None], axis=1)
            found |= self.guide > own - margin
        return found


def _world() -> int:
    """How many devices train together."""
    is_distributed = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if is_distributed else 1


def _gathered(values: Tensor) -> Tensor:
    """The values (B, …) of all devices, one after the other; gradients find their way back."""
    if _world() == 1:
        return values
    if not values.requires_grad:
        parts = [torch.empty_like(values) for _ in range(_world())]
        distributed.all_gather(parts, values.contiguous())
        return torch.cat(parts)
    from torch.distributed.nn.functional import all_gather

    return torch.cat(all_gather(values.contiguous()))  # type: ignore[no-untyped-call]
