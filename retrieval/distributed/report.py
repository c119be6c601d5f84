"""What became of all documents, added up in the driver."""

from __future__ import annotations

import time

from retrieval.distributed.messages import Counts, Failure
from retrieval.errors import CorpusError
from retrieval.ingestion import IngestProgressCallback
from retrieval.ingestion.prepare import differed
from retrieval.types import IngestProgress, IngestReport


class ReportTotals:
    """The report, added up."""

    def __init__(
        self,
        first: IngestReport,
        on_error: str,
        progress: IngestProgressCallback | None,
        started: float,
    ) -> None:
        self.first = first
        self.counts = Counts()
        self._on_error = on_error
        self._progress = progress
        self._started = started

    def add(self, item: Counts | Failure) -> None:
        """Count what was done.

        Raises:
            RetrievalError: what a worker failed with.
            CorpusError: a problem, if problems end the run.
        """
        if isinstance(item, Failure):
            raise item.error()
        if item.problems and self._on_error == "raise":
            raise CorpusError(
                str(item.problems[0]),
                fix="Correct it, or use on_error='skip' to leave it out and go on.",
            )
        self.counts += item
        if self._progress is None:
            return
        seconds = time.perf_counter() - self._started
        passages = self.counts.passages + self.first.passages
        self._progress(
            IngestProgress(
                documents=self.counts.read,
                total_documents=None,
                passages=passages,
                tokens=self.counts.tokens + self.first.tokens,
                seconds=seconds,
                passages_per_second=passages / seconds,
            )
        )

    def report(self, collection: str) -> IngestReport:
        """Documents that were indexed first were read again, and found unchanged."""
        first, rest = self.first, self.counts
        problems = sorted(rest.problems, key=lambda one: (one.source, one.line or 0, one.reason))
        return IngestReport(
            collection=collection,
            read=rest.read,
            new=first.new + rest.new,
            changed=rest.changed,
            unchanged=rest.unchanged - first.new,
            failed=tuple(problems),
            passages=first.passages + rest.passages,
            tokens=first.tokens + rest.tokens,
            truncated_passages=first.truncated_passages + rest.truncated,
            seconds=time.perf_counter() - self._started,
            notices=(*first.notices, *([differed(rest.differing)] if rest.differing else [])),
        )
