"""Several engines for one model: one in this process, the others in workers on their own devices.

Which engine computes a text depends on which is free, so all of them compute alike: the same
number format, the same kind of device, and on CPUs the same number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from retrieval.errors import InvalidInput, ModelFault
from retrieval.models.engines.base import Engine, Head, Pending, TokenBatch
from retrieval.models.engines.worker_client import RemoteEngine, Worker
from retrieval.types import FloatArray


class EngineGroup:
    """Engines with the same model and head. As an engine, it is its first one.

    `retrieval.models.batching.run_batches` shares the batches of large inputs among `engines`.

    Args:
        engines: one or more, the one for small inputs first.

    Raises:
        InvalidInput: none, or engines that do not compute alike.
    """

    def __init__(self, engines: Sequence[Engine]) -> None:
        kinds = sorted({f"{engine.name} {engine.dtype} {engine.head}" for engine in engines})
        if len(kinds) != 1:
            raise InvalidInput(
                f"engines that do not compute alike were put together ({', '.join(kinds) or 'none'}"
                "), so that results would depend on which one computed them",
                fix="Give engine=… and dtype=… that all devices can compute.",
            )
        self._engines = tuple(engines)
        self._closed = False

    @property
    def engines(self) -> tuple[Engine, ...]:
        """The engines, the one for small inputs first.

        Raises:
            ModelFault: the group was closed.
        """
        if self._closed:
            raise ModelFault(
                f"the model on {self.device} was closed, and its workers have ended",
                fix="Load the model again.",
            )
        return self._engines

    @property
    def name(self) -> str:
        """`packed`, `openvino` or `transformers`."""
        return self._engines[0].name

    @property
    def device(self) -> str:
        """All devices, as in `cuda:0, cuda:1`."""
        return ", ".join(engine.device for engine in self._engines)

    @property
    def dtype(self) -> str:
        """`fp32`, `bf16`, `fp16` or `int8`, the same for all."""
        return self._engines[0].dtype

    @property
    def head(self) -> Head:
        """What `run` computes."""
        return self._engines[0].head

    @property
    def token_budget(self) -> int:
        """See `engines.base.Engine.token_budget`: the least of all, so that all can run it."""
        return min(engine.token_budget for engine in self._engines)

    def run(self, batch: TokenBatch) -> FloatArray:
        """See `engines.base.Engine.run`; on the first engine."""
        return self.engines[0].run(batch)

    def submit(self, batch: TokenBatch) -> Pending:
        """See `engines.base.Engine.submit`; on the first engine."""
        return self.engines[0].submit(batch)

    def close(self) -> None:
        """End the workers. May be called again; nothing can be run afterwards."""
        self._closed = True
        for engine in self._engines:
            if isinstance(engine, RemoteEngine):
                engine.close()


def load_group(
    devices: Sequence[str], load: Callable[[str], Engine], options: dict[str, Any]
) -> EngineGroup:
    """The first device's engine in this process, and a worker for each of the others.

    Workers' processes start while this one loads. On GPUs all load at the same time; on CPUs, which
    would only take turns at the cores, the others load what the first one has left in the cache.

    Args:
        devices: checked ones, all of a kind.
        load: loads the engine of a device in this process.
        options: arguments of `load_engine` for the workers, without `device`.

    Raises:
        InvalidInput: the devices do not compute in the same number format.
        RetrievalError: whatever loading raises, here or in a worker.
    """
    workers: list[Worker] = []
    try:
        for device in devices[1:]:
            workers += [Worker(device)]  # one after the other: each one started must be ended
        if devices[0] == "cpu":
            first = load(devices[0])
            # What `auto` came to here, it must come to there.
            options = options | {"engine": first.name}
            if options["dtype"] == "auto":
                options["dtype"] = first.dtype
            loading = [worker.load(options) for worker in workers]
        else:
            loading = [worker.load(options) for worker in workers]
            first = load(devices[0])
        return EngineGroup([first, *(loaded() for loaded in loading)])
    except BaseException:
        for worker in workers:
            worker.close()
        raise
