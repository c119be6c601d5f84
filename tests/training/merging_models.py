"""Tiny models that could have been tuned from one another, and what an average of them must be."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file

Kind = Literal["encoder", "reranker"]


def tuned(source: Path, folder: Path, *, seed: int, spread: float = 0.3) -> Path:
    """A copy of a model whose weights have moved a little, as training moves them."""
    shutil.copytree(source, folder)
    generator = torch.Generator().manual_seed(seed)
    state = load_file(source / "model.safetensors")
    for name, tensor in state.items():
        if tensor.is_floating_point():
            noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float32)
            state[name] = (tensor.float() + spread * 0.15 * noise).to(tensor.dtype)
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    return folder


def change(folder: Path, edit: Callable[[dict[str, Any]], None]) -> Path:
    """Edit a model's stored tensors in place."""
    state = load_file(folder / "model.safetensors")
    edit(state)
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    return folder


def naive_average(folders: Sequence[Path], weights: Sequence[float], auto: Any) -> Any:
    """LM-Cocktail's own way: the weighted sum of the state dicts of loaded models."""
    models = [auto.from_pretrained(folder, dtype=torch.float32).eval() for folder in folders]
    states = [model.state_dict() for model in models]
    models[0].load_state_dict(
        {k: sum(w * s[k] for w, s in zip(weights, states, strict=True)) for k in states[0]}
    )
    return models[0]


def shard(folder: Path) -> Path:
    """Save a model's weights again in several files with an index."""
    from transformers import AutoModel, AutoModelForSequenceClassification

    architecture = (folder / "config.json").read_text("utf-8")
    auto: Any = AutoModel
    if "ForSequenceClassification" in architecture:
        auto = AutoModelForSequenceClassification
    model = auto.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="50KB")
    assert (folder / "model.safetensors.index.json").is_file()
    return folder
