"""Collections and their documents, in the native API: `/v1/collections…` and `/v1/documents…`.

The routes under `/v1/documents` are for the default collection, and otherwise the same as those
under `/v1/collections/{collection}/documents`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request
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
Tenant = Annotated[
    Name | None, Query(description="tenant, where the collection keeps tenants apart")
]
Chosen = Callable[..., Awaitable[str | None]]
Identity = Annotated[DocumentId, Path(description="id of the document; may have slashes")]


def router(backend: Backend) -> APIRouter:
    """Routes of collections and documents."""
    routes = APIRouter(prefix="/v1")
    routes.include_router(_collections(backend))
    routes.include_router(
        _documents(backend, "/collections/{collection}/documents", "", _named_collection)
    )
    routes.include_router(_documents(backend, "/documents", "default_", _default_collection))
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


async def _named_collection(collection: Collection) -> str | None:
    return collection


async def _default_collection() -> str | None:
    return None


def _documents(backend: Backend, prefix: str, name: str, chosen: Chosen) -> APIRouter:
    """Routes of the documents of one collection.

    Args:
        backend: keeps them.
        prefix: of the routes.
        name: of the collection, in the names of the operations.
        chosen: the dependency that names the collection; None is the default one.
    """
    routes = APIRouter(prefix=prefix, tags=["Documents"])
    _add_many(routes, backend, name, chosen)
    _add_single(routes, backend, name, chosen)
    return routes


def _add_many(routes: APIRouter, backend: Backend, name: str, chosen: Chosen) -> None:
    async def upsert_documents(
        request: Request, body: UpsertRequest, collection: str | None = Depends(chosen)
    ) -> JSONResponse:
        # Not left when the client goes away: a write that has begun is completed.
        report = await backend.documents.upsert(
            caller_of(request),
            documents_of(body.documents),
            collection=collection,
            tenant=body.tenant,
        )
        return JSONResponse(report_as_dict(report))

    for method, operation in (("POST", "upsert"), ("PUT", "put")):
        routes.add_api_route(
            "",
            upsert_documents,
            methods=[method],
            response_model=ReportBody,
            responses=responses(404, 409, 507),
            operation_id=f"{operation}_{name}documents",
            summary="Write documents",
            description=f"At most {MOST_DOCUMENTS:,}; durable when answered. A document of an id "
            "that is there is replaced; one that has not changed is skipped. "
            "`POST /v1/ingest` takes more.",
        )

    @routes.post(
        "/delete",
        response_model=DeletedBody,
        responses=responses(404, 409, 507),
        operation_id=f"delete_{name}documents",
        summary="Delete documents by their ids",
    )
    async def delete_documents(
        request: Request, body: DeleteRequest, collection: str | None = Depends(chosen)
    ) -> JSONResponse:
        deleted = await backend.documents.delete(
            caller_of(request), body.ids, collection=collection, tenant=body.tenant
        )
        missing = [one for one in dict.fromkeys(body.ids) if one not in set(deleted)]
        return JSONResponse({"deleted": list(deleted), "missing": missing})


def _add_single(routes: APIRouter, backend: Backend, name: str, chosen: Chosen) -> None:
    @routes.get(
        "/{document_id:path}",
        response_model=DocumentBody,
        responses=responses(404),
        operation_id=f"get_{name}document",
        summary="One document, put together from its passages",
    )
    async def get_document(
        request: Request,
        document_id: Identity,
        collection: str | None = Depends(chosen),
        tenant: Tenant = None,
    ) -> JSONResponse:
        found = await backend.documents.get(
            caller_of(request), document_id, collection=collection, tenant=tenant
        )
        return JSONResponse(document_body(found))

    @routes.delete(
        "/{document_id:path}",
        response_model=DeletedBody,
        responses=responses(404, 409, 507),
        operation_id=f"delete_{name}document",
        summary="Delete one document",
    )
    async def delete_document(
        request: Request,
        document_id: Identity,
        collection: str | None = Depends(chosen),
        tenant: Tenant = None,
    ) -> JSONResponse:
        deleted = await backend.documents.delete(
            caller_of(request), [document_id], collection=collection, tenant=tenant
        )
        if not deleted:
            raise NotHere(
                f"there is no document {document_id!r} to delete",
                fix="Check its id; the hits of a search name their documents.",
                what="document",
            )
        return JSONResponse({"deleted": list(deleted), "missing": []})
