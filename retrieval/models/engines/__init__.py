"""The engines, which run a network: token ids → its output. `load_engine` chooses the engine.

base.py          what an engine is
packed.py        for GPUs, without padding; its parts: bert.py, varlen_attention.py, cuda_graphs.py
openvino.py      for CPUs; its parts: openvino_export.py, quantization.py, calibration.py
transformers.py  the reference, for every architecture and device; modules.py loads the model
multi_device.py  several devices for one model; worker_client.py, worker_main.py the processes
hardware.py      what this machine can compute on; cuda_stream.py, oom_backoff.py serve several
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrieval._validate import whole_number
from retrieval.errors import InvalidInput, ModelFault
from retrieval.models.engines.base import Dtype, Engine, EngineName, Head, TokenBatch
from retrieval.models.engines.hardware import check_devices, cpu_cores, may_have_accelerator
from retrieval.models.engines.making import ONE_AT_A_TIME

__all__ = ["Dtype", "Engine", "EngineName", "Head", "TokenBatch", "load_engine"]

_log = logging.getLogger(__name__)


def load_engine(
    path: Path,
    head: Head,
    *,
    engine: EngineName = "auto",
    device: str = "auto",
    devices: Sequence[str] | None = None,
    dtype: Dtype = "auto",
    threads: int | None = None,
    cache_dir: Path | None = None,
    calibration: Sequence[str] | None = None,
) -> Engine:
    """Load the model in `path` with `head`.

    `auto` on CUDA is the packed engine where it knows the architecture, else transformers (bf16,
    else fp16). On a CPU it is OpenVINO (bf16 where the CPU multiplies it natively, else fp32);
    where OpenVINO is not installed or cannot take the model or the number format, packed, else
    transformers. On any other device it is transformers.

    Args:
        path: a model folder.
        head: what to compute, see `engines.base.Head`.
        engine: `auto`, `packed`, `openvino` or `transformers`.
        device: `auto` or a torch device; OpenVINO runs on `cpu` only.
        devices: several devices of a kind, as in `["cuda:0", "cuda:1"]` or `["cpu", "cpu"]`, that
            share large inputs: an `EngineGroup` with the first one in this process and a worker
            process for each of the others. CPU processes share the cores.
        dtype: number format of the matrix products; `int8` is OpenVINO's alone.
        threads: CPU threads of each device; None leaves the choice to the engine.
        cache_dir: where OpenVINO graphs are kept; None for the user's cache folder.
        calibration: texts by which int8 sets its scales; None for built-in ones.

    Raises:
        InvalidInput: an argument that does not exist or does not fit the others or the machine.
        MissingExtra: int8 without NNCF.
        ModelNotFound: nothing that loads in `path`.
        ModelSettingUnknown: a score head with other than one logit.
        ModelFault: incomplete weights, a device that failed, or a worker process that died.
    """
    if engine not in ("auto", "packed", "openvino", "transformers"):
        raise InvalidInput(
            f"engine={engine!r} was given", fix="Choose auto, packed, openvino or transformers."
        )
    if threads is not None:
        whole_number(
            threads, "threads", fix="Give a positive number, or leave it out to use all cores."
        )
    if calibration is not None and dtype != "int8":
        raise InvalidInput(
            f"calibration texts were given with dtype={dtype!r}, but only int8 is calibrated",
            fix="Leave calibration out, or choose dtype='int8'.",
        )
    chosen = check_devices(device, devices)
    if threads is None and len(chosen) > 1 and chosen[0] == "cpu":
        # This process's engine, too: results do not depend on which of them computed them.
        threads = max(1, cpu_cores() // len(chosen))
    if cache_dir is None:
        from retrieval.models import cache_dir as cache

        cache_dir = cache.default_cache_dir()
    model = _Model(Path(path), head, engine, dtype, threads, cache_dir, calibration)
    if len(chosen) == 1:
        return model.load(chosen[0])
    from retrieval.models.engines.multi_device import load_group

    options: dict[str, Any] = {
        "path": Path(path).absolute(),
        "head": head,
        "engine": engine,
        "dtype": dtype,
        "threads": threads,
        "cache_dir": None if cache_dir is None else cache_dir.absolute(),
        "calibration": None if calibration is None else list(calibration),
    }
    return load_group(chosen, model.load, options)


@dataclass(frozen=True, slots=True)
class _Model:
    """What to load, except for the device."""

    path: Path
    head: Head
    engine: EngineName
    dtype: Dtype
    threads: int | None
    cache_dir: Path | None
    calibration: Sequence[str] | None

    def load(self, device: str) -> Engine:
        on_cpu = device == "cpu" or (
            device == "auto" and (self.engine == "openvino" or not _accelerator())
        )
        if self.engine == "openvino" and not on_cpu:
            raise InvalidInput(
                f"device={device!r} was given for the OpenVINO engine, which runs on the CPU",
                fix="Leave the device out, or choose engine='transformers'.",
            )
        if self.engine == "openvino" or (self.engine == "auto" and on_cpu and self.dtype == "int8"):
            return self._openvino()
        if self.engine == "auto" and on_cpu and self.dtype != "fp16" and _openvino_installed():
            try:
                return self._openvino()
            except ModelFault as fault:
                _log.warning("OpenVINO is not used: %s", fault.problem)
        with ONE_AT_A_TIME:
            return self._torch(device, on_cpu)

    def _torch(self, device: str, on_cpu: bool) -> Engine:
        # Imported here, for torch takes a second.
        from retrieval.models.engines.packed import PackedEngine, packed_supports
        from retrieval.models.engines.transformers import TransformersEngine

        suits = on_cpu or device.partition(":")[0] in ("cuda", "auto")
        if device == "auto" and suits:
            import torch

            suits = on_cpu or torch.cuda.is_available()
        if self.engine == "packed" or (
            self.engine == "auto" and suits and packed_supports(self.path, self.head)
        ):
            return PackedEngine(
                self.path, self.head, device=device, dtype=self.dtype, threads=self.threads
            )
        return TransformersEngine(
            self.path, self.head, device=device, dtype=self.dtype, threads=self.threads
        )

    def _openvino(self) -> Engine:
        if not _openvino_installed():
            asked = "engine='openvino'" if self.engine == "openvino" else "dtype='int8'"
            raise InvalidInput(
                f"{asked} was given, but the package openvino is not installed",
                fix="Install it with: pip install openvino, or choose engine='transformers' and "
                "another dtype than int8.",
            )
        from retrieval.models.engines.openvino import OpenVINOEngine

        return OpenVINOEngine(
            self.path,
            self.head,
            dtype=self.dtype,
            threads=self.threads,
            cache_dir=self.cache_dir,
            calibration=self.calibration,
        )


def _openvino_installed() -> bool:
    return importlib.util.find_spec("openvino") is not None


def _accelerator() -> bool:
    if not may_have_accelerator():
        return False
    import torch

    return torch.cuda.is_available() or torch.backends.mps.is_available()
