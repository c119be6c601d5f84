"""Engines: what runs a model. `load_engine` chooses one; see `base.py` for what an engine is."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path

from retrieval.errors import InvalidInput, ModelFault
from retrieval.models.engines.base import Dtype, Engine, EngineName, Head, TokenBatch
from retrieval.models.engines.hardware import may_have_accelerator

__all__ = ["Dtype", "Engine", "EngineName", "Head", "TokenBatch", "load_engine"]

_log = logging.getLogger(__name__)


def load_engine(
    path: Path,
    head: Head,
    *,
    engine: EngineName = "auto",
    device: str = "auto",
    dtype: Dtype = "auto",
    threads: int | None = None,
    cache_dir: Path | None = None,
) -> Engine:
    """Load the model in `path` with `head`.

    `auto` is transformers on a GPU (bf16, else fp16) and OpenVINO on a CPU (bf16 where the CPU
    multiplies it natively, else fp32); where OpenVINO is not installed or cannot take the model,
    transformers on the CPU.

    Args:
        path: a model folder.
        head: what to compute, see `engines.base.Head`.
        engine: `auto`, `transformers` or `openvino`.
        device: `auto` or a torch device; OpenVINO runs on `cpu` only.
        dtype: number format of the matrix products.
        threads: CPU threads; None leaves the choice to the engine.
        cache_dir: where OpenVINO graphs are kept; None for the user's cache folder.

    Raises:
        InvalidInput: an argument that does not exist or does not fit the others or the machine.
        ModelNotFound: nothing that loads in `path`.
        ModelSettingUnknown: a score head with other than one logit.
        ModelFault: incomplete weights, or a device that failed.
    """
    if engine not in ("auto", "transformers", "openvino"):
        raise InvalidInput(
            f"engine={engine!r} was given", fix="Choose auto, transformers or openvino."
        )
    if threads is not None and threads < 1:
        raise InvalidInput(
            f"threads={threads} was given, expected at least 1",
            fix="Give a positive number, or leave it out to use all cores.",
        )
    path = Path(path)
    if engine == "openvino":
        if device not in ("auto", "cpu"):
            raise InvalidInput(
                f"device={device!r} was given for the OpenVINO engine, which runs on the CPU",
                fix="Leave the device out, or choose engine='transformers'.",
            )
        if not _openvino_installed():
            raise InvalidInput(
                "engine='openvino' was given, but the package openvino is not installed",
                fix="Install it with: pip install openvino, or choose engine='transformers'.",
            )
        return _openvino(path, head, dtype, threads, cache_dir)
    on_cpu = device == "cpu" or (device == "auto" and not _accelerator())
    if engine == "auto" and on_cpu and dtype != "fp16" and _openvino_installed():
        try:
            return _openvino(path, head, dtype, threads, cache_dir)
        except ModelFault as fault:
            _log.warning("OpenVINO is not used: %s", fault.problem)
    from retrieval.models.engines.transformers import TransformersEngine

    return TransformersEngine(path, head, device=device, dtype=dtype, threads=threads)


def _openvino(
    path: Path, head: Head, dtype: Dtype, threads: int | None, cache_dir: Path | None
) -> Engine:
    from retrieval.models import cache
    from retrieval.models.engines.openvino import OpenVINOEngine

    if cache_dir is None:
        cache_dir = cache.default_cache_dir()
    return OpenVINOEngine(path, head, dtype=dtype, threads=threads, cache_dir=cache_dir)


def _openvino_installed() -> bool:
    return importlib.util.find_spec("openvino") is not None


def _accelerator() -> bool:
    if not may_have_accelerator():
        return False
    import torch

    return torch.cuda.is_available() or torch.backends.mps.is_available()
