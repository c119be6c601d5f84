"""Where a part of the machine is promised, a test that skips for want of it fails.

`RETRIEVAL_TEST_REQUIRE=browser,shared_data` names the parts, see `PARTS`. CI sets it to what it
installs, so that a broken install cannot pass for "skipped".
"""

from __future__ import annotations

import gc
import os
import re
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest

# Examples that hypothesis keeps would lie in the folder that the tests are started from.
os.environ.setdefault(
    "HYPOTHESIS_STORAGE_DIRECTORY", str(Path(tempfile.gettempdir(), "two-stage-retrieval-examples"))
)

if "PYTEST_XDIST_WORKER" in os.environ:
    # Workers share the cores: one thread each, for the programs that a test starts, too.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

VARIABLE = "RETRIEVAL_TEST_REQUIRE"

# Part → (marker of the tests that need it, what their reason for skipping says).
PARTS = {
    "browser": ("browser", r"chromium|playwright|browser"),
    "files": (None, r"extra 'files'"),
    "flag": (None, r"could not import 'FlagEmbedding|FlagEmbedding is not installed"),
    "haystack": (None, r"could not import 'haystack|extra 'haystack'"),
    "int8": (None, r"could not import 'nncf|nncf is not installed"),
    "langchain": (None, r"could not import 'langchain|extra 'langchain'|langchain-tests"),
    "llama-index": (None, r"could not import 'llama|extra 'llama-index'"),
    "mteb": (None, r"could not import 'mteb|extra 'mteb'"),
    "openvino": (None, r"could not import 'openvino|OpenVINO is not installed"),
    "otel": (None, r"could not import 'opentelemetry|extra 'otel'"),
    "parquet": (None, r"could not import 'pyarrow|extra 'parquet'"),
    "qdrant": (None, r"QDRANT_URL"),
    "scale": (None, r"could not import 'ray|extra 'scale'|ray is not installed"),
    "shared_data": ("shared_data", r"shared/data"),
    "weights": (None, r"cannot be had from a package index"),
}


# What nobody promises: a test that needs a part and one of these is skipped for want of these.
OTHERWISE = re.compile(r"no model hub answers|no CUDA device")


def required_parts(value: str) -> list[str]:
    """The parts that a value of the variable names."""
    parts = [part.strip() for part in value.split(",") if part.strip()]
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        raise pytest.UsageError(
            f"{VARIABLE} names {unknown[0]!r}; there are: {', '.join(sorted(PARTS))}"
        )
    return parts


def promised_part(parts: list[str], reason: str, markers: set[str]) -> str | None:
    """Which of the parts a skip is for, or None."""
    if OTHERWISE.search(reason):
        return None
    for part in parts:
        marker, pattern = PARTS[part]
        if marker in markers or re.search(pattern, reason, re.IGNORECASE):
            return part
    return None


def pytest_configure(config: pytest.Config) -> None:
    """Refuse a misspelt part at once; collect no garbage while everything is imported."""
    gc.disable()
    required_parts(os.environ.get(VARIABLE, ""))


def pytest_collection_finish() -> None:
    """Keep the garbage collector off what was imported: going over it takes most of a second."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Skips in a test or its fixtures."""
    report = yield
    _refuse_skip(report, {marker.name for marker in item.iter_markers()})
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Skips of a whole module, as by `pytest.importorskip`."""
    report = yield
    _refuse_skip(report, {marker.name for marker in collector.iter_markers()})
    return report


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport, markers: set[str]) -> None:
    # An expected failure is reported as skipped, too, but it did run.
    if report.outcome != "skipped" or hasattr(report, "wasxfail"):
        return
    skip = report.longrepr
    reason = str(skip[2] if isinstance(skip, tuple) else skip)
    part = promised_part(required_parts(os.environ.get(VARIABLE, "")), reason, markers)
    if part is not None:
        report.outcome = "failed"
        report.longrepr = f"{VARIABLE} promises {part!r}, but this was skipped: {reason}"
