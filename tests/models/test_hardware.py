"""What the CPU can multiply, also where oneDNN was told to leave some of it unused."""

from __future__ import annotations

from pathlib import Path

import pytest

from retrieval.models.engines import hardware

EVERYTHING = "flags : fma avx2 avx_vnni avx512f avx512_vnni avx512_bf16 amx_int8 amx_bf16"


@pytest.mark.parametrize("variable", ["ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"])
@pytest.mark.parametrize(
    ("limit", "words", "multiplies_bf16", "may_overflow"),
    [
        ("", EVERYTHING, True, False),
        ("ALL", EVERYTHING, True, False),
        ("AVX512_CORE_AMX", EVERYTHING, True, False),
        ("AVX512_CORE_BF16", EVERYTHING, True, False),
        ("AVX512_CORE_VNNI", EVERYTHING, False, False),
        ("AVX512_CORE", EVERYTHING, False, True),
        ("AVX2_VNNI", EVERYTHING, False, False),
        # An older CPU whose VNNI is AVX-512's alone has none left under a limit of AVX2.
        ("AVX2_VNNI", "flags : avx2 avx512_vnni avx512_bf16", False, True),
        ("AVX2", EVERYTHING, False, True),
        ("avx2", EVERYTHING, False, True),
        ("", "flags : fma avx2", False, True),
        ("", "Features : asimd bf16", False, False),
    ],
)
def test_what_is_left_under_a_limit(
    variable: str,
    limit: str,
    words: str,
    multiplies_bf16: bool,
    may_overflow: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(words)
    monkeypatch.setattr(hardware, "_CPU_INFO", cpuinfo)
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, limit)
    # Past their caches: of a running process the answers do not change.
    assert hardware.cpu_multiplies_bf16.__wrapped__() is multiplies_bf16
    assert hardware.cpu_may_overflow_int8.__wrapped__() is may_overflow
