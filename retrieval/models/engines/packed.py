"""The engine for GPUs: BERT-like encoders and cross-encoders, computed without padding.

A padded batch spends its time on padding wherever texts differ in length. Here the texts of a
batch lie one after the other, (tokens, dimension), through all layers; only attention needs to
know where each begins. What goes to the device are three numbers a token, and what comes back is
what the head computes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from retrieval.errors import InvalidInput, ModelFault
from retrieval.models.engines.base import Dtype, Head, Pending, TokenBatch
from retrieval.models.engines.bert import BertLike, is_bert_like, is_bert_like_folder
from retrieval.models.engines.cuda_graphs import CudaGraphs
from retrieval.models.engines.cuda_stream import WorkQueue
from retrieval.models.engines.modules import load_module, move
from retrieval.models.engines.oom_backoff import Backoff
from retrieval.models.engines.transformers import TORCH_DTYPES, choose_device, choose_dtype
from retrieval.models.engines.varlen_attention import grouped, has_varlen, varlen
from retrieval.models.score_modules import score_layers
from retrieval.types import FloatArray

_TOKEN_BUDGETS = {"cpu": 4096, "cuda": 32_768}


def packed_supports(path: Path, head: Head) -> bool:
    """Whether `PackedEngine` computes the model in `path` with `head`, from its config.json."""
    return is_bert_like_folder(path, head) and not (head == "logits" and score_layers(path))


class PackedEngine:
    """Runs batches without padding, on CUDA or a CPU. May be used from several threads.

    On CUDA `submit` returns at once, and a few short texts, as queries are, run as one recorded
    CUDA graph. Batches that do not fit into memory are halved, see `engines.oom_backoff`.

    Args:
        path: a model folder with safetensors or torch weights.
        head: what to compute, see `engines.base.Head`; not `last`.
        device: `cpu`, `cuda`, `cuda:1` …, or `auto`: CUDA where there is a device.
        dtype: number format; `auto` is bf16 (else fp16) on CUDA, bf16 on CPUs that multiply it
            natively, else fp32.
        threads: CPU threads; None leaves torch's own setting. It holds for the whole process.

    Raises:
        InvalidInput: an unknown device or dtype, or one of another engine.
        ModelFault: not a BERT-like model or head; also as `load_module`.
        ModelNotFound, ModelSettingUnknown: see `engines.modules.load_module`.
    """

    name = "packed"

    def __init__(
        self,
        path: Path,
        head: Head,
        *,
        device: str = "auto",
        dtype: Dtype = "auto",
        threads: int | None = None,
    ) -> None:
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self._device = choose_device(device)
        self.device = str(self._device)
        if self._device.type not in _TOKEN_BUDGETS:
            raise InvalidInput(
                f"device={device!r} was given for the packed engine, which runs on cpu and cuda",
                fix="Choose engine='transformers' for this device.",
            )
        self.dtype = choose_dtype(self._device, dtype)
        self.head: Head = head
        if threads is not None:
            torch.set_num_threads(threads)
        loaded = load_module(path, head, TORCH_DTYPES[self.dtype])
        model = loaded.model
        if loaded.scorer is not None or not is_bert_like(model, head):
            kind = getattr(model.config, "model_type", "unknown")
            raise ModelFault(
                f"the packed engine was given the head {head!r} of a {kind} model in {path}; it "
                "computes cls, mean, tokens and logits of BERT, RoBERTa and XLM-RoBERTa",
                fix="Use engine='transformers'.",
            )
        self._module = move(BertLike(model, head, fused=True).eval(), self._device, path)
        self._varlen = has_varlen(
            self._device, TORCH_DTYPES[self.dtype], self._module.head_dimension
        )
        self._queue = WorkQueue(self._device)
        self._graphs = CudaGraphs(self._module, self._queue)
        self._backoff = Backoff(
            self._device, self._start, lambda batch: int(batch.attention_mask.sum())
        )

    @property
    def token_budget(self) -> int:
        """See `engines.base.Engine.token_budget`; less once a batch did not fit into memory."""
        return self._backoff.budget(_TOKEN_BUDGETS[self._device.type])

    def run(self, batch: TokenBatch) -> FloatArray:
        """See `engines.base.Engine.run`. Of `tokens`, the rows behind a text are 0."""
        return self.submit(batch)()

    def submit(self, batch: TokenBatch) -> Pending:
        """See `engines.base.Engine.submit`."""
        return self._backoff.submit(batch)

    def _start(self, batch: TokenBatch) -> Pending:
        packed = pack(batch, self._module)
        with self._queue.open():
            graph = self._graphs.find(len(packed.lengths), int(packed.lengths.max()))
            if graph is not None:
                return graph.submit(batch)
            return self._eager(packed, batch.input_ids.shape)

    def _eager(self, packed: Packed, shape: tuple[int, ...]) -> Pending:
        tokens, texts = len(packed.rows), len(packed.lengths)
        sent = self._queue.send(packed.flat)
        *columns, cumulative = torch.split(sent, [tokens] * packed.columns + [texts + 1])
        if self._varlen:
            attention = varlen(cumulative, int(packed.lengths.max()))
        else:
            attention = grouped(packed.lengths)
        output = self._module.run_packed(
            columns[0],
            columns[1],
            columns[2] if packed.columns == 3 else None,
            cumulative,
            attention.every,
            attention.first,
        )
        arrival = self._queue.fetch(output)
        scattered = self.head == "tokens"

        def wait() -> FloatArray:
            states = arrival()
            if scattered:
                padded = torch.zeros((*shape, states.shape[-1]))
                padded[packed.rows, packed.places] = states.float()
                result: FloatArray = padded.numpy()
                return result
            pooled: FloatArray = states.numpy()
            if packed.order is None:
                return pooled
            result = np.empty_like(pooled)
            result[packed.order] = pooled
            return result

        return wait


@dataclass(frozen=True, slots=True)
class Packed:
    """A batch without padding, longest text first.

    Args:
        flat: int32, one transfer: ids, positions and, where `columns` is 3, type ids of all
            tokens, then where each text begins and where all end (texts + 1).
        columns: 2 or 3.
        lengths: int64 (texts,).
        order: which row of the batch each text was; None where they are as they were.
        rows, places: (tokens,): where each token was in the padded batch.
    """

    flat: NDArray[np.int32]
    columns: int
    lengths: NDArray[np.int64]
    order: NDArray[np.int64] | None
    rows: NDArray[np.int64]
    places: NDArray[np.int64]


def pack(batch: TokenBatch, module: BertLike) -> Packed:
    """Leave the padding out; a row that is nothing but padding keeps one token of it.

    Raises:
        ModelFault: a text longer than the model has positions for, or an id that it has not. On a
            GPU either would end the whole process's use of the device.
    """
    mask = batch.attention_mask.astype(np.bool_)
    mask[:, 0] |= ~mask.any(axis=1)
    lengths = mask.sum(axis=1)
    order = None
    if (np.diff(lengths) > 0).any():
        order = np.argsort(-lengths, kind="stable")
        mask, lengths = mask[order], lengths[order]
    rows, places = np.nonzero(mask)
    if order is not None:
        rows = order[rows]
    ids = batch.input_ids[rows, places]
    types = batch.token_type_ids if module.takes_type_ids else None
    columns = [ids, _positions(batch.input_ids, lengths, rows, places, module)]
    if types is not None and types.any():
        columns.append(types[rows, places])
    _check(columns, int(lengths[0]), module)
    cumulative = np.concatenate([[0], np.cumsum(lengths)])
    flat = np.concatenate([*columns, cumulative]).astype(np.int32)
    return Packed(flat, len(columns), lengths, order, rows, places)


def _positions(
    input_ids: NDArray[np.int64],
    lengths: NDArray[np.int64],
    rows: NDArray[np.int64],
    places: NDArray[np.int64],
    module: BertLike,
) -> NDArray[np.int64]:
    if module.pad_id is not None:
        # As the model counts them: a padding token within a text does not take its own position.
        real = (input_ids != module.pad_id).astype(np.int64)
        counted: NDArray[np.int64] = (np.cumsum(real, axis=1) * real + module.pad_id)[rows, places]
        return counted
    starts = np.cumsum(lengths) - lengths
    return np.arange(len(rows), dtype=np.int64) - np.repeat(starts, lengths)


def _check(columns: list[NDArray[np.int64]], longest: int, module: BertLike) -> None:
    tables = (module.words, module.positions, module.types)
    for column, table, what in zip(columns, tables, ("id", "position", "type id"), strict=False):
        low, high = int(column.min()), int(column.max())
        if low >= 0 and high < table.num_embeddings:
            continue
        if what == "position":
            raise ModelFault(
                f"a text of {longest} tokens was given to a model that has positions for "
                f"{module.longest}",
                fix=f"Give max_length={module.longest} or less.",
            )
        raise ModelFault(
            f"the token {what} {low if low < 0 else high} was given to a model that has "
            f"{table.num_embeddings} of them",
            fix="The tokeniser is not that of this model: fetch the model again.",
        )
