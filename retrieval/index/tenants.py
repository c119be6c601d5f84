"""Tenants: who owns a point, and that nobody else ever reaches it.

A point's id follows from tenant and passage id, so that two tenants with the same documents write
different points; its payload names the tenant, and every read, count and delete is narrowed to
that name outside of whatever filter the caller gave.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from retrieval._validate import unicode_text
from retrieval.errors import InvalidInput

if TYPE_CHECKING:
    from qdrant_client.models import Filter

TENANT = "tenant"
PASSAGE_ID = "passage_id"
"""Payload fields of a collection with tenants: the owner, and the id that the owner knows."""

_NAMESPACE = uuid.UUID("6f0d3a1c-8a57-5d0e-9a54-0f3f2f6b1c11")
_LONGEST = 256


class Tenancy:
    """What a collection makes of the `tenant` of a call. `kept`: it keeps tenants apart."""

    def __init__(self, kept: bool) -> None:
        self.kept = kept

    def check(self, tenant: str | None) -> str | None:
        """The tenant of a call, checked.

        Raises:
            InvalidInput: missing where the collection has tenants, given where it has none, or
                no usable name.
        """
        if not self.kept:
            if tenant is None:
                return None
            raise InvalidInput(
                f"tenant={tenant!r} was given, but the collection was made without tenants",
                fix="Leave it out, or make a collection with tenants: retrieval index --tenant.",
            )
        if tenant is None:
            raise InvalidInput(
                "the collection keeps tenants apart, and the call names none",
                fix="Give tenant='NAME' (--tenant NAME); only that tenant's passages are used.",
            )
        if not isinstance(tenant, str) or not tenant.strip() or len(tenant) > _LONGEST:
            raise InvalidInput(
                f"tenant={tenant!r} was given, expected text of 1 to {_LONGEST} characters",
                fix="Name the tenant as it is known to your application.",
            )
        return unicode_text(tenant, "the tenant's name", fix="Decode the name as UTF-8.")

    def point_id(self, passage_id: str, tenant: str | None) -> str:
        """The id under which the passage of a checked tenant is stored."""
        if tenant is None:
            return passage_id
        return str(uuid.uuid5(uuid.uuid5(_NAMESPACE, tenant), passage_id))

    def mark(self, payload: dict[str, Any], passage_id: str, tenant: str | None) -> str:
        """Write the owner into a payload, and return the id to store it under."""
        if tenant is not None:
            payload[TENANT] = tenant
            payload[PASSAGE_ID] = passage_id
        return self.point_id(passage_id, tenant)

    def passage_id(self, point_id: str, payload: Mapping[str, Any]) -> str:
        """The id that the owner knows."""
        return str(payload.get(PASSAGE_ID, point_id)) if self.kept else point_id

    def narrow(self, where: Filter | None, tenant: str | None) -> Filter | None:
        """A filter that lets through the tenant's passages alone, of those `where` lets through."""
        if tenant is None:
            return where
        from qdrant_client import models

        own = models.FieldCondition(key=TENANT, match=models.MatchValue(value=tenant))
        return models.Filter(must=[own] if where is None else [own, where])
