"""What the doubles of a Qdrant server keep and compute, whatever the wire: collections, points,
aliases, payload indexes, snapshots.

Filters, IDF, fusion and MaxSim are computed by Qdrant's own Python code (the engine behind
`QdrantClient(":memory:")`). That engine forgets most of a collection's configuration and knows
neither payload indexes nor snapshots; these lie beside it, as they were given.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from qdrant_client import models
from qdrant_client.local.qdrant_local import QdrantLocal

from . import strict_mode
from .rate_limits import RateLimits, read_cost, search_cost
from .rejected import Rejected

__all__ = ["Backend", "Kept", "Rejected", "asked_consistency"]

asked_consistency: ContextVar[str | None] = ContextVar("asked_consistency", default=None)
"""`consistency` of the request that is being answered; only a cluster acts on it."""


@dataclass
class Kept:
    """What is known of one collection beside its points."""

    config: models.CreateCollection
    indexes: dict[str, models.PayloadFieldSchema] = field(default_factory=dict)
    snapshots_made: int = 0
    operations: int = 0
    status: models.CollectionStatus = models.CollectionStatus.GREEN


class Backend:
    """The state of one double; every method takes the lock, so any thread may call."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.engine = QdrantLocal(":memory:")
        self.kept: dict[str, Kept] = {}
        self.files: dict[str, dict[str, bytes]] = {}
        """Snapshots by collection and file name; a collection's outlive it."""
        self.strict_default: models.StrictModeConfig | None = None
        """Strict mode of collections that are made without a word of it."""
        self.resources = strict_mode.Resources()
        self.rates = RateLimits()

    # -- collections --

    def create_collection(self, name: str, given: models.CreateCollection) -> bool:
        with self._calls():
            if name in self.engine.aliases:
                raise Rejected(
                    400,
                    f"Wrong input: Can't create collection with name {name}. "
                    "Alias with the same name already exists",
                )
            self.engine.create_collection(
                name,
                vectors_config=given.vectors,
                sparse_vectors_config=given.sparse_vectors,
                metadata=given.metadata,
            )
            # above it the engine warns that it is slow, which is no news in a test
            self.engine.collections[name].LARGE_DATA_THRESHOLD = 10**9
            self.kept[name] = kept = Kept(given.model_copy(deep=True))
            kept.config.strict_mode_config = given.strict_mode_config or self.strict_default
        return True

    def delete_collection(self, name: str) -> bool:
        """False where there is none of this name; an alias is no such name, as on a server."""
        with self._calls():
            self.kept.pop(name, None)
            return self.engine.delete_collection(name)

    def collection_exists(self, name: str) -> bool:
        with self._calls():
            return self.engine.collection_exists(name)

    def collections(self) -> list[str]:
        with self._calls():
            return list(self.engine.collections)

    def collection(self, name: str) -> models.CollectionInfo:
        from .configuration import described

        with self._calls():
            name, kept = self.find(name)
            return described(self.engine.collections[name], kept)

    def update_collection(self, name: str, change: models.UpdateCollection) -> bool:
        from .configuration import apply_change

        with self._calls():
            name, kept = self.find(name)
            self.engine.update_collection(
                name,
                sparse_vectors_config=change.sparse_vectors,
                metadata=change.metadata,
                vectors_config=change.vectors,
            )
            apply_change(kept.config, change)
            kept.config.metadata = self.engine.collections[name].config.metadata
        return True

    def cluster(self, name: str) -> models.CollectionClusterInfo:
        with self._calls():
            name, kept = self.find(name)
            shards = kept.config.shard_number or 1
            points = self.engine.count(name).count
            return models.CollectionClusterInfo(
                peer_id=1,
                shard_count=shards,
                local_shards=[
                    models.LocalShardInfo(
                        shard_id=shard,
                        # the engine has no shards: all the points count as the first one's
                        points_count=points if shard == 0 else 0,
                        state=models.ReplicaState.ACTIVE,
                    )
                    for shard in range(shards)
                ],
                remote_shards=[],
                shard_transfers=[],
            )

    def create_index(self, name: str, index: models.CreateFieldIndex) -> models.UpdateResult:
        with self._calls():
            name, kept = self.find(name)
            schema = index.field_schema
            if schema is None:
                raise Rejected(400, "Wrong input: Field schema is not given and not guessed here")
            # asked for on the collection: the client's method would only warn
            self.engine.collections[name].create_payload_index(index.field_name, schema)
            kept.indexes[index.field_name] = schema
            return self._done(kept)

    def delete_index(self, name: str, field_name: str) -> models.UpdateResult:
        with self._calls():
            name, kept = self.find(name)
            self.engine.collections[name].delete_payload_index(field_name)
            kept.indexes.pop(field_name, None)
            return self._done(kept)

    # -- aliases --

    def change_aliases(self, actions: Sequence[models.AliasOperations]) -> bool:
        with self._calls():
            return self.engine.update_collection_aliases(actions)

    def aliases(self, name: str | None = None) -> models.CollectionsAliasesResponse:
        with self._calls():
            if name is None:
                return self.engine.get_aliases()
            name, _ = self.find(name)
            return self.engine.get_collection_aliases(name)

    # -- writing points --

    def write(self, name: str, apply: Callable[[QdrantLocal, str], Any]) -> models.UpdateResult:
        """One write on the collection (or alias) `name`: all of it or, rejected, none."""
        with self._calls():
            name, kept = self.find(name)
            apply(self.engine, name)
            return self._done(kept)

    def upsert(self, name: str, given: models.PointInsertOperations) -> models.UpdateResult:
        points = given.points if isinstance(given, models.PointsList) else given.batch

        def apply(engine: QdrantLocal, at: str) -> None:
            count = len(points if isinstance(points, list) else points.ids)
            strict_mode.check_upsert(self.kept[at], count, self.resources)
            self.rates.write(self.kept[at], max(1, count))
            self._upsert(at, given)

        return self.write(name, apply)

    def delete(self, name: str, selector: models.PointsSelector) -> models.UpdateResult:
        def apply(engine: QdrantLocal, at: str) -> None:
            strict_mode.check_delete(self.kept[at], selector)
            self.rates.write(self.kept[at], max(1, self._affected(at, selector)))
            self._delete(at, selector)

        return self.write(name, apply)

    # -- reading points --

    def scroll(self, name: str, asked: models.ScrollRequest) -> models.ScrollResult:
        with self._calls():
            name, kept = self.find(name)
            strict_mode.check_scroll(kept, asked)
            self.rates.read(kept, read_cost(asked.filter))
            return self._scroll(name, asked)

    def retrieve(self, name: str, asked: models.PointRequest) -> list[models.Record]:
        with self._calls():
            name, kept = self.find(name)
            self.rates.read(kept, len(asked.ids))
            return self._retrieve(name, asked)

    def count(self, name: str, asked: models.CountRequest) -> models.CountResult:
        with self._calls():
            name, kept = self.find(name)
            strict_mode.check_count(kept, asked)
            self.rates.read(kept, read_cost(asked.filter))
            return self._count(name, asked)

    def query(self, name: str, asked: models.QueryRequest) -> models.QueryResponse:
        with self._calls():
            _, kept = self.find(name)
            strict_mode.check_query(kept, asked)
            self.rates.read(kept, search_cost(asked))
            return self._found(name, asked)

    def query_batch(self, name: str, searches: Sequence[Any]) -> list[models.QueryResponse]:
        with self._calls():
            _, kept = self.find(name)
            strict_mode.check_batch(kept, searches)
            self.rates.read(kept, sum(map(search_cost, searches)))
            return [self._found(name, asked) for asked in searches]

    # -- what the points are asked, after all checks: a node of a cluster has its own way --

    def _upsert(self, name: str, given: models.PointInsertOperations) -> None:
        self.engine.upsert(
            name,
            given.points if isinstance(given, models.PointsList) else given.batch,
            update_filter=given.update_filter,
            update_mode=given.update_mode,
        )

    def _delete(self, name: str, selector: models.PointsSelector) -> None:
        self.engine.delete(name, selector)

    def _scroll(self, name: str, asked: models.ScrollRequest) -> models.ScrollResult:
        points, following = self.engine.scroll(
            name,
            scroll_filter=asked.filter,
            limit=10 if asked.limit is None else asked.limit,
            offset=asked.offset,
            with_payload=True if asked.with_payload is None else asked.with_payload,
            with_vectors=asked.with_vector or False,
        )
        return models.ScrollResult(points=_float32(points), next_page_offset=following)

    def _retrieve(self, name: str, asked: models.PointRequest) -> list[models.Record]:
        found = self.engine.retrieve(
            name,
            asked.ids,
            with_payload=True if asked.with_payload is None else asked.with_payload,
            with_vectors=asked.with_vector or False,
        )
        return _float32(found)

    def _count(self, name: str, asked: models.CountRequest) -> models.CountResult:
        return self.engine.count(name, count_filter=asked.filter)

    def _found(self, name: str, asked: Any) -> models.QueryResponse:
        name, kept = self.find(name)
        _check_dimensions(kept.config, asked)
        found = self.engine.query_points(
            name,
            query=asked.query,  # plain vectors are resolved inside
            using=asked.using,
            prefetch=asked.prefetch,
            query_filter=asked.filter,
            search_params=_scores_only(asked.params),
            limit=10 if asked.limit is None else asked.limit,
            offset=asked.offset,
            with_payload=asked.with_payload or False,
            with_vectors=asked.with_vector or False,
            score_threshold=asked.score_threshold,
            lookup_from=asked.lookup_from,
        )
        for point in found.points:
            point.score = float(np.float32(point.score))
        _float32(found.points)
        return found

    def parts(self, name: str) -> list[Backend]:
        """What holds this node's points of a collection: the shards that lie on it."""
        return [self]

    def parts_of(self, name: str, ids: list[models.ExtendedPointId]) -> list[list[Backend]]:
        """For each point, what it is to be put into when this node restores it."""
        return [[self]] * len(ids)

    def peers(self) -> dict[str, Any]:
        """What `GET /cluster` answers."""
        return {"status": "disabled"}

    # -- inside --

    def find(self, name: str) -> tuple[str, Kept]:
        """The physical name behind a name or an alias, and what is kept of it."""
        physical = self.engine.aliases.get(name, name)
        if physical not in self.kept:
            raise Rejected(404, f"Not found: Collection `{name}` doesn't exist!")
        return physical, self.kept[physical]

    def _affected(self, name: str, selector: Any) -> int:
        if isinstance(selector, models.FilterSelector):
            return self._count(name, models.CountRequest(filter=selector.filter)).count
        return len(selector.points)

    def _done(self, kept: Kept) -> models.UpdateResult:
        kept.operations += 1
        return models.UpdateResult(
            operation_id=kept.operations, status=models.UpdateStatus.COMPLETED
        )

    @contextmanager
    def _calls(self) -> Iterator[None]:
        """One call on the engine: alone, and its errors in the server's words."""
        with self.lock:
            try:
                yield
            except Rejected:
                raise
            except KeyError as error:  # what the engine says of points that are not there
                raise Rejected(404, f"Not found: No point with id {error.args[0]} found") from error
            except (ValueError, TypeError) as error:
                raise _in_the_servers_words(str(error)) from error


