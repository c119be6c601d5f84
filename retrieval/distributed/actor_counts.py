"""How many actors of each stage fit on a cluster."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from retrieval._validate import number, whole_number
from retrieval.errors import InvalidInput

# Shares of a CPU by which Ray counts what runs beside the encoders. They differ from each other,
# or Ray Data would run a stage of tasks and the actors after it in one process (operator fusion).
READ_CPUS = 0.25
SPLIT_CPUS = 0.5
WRITE_CPUS = 0.25
# One splitter keeps some thousands of passages a second: two for each GPU, few for CPU encoders.
SPLITTERS_PER_GPU = 2
CPU_WORKERS_PER_SPLITTER = 8
MOST_WRITERS = 4
"""Streams of writes that a Qdrant server gains from (its documentation: 2 to 4)."""


@dataclass(frozen=True, slots=True)
class ActorCounts:
    """Actors of each stage, and what each encoder is given."""

    encoders: int
    splitters: int
    writers: int
    cpus_per_encoder: float
    gpus_per_encoder: float


def plan_actors(
    cluster: Mapping[str, float],
    *,
    workers: int | None = None,
    gpus_per_worker: float | None = None,
    cpus_per_worker: float = 1.0,
    one_writer: bool = False,
) -> ActorCounts:
    """Divide a cluster between the stages.

    Args:
        cluster: what it has, as `ray.cluster_resources()` says: "CPU", "GPU".
        workers: encoders; None takes as many as fit.
        gpus_per_worker: a share of a GPU for each (0.5: two on one); None takes 1 where the
            cluster has GPUs, else 0.
        cpus_per_worker: CPUs for each.
        one_writer: the store has one owner.

    Raises:
        InvalidInput: a number that cannot be, or more than the cluster has.
    """
    cpus, gpus = float(cluster.get("CPU", 0)), float(cluster.get("GPU", 0))
    share = (1.0 if gpus else 0.0) if gpus_per_worker is None else float(gpus_per_worker)
    _check(workers, share, cpus_per_worker)
    writers = 1 if one_writer else MOST_WRITERS
    least = READ_CPUS + SPLIT_CPUS + WRITE_CPUS
    if workers is None:
        room = math.floor((cpus - least) / cpus_per_worker + 1e-9)
        count = max(1, min(room, math.floor(gpus / share + 1e-9)) if share else room)
    else:
        count = workers
    needed = count * cpus_per_worker + least
    if needed > cpus + 1e-9 or count * share > gpus + 1e-9:
        given = f"{_of(count, 'worker')} of {_of(cpus_per_worker, 'CPU')}"
        given += f" and {_of(share, 'GPU')} each" if share else " each"
        raise InvalidInput(
            f"{given}, with {_of(least, 'CPU')} for reading, splitting and writing, need "
            f"{_of(needed, 'CPU')} and {_of(count * share, 'GPU')}; the Ray cluster has {cpus:g} "
            f"and {gpus:g}",
            fix="Ask for fewer workers or smaller shares, or join more machines to the cluster.",
        )
    spare = cpus - needed
    writers = min(writers, count)
    more = min(writers - 1, math.floor(spare / WRITE_CPUS + 1e-9))
    spare -= more * WRITE_CPUS
    wanted = count * SPLITTERS_PER_GPU if share else math.ceil(count / CPU_WORKERS_PER_SPLITTER)
    splitters = 1 + min(wanted - 1, math.floor(spare / SPLIT_CPUS + 1e-9))
    return ActorCounts(count, splitters, 1 + more, float(cpus_per_worker), share)


def _of(number: float, what: str) -> str:
    return f"{number:g} {what}{'' if number == 1 else 's'}"


def _check(workers: int | None, gpus: float, cpus: float) -> None:
    if workers is not None:
        whole_number(
            workers,
            "workers",
            fix="Give how many encoders are to run, or leave it out for as many as fit.",
        )
    for name, value, least in (("gpus_per_worker", gpus, 0.0), ("cpus_per_worker", cpus, 0.01)):
        number(
            value,
            name,
            least=least,
            expected=f"a number of at least {least:g}",
            fix="Give a share of a device, such as 1 or 0.5.",
        )
    if gpus > 1 and gpus != int(gpus):
        raise InvalidInput(
            f"gpus_per_worker is {gpus!r}; Ray gives out whole GPUs or shares of one",
            fix="Use a whole number, or a share below 1.",
        )
