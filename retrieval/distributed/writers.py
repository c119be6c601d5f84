"""How workers reach the collection: a server each by itself, a folder through its one owner."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any, Protocol

from retrieval.distributed.messages import Encoded, Failure
from retrieval.errors import RetrievalError
from retrieval.index.collection import CollectionIndex
from retrieval.index.store import Store
from retrieval.types import DocumentState

WINDOW_PASSAGES = 512
"""Passages in an acknowledged write, as in an indexing run without Ray."""


class CollectionAccess(Protocol):
    """What the stages need of a collection."""

    def states(self, document_ids: list[str]) -> dict[str, DocumentState]:
        """What is stored of these documents."""
        ...

    def write(self, encoded: Encoded) -> None:
        """Make the passages durable, then delete what they replace. Doing it twice is harmless."""
        ...


@dataclass(frozen=True, slots=True)
class Target:
    """The collection that workers write to. `version` is the engine's own name."""

    store: Store
    version: str
    tenant: str | None


class DirectAccess:
    """The collection, opened in this process, at the first call."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._index: CollectionIndex | None = None

    @property
    def index(self) -> CollectionIndex:
        """The open collection."""
        if self._index is None:
            self._index = self._target.store.open(self._target.version)
        return self._index

    def states(self, document_ids: list[str]) -> dict[str, DocumentState]:
        """What is stored of these documents."""
        return dict(self.index.document_states(document_ids, tenant=self._target.tenant))

    def write(self, encoded: Encoded) -> None:
        """Make the passages durable, then delete what they replace. Doing it twice is harmless."""
        tenant = self._target.tenant
        if fresh := encoded.lengths(changed=False):
            self.index.clear_leftovers(fresh, tenant=tenant)
        for start in range(0, len(encoded.passages), WINDOW_PASSAGES):
            part = slice(start, start + WINDOW_PASSAGES)
            self.index.upsert(
                encoded.passages[part],
                encoded.vectors[part],
                lexical=None if encoded.lexical is None else encoded.lexical[part],
                token_vectors=(
                    None if encoded.token_vectors is None else encoded.token_vectors[part]
                ),
                tenant=tenant,
            )
        if changed := encoded.lengths(changed=True):
            self.index.delete_stale(encoded.stale, changed, tenant=tenant)

    def optimize(self) -> None:
        """Build the approximate index over what has been written."""
        self.index.optimize()

    def close(self) -> None:
        """Let go of the collection."""
        if self._index is not None:
            self._index.close()
            self._index = None


class Owner:
    """The one process that has an embedded collection open; a Ray actor on the driver's machine.

    Errors of this library come back as values: their classes are not made to be pickled.
    """

    def __init__(self, target: Target) -> None:
        self._access = DirectAccess(target)

    def call(self, name: str, *arguments: Any) -> Any:
        """A method of `DirectAccess`, or the `Failure` that it ended in."""
        try:
            return getattr(self._access, name)(*arguments)
        except RetrievalError as error:
            return Failure.of(error)


class OwnerAccess:
    """A collection that an `Owner` has open."""

    def __init__(self, owner: Any) -> None:
        self._owner = owner

    def states(self, document_ids: list[str]) -> dict[str, DocumentState]:
        """What is stored of these documents."""
        found: dict[str, DocumentState] = self._call("states", document_ids)
        return found

    def write(self, encoded: Encoded) -> None:
        """Make the passages durable, then delete what they replace. Doing it twice is harmless."""
        self._call("write", encoded)

    def optimize(self) -> None:
        """Build the approximate index over what has been written."""
        self._call("optimize")

    def close(self) -> None:
        """Let the owner let go of the collection, and end it."""
        import ray

        with contextlib.suppress(ray.exceptions.RayError):  # one that is dead holds nothing
            self._call("close")
        ray.kill(self._owner)

    def _call(self, name: str, *arguments: Any) -> Any:
        import ray

        result = ray.get(self._owner.call.remote(name, *arguments))
        if isinstance(result, Failure):
            raise result.error()
        return result


def this_machine() -> Any:
    """A scheduling strategy: on the driver's machine, which is where an embedded store is."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def start_owner(target: Target) -> Any:
    """An owner on this machine; it is started again when it is killed."""
    import ray

    return (
        ray.remote(Owner)
        .options(
            num_cpus=0, max_restarts=10, max_task_retries=3, scheduling_strategy=this_machine()
        )
        .remote(target)
    )


def access_to(target: Target, owner: Any | None) -> DirectAccess | OwnerAccess:
    """The way to a collection."""
    return DirectAccess(target) if owner is None else OwnerAccess(owner)
