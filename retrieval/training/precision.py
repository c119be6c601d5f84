"""In which number format a run computes."""

from __future__ import annotations

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