def _in_the_servers_words(text: str) -> Rejected:
    if found := re.fullmatch(r"Collection (.*) not found", text):
        return Rejected(404, f"Not found: Collection `{found[1]}` doesn't exist!")
    if found := re.fullmatch(r"Collection (.*) already exists", text):
        return Rejected(409, f"Wrong input: Collection `{found[1]}` already exists!")
    if found := re.fullmatch(r"Alias (.*) does not exist", text):
        return Rejected(404, f"Not found: Alias {found[1]} does not exists!")
    if found := re.fullmatch(r"Point (.*) is not found in the collection", text):
        return Rejected(404, f"Not found: No point with id {found[1]} found")
    if found := re.fullmatch(r".*[vV]ector (.*) is not found in the collection", text):
        return Rejected(400, f"Wrong input: Not existing vector name error: {found[1]}")
    if found := re.fullmatch(r"(\S+) value (\S+) is invalid\. (Must .*)\.", text):
        return Rejected(
            422,
            f"Validation error in JSON body: [{found[1]}: value {found[2]} invalid, "
            f"{found[3].lower()}]",
        )
    if found := re.fullmatch(r"Point id (.*) is not a valid UUID", text):
        return Rejected(
            400,
            f"Format error in JSON body: value {found[1]} is not a valid point ID, "
            "valid values are either an unsigned integer or a UUID",
        )
    return Rejected(400, text if text.startswith("Wrong input") else f"Wrong input: {text}")


