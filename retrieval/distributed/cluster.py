"""Ray itself: connected and let go, its errors in the library's words, its settings."""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from retrieval.errors import Fault, InvalidInput, MissingExtra, RetrievalError


@contextmanager
def connected(address: str | None) -> Iterator[Any]:
    """Ray, connected; what is started here is ended here.

    Raises:
        MissingExtra: it is not installed.
        InvalidInput: no cluster answers there.
        Fault: a worker failed, within the block.
    """
    try:
        import ray
        import ray.data
        import ray.data.exceptions
    except ImportError as error:
        raise MissingExtra("ray", extra="scale", purpose="Indexing on many machines") from error
    own = not ray.is_initialized()
    if own:
        # Without this, Ray reports its use to its makers.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            ray.init(address=address, log_to_driver=False)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise InvalidInput(
                f"Ray could not be reached or started: {error}",
                fix="Start a cluster with `ray start --head`, or leave the address out.",
            ) from error
    context = ray.data.DataContext.get_current()
    shown = context.enable_progress_bars
    context.enable_progress_bars = False
    logger = logging.getLogger("ray.data")
    level = logger.level
    logger.setLevel(logging.ERROR)  # `progress` reports how far the run is
    try:
        yield ray
    except (ray.exceptions.RayError, ray.data.exceptions.SystemException) as error:
        raise translated(error) from error
    finally:
        logger.setLevel(level)
        context.enable_progress_bars = shown
        if own:
            ray.shutdown()


def translated(error: Exception) -> RetrievalError:
    """An error of Ray's in words of this library."""
    cause = getattr(error, "cause", None) or error.__cause__ or error
    if isinstance(cause, RetrievalError):
        return cause
    last = str(cause).strip().splitlines()[-1:] or [type(cause).__name__]
    return Fault(
        f"a worker of the Ray cluster failed ({type(cause).__name__}: {last[0]})",
        fix="What was acknowledged is kept; run again to go on. The workers' own words are in "
        "Ray's logs, by default below /tmp/ray/session_latest/logs.",
    )


def limits(**wanted: int) -> dict[str, Any]:
    """Limits without which Ray tries a batch that kills its worker for ever.

    From Ray 2.64 on `map_batches` takes no such options, and that is how it is there.
    """
    import ray.data

    parameters = inspect.signature(ray.data.Dataset.map_batches).parameters.values()
    taken = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters)
    return dict(wanted) if taken else {}


@contextmanager
def one_item_a_block() -> Iterator[None]:
    """Data sets made here give each item its own block, see messages.py."""
    import ray.data

    context = ray.data.DataContext.get_current()
    before = context.target_max_block_size, context.print_on_execution_start
    context.target_max_block_size, context.print_on_execution_start = 1, False
    try:
        yield
    finally:
        context.target_max_block_size, context.print_on_execution_start = before
