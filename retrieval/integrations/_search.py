"""Shared by the adapters: options of a search, metadata of hits, and async calls."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

from retrieval.api.live import FollowingRetriever
from retrieval.errors import InvalidInput, MissingExtra
from retrieval.index.filters import compile_filter
from retrieval.search.options import check_option_names
from retrieval.search.retriever import TwoStageRetriever
from retrieval.types import Hit, Passage, ProgressCallback, SearchResult

T = TypeVar("T")

Searcher: TypeAlias = TwoStageRetriever | FollowingRetriever
"""What answers: an open retriever, of one version of a collection or following them."""


class Abandoned(Exception):
    """Raised inside of a search that nobody waits for any more, to end it."""


def missing(package: str, extra: str, module: str) -> MissingExtra:
    """The error of a module whose framework is not installed."""
    return MissingExtra(package, extra=extra, purpose=f"retrieval.integrations.{module}")


# --- searching ------------------------------------------------------------------------------


def checked_searcher(retriever: object) -> Searcher:
    """A retriever that was given, if it can answer.

    Raises:
        InvalidInput: it is something else.
    """
    if callable(getattr(retriever, "search_batch", None)):
        return retriever  # type: ignore[return-value]
    what = f"{retriever!r}" if isinstance(retriever, str) else f"a {type(retriever).__name__}"
    raise InvalidInput(
        f"retriever is {what}, expected an open TwoStageRetriever or FollowingRetriever",
        fix="Give what retrieval.open(…) returns, or name a collection: from_collection('docs').",
    )


def checked_arguments(retriever: Searcher, given: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a search, without those that leave the choice to the retriever.

    Raises:
        InvalidInput: an option that does not exist, or a value that cannot be used with this
            retriever.
        InvalidFilter: `where` cannot be understood.
    """
    check_option_names(given)
    arguments = {name: value for name, value in given.items() if value is not None}
    if "where" in arguments:
        compile_filter(arguments["where"])
    open_one = retriever.retriever if isinstance(retriever, FollowingRetriever) else retriever
    if isinstance(open_one, TwoStageRetriever):
        open_one.plan(**arguments)
    return arguments


def search(
    retriever: Searcher,
    query: str,
    arguments: Mapping[str, Any],
    progress: ProgressCallback | None = None,
) -> SearchResult:
    """One query's result; `progress` may end the search by raising."""
    return retriever.search_batch([query], progress=progress, **arguments)[0]


async def beside_the_loop(call: Callable[[ProgressCallback], T]) -> T:
    """Run a blocking call in a thread, with a `progress` that ends it once the task is cancelled.

    A cancelled task goes on at once. What it had asked for ends with the batch of the model that
    is running, or, where its thread had not begun, is never started.
    """
    abandoned = threading.Event()

    def progress(done: int, total: int) -> None:
        if abandoned.is_set():
            raise Abandoned(f"after {done} of {total}")

    try:
        return await asyncio.to_thread(call, progress)
    except asyncio.CancelledError:
        abandoned.set()
        raise


# --- metadata -------------------------------------------------------------------------------

STAGES = (
    "rank",
    "score",
    "relevance",
    "stage1_rank",
    "stage1_score",
    "stage2_rank",
    "stage2_score",
)
"""Keys of a hit's metadata that say what the search thought of it."""


def metadata_of(hit: Hit, notices: Sequence[str] = ()) -> dict[str, Any]:
    """A hit's place, scores and its document's own metadata, flat.

    What the document has under a key that is used here is in `metadata["metadata"]`; but where
    the passage has no source, the document's own `source` stays where it is. `best_span`,
    `before`, `after` and `notices` are there only where there is something to say.
    """
    passage = hit.passage
    used: dict[str, Any] = {
        "document_id": passage.document_id,
        "passage_id": passage.id,
        "position": passage.position,
        "start": passage.start,
        "end": passage.end,
        "title": passage.title,
        "headings": list(passage.headings),
        **{name: getattr(hit, name) for name in STAGES},
    }
    if passage.source or "source" not in passage.metadata:
        used["source"] = passage.source
    if hit.best_span is not None:
        used["best_span"] = list(hit.best_span)
    if hit.before:
        used["before"] = [_neighbour(one) for one in hit.before]
    if hit.after:
        used["after"] = [_neighbour(one) for one in hit.after]
    if notices:
        used["notices"] = list(notices)
    own = dict(passage.metadata)
    hidden = {key: own.pop(key) for key in list(own) if key in used or key == "metadata"}
    if hidden:
        used["metadata"] = hidden
    return {**own, **used}


def _neighbour(passage: Passage) -> dict[str, Any]:
    return {
        "passage_id": passage.id,
        "start": passage.start,
        "end": passage.end,
        "text": passage.text,
    }
