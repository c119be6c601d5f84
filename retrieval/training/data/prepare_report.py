"""What `retrieval train data` has done, as text and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from retrieval.training.data.prepare import DataFile, DataReport

_SHOWN = 5


def data_report_as_dict(report: DataReport) -> dict[str, Any]:
    """For JSON; the form is said in docs/json.md."""
    leaks = report.leaks
    return {
        "sources": [{"path": path, "examples": n} for path, n in report.sources.items()],
        "train": _file_as_dict(report.train),
        "dev": None if report.dev is None else _file_as_dict(report.dev),
        "dropped": dict(report.dropped),
        "leaks": None
        if leaks is None
        else {
            "examples": leaks.examples,
            "pairs": [asdict(leak) for leak in leaks.queries],
            "shared_passages": leaks.passages,
        },
        "notices": list(report.notices),
    }


def data_report_as_text(report: DataReport) -> str:
    """For a terminal."""
    lines = [f"{path}: {n:,} examples" for path, n in report.sources.items()]
    lines += [f"dropped: {n:,} {reason}" for reason, n in report.dropped.items()]
    if report.leaks is not None:
        leaks = report.leaks
        lines.append(
            f"leaks: training queries that are the evaluation's, or nearly: {leaks.examples:,}"
        )
        lines += [f"  {leak}" for leak in leaks.queries[:_SHOWN]]
        if len(leaks.queries) > _SHOWN:
            lines.append(f"  and {len(leaks.queries) - _SHOWN:,} more pairs")
        lines.append(f"shared passages: {leaks.passages:,} positives are positives of both")
    lines += _file_as_lines(report.train)
    if report.dev is not None:
        lines += _file_as_lines(report.dev)
    return "\n".join(lines)


def _file_as_dict(file: DataFile) -> dict[str, Any]:
    return {
        "path": str(file.path),
        "examples": file.examples,
        "positives": file.positives,
        "negatives": file.negatives,
        "without_negatives": file.unmined,
        "with_scores": file.scored,
        "query_characters": _lengths(file, "queries"),
        "passage_characters": _lengths(file, "passages"),
    }


def _lengths(file: DataFile, of: str) -> dict[str, int]:
    lengths = getattr(file, of)
    return {"median": lengths.median, "p95": lengths.most_of_95, "longest": lengths.longest}


def _file_as_lines(file: DataFile) -> list[str]:
    scored = f", {file.scored:,} with a teacher's scores" if file.scored else ""
    lines = [
        f"{file.path}: {file.examples:,} queries, {file.positives:,} positives, "
        f"{file.negatives:,} negatives ({file.unmined:,} queries have none){scored}"
    ]
    for name, one in (("queries", file.queries), ("passages", file.passages)):
        lines.append(
            f"  {name}: {one.median:,} characters in the middle, 95% up to {one.most_of_95:,}, "
            f"the longest {one.longest:,}"
        )
    return lines
