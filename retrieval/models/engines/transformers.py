"""The reference engine: the transformers module, its head in torch, on any device torch knows."""

from __future__ import annotations

import contextlib
import inspect
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from retrieval.errors import (
    InvalidInput,
    ModelFault,
    ModelNotFound,
    ModelSettingUnknown,
    first_line,
)
from retrieval.models.engines.base import Dtype, Head, Pending, TokenBatch
from retrieval.models.engines.cuda_stream import WorkQueue
from retrieval.models.engines.hardware import cpu_multiplies_bf16
from retrieval.models.engines.oom_backoff import Backoff
from retrieval.models.engines.score_layers import load_score_layers
from retrieval.models.model_folder import read_folder
from retrieval.types import FloatArray

TORCH_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_TOKEN_BUDGETS = {"cpu": 4096}
_ACCELERATOR_BUDGET = 16_384
_LOADING = threading.Lock()

Module = TypeVar("Module", bound=nn.Module)


class HeadedModel(nn.Module):
    """A transformers model with its head: ids in, float32 vectors or logits out.

    scorer: modules that make a logit of what `pooling` gives, in float32; None where the model has
    its own classification head.
    """

    def __init__(
        self,
        model: nn.Module,
        head: Head,
        *,
        takes_type_ids: bool,
        scorer: nn.Module | None = None,
        pooling: Head = "cls",
    ) -> None:
        super().__init__()
        self.model = model
        self.head: Head = head
        self.scorer = scorer
        self.pooling: Head = pooling
        self.takes_type_ids = takes_type_ids

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """All inputs int64 (batch, length); output float32, see `Head`."""
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        if token_type_ids is not None:
            inputs["token_type_ids"] = token_type_ids
        if self.head == "logits" and self.scorer is None:
            logits: torch.Tensor = self.model(**inputs, return_dict=False)[0]
            return logits.float().squeeze(-1)
        hidden: torch.Tensor = self.model(**inputs, return_dict=False)[0]
        if self.scorer is not None:
            pooled = pool(hidden.float(), attention_mask, self.pooling)
            score: torch.Tensor = self.scorer(pooled)
            return score.squeeze(-1)
        return pool(hidden.float(), attention_mask, self.head)


def pool(hidden: torch.Tensor, mask: torch.Tensor, head: Head) -> torch.Tensor:
    """(batch, length, dimension) → (batch, dimension), or unchanged for `tokens`.

    `last` is the last position under the mask, on whichever side the padding is.
    """
    if head == "tokens":
        return hidden
    if head == "cls":
        return hidden[:, 0]
    if head == "mean":
        weights = mask.unsqueeze(-1).to(hidden.dtype)
        return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1.0)
    positions = torch.arange(mask.shape[1], device=mask.device)
    last = (positions.unsqueeze(0) * mask).argmax(1)
    index = last.view(-1, 1, 1).expand(-1, 1, hidden.shape[-1])
    return hidden.gather(1, index).squeeze(1)


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
        ModelNotFound, ModelFault, ModelSettingUnknown: see `load_module`.
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


def load_module(path: Path, head: Head, dtype: torch.dtype) -> HeadedModel:
    """The model of a folder with its head, on the CPU, in evaluation mode.

    Raises:
        ModelNotFound: the folder holds no weights that transformers can load.
        ModelFault: weights are missing or of another shape, so they would be random.
        ModelSettingUnknown: a score head with other than one logit.
    """
    from transformers import AutoModel, AutoModelForSequenceClassification
    from transformers.modeling_layers import GenericForSequenceClassification

    scorer = load_score_layers(path) if head == "logits" else None
    classifier = head == "logits" and scorer is None
    auto = AutoModelForSequenceClassification if classifier else AutoModel
    options: dict[str, Any] = {
        "dtype": dtype,
        "local_files_only": True,
        "output_loading_info": True,
        "ignore_mismatched_sizes": True,  # `_check_loaded` refuses them, by name
    }
    with quiet():
        try:
            try:
                model, loading = auto.from_pretrained(
                    str(path), attn_implementation="sdpa", **options
                )
            except ValueError as error:
                if "scaled_dot_product_attention" not in str(error):
                    raise
                model, loading = auto.from_pretrained(str(path), **options)
        except Exception as error:  # the one boundary: whatever transformers raises
            raise ModelNotFound(
                f"the model in {path} cannot be loaded ({type(error).__name__}: "
                f"{str(error).strip()[:300]})",
                fix="Check that the folder holds config.json and complete safetensors weights.",
            ) from error
    _check_loaded(path, "logits" if classifier else "tokens", model, loading)
    model.eval().requires_grad_(False)
    model.config.use_cache = False  # decoders would keep every layer's keys and values for nothing
    takes_type_ids = _takes_type_ids(model)
    if scorer is not None:
        pooling = read_folder(path).pooling or "cls"
        return HeadedModel(
            model, head, takes_type_ids=takes_type_ids, scorer=scorer, pooling=pooling
        )
    if classifier and isinstance(model, GenericForSequenceClassification):
        # A decoder with a head. Its own forward looks for padding by the token's id, which a text
        # may hold, and scores every position; the last one under the mask is the one that counts.
        return HeadedModel(
            model.base_model,
            head,
            takes_type_ids=False,
            scorer=model.score.float(),
            pooling="last",
        )
    return HeadedModel(model, head, takes_type_ids=takes_type_ids)


def move(module: Module, device: torch.device, path: Path) -> Module:
    """The module on the device.

    Raises:
        ModelFault: it does not fit there.
    """
    try:
        return module.to(device)
    except (RuntimeError, AssertionError) as error:
        raise ModelFault(
            f"the model in {path} could not be moved to {device}: {error}",
            fix="Free memory there, or choose device='cpu'.",
        ) from error


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


def _takes_type_ids(model: Any) -> bool:
    if "token_type_ids" not in inspect.signature(model.forward).parameters:
        return False
    # XLM-RoBERTa has the argument but one type only: a second one would be out of range.
    return int(getattr(model.config, "type_vocab_size", 0) or 0) > 1


def _check_loaded(path: Path, head: Head, model: Any, loading: dict[str, Any]) -> None:
    mismatched = sorted(str(entry[0]) for entry in loading["mismatched_keys"])
    if mismatched:
        raise ModelFault(
            f"the weights in {path} are not those of its config.json: {len(mismatched)} tensors "
            f"have another shape, among them {mismatched[0]!r}",
            fix="Fetch the model again, or save config and weights together.",
        )
    # A pooler is loaded for some architectures and used by none of the heads.
    missing = sorted(
        key for key in loading["missing_keys"] if head == "logits" or "pooler" not in key
    )
    if missing:
        what = "a trained score head" if head == "logits" else "all weights of its architecture"
        raise ModelFault(
            f"the model in {path} was expected to hold {what}, but {len(missing)} tensors are "
            f"missing from its file, among them {missing[0]!r}",
            fix="Use a cross-encoder for re-ranking and a complete encoder for encoding.",
        )
    if head == "logits" and model.config.num_labels != 1:
        raise ModelSettingUnknown(
            f"the model in {path} gives {model.config.num_labels} logits, expected one score",
            fix="Use a cross-encoder that was trained with num_labels=1.",
        )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No progress bar and no report of transformers' own meanwhile: what matters is raised."""
    from transformers.utils import logging

    with _LOADING:
        level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        try:
            yield
        finally:
            logging.set_verbosity(level)
            if bars:
                logging.enable_progress_bar()
