"""A batch computed in parts of like length, and large batches in the memory of a small one.

Sorted by length, parts need hardly any padding. With the gradient cache (GradCache, Gao et al.
2021), the whole batch is first computed without a graph, the loss gives the gradient of each
output, and each part is computed once more, with a graph that is dropped at once. The loss is that
of the whole batch either way.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from retrieval.models.engines.base import TokenBatch
from retrieval.training.batches import GroupBatch, Inputs

Output = Callable[[dict[str, Tensor]], Tensor]
"""What is taken of the model's answer: a vector of each text, or a score of each pair."""


def parts_of(lengths: NDArray[np.int64], tokens: int) -> list[NDArray[np.int64]]:
    """Rows from the longest to the shortest, in parts of at most so many padded tokens."""
    order = np.argsort(-lengths, kind="stable")
    parts: list[NDArray[np.int64]] = []
    start = 0
    while start < len(order):
        size = max(1, tokens // int(lengths[order[start]]))
        parts.append(order[start : start + size])
        start += size
    return parts


def features(batch: TokenBatch, device: torch.device) -> dict[str, Tensor]:
    """A batch as sentence-transformers' models take it."""
    found = {
        "input_ids": torch.from_numpy(batch.input_ids).to(device),
        "attention_mask": torch.from_numpy(batch.attention_mask).to(device),
    }
    if batch.token_type_ids is not None:
        found["token_type_ids"] = torch.from_numpy(batch.token_type_ids).to(device)
    return found


def compute(
    model: nn.Module, inputs: Inputs, output: Output, tokens: int, device: torch.device
) -> Tensor:
    """The outputs of all rows, in their order, computed in parts; with a graph where it is on."""
    parts = parts_of(inputs.lengths, tokens)
    found = [output(model(features(inputs.batch(rows), device))) for rows in parts]
    order = torch.from_numpy(np.concatenate(parts)).to(device)
    return torch.cat(found)[torch.argsort(order)]


class MicroBatches(nn.Module):
    """A trainer's loss: outputs of a batch in parts, and an objective over all of them.

    Args:
        model: a sentence-transformers model; the trainer replaces it by its distributed form.
        output: what is taken of its answer.
        objective: outputs (rows, …) and the batch → a scalar.
        tokens: padded tokens that are computed at once.
        cached: whether to use the gradient cache.
    """

    def __init__(
        self,
        model: nn.Module,
        output: Output,
        objective: Callable[[Tensor, GroupBatch], Tensor],
        *,
        tokens: int,
        cached: bool,
    ) -> None:
        super().__init__()
        self.model = model
        self._output = output
        self._objective = objective
        self._tokens = tokens
        self.cached = cached

    def forward(
        self,
        given: list[dict[str, GroupBatch]] | list[GroupBatch],
        labels: object = None,
        **_: object,
    ) -> Tensor:
        """The loss of a batch; its backward pass gives the parameters' gradients."""
        first = given[0]
        batch = first["input_ids"] if isinstance(first, dict) else first
        device = next(self.model.parameters()).device
        if not self.cached or not torch.is_grad_enabled():
            outputs = compute(self.model, batch.inputs, self._output, self._tokens, device)
            return self._objective(outputs, batch)
        return self._cached(batch, device)

    def _cached(self, batch: GroupBatch, device: torch.device) -> Tensor:
        parts = parts_of(batch.inputs.lengths, self._tokens)
        states: list[list[Tensor]] = []
        found: list[Tensor] = []
        with torch.no_grad():
            for rows in parts:
                states.append(_random_state(device))
                answer = self.model(features(batch.inputs.batch(rows), device))
                found.append(self._output(answer))
        order = torch.from_numpy(np.concatenate(parts)).to(device)
        outputs = torch.cat(found)[torch.argsort(order)].detach().requires_grad_()
        loss = self._objective(outputs, batch)
        torch.autograd.backward(loss)
        gradient = outputs.grad
        assert gradient is not None
        result = loss.detach().requires_grad_()
        again = partial(self._again, batch, parts, states, gradient, device)
        result.register_hook(again)  # type: ignore[no-untyped-call]
        return result

    def _again(
        self,
        batch: GroupBatch,
        parts: list[NDArray[np.int64]],
        states: list[list[Tensor]],
        gradient: Tensor,
        device: torch.device,
        scale: Tensor,
    ) -> None:
        """Compute each part with a graph, and hand its outputs' gradients on to the parameters."""
        for place, (rows, state) in enumerate(zip(parts, states, strict=True)):
            is_last = place == len(parts) - 1
            with torch.enable_grad(), _replayed(state, device), self._sync_at(is_last):
                outputs = self._output(self.model(features(batch.inputs.batch(rows), device)))
                own = gradient[torch.from_numpy(rows).to(device)]
                torch.autograd.backward(torch.sum(outputs * own) * scale)

    @contextlib.contextmanager
    def _sync_at(self, is_last: bool) -> Iterator[None]:
        """Devices exchange gradients once, with the last part."""
        no_sync = getattr(self.model, "no_sync", None)
        if is_last or no_sync is None:
            yield
            return
        with no_sync():
            yield


def _random_state(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return states


@contextlib.contextmanager
def _replayed(states: list[Tensor], device: torch.device) -> Iterator[None]:
    """The random numbers of the first pass, so that dropout drops the same."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.set_rng_state(states[0])
        if devices:
            torch.cuda.set_rng_state(states[1], device)
        yield
