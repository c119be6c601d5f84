"""LoRA adapters (Hu et al. 2022): put into a model, and merged into its weights at the end."""

from __future__ import annotations

from typing import Any

from torch import nn

from retrieval.errors import MissingExtra
from retrieval.training.settings import TrainingSettings


def add_adapter(model: Any, settings: TrainingSettings) -> None:
    """Freeze a sentence-transformers model and put an adapter on its linear layers.

    Raises:
        MissingExtra: peft is not installed.
    """
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise MissingExtra("peft", extra="train", purpose="lora_rank") from error
    network = network_of(model)
    layers = [name for name, part in network.named_modules() if isinstance(part, nn.Linear)]
    model.add_adapter(
        LoraConfig(
            r=settings.lora_rank or 1,
            lora_alpha=settings.lora_alpha,  # type: ignore[arg-type]  # a float is taken, too
            lora_dropout=settings.lora_dropout,
            target_modules=layers,
        )
    )


def merge_adapter(model: Any) -> None:
    """Add the adapter to the weights and take it out; the model is an ordinary one again."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    network = network_of(model)
    for name, part in list(network.named_modules()):
        if isinstance(part, BaseTunerLayer):
            part.merge()
            parent, _, own = name.rpartition(".")
            setattr(network.get_submodule(parent), own, part.get_base_layer())
    network._hf_peft_config_loaded = False  # transformers would save the adapter alone
    for parameter in network.parameters():
        parameter.requires_grad_(True)


def network_of(model: Any) -> Any:
    """The transformers model inside a sentence-transformers one."""
    return model[0].auto_model
