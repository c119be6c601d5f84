"""Whether the copies of a collection's passages are the same, and what makes them so again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from retrieval.errors import StoreFault
from retrieval.index.point_store import Copies, PointData, PointStore
from retrieval.index.stored_passages import StoredPassages
from retrieval.index.tenants import TENANT, Tenancy

if TYPE_CHECKING:
    from qdrant_client.models import Filter

_PAGE = 1_000
_POINTS_PAGE = 256
_TOGETHER = 50
"""Documents that are mended at once: each holds its passages once a node in memory."""

_EXAMPLES = 5


@dataclass(frozen=True, slots=True, order=True)
class Owned:
    """A document. `tenant`: whose; "" where the collection has no tenants."""

    document_id: str
    tenant: str = ""


@dataclass(slots=True)
class _Version:
    """The passages of one version of a document: by id, and by each node that shows some."""

    points: dict[str, PointData] = field(default_factory=dict)
    shown: list[int] = field(default_factory=list)

    @property
    def length(self) -> int:
        """How many passages it has when it is whole."""
        return int(next(iter(self.points.values())).payload.get("document_passages") or 0)

    @property
    def is_whole(self) -> bool:
        return len(self.points) == self.length

    @property
    def rank(self) -> tuple[int, int]:
        """How many nodes show all of it, and how often a passage of it is shown."""
        return sum(count == self.length for count in self.shown), sum(self.shown)


class CopyCheck:
    """Compares the copies of a collection that has several of each passage."""

    def __init__(
        self, points: PointStore, copies: Copies, passages: StoredPassages, tenancy: Tenancy
    ) -> None:
        self._points = points
        self._copies = copies
        self._passages = passages
        self._tenancy = tenancy

    def by_node(self) -> dict[str, int | None]:
        """How many passages each known address counts; None where it does not answer."""
        return dict(zip(self._copies.nodes, self._copies.counts(), strict=True))

    def unfinished(self) -> int:
        """How many deletions were cut off, by this or another program."""
        return self._copies.unfinished()

    def resume(self) -> None:
        """Send deletions again that were cut off."""
        self._copies.resume()

    def differing(self) -> Iterator[Owned]:
        """Documents with passages that are not the same on all copies; they repeat.

        With one address, what that node does not show of any copy is not seen.
        """
        seen = self._copies.seen(["document_id", TENANT])
        while page := dict(islice(seen, _PAGE)):
            missing = page.keys() - self._copies.agreed(list(page), None).keys()
            for key in sorted(missing):
                payload = page[key]
                yield Owned(str(payload.get("document_id", "")), str(payload.get(TENANT) or ""))

    def points(self, name: str) -> Iterator[PointData]:
        """Every point of every tenant with all its vectors, of which all copies are the same.

        Raises:
            StoreFault: the copies of some differ; the message names documents.
        """
        seen = self._copies.seen(["document_id"])
        while page := dict(islice(seen, _POINTS_PAGE)):
            points = self._copies.points(list(page))
            if missing := page.keys() - {one.id for one in points}:
                points += self._looked_at_again(missing, name)
            yield from points

    def mend(self, documents: Sequence[Owned]) -> list[Owned]:
        """Write what is whole of documents to all copies again, and delete the rest of them.

        Of several versions of a document that are whole the one is kept that most nodes show
        whole, of equals the one of which most passages are shown, then that of the first address.

        Returns:
            The documents of which no version is whole. They are left as they are.
        """
        broken: list[Owned] = []
        by_tenant: defaultdict[str, list[str]] = defaultdict(list)
        for one in sorted(set(documents)):
            by_tenant[one.tenant].append(one.document_id)
        for tenant, ids in by_tenant.items():
            for start in range(0, len(ids), _TOGETHER):
                some = ids[start : start + _TOGETHER]
                kept = self._whole(some, tenant)
                broken += [Owned(one, tenant) for one in some if one not in kept]
                self._write(kept, tenant)
        return broken

    def _whole(self, documents: Sequence[str], tenant: str) -> dict[str, list[PointData]]:
        """The version to keep of each document, where one is whole."""
        versions: defaultdict[tuple[str, str], _Version] = defaultdict(_Version)
        for chosen in self._passages.document_filters(documents, tenant or None):
            ids = [key for key, _ in self._copies.seen(["document_id"], chosen)]
            for points in self._copies.by_node(ids):
                here: defaultdict[tuple[str, str], int] = defaultdict(int)
                for one in points:
                    payload = one.payload
                    key = (str(payload["document_id"]), str(payload.get("document_hash") or ""))
                    versions[key].points.setdefault(one.id, one)
                    here[key] += 1
                for key, count in here.items():
                    versions[key].shown.append(count)
        kept: dict[str, _Version] = {}
        for (document, _), version in versions.items():
            if version.is_whole and (document not in kept or version.rank > kept[document].rank):
                kept[document] = version
        return {document: list(version.points.values()) for document, version in kept.items()}

    def _write(self, kept: dict[str, list[PointData]], tenant: str) -> None:
        from qdrant_client import models

        points = [one for some in kept.values() for one in some]
        if not points:
            return
        self._points.write(points)
        rest = models.HasIdCondition(has_id=[one.id for one in points])
        for chosen in self._passages.document_filters(list(kept), tenant or None):
            self._points.delete_matching(models.Filter(must=[chosen], must_not=[rest]))
        self._copies.settle()

    def _looked_at_again(self, ids: Set[str], name: str) -> list[PointData]:
        """Points that differed a moment ago: written or deleted meanwhile, or different for good.

        Raises:
            StoreFault: different.
        """
        there = dict(self._copies.seen(["document_id"], _with_ids(ids)))
        points = self._copies.points(list(there))
        if differing := there.keys() - {one.id for one in points}:
            names = sorted({str(there[key].get("document_id", "")) for key in differing})
            raise StoreFault(
                f"the copies of {name!r} are not the same on all nodes: of these documents, and "
                f"perhaps of others: {', '.join(map(repr, names[:_EXAMPLES]))}",
                fix="Index the source again, or let the store mend it: "
                f"retrieval doctor {name} --repair. Nothing is left out silently.",
            )
        return points


def _with_ids(ids: Set[str]) -> Filter:
    from qdrant_client import models

    return models.Filter(must=[models.HasIdCondition(has_id=sorted(ids))])
