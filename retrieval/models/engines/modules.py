"""A transformers model with its head as one module of torch: loaded, checked, moved to a device."""

from __future__ import annotations

import contextlib
import inspect
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from retrieval.errors import ModelFault, ModelNotFound, ModelSettingUnknown
from retrieval.models.engines.base import Head
from retrieval.models.engines.score_layers import load_score_layers
from retrieval.models.model_folder import read_folder

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
    if classifier:
        _score_exactly(model)
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


class ExactScore(nn.Linear):
    """The last product of a cross-encoder, in float32 whatever the model computes in.

    A score in bf16 has steps of 0.03 where good passages have theirs, so that of 100 candidates
    every seventh would be level with another. A product and a sum, not `linear`: OpenVINO keeps
    those behind the last matrix product in float32.
    """

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """(…, dimension) → (…, 1), float32."""
        return (states.float() * self.weight[0]).sum(-1, keepdim=True) + self.bias


def _score_exactly(model: nn.Module) -> None:
    """Replace the linear layer that gives the one logit."""
    for name, layer in list(model.named_modules()):
        if type(layer) is nn.Linear and layer.out_features == 1 and layer.bias is not None:
            exact = ExactScore(layer.in_features, 1)
            exact.load_state_dict(layer.float().state_dict())
            model.set_submodule(name, exact)


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
