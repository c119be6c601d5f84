"""What to do when a batch does not fit into the device's memory: run it in parts, and remember."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import torch

from retrieval.errors import ModelFault, first_line
from retrieval.models.engines.base import Pending, TokenBatch
from retrieval.types import FloatArray

_log = logging.getLogger(__name__)

_SIGNS = ("out of memory", "not enough memory", "can't allocate memory", "ALLOC_FAILED")
"""What torch, CUDA, cuBLAS and the CPU's allocator say, also in errors that are not of the type."""


class Backoff:
    """Starts batches; one that does not fit is halved, and later ones are not tried as large.

    Every other failure of the device is raised as a `ModelFault`, here or when a result is waited
    for. May be used from several threads.

    Args:
        device: where the batches run.
        start: starts one batch.
        size: what of a batch takes memory, in tokens.
    """

    def __init__(
        self,
        device: torch.device,
        start: Callable[[TokenBatch], Pending],
        size: Callable[[TokenBatch], int],
    ) -> None:
        self._device = device
        self._start = start
        self._size = size
        self._ceiling: int | None = None

    def budget(self, tokens: int) -> int:
        """`tokens`, or as many as a batch may have since one did not fit."""
        return tokens if self._ceiling is None else min(tokens, self._ceiling)

    def submit(self, batch: TokenBatch) -> Pending:
        """See `engines.base.Engine.submit`.

        Raises:
            ModelFault: one text alone does not fit, or the device failed otherwise.
        """
        rows = len(batch.input_ids)
        ceiling = self._ceiling
        if rows > 1 and ceiling is not None and self._size(batch) > ceiling:
            return self._in_halves(batch)
        try:
            pending = self._start(batch)
        except (RuntimeError, IndexError) as error:
            if not is_out_of_memory(error):
                raise self._fault(batch, error) from error
            if rows == 1:
                raise ModelFault(
                    f"{self._device} has no memory for one text of "
                    f"{int(batch.attention_mask.sum())} tokens: {first_line(error)}",
                    fix="Choose a smaller max_length or model, or device='cpu'.",
                ) from error
        else:
            return self._guarded(batch, pending)
        # Outside the handler, so that the failed forward's tensors are no longer referenced.
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        self._lower(max(self._size(part) for part in _halves(batch)), self._size(batch))
        return self._in_halves(batch)

    def _lower(self, tokens: int, failed: int) -> None:
        # Two threads may do this at once: either ceiling is one that is worth trying.
        if self._ceiling is None or tokens < self._ceiling:
            self._ceiling = tokens
            _log.warning(
                "%s had no memory for a batch of %d tokens; batches have at most %d from here on",
                self._device,
                failed,
                tokens,
            )

    def _in_halves(self, batch: TokenBatch) -> Pending:
        left, right = (self.submit(part) for part in _halves(batch))
        return lambda: np.concatenate([left(), right()])

    def _guarded(self, batch: TokenBatch, pending: Pending) -> Pending:
        def wait() -> FloatArray:
            try:
                return pending()
            except RuntimeError as error:
                raise self._fault(batch, error) from error

        return wait

    def _fault(self, batch: TokenBatch, error: Exception) -> ModelFault:
        return ModelFault(
            f"{self._device} failed on a batch of shape {batch.input_ids.shape}: {error}",
            fix="Try another device, dtype='fp32', or a smaller token_budget.",
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device ran out of memory, by whatever name that was raised."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


def _halves(batch: TokenBatch) -> tuple[TokenBatch, TokenBatch]:
    half = len(batch.input_ids) // 2
    types = batch.token_type_ids

    def part(rows: slice) -> TokenBatch:
        return TokenBatch(
            batch.input_ids[rows],
            batch.attention_mask[rows],
            None if types is None else types[rows],
        )

    return part(slice(None, half)), part(slice(half, None))
