"""Engines and number formats that run on a CPU: each must pass the same comparisons."""

from __future__ import annotations

from typing import TypeAlias

from retrieval.models.engines.base import Dtype, EngineName

Variant: TypeAlias = tuple[EngineName, Dtype]

EXACT: list[Variant] = [("openvino", "fp32"), ("packed", "fp32"), ("transformers", "fp32")]
ROUNDED: list[Variant] = [
    ("openvino", "bf16"),
    ("packed", "bf16"),
    ("transformers", "bf16"),
    ("transformers", "fp16"),
]


def name(variant: Variant) -> str:
    """For the ids of parametrised tests."""
    return "-".join(variant)