def _float32(points: list[Any]) -> list[Any]:
    """Sparse vectors as a server keeps them (the engine keeps float64; dense it rounds too)."""
    for point in points:
        for name, vector in (point.vector if isinstance(point.vector, dict) else {}).items():
            if isinstance(vector, models.SparseVector):
                values = np.asarray(vector.values, dtype=np.float32).tolist()
                point.vector[name] = models.SparseVector(indices=vector.indices, values=values)
    return points


def _scores_only(params: models.SearchParams | None) -> models.SearchParams | None:
    """Search parameters without those of an approximate search: the engine is exact."""
    return models.SearchParams(idf=params.idf) if params is not None and params.idf else None


def _check_dimensions(config: models.CreateCollection, asked: Any) -> None:
    """Refuse a dense query vector of a wrong length, where the engine would fail in numpy."""
    for prefetch in asked.prefetch if isinstance(asked.prefetch, list) else [asked.prefetch]:
        if prefetch is not None:
            _check_dimensions(config, prefetch)
    vectors = config.vectors or {}
    params = (
        vectors.get(asked.using or "")
        if isinstance(vectors, dict)
        else (vectors if not asked.using else None)
    )
    query: Any = asked.query
    if isinstance(query, models.NearestQuery):
        query = query.nearest
    if params is None or not isinstance(query, list) or not query:
        return
    for row in query if isinstance(query[0], list) else [query]:
        if len(row) != params.size:
            raise Rejected(
                400,
                f"Wrong input: Vector dimension error: expected dim: {params.size}, got {len(row)}",
            )
