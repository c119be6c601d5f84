"""CUDA graphs of small batches: a few short texts cost more to launch than to compute.

A query of ten tokens keeps a GPU busy for a fraction of the time in which Python starts the
kernels of all layers. A graph is that sequence of kernels, recorded once for a fixed shape and
started as one. Small batches are padded to the next of a dozen shapes, each recorded when first
needed; the same batch always takes the same way, so its result is the same.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from retrieval.models.engines.base import Pending, TokenBatch
from retrieval.models.engines.bert import BertLike
from retrieval.models.engines.cuda_stream import WorkQueue
from retrieval.types import FloatArray

_log = logging.getLogger(__name__)

ROWS = 4
LENGTH = 128
SHORTEST = 16
"""Largest number of texts and tokens in a graph, and the smallest number of tokens that is
worth its own graph: 3 × 4 shapes at most."""

_WARM_UPS = 2
"""Runs before recording, so that nothing is set up or chosen while recording."""

_RECORDING = threading.Lock()
"""torch records one graph at a time in a process."""


class CudaGraphs:
    """The graphs of one model; none on other devices than CUDA. May be used from several threads.

    Args:
        module: padded batches go through its `forward`.
        queue: the engine's own queue: graphs share memory, which is safe in one queue only.
    """

    def __init__(self, module: BertLike, queue: WorkQueue) -> None:
        self._module = module
        self._queue = queue
        self._lock = threading.Lock()
        self._graphs: dict[tuple[int, int], CudaGraph | None] = {}
        self._stream: torch.cuda.Stream | None = None
        self._pool: Any = None
        self._usable = True

    def find(self, rows: int, length: int) -> CudaGraph | None:
        """The graph for a batch, recorded now if need be; None where it is to run without one.

        To be called inside `queue.open`.

        Args:
            rows: texts.
            length: tokens of the longest.
        """
        shape = bucket(rows, length, self._module.longest)
        if shape is None or self._queue.stream is None:
            return None
        # The lock is the graphs' own: none is started while another one is recorded.
        with self._lock:
            if shape not in self._graphs:
                self._graphs[shape] = self._record(shape) if self._usable else None
            return self._graphs[shape]

    def _record(self, shape: tuple[int, int]) -> CudaGraph | None:
        # Not in the engine's own queue: other threads may be filling that meanwhile.
        own = torch.cuda.current_stream()
        try:
            inputs = self._queue.send(padded_inputs(None, shape, self._module))
            with _RECORDING:
                if self._stream is None:
                    self._stream = torch.cuda.Stream(self._queue.device)  # type: ignore[no-untyped-call]
                    self._pool = torch.cuda.graph_pool_handle()
                self._stream.wait_stream(own)
                with torch.cuda.stream(self._stream):
                    for _ in range(_WARM_UPS):
                        run_padded(self._module, inputs)
                self._stream.synchronize()
                graph = torch.cuda.CUDAGraph()
                # thread_local: what other threads do is neither part of the graph nor an error.
                with torch.cuda.graph(
                    graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
                ):
                    output = run_padded(self._module, inputs)
        except RuntimeError as error:
            # Graphs save time only: without them everything works, and the cause, if it is one
            # that matters, shows when the batch runs without.
            self._usable = False
            _log.warning(
                "CUDA graphs are not used on %s, single queries take longer: %s",
                self._queue.device,
                (str(error).strip().splitlines() or ["no message"])[0][:200],
            )
            return None
        finally:
            # A recording that fails may leave its stream behind as this thread's.
            torch.cuda.set_stream(own)
        return CudaGraph(shape, graph, inputs, output, self._module, self._queue, self._lock)


@dataclass(frozen=True, slots=True)
class CudaGraph:
    """A recorded forward of one shape (rows, length) with its input and output on the device."""

    shape: tuple[int, int]
    graph: torch.cuda.CUDAGraph
    inputs: torch.Tensor
    output: torch.Tensor
    module: BertLike
    queue: WorkQueue
    lock: threading.Lock

    def submit(self, batch: TokenBatch) -> Pending:
        """Start a batch that fits into the shape; to be called inside `queue.open`."""
        rows, width = batch.input_ids.shape
        staged = self.queue.stage(padded_inputs(batch, self.shape, self.module))
        # The lock keeps the three steps together in the queue; it is not held while they run.
        with self.lock:
            self.inputs.copy_(staged, non_blocking=True)
            self.graph.replay()
            arrival = self.queue.fetch(self.output[:rows], hurried=True)
        if self.module.head != "tokens":
            return lambda: arrival().numpy()

        def wait() -> FloatArray:
            states = arrival().numpy()
            length = min(width, self.shape[1])
            result = np.zeros((rows, width, states.shape[-1]), dtype=np.float32)
            real = batch.attention_mask[:, :length, None].astype(np.bool_)
            result[:, :length] = np.where(real, states[:, :length], 0)
            return result

        return wait


def bucket(rows: int, length: int, longest: int) -> tuple[int, int] | None:
    """The smallest shape that takes a batch, or None for one that is no longer small.

    Args:
        rows: texts.
        length: tokens of the longest text.
        longest: tokens that the model has positions for.
    """
    if rows > ROWS or length > min(LENGTH, longest):
        return None
    return _power_of_two(rows), min(max(_power_of_two(length), SHORTEST), longest)


def padded_inputs(
    batch: TokenBatch | None, shape: tuple[int, int], module: BertLike
) -> NDArray[np.int32]:
    """int32 (3, rows, length): ids, mask and type ids, with padding around the batch.

    A row without a text has one token, so that no softmax is over nothing.
    """
    inputs = np.zeros((3, *shape), dtype=np.int32)
    inputs[0] = module.pad_id or 0
    inputs[1, :, 0] = 1
    if batch is None:
        return inputs
    rows = len(batch.input_ids)
    length = min(batch.input_ids.shape[1], shape[1])
    mask = batch.attention_mask[:, :length]
    inputs[0, :rows, :length] = np.where(mask, batch.input_ids[:, :length], module.pad_id or 0)
    inputs[1, :rows, :length] |= mask.astype(np.int32)
    if batch.token_type_ids is not None:
        inputs[2, :rows, :length] = batch.token_type_ids[:, :length] * mask
    return inputs


def run_padded(module: BertLike, inputs: torch.Tensor) -> torch.Tensor:
    """The module's `forward` of what `padded_inputs` gave."""
    types = inputs[2] if module.takes_type_ids else None
    output: torch.Tensor = module(inputs[0], inputs[1], types)
    return output


def _power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()
