"""What a caller may do, decided in one place: writing, which collections, and as which tenant.

A collection that a caller may not use gets the same error as one that does not exist.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from app.backend.store_errors import for_clients
from app.errors import Forbidden
from app.settings.settings import Settings
from app.types import Caller
from retrieval import Store
from retrieval.errors import CollectionNotFound, InvalidInput, RetrievalError
from retrieval.types import Manifest

_SHOWN = 20


class Access:
    """The rules for all callers.

    Args:
        settings: the default collection, and whether anything may be written at all.
        store: where the collections are.
    """

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings = settings
        self._store = store

    def default(self, caller: Caller) -> str:
        """The collection of a call that names none.

        Raises:
            InvalidInput: there is no default for this caller.
        """
        allowed = caller.collections
        if allowed is None or self._settings.collection in allowed:
            return self._settings.collection
        if len(allowed) == 1:
            return allowed[0]
        names = ", ".join(map(repr, allowed)) or "none"
        raise InvalidInput(
            f"the request names no collection, and the key {caller.key_id!r} may use {names}",
            fix="Name one of them." if allowed else "Ask the operator for a key that may.",
        )

    def collection(self, caller: Caller, name: str | None) -> str:
        """The name of the collection that a call is about.

        Raises:
            CollectionNotFound: the caller may not use it.
        """
        if name is None:
            return self.default(caller)
        if caller.collections is not None and name not in caller.collections:
            raise self.missing(caller, name)
        return name

    def visible(self, caller: Caller) -> list[str]:
        """The names of the collections that exist and that the caller may use; asks the store."""
        names = self._store.names()
        allowed = caller.collections
        return names if allowed is None else [name for name in names if name in allowed]

    def tenant(self, caller: Caller, tenant: str | None) -> str | None:
        """The tenant that a call acts as; None for none.

        Raises:
            Forbidden: the caller has its own tenant and named another.
        """
        if caller.tenant is None or tenant is None or tenant == caller.tenant:
            return tenant if caller.tenant is None else caller.tenant
        raise Forbidden(
            f"the key {caller.key_id!r} acts as one tenant, and the request names another",
            fix="Leave the tenant out.",
        )

    def about(
        self, caller: Caller, collection: str | None, tenant: str | None
    ) -> tuple[str, str | None]:
        """The collection that a call is about, and the tenant that it acts as.

        Raises:
            CollectionNotFound, Forbidden, InvalidInput
        """
        return self.collection(caller, collection), self.tenant(caller, tenant)

    def write(self, caller: Caller) -> None:
        """Refuse a caller that may not change collections.

        Raises:
            Forbidden: it may not, or nobody may.
        """
        if self._settings.read_only:
            raise Forbidden(
                "the service is read-only",
                fix="Write through another instance, or start this one without read_only.",
            )
        if not caller.write:
            raise Forbidden(
                f"the key {caller.key_id!r} may read only",
                fix="Use a key that may write: retrieval keys create NAME, without --read-only.",
            )

    def whole_collection(self, caller: Caller, name: str) -> None:
        """Refuse a tenant what would change other tenants' documents, too.

        Raises:
            Forbidden: the caller is one of the collection's tenants.
        """
        if caller.tenant is not None:
            raise Forbidden(
                f"the collection {name!r} may hold other tenants' documents, too, and the key "
                f"{caller.key_id!r} acts as one of them",
                fix="Delete your documents by their ids, or use a key without a tenant.",
            )

    def manifest(self, caller: Caller, name: str, manifest: Manifest) -> Manifest:
        """The same manifest, where the caller may use a collection that was built so.

        Raises:
            CollectionNotFound: the collection has no tenants, and the caller acts as one.
        """
        if caller.tenant is not None and not manifest.layout.tenants:
            raise self.missing(caller, name)
        return manifest

    @contextlib.contextmanager
    def named(self, caller: Caller, name: str | None) -> Iterator[None]:
        """Errors of a call about a collection (None: of no certain one) as its caller reads them.

        A collection that does not exist gets the same error as one that may not be used, and of
        the store nothing is told.
        """
        with self.told():
            try:
                yield
            except CollectionNotFound:
                if name is None:
                    raise
                raise self.missing(caller, name) from None

    def told(self) -> contextlib.AbstractContextManager[None]:
        """Errors of the block without the store's address, and without advice for operators."""
        return for_clients(self._store.location)

    def missing(self, caller: Caller, name: str) -> CollectionNotFound:
        """The error for a collection that does not exist, or that the caller may not use."""
        if caller.tenant is not None:
            # a tenant does not learn which collections there are
            known: list[str] = []
        elif caller.collections is not None:
            known = sorted(caller.collections)
        else:
            known = []
            with contextlib.suppress(RetrievalError):
                known = self._store.names()
        more = "" if len(known) <= _SHOWN else f" and {len(known) - _SHOWN:,} more"
        listed = ", ".join(map(repr, known[:_SHOWN])) + more
        return CollectionNotFound(
            f"there is no collection {name!r}" + (f"; there are {listed}" if known else ""),
            fix="Check the name, or make it first by writing documents to it.",
        )
