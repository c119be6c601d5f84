"""Collections and their documents, natively: `/v1/collections…` and `/v1/documents…`.

What lies under `/v1/documents` is about the default collection, and otherwise the same as what
lies under `/v1/collections/{collection}/documents`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import JSONResponse

from app.backend.backend import Backend
from app.errors import NotHere
from app.protocols.json_limits import Name
from app.protocols.native.requests import (
    MOST_DOCUMENTS,
    CreateCollection,
    DeleteRequest,
    DocumentId,
    DocumentIn,
    UpsertRequest,
)
from app.protocols.native.responses import (
    CollectionBody,
    CollectionsBody,
    DeletedBody,
    DocumentBody,
    ReportBody,
    collection_body,
    document_body,
)
from app.protocols.openapi_responses import responses
from app.protocols.requests import caller_of
from retrieval import Document
from retrieval.serialization import report_as_dict

Collection = Annotated[Name, Path(description="name of the collection")]
Tenant = Annotated[Name | None, Query(description="whose, where tenants are kept apart")]
Identity = Annotated[DocumentId, Path(description="id of the document; may have slashes")]


def router(backend: Backend) -> APIRouter:
    """Routes of collections and documents."""
    routes = APIRouter(prefix="/v1")
    routes.include_router(_collections(backend))
    routes.include_router(_documents(backend))
    routes.include_router(_default_documents(backend))
    return routes


def documents_of(given: Sequence[DocumentIn]) -> list[Document]:
    """Documents as the library takes them."""
    return [Document(one.id, one.text, one.title, one.metadata, one.source) for one in given]


def _collections(backend: Backend) -> APIRouter:
    routes = APIRouter(prefix="/collections", tags=["Collections"])

    @routes.get(
        "",
        response_model=CollectionsBody,
        responses=responses(),
        operation_id="list_collections",
        summary="The collections that the caller may use",
    )
    async def list_collections(request: Request) -> JSONResponse:
        infos = await backend.collections.list(caller_of(request))
        return JSONResponse({"collections": [collection_body(info) for info in infos]})

    @routes.post(
        "",
        status_code=201,
        response_model=CollectionBody,
        responses=responses(404, 409, 501, 507),
        operation_id="create_collection",
        summary="Make an empty collection",
        description="Not needed before documents are written: that makes it, too.",
    )
    async def create_collection(request: Request, body: CreateCollection) -> JSONResponse:
        _check_encoder(backend, body.encoder)
        options = body.model_dump(exclude={"name"}, exclude_none=True, exclude_unset=True)
        info = await backend.collections.create(caller_of(request), body.name, **options)
        return JSONResponse(collection_body(info), 201)

    @routes.get(
        "/{collection}",
        response_model=CollectionBody,
        responses=responses(404),
        operation_id="get_collection",
        summary="One collection",
    )
    async def get_collection(
        request: Request, collection: Collection, tenant: Tenant = None
    ) -> JSONResponse:
        info = await backend.collections.get(caller_of(request), collection, tenant=tenant)
        return JSONResponse(collection_body(info))

    @routes.delete(
        "/{collection}",
        response_model=DeletedBody,
        responses=responses(404, 409),
        operation_id="delete_collection",
        summary="Delete a collection with all its documents",
    )
    async def delete_collection(request: Request, collection: Collection) -> JSONResponse:
        await backend.collections.delete(caller_of(request), collection)
        return JSONResponse({"deleted": [collection], "missing": []})

    return routes


def _check_encoder(backend: Backend, name: str | None) -> None:
    """Refuse models that the service does not run: a name could be any folder or hub's id.

    Raises:
        NotHere: says which there are.
    """
    known = [info for info in backend.models.infos() if info.kind == "encoder"]
    if name is not None and not any(name in info.names for info in known):
        listed = ", ".join(repr(info.names[0]) for info in known) or "none"
        raise NotHere(
            f"the service has no encoder {name!r}; it has {listed}",
            fix="Leave it out, or let the operator start a service with that encoder.",
            what="model",
        )


def _documents(backend: Backend) -> APIRouter:
    routes = APIRouter(prefix="/collections/{collection}/documents", tags=["Documents"])
    calls = _Calls(backend)

    @routes.put("", operation_id="put_documents", **_UPSERT)
    @routes.post("", operation_id="upsert_documents", **_UPSERT)
    async def upsert_documents(
        request: Request, collection: Collection, body: UpsertRequest
    ) -> JSONResponse:
        return await calls.upsert(request, collection, body)

    @routes.post("/delete", operation_id="delete_documents", **_DELETE_MANY)
    async def delete_documents(
        request: Request, collection: Collection, body: DeleteRequest
    ) -> JSONResponse:
        return await calls.delete(request, collection, body.ids, body.tenant)

    @routes.get("/{document_id:path}", operation_id="get_document", **_GET)
    async def get_document(
        request: Request, collection: Collection, document_id: Identity, tenant: Tenant = None
    ) -> JSONResponse:
        return await calls.get(request, collection, document_id, tenant)

    @routes.delete("/{document_id:path}", operation_id="delete_document", **_DELETE)
    async def delete_document(
        request: Request, collection: Collection, document_id: Identity, tenant: Tenant = None
    ) -> JSONResponse:
        return await calls.delete_one(request, collection, document_id, tenant)

    return routes


def _default_documents(backend: Backend) -> APIRouter:
    routes = APIRouter(prefix="/documents", tags=["Documents"])
    calls = _Calls(backend)

    @routes.put("", operation_id="put_default_documents", **_UPSERT)
    @routes.post("", operation_id="upsert_default_documents", **_UPSERT)
    async def upsert_documents(request: Request, body: UpsertRequest) -> JSONResponse:
        return await calls.upsert(request, None, body)

    @routes.post("/delete", operation_id="delete_default_documents", **_DELETE_MANY)
    async def delete_documents(request: Request, body: DeleteRequest) -> JSONResponse:
        return await calls.delete(request, None, body.ids, body.tenant)

    @routes.get("/{document_id:path}", operation_id="get_default_document", **_GET)
    async def get_document(
        request: Request, document_id: Identity, tenant: Tenant = None
    ) -> JSONResponse:
        return await calls.get(request, None, document_id, tenant)

    @routes.delete("/{document_id:path}", operation_id="delete_default_document", **_DELETE)
    async def delete_document(
        request: Request, document_id: Identity, tenant: Tenant = None
    ) -> JSONResponse:
        return await calls.delete_one(request, None, document_id, tenant)

    return routes


_UPSERT: dict[str, Any] = {
    "response_model": ReportBody,
    "responses": responses(404, 409, 507),
    "summary": "Write documents",
    "description": f"At most {MOST_DOCUMENTS:,}; durable when answered. A document of an id that "
    "is there is replaced; one that has not changed is passed over. `POST /v1/ingest` takes more.",
}
_DELETE_MANY: dict[str, Any] = {
    "response_model": DeletedBody,
    "responses": responses(404, 409, 507),
    "summary": "Delete documents by their ids",
}
_GET: dict[str, Any] = {
    "response_model": DocumentBody,
    "responses": responses(404),
    "summary": "One document, put together from its passages",
}
_DELETE: dict[str, Any] = {
    "response_model": DeletedBody,
    "responses": responses(404, 409, 507),
    "summary": "Delete one document",
}


class _Calls:
    """What the routes of documents do, for any collection; None is the default one."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def upsert(
        self, request: Request, collection: str | None, body: UpsertRequest
    ) -> JSONResponse:
        # Not left when the client goes away: a write that has begun comes to its end.
        report = await self._backend.documents.upsert(
            caller_of(request),
            documents_of(body.documents),
            collection=collection,
            tenant=body.tenant,
        )
        return JSONResponse(report_as_dict(report))

    async def get(
        self, request: Request, collection: str | None, document_id: str, tenant: str | None
    ) -> JSONResponse:
        found = await self._backend.documents.get(
            caller_of(request), document_id, collection=collection, tenant=tenant
        )
        return JSONResponse(document_body(found))

    async def delete(
        self, request: Request, collection: str | None, ids: Sequence[str], tenant: str | None
    ) -> JSONResponse:
        deleted = await self._backend.documents.delete(
            caller_of(request), ids, collection=collection, tenant=tenant
        )
        missing = [one for one in dict.fromkeys(ids) if one not in set(deleted)]
        return JSONResponse({"deleted": list(deleted), "missing": missing})

    async def delete_one(
        self, request: Request, collection: str | None, document_id: str, tenant: str | None
    ) -> JSONResponse:
        deleted = await self._backend.documents.delete(
            caller_of(request), [document_id], collection=collection, tenant=tenant
        )
        if not deleted:
            raise NotHere(
                f"there is no document {document_id!r} to delete",
                fix="Check its id; the hits of a search name their documents.",
                what="document",
            )
        return JSONResponse({"deleted": list(deleted), "missing": []})
