"""The modules of torch behind a transformer that turn its pooled state into one score."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from retrieval.errors import ModelFault
from retrieval.models.score_modules import ScoreLayer, layer_weights, score_layers


def load_score_layers(path: Path) -> nn.Sequential | None:
    """(batch, dimension) → (batch, 1) in float32; None where the folder has no such modules.

    Raises:
        ModelNotFound: a module's weights are missing.
        ModelFault: they are not those of its configuration.
        InvalidInput: see `retrieval.models.score_modules.score_layers`.
    """
    layers = score_layers(path)
    if not layers:
        return None
    modules: list[nn.Module] = []
    for layer in layers:
        modules += _load(layer)
    return nn.Sequential(*modules).eval().requires_grad_(False)


def _load(layer: ScoreLayer) -> list[nn.Module]:
    if layer.kind == "LayerNorm":
        own: nn.Module = nn.LayerNorm(layer.inputs)
        prefix = "norm."
    else:
        own = nn.Linear(layer.inputs, layer.outputs, bias=layer.bias)
        prefix = "linear."
    file = layer_weights(layer)
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(file)
        else:
            # weights_only: a pickle could run code, a state dict cannot.
            state = torch.load(file, map_location="cpu", weights_only=True)
        own.load_state_dict({key.removeprefix(prefix): value for key, value in state.items()})
    except Exception as error:  # the one boundary: whatever the readers raise
        raise ModelFault(
            f"the weights in {file} are not those of its config.json ({type(error).__name__}: "
            f"{str(error).strip()[:200]})",
            fix="Fetch the model again, or save it again with sentence-transformers.",
        ) from error
    activation: nn.Module = getattr(nn, layer.activation)()
    return [own.float(), activation]
