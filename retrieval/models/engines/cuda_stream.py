"""Where an engine's work is queued: its own CUDA stream, or the calling thread.

On CUDA nothing waits until a result is asked for: inputs go over from pinned memory, the kernels
are queued behind them, and the output comes back into pinned memory, marked by an event. Meanwhile
the caller prepares the next batch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import torch
from numpy.typing import NDArray

Arrival: TypeAlias = Callable[[], torch.Tensor]
"""Waits for a tensor and gives it, on the CPU."""


class WorkQueue:
    """The queue of one engine on one device. May be used from several threads.

    Args:
        device: any torch device; whatever was started there before is waited for.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            # The weights are copied on torch's own stream.
            self.stream.wait_stream(torch.cuda.current_stream(device))

    @property
    def asynchronous(self) -> bool:
        """Whether the device computes while the caller does something else."""
        return self.stream is not None

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """What is computed inside is queued here, without gradients."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            if self.stream is not None:
                stack.enter_context(torch.cuda.stream(self.stream))
            yield

    def stage(self, array: NDArray[Any]) -> torch.Tensor:
        """The array on the CPU, in memory from which `send` need not wait for the copy."""
        tensor = torch.from_numpy(array)
        if self.stream is None:
            return tensor
        # torch reuses pinned memory only once the copies out of it are done.
        return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor)

    def send(self, array: NDArray[Any]) -> torch.Tensor:
        """The array on the device; to be called inside `open`."""
        return self.stage(array).to(self.device, non_blocking=self.asynchronous)

    def fetch(self, output: torch.Tensor, *, hurried: bool = False) -> Arrival:
        """Start to bring a tensor to the CPU; to be called inside `open`.

        Args:
            output: on the device.
            hurried: wait by asking again and again: some microseconds earlier, at the cost of a
                busy core.
        """
        if self.stream is None:
            here = output.cpu()
            return lambda: here
        landing = torch.empty(output.shape, dtype=output.dtype, pin_memory=True)
        landing.copy_(output, non_blocking=True)
        arrived = torch.cuda.Event(blocking=not hurried)  # type: ignore[no-untyped-call]
        arrived.record(self.stream)

        def wait() -> torch.Tensor:
            arrived.synchronize()
            return landing

        return wait
