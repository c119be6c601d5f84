"""What this machine can compute on, answered without importing torch where that is possible."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from retrieval.errors import InvalidInput

_ACCELERATOR_DEVICES = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg", "/dev/kfd")
_ONE_OR_OTHER = "Give one of the two: device for one, devices for several."


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
    features = _cpu_features()
    if features is not None:
        return bool(features & {"avx512_bf16", "amx_bf16"})
    import torch

    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


@functools.cache
def cpu_may_overflow_int8() -> bool:
    """Whether sums of int8 products may not fit what the CPU adds them in.

    x86 without VNNI or AMX adds pairs of 8-bit products in 16 bits, and cuts what is larger.
    """
    features = _cpu_features() or frozenset()
    return "avx2" in features and not features & {"avx512_vnni", "avx_vnni", "amx_int8"}


_CPU_INFO = Path("/proc/cpuinfo")

_DOT_PRODUCTS = {"avx_vnni", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8"}
"""The features that decide here."""

_LIMITS: dict[str, tuple[str, ...]] = {
    "SSE41": (),
    "AVX": (),
    "AVX2": (),
    "AVX2_VNNI": ("avx_vnni",),
    "AVX2_VNNI_2": ("avx_vnni",),
    "AVX512_CORE": (),
    "AVX512_CORE_VNNI": ("avx512_vnni",),
    "AVX512_CORE_BF16": ("avx512_vnni", "avx512_bf16"),
    "AVX512_CORE_FP16": ("avx512_vnni", "avx512_bf16"),
}
"""Which of them oneDNN uses under a limit; under others, all."""


def _cpu_features() -> frozenset[str] | None:
    """Linux's words for what the CPU can, less what oneDNN may not use; None on other systems.

    torch and OpenVINO multiply with oneDNN, which obeys `ONEDNN_MAX_CPU_ISA` (or
    `DNNL_MAX_CPU_ISA`): under a limit of AVX2, int8 overflows and bf16 is slow on every CPU.
    """
    if not _CPU_INFO.exists():
        return None
    found = frozenset(_CPU_INFO.read_text(encoding="utf-8", errors="replace").split())
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or ""
    usable = _LIMITS.get(limit.upper())
    return found if usable is None else found - (_DOT_PRODUCTS - set(usable))


def cpu_cores() -> int:
    """Cores that this process may compute on, hyperthreads counted once, at least 1."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    allowed = os.sched_getaffinity(0)
    cores = {_siblings(cpu) for cpu in allowed}
    return max(1, min(len(cores), _cgroup_limit() or len(cores)))


def _siblings(cpu: int) -> str:
    """The hyperthreads of the core that a CPU belongs to, or just that CPU."""
    file = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
    try:
        return file.read_text(encoding="ascii").strip()
    except OSError:
        return str(cpu)


def _cgroup_limit() -> int | None:
    """CPUs' worth of time that a container may use, rounded up; None without a limit."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return -(-int(quota) // int(period))
    except (OSError, ValueError):
        return None


def check_devices(device: str, devices: Sequence[str] | None) -> tuple[str, ...]:
    """The devices meant by `device` or `devices`, one or more.

    Raises:
        InvalidInput: both were given, none or not names, a GPU twice, devices of several kinds, or
            a CUDA device that is not there.
    """
    if devices is None:
        _check_index(device, f"device={device!r}")
        return (device,)
    given = f"devices={devices!r}"
    if device != "auto":
        raise InvalidInput(f"device={device!r} and {given} were both given", fix=_ONE_OR_OTHER)
    if isinstance(devices, str) or not isinstance(devices, Sequence):
        raise InvalidInput(
            f"{given} was given, expected a list of device names",
            fix='Give a list, as in ["cuda:0", "cuda:1"] or ["cpu", "cpu"].',
        )
    if not devices or not all(isinstance(name, str) and name for name in devices):
        raise InvalidInput(
            f"{given} was given, expected one or more device names",
            fix='Name devices, as in ["cuda:0", "cuda:1"] or ["cpu", "cpu"], or leave devices out.',
        )
    names = tuple("cuda:0" if name == "cuda" else name for name in devices)
    if len(names) > 1:
        _check_several(names, given)
    for name in names:
        _check_index(name, given)
    return names if len(names) > 1 else tuple(devices)


def _check_several(names: tuple[str, ...], given: str) -> None:
    if "auto" in names:
        raise InvalidInput(
            f"{given} was given, but 'auto' means one device",
            fix='Name each device, as in ["cuda:0", "cuda:1"].',
        )
    if len({name.partition(":")[0] for name in names}) > 1:
        raise InvalidInput(
            f"{given} names devices of several kinds, which compute slightly different numbers, so "
            "that results would depend on which one was free",
            fix="Give devices of one kind; a CPU beside a GPU would hardly help.",
        )
    twice = [name for name in names if name != "cpu" and names.count(name) > 1]
    if twice:
        raise InvalidInput(
            f"{given} names {twice[0]} twice; it would hold the model twice and be no faster",
            fix="Name each GPU once. Only cpu may be repeated, once for each process.",
        )


def _check_index(name: str, given: str) -> None:
    """Refuse a CUDA device that torch does not see; other names are left to torch."""
    kind, _, index = name.partition(":")
    if kind != "cuda" or not index.isdecimal():
        return
    import torch

    count = torch.cuda.device_count()
    if int(index) >= count:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        setting = "not set" if visible is None else repr(visible)
        seen = f"cuda:0 to cuda:{count - 1}" if count > 1 else "cuda:0" if count else "none"
        raise InvalidInput(
            f"{given} was given, but of CUDA devices torch sees {seen} "
            f"(CUDA_VISIBLE_DEVICES is {setting})",
            fix="Count from 0 among the visible devices, or change CUDA_VISIBLE_DEVICES before the "
            "program starts.",
        )
