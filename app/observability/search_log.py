"""What searches found, a line of JSON each, in a file of the operator's choice.

The file is opt-in (setting `search_log`), and query texts are in it only where `search_log_texts`
says so. `retrieval drift` reads it, and `retrieval questions --log` where it has texts.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from logging.handlers import WatchedFileHandler
from pathlib import Path

from app.settings.settings import Settings
from retrieval import SearchOptions, SearchResult
from retrieval.errors import InvalidInput


class SearchLog:
    """Writes lines; may be used from any thread. Moved away (logrotate), the file is made anew.

    Args:
        settings: `search_log` and `search_log_texts`.

    Raises:
        InvalidInput: the file cannot be written.
    """

    def __init__(self, settings: Settings) -> None:
        self._texts = settings.search_log_texts
        self._logger: logging.Logger | None = None
        if settings.search_log is not None:
            self._logger = logging.Logger("search_log")  # of nobody else's: not in the usual log
            self._logger.addHandler(_handler(settings.search_log))

    def write(
        self, collection: str, options: SearchOptions, results: Sequence[SearchResult]
    ) -> None:
        """A line for each result; what goes wrong is told on standard error, never raised."""
        if self._logger is None:
            return
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        for result in results:
            record = {
                "time": now,
                "collection": collection,
                "tenant": options.tenant,
                "query": result.query if self._texts else None,
                "characters": len(result.query),
                "mode": result.mode,
                "reranker": result.reranker,
                "candidates": len(result.candidates),
                "hits": len(result.hits),
                "min_relevance": options.min_relevance,
                "relevance_is": result.relevance_is,
                "best_relevance": result.best_relevance,
                "ms": round(result.timings.total_ms, 3),
            }
            self._logger.info(json.dumps(record, ensure_ascii=False))

    def close(self) -> None:
        """Close the file."""
        for handler in () if self._logger is None else self._logger.handlers:
            handler.close()


def _handler(path: Path) -> logging.Handler:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)  # what people ask is nobody else's business
        return WatchedFileHandler(path, encoding="utf-8")
    except OSError as error:
        raise InvalidInput(
            f"the search_log {str(path)!r} cannot be written: {error.strerror or error}",
            fix="Name a file that the service may write, or leave search_log out.",
        ) from error
