"""In which number format a run computes, and whether DeepSpeed can run it."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import torch

from retrieval.errors import InvalidInput
from retrieval.models.engines.hardware import cpu_multiplies_bf16
from retrieval.training.settings import TrainingSettings


def precision(settings: TrainingSettings, device: torch.device) -> dict[str, bool]:
    """The trainer's flags of mixed precision.

    Raises:
        InvalidInput: fp16 on a CPU.
    """
    chosen = settings.dtype
    if chosen == "auto":
        if device.type == "cuda":
            chosen = "bf16" if torch.cuda.is_bf16_supported() else "fp16"
        else:
            chosen = "bf16" if device.type == "cpu" and cpu_multiplies_bf16() else "fp32"
    if chosen == "fp16" and device.type == "cpu":
        raise InvalidInput(
            "dtype is fp16, which CPUs do not train in", fix="Choose fp32 or bf16, or auto."
        )
    return {"bf16": chosen == "bf16", "fp16": chosen == "fp16"}


def check_deepspeed(settings: TrainingSettings) -> None:
    """Refuse a configuration of DeepSpeed that cannot be run.

    Raises:
        InvalidInput: DeepSpeed is not installed, the file is not there or not JSON, or it divides
            the weights among devices (ZeRO stage 3), which are then not there to be written.
    """
    if settings.deepspeed is None:
        return
    if importlib.util.find_spec("deepspeed") is None:
        raise InvalidInput(
            "deepspeed was given, and the package deepspeed is not installed",
            fix="Install it (pip install deepspeed), or leave deepspeed out.",
        )
    path = Path(settings.deepspeed)
    try:
        stage = json.loads(path.read_text("utf-8")).get("zero_optimization", {}).get("stage", 0)
    except (OSError, ValueError, AttributeError) as error:
        raise InvalidInput(
            f"{path} is not a configuration of DeepSpeed: {error}",
            fix="Give its JSON file.",
        ) from error
    if stage == 3:
        raise InvalidInput(
            f"{path} asks for ZeRO stage 3, which divides the weights among devices",
            fix="Choose stage 1 or 2; encoders and rerankers fit on one device.",
        )
