"""A report as files: JSON, a page, TREC runs."""

from __future__ import annotations

import json
import os
from pathlib import Path

from retrieval.evaluation.report import EvaluationReport
from retrieval.evaluation.trec import write_atomically, write_qrels, write_run


def write_report(
    report: EvaluationReport,
    *,
    json_file: str | os.PathLike[str] | None = None,
    runs_folder: str | os.PathLike[str] | None = None,
    html_file: str | os.PathLike[str] | None = None,
) -> None:
    """Write the figures as JSON or as a page, the runs and qrels in TREC form.

    Each file appears whole or not at all.

    Args:
        report: what `evaluate` returned.
        json_file: see `retrieval.evaluation.report` for its keys.
        runs_folder: gets `<row name>.run` for each row and `qrels.txt`; made where missing.
        html_file: one page with plots, see `retrieval.evaluation.html_report`.

    Raises:
        InvalidInput: a path cannot be written, or an id has blanks and cannot be in a TREC
            file. The JSON file and the page are written first and stay.
        DiskFull: no space left.
    """
    if json_file is not None:
        text = json.dumps(report.as_dict(), indent=2, ensure_ascii=False)
        write_atomically(json_file, lambda file: file.write(text + "\n"))
    if html_file is not None:
        from retrieval.evaluation.html_report import report_as_html

        page = report_as_html(report)
        write_atomically(html_file, lambda file: file.write(page))
    if runs_folder is not None:
        folder = Path(runs_folder)
        write_qrels(folder / "qrels.txt", report.qrels)
        for name, run in report.runs.items():
            write_run(folder / f"{name}.run", run, tag=name)
