"""Engines: what runs a model. `load_engine` chooses one; see `base.py` for what an engine is."""

from __future__ import annotations

from pathlib import Path

from retrieval.models.engines.base import Dtype, Engine, EngineName, Head, TokenBatch

__all__ = ["Dtype", "Engine", "EngineName", "Head", "TokenBatch", "load_engine"]


def load_engine(
    path: Path,
    head: Head,
    *,
    engine: EngineName = "auto",
    device: str = "auto",
    dtype: Dtype = "auto",
    threads: int | None = None,
) -> Engine:
    raise NotImplementedError
