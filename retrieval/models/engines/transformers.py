"""The reference engine: the transformers module, its head in torch, on any device torch knows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from retrieval.errors import InvalidInput, first_line
from retrieval.models.engines.base import Dtype, Head, Pending, TokenBatch
from retrieval.models.engines.cuda_stream import WorkQueue
from retrieval.models.engines.hardware import cpu_multiplies_bf16
from retrieval.models.engines.modules import load_module, move
from retrieval.models.engines.oom_backoff import Backoff
from retrieval.types import FloatArray

TORCH_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_TOKEN_BUDGETS = {"cpu": 4096}
_ACCELERATOR_BUDGET = 16_384


class TransformersEngine:
    """Runs batches through a `HeadedModel`.

    Args:
        path: a model folder with safetensors or torch weights.
        head: what to compute, see `engines.base.Head`.
        device: a torch device (`cpu`, `cuda`, `cuda:1`, `mps`), or `auto`.
        dtype: number format; `auto` is bf16 (else fp16) on CUDA, bf16 on CPUs that multiply it
            natively, fp32 elsewhere.
        threads: CPU threads; None leaves torch's own setting. It holds for the whole process.

    Raises:
        InvalidInput: an unknown device or dtype.
        ModelNotFound, ModelFault, ModelSettingUnknown: see `engines.modules.load_module`.
    """

    name = "transformers"

    def __init__(
        self,
        path: Path,
        head: Head,
        *,
        device: str = "auto",
        dtype: Dtype = "auto",
        threads: int | None = None,
    ) -> None:
        self._device = choose_device(device)
        self.device = str(self._device)
        self.dtype = choose_dtype(self._device, dtype)
        self.head: Head = head
        if threads is not None:
            torch.set_num_threads(threads)
        module = load_module(path, head, TORCH_DTYPES[self.dtype])
        self._module = move(module, self._device, path)
        self._queue = WorkQueue(self._device)
        self._backoff = Backoff(self._device, self._start, lambda batch: batch.input_ids.size)

    @property
    def token_budget(self) -> int:
        """See `engines.base.Engine.token_budget`; less once a batch did not fit into memory."""
        return self._backoff.budget(_TOKEN_BUDGETS.get(self._device.type, _ACCELERATOR_BUDGET))

    def run(self, batch: TokenBatch) -> FloatArray:
        """See `engines.base.Engine.run`. Out of device memory, the batch is halved, and so on."""
        return self.submit(batch)()

    def submit(self, batch: TokenBatch) -> Pending:
        """See `engines.base.Engine.submit`: asynchronous on CUDA."""
        return self._backoff.submit(batch)

    def _start(self, batch: TokenBatch) -> Pending:
        inputs = [batch.input_ids, batch.attention_mask]
        if self._module.takes_type_ids:
            types = batch.token_type_ids
            inputs.append(np.zeros_like(batch.input_ids) if types is None else types)
        with self._queue.open():
            arrival = self._queue.fetch(self._module(*map(self._queue.send, inputs)))
        return lambda: arrival().numpy()


def choose_device(device: str) -> torch.device:
    """The torch device meant by `device`; `auto` is cuda, else mps, else cpu.

    Raises:
        InvalidInput: no such device here.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InvalidInput(
            f"device={device!r} was given, which torch cannot use here ({first_line(error)})",
            fix="Choose 'auto', 'cpu', 'cuda', 'cuda:0' or 'mps', as the machine has it.",
        ) from error
    return chosen


def choose_dtype(device: torch.device, dtype: Dtype) -> str:
    """The number format meant by `dtype` on `device`.

    Raises:
        InvalidInput: torch computes in no such format here.
    """
    if dtype == "int8":
        raise InvalidInput(
            "dtype='int8' was given, which torch does not compute in here",
            fix="Choose engine='openvino' for int8, or one of auto, fp32, bf16, fp16.",
        )
    if dtype != "auto":
        if dtype not in TORCH_DTYPES:
            raise InvalidInput(
                f"dtype={dtype!r} was given", fix="Choose one of auto, fp32, bf16, fp16."
            )
        return dtype
    if device.type == "cuda":
        with torch.cuda.device(device):
            native = torch.cuda.is_bf16_supported(including_emulation=False)
        return "bf16" if native else "fp16"
    return "bf16" if device.type == "cpu" and cpu_multiplies_bf16() else "fp32"
