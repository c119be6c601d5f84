"""What this machine can compute on, answered without importing torch where that is possible."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

_ACCELERATOR_DEVICES = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg", "/dev/kfd")


def may_have_accelerator() -> bool:
    """False where torch is certain to find no GPU, so that it need not be imported to ask.

    On Linux every GPU that torch can use has a device file: NVIDIA's, WSL's or ROCm's.
    """
    if sys.platform != "linux":
        return True
    return any(Path(device).exists() for device in _ACCELERATOR_DEVICES)


@functools.cache
def cpu_multiplies_bf16() -> bool:
    """Whether the CPU multiplies bf16 natively (AVX-512-BF16 or AMX): 2 to 4 times fp32's rate."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        words = set(cpuinfo.read_text(encoding="utf-8", errors="replace").split())
        return bool(words & {"avx512_bf16", "amx_bf16"})
    import torch

    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
