"""Batches by token budget: texts of like length together, so that little padding is computed.

A fixed number of texts a batch makes batches of very different cost and pads short texts to the
longest of the batch. Here texts are sorted by length and as many are put together as fit into a
number of padded tokens.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import InvalidInput
from retrieval.models.engines.base import Engine, Pending, TokenBatch
from retrieval.models.engines.multi_device import EngineGroup
from retrieval.models.tokenization.tokenizer import Tokenized, Tokenizer
from retrieval.types import FloatArray, ProgressCallback

TOKEN_BUDGET = 4096
"""Padded tokens in a batch, by default; 2,048 to 4,096 measured best on CPUs."""

BATCH_COST = 64
"""What a batch costs beside its tokens, in tokens. On a CPU it is near nothing."""

Consume: TypeAlias = Callable[[NDArray[np.int64], FloatArray], None]
"""Called as `consume(indices, output)`: `output[i]` belongs to text `indices[i]` of the input."""

IN_FLIGHT = 2
"""Batches that an engine has been given at once: one runs while the next one is prepared."""

_Indices: TypeAlias = NDArray[np.int64]
_Output: TypeAlias = tuple[_Indices, FloatArray]


def plan_batches(
    lengths: NDArray[np.int64],
    *,
    token_budget: int = TOKEN_BUDGET,
    max_batch: int | None = None,
) -> list[NDArray[np.int64]]:
    """Indices of each batch, longest texts first; every index exactly once.

    `len(batch) × longest text in it ≤ token_budget`, except that a text longer than the budget
    gets its own batch. Among the ways to cut the sorted texts into such batches, the cheapest
    is taken, counting padded tokens and `BATCH_COST` for each batch. Longest first shows at once
    whether memory suffices.

    Args:
        lengths: tokens of each text (n,).
        token_budget: padded tokens in a batch.
        max_batch: texts in a batch at most; None for no limit but the budget.

    Raises:
        InvalidInput: `token_budget` or `max_batch` is below 1.
    """
    if token_budget < 1 or (max_batch is not None and max_batch < 1):
        raise InvalidInput(
            f"token_budget={token_budget} and max_batch={max_batch} were given",
            fix="Give numbers of at least 1, or leave both out.",
        )
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable").astype(np.int64)
    widths = np.maximum(np.asarray(lengths, dtype=np.int64)[order], 1)
    total = len(order)
    sizes = np.maximum(token_budget // widths, 1)
    sizes = np.minimum(sizes, total - np.arange(total))
    if max_batch is not None:
        sizes = np.minimum(sizes, max_batch)
    # cost[i]: of the texts from i on; size[i]: of the first batch in their cheapest partition.
    cost = np.zeros(total + 1, dtype=np.int64)
    size = np.zeros(total, dtype=np.int64)
    counts = np.arange(1, total + 1, dtype=np.int64)
    for start in range(total - 1, -1, -1):
        most = sizes[start]
        costs = counts[:most] * widths[start] + cost[start + 1 : start + 1 + most]
        size[start] = most - int(costs[::-1].argmin())  # of equally cheap ones the largest
        cost[start] = BATCH_COST + costs[size[start] - 1]
    batches: list[NDArray[np.int64]] = []
    start = 0
    while start < total:
        stop = start + int(size[start])
        batches.append(order[start:stop])
        start = stop
    return batches


def run_batches(
    engine: Engine,
    tokenizer: Tokenizer,
    tokenized: Tokenized,
    *,
    consume: Consume,
    token_budget: int | None = None,
    max_batch: int | None = None,
    progress: ProgressCallback | None = None,
) -> None:
    """Run all texts through `engine`, handing each batch's output to `consume`.

    An engine has two batches at once, so that it need not wait while the next one is prepared. The
    engines of an `EngineGroup` take batches from one queue, longest first; fewer than two batches'
    worth of texts stay on the first one. Both callbacks are called from the calling thread;
    `progress` counts texts. The first error, of an engine or a callback, ends all; it is raised
    once the batches that are running have ended.

    Args:
        engine: runs the batches.
        tokenizer: pads them.
        tokenized: the texts.
        consume: takes each batch's output, in whichever order batches end.
        token_budget: padded tokens in a batch; None for what the engine runs fastest.
        max_batch: texts in a batch at most; 1 makes each result independent of the other texts.
        progress: called as `progress(done, total)`.

    Raises:
        InvalidInput: `token_budget` or `max_batch` is below 1.
        ModelFault: a device failed, or a worker process died.
    """
    budget = engine.token_budget if token_budget is None else token_budget
    batches = plan_batches(tokenized.lengths, token_budget=budget, max_batch=max_batch)

    def prepare(indices: _Indices) -> TokenBatch:
        return tokenizer.pad(indices, tokenized)

    if isinstance(engine, EngineGroup) and len(tokenized.ids) >= 2 * budget and len(batches) > 1:
        outputs = _shared_outputs(engine.engines, batches, prepare)
    else:
        outputs = _outputs(engine, batches, prepare)
    total = len(tokenized)
    done = 0
    # Closed even where a callback raises: nothing may still be running when this returns.
    with contextlib.closing(outputs):
        for indices, output in outputs:
            consume(indices, output)
            done += len(indices)
            if progress is not None:
                progress(done, total)


def _outputs(
    engine: Engine, batches: Iterable[_Indices], prepare: Callable[[_Indices], TokenBatch]
) -> Generator[_Output, None, None]:
    flying: deque[tuple[_Indices, Pending]] = deque()
    try:
        for indices in batches:
            flying.append((indices, engine.submit(prepare(indices))))
            if len(flying) == IN_FLIGHT:
                started, pending = flying.popleft()
                yield started, pending()
        while flying:
            started, pending = flying.popleft()
            yield started, pending()
    finally:
        for _, pending in flying:
            with contextlib.suppress(Exception):  # another error is on its way already
                pending()


def _shared_outputs(
    engines: Sequence[Engine],
    batches: Sequence[_Indices],
    prepare: Callable[[_Indices], TokenBatch],
) -> Generator[_Output, None, None]:
    """Outputs in the order in which they arrive, with a thread for each engine.

    A thread ends by handing over None, or the error that ended it.
    """
    # Bounded, so that outputs do not pile up where the caller is slower than the engines.
    arrived: queue.Queue[_Output | BaseException | None] = queue.Queue(IN_FLIGHT * len(engines))
    left = iter(batches)
    taking = threading.Lock()
    stop = threading.Event()

    def take() -> Iterator[_Indices]:
        while not stop.is_set():
            with taking:
                indices = next(left, None)
            if indices is None:
                return
            yield indices

    def feed(engine: Engine) -> None:
        try:
            for output in _outputs(engine, take(), prepare):
                arrived.put(output)
            arrived.put(None)
        except BaseException as error:  # noqa: BLE001  (raised again by the calling thread)
            arrived.put(error)

    threads = [
        threading.Thread(target=feed, args=(engine,), name=f"engine {engine.device}", daemon=True)
        for engine in engines
    ]
    try:
        for thread in threads:
            thread.start()
        running = len(threads)
        while running:
            item = arrived.get()
            if isinstance(item, BaseException):
                raise item
            if item is None:
                running -= 1
            else:
                yield item
    finally:
        stop.set()
        for thread in threads:
            while thread.is_alive():
                # A thread that waits for room to hand over its output must be able to.
                with contextlib.suppress(queue.Empty):
                    while True:
                        arrived.get_nowait()
                thread.join(0.01)


def unique_pairs(
    pairs: Sequence[tuple[str, str]],
) -> tuple[list[tuple[str, str]], NDArray[np.int64]]:
    """Each pair once, and int64 (n,): the place among them of each pair of the input."""
    places: dict[tuple[str, str], int] = {}
    rows = np.fromiter(
        (places.setdefault((query, passage), len(places)) for query, passage in pairs),
        dtype=np.int64,
        count=len(pairs),
    )
    return list(places), rows
