"""The REST API of the Qdrant double: paths, bodies and envelopes of a real server."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from typing import Any

from fastapi import FastAPI, Request, Response
from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json
from qdrant_client import models
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from . import snapshots
from .backend import Backend, Rejected, asked_consistency


def http_app(backend: Backend, version: str) -> FastAPI:
    """The application over a backend; faults, keys and limits lie in front of it."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)

    async def unknown(request: Request, error: Exception) -> Response:
        return Response(status_code=error.status_code if isinstance(error, HTTPException) else 500)

    app.add_exception_handler(404, unknown)
    app.add_exception_handler(405, unknown)

    def route(
        method: str, path: str, body: Any = None
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Serve `path` by a plain function of (path parameters…, parsed body)."""

        def register(serve: Callable[..., Any]) -> Callable[..., Any]:
            async def endpoint(request: Request) -> Response:
                arguments = list(request.path_params.values())
                if body is None:
                    return await _answered(request, lambda: serve(*arguments))
                raw = await request.body()
                return await _answered(request, lambda: serve(*arguments, parsed(body, raw)))

            app.add_api_route(path, endpoint, methods=[method], response_model=None)
            return serve

        return register

    _service(app, backend, route, version)
    _collections(backend, route)
    _points(backend, route)
    _search(backend, route)
    _snapshots(app, backend, route)
    return app


Route = Callable[..., Callable[[Callable[..., Any]], Callable[..., Any]]]


def _service(app: FastAPI, backend: Backend, route: Route, version: str) -> None:
    @app.get("/")
    async def root() -> dict[str, str]:
        return {"title": "qdrant - vector search engine", "version": version, "commit": "double"}

    for path, text in {
        "/healthz": "healthz check passed",
        "/livez": "healthz check passed",
        "/readyz": "all shards are ready",
    }.items():

        async def health(text: str = text) -> Response:
            return Response(text, media_type="text/plain")

        app.add_api_route(path, health, methods=["GET"])
    route("GET", "/cluster")(backend.peers)


def _collections(backend: Backend, route: Route) -> None:
    route("GET", "/collections")(
        lambda: {"collections": [{"name": name} for name in backend.collections()]}
    )
    route("GET", "/collections/{name}/exists")(
        lambda name: {"exists": backend.collection_exists(name)}
    )
    route("GET", "/collections/{name}")(backend.collection)
    route("PUT", "/collections/{name}", models.CreateCollection)(backend.create_collection)
    route("PATCH", "/collections/{name}", models.UpdateCollection)(backend.update_collection)
    route("DELETE", "/collections/{name}")(backend.delete_collection)
    route("GET", "/collections/{name}/cluster")(backend.cluster)
    route("POST", "/collections/aliases", models.ChangeAliasesOperation)(
        lambda change: backend.change_aliases(change.actions)
    )
    route("GET", "/aliases")(backend.aliases)
    route("GET", "/collections/{name}/aliases")(backend.aliases)
    route("PUT", "/collections/{name}/index", models.CreateFieldIndex)(backend.create_index)
    route("DELETE", "/collections/{name}/index/{field}")(backend.delete_index)


def _points(backend: Backend, route: Route) -> None:
    at = "/collections/{name}/points"
    route("PUT", at, models.PointInsertOperations)(backend.upsert)
    route("POST", at, models.PointRequest)(backend.retrieve)
    route("POST", f"{at}/delete", models.PointsSelector)(backend.delete)
    route("POST", f"{at}/scroll", models.ScrollRequest)(backend.scroll)
    route("POST", f"{at}/count", models.CountRequest)(backend.count)


def _search(backend: Backend, route: Route) -> None:
    at = "/collections/{name}/points/query"
    route("POST", at, models.QueryRequest)(backend.query)
    route("POST", f"{at}/batch", models.QueryRequestBatch)(
        lambda name, batch: backend.query_batch(name, batch.searches)
    )


def _snapshots(app: FastAPI, backend: Backend, route: Route) -> None:
    at = "/collections/{name}/snapshots"
    route("GET", at)(lambda name: snapshots.listed(backend, name))
    route("POST", at)(lambda name: snapshots.create(backend, name))
    route("DELETE", f"{at}/{{file}}")(lambda name, file: snapshots.delete(backend, name, file))

    @app.get(f"{at}/{{file}}")
    async def download(request: Request, name: str, file: str) -> Response:
        try:
            data = await run_in_threadpool(snapshots.read, backend, name, file)
        except Rejected as error:
            return _error(error.status, error.message, time.perf_counter())
        headers = {"content-disposition": f'attachment; filename="{file}"'}
        return Response(data, media_type="application/octet-stream", headers=headers)

    @app.post(f"{at}/upload")
    async def upload(request: Request, name: str) -> Response:
        async with request.form() as form:
            part = form.get("snapshot")
            if part is None or isinstance(part, str):
                return _error(400, "Format error in multipart: no snapshot", time.perf_counter())
            data, file = await part.read(), part.filename
        checksum = request.query_params.get("checksum")
        return await _answered(
            request, lambda: snapshots.recover(backend, name, data, checksum, file)
        )


@cache
def _parser(body: Any) -> TypeAdapter[Any]:
    return TypeAdapter(body)


def parsed(body: Any, raw: bytes) -> Any:
    """The request's body as the client's own model of it."""
    try:
        return _parser(body).validate_json(raw)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise Rejected(400, f"Format error in JSON body: {where}: {first['msg']}") from error


def _check_parameters(request: Request) -> None:
    """Refuse query parameters that a server cannot read; those it can are only logged."""
    given = request.query_params
    wrong = (
        ("ordering" in given and given["ordering"] not in {o.value for o in models.WriteOrdering})
        or (
            "consistency" in given
            and not given["consistency"].isdigit()
            and given["consistency"] not in {c.value for c in models.ReadConsistencyType}
        )
        or ("wait" in given and given["wait"] not in {"true", "false"})
        or ("timeout" in given and not given["timeout"].isdigit())
    )
    if wrong:
        raise Rejected(400, f"Deserialize error in query parameters: {given}")
    if given.get("timeout") == "0":
        raise Rejected(
            422,
            "Validation error in query parameters: [timeout: value 0 invalid, must be 1 or larger]",
        )


async def _answered(request: Request, serve: Callable[[], Any]) -> Response:
    """The server's envelope around what `serve` gives or raises; it runs in a worker thread."""
    start = time.perf_counter()

    def work() -> bytes:
        _check_parameters(request)
        asked_consistency.set(request.query_params.get("consistency"))
        result = serve()
        if request.query_params.get("wait") == "false" and isinstance(result, models.UpdateResult):
            result.status = models.UpdateStatus.ACKNOWLEDGED
        seconds = time.perf_counter() - start
        return to_json({"result": result, "status": "ok", "time": seconds}, exclude_none=True)

    try:
        content = await run_in_threadpool(work)
    except Rejected as error:
        return _error(error.status, error.message, start, error.retry_after_s)
    except Exception as error:  # noqa: BLE001 - a server answers 500, it doesn't fall over
        return _error(500, f"Service internal error: {type(error).__name__}: {error}", start)
    return Response(content, media_type="application/json")


def _error(status: int, message: str, start: float, wait: int | None = None) -> Response:
    seconds = time.perf_counter() - start
    content = to_json({"status": {"error": message}, "time": seconds})
    headers = None if wait is None else {"Retry-After": str(wait)}
    return Response(content, status_code=status, headers=headers, media_type="application/json")
