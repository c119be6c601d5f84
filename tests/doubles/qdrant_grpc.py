"""The gRPC side of the Qdrant double, on the same points as the REST side.

    with qdrant_server(grpc=True) as server:
        client = QdrantClient(url=server.url, grpc_port=server.grpc_port, prefer_grpc=True)

It serves the calls that qdrant-client makes with `prefer_grpc=True` for collections, points,
queries, aliases and collection snapshots. What `qdrant_http` says of its differences from a real
server holds here too, and:

- Fault rules and the log speak of each call by the REST method and path it stands for (an upsert
  is `PUT /collections/<name>/points`), so that one rule serves both wires.
- `status` becomes the gRPC code a server uses for the same thing (429: RESOURCE_EXHAUSTED with
  `retry-after` among the trailing metadata; 503: UNAVAILABLE; `grpc_code=` names another).
- `drop` can't reach the socket from here: the call ends with UNAVAILABLE "Socket closed", which
  is what a client sees of a broken connection. To break one for real put `tcp_proxy` between.
- All other calls answer UNIMPLEMENTED.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
from qdrant_client import grpc as q

from .backend import Backend, Rejected, asked_consistency
from .faults import Fault, Faults, Request
from .grpc_services import Serve, parameters, services
from .ports import free_port
from .qdrant_http import QdrantHttp, qdrant_http

if TYPE_CHECKING:
    from .certificates import Certificates

_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    409: grpc.StatusCode.ALREADY_EXISTS,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    502: grpc.StatusCode.UNAVAILABLE,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}


class QdrantGrpc:
    """The gRPC port of a double."""

    def __init__(
        self,
        backend: Backend,
        faults: Faults,
        *,
        api_key: str | None,
        certificates: Certificates | None,
        message_limit: int | None,
        version: str,
    ) -> None:
        self.port = free_port()
        self._faults = faults
        self._api_key = api_key
        self._certificates = certificates
        self._message_limit = -1 if message_limit is None else message_limit
        self._services = services(backend, version)
        self._server: Any = None
        self._pool: ThreadPoolExecutor | None = None
        self._stopping = threading.Event()

    def start(self) -> None:
        """Listen (again) on the port."""
        if self._server is not None:
            return
        self._stopping.clear()
        self._pool = ThreadPoolExecutor(8, thread_name_prefix="qdrant-double-grpc")
        self._server = grpc.server(
            self._pool,
            options=[
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", self._message_limit),
                ("grpc.max_send_message_length", -1),
            ],
        )
        q.add_QdrantServicer_to_server(self._servicer(q.QdrantServicer()), self._server)
        q.add_PointsServicer_to_server(self._servicer(q.PointsServicer()), self._server)
        q.add_SnapshotsServicer_to_server(self._servicer(q.SnapshotsServicer()), self._server)
        q.add_CollectionsServicer_to_server(self._servicer(q.CollectionsServicer()), self._server)
        address = f"127.0.0.1:{self.port}"
        if self._certificates is None:
            self._server.add_insecure_port(address)
        else:
            pair = (
                self._certificates.key.read_bytes(),
                self._certificates.certificate.read_bytes(),
            )
            self._server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
        self._server.start()

    def stop(self) -> None:
        """Go away at once; calls under way end without an answer."""
        server, self._server = self._server, None
        if server is None:
            return
        self._stopping.set()
        server.stop(grace=0).wait()
        assert self._pool is not None
        self._pool.shutdown(wait=True)

    def _servicer(self, servicer: Any) -> Any:
        """One of the client's servicers, with the calls that are served; others keep answering
        UNIMPLEMENTED."""
        service = type(servicer).__name__.removesuffix("Servicer")
        for full_name in self._services:
            of, _, name = full_name.removeprefix("/qdrant.").partition("/")
            if of == service:
                setattr(servicer, name, partial(self._answer, full_name))
        return servicer

    def _answer(self, name: str, message: Any, context: grpc.ServicerContext) -> Any:
        while (frozen := self._faults.frozen) is not None and not self._stopping.is_set():
            wait([frozen], timeout=0.05)
        if self._stopping.is_set():
            context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
        metadata = {key: value for key, value in context.invocation_metadata() if key}
        if (remaining := context.time_remaining()) is not None and remaining < 1e6:
            metadata["grpc-timeout"] = f"{remaining:.3f}"
        method, path, serve = self._services[name]
        fields = {f.name: getattr(message, f.name) for f in message.DESCRIPTOR.fields}
        request = Request(
            protocol="grpc",
            method=method,
            path=path.format_map(fields),
            query=parameters(message),
            headers={k.lower(): v for k, v in metadata.items() if isinstance(v, str)},
            body=message.SerializeToString(),
            message=message,
        )
        fault = self._faults.strike(request)
        answer = None
        if fault is None or fault.after:
            answer = self._serve(request, serve, message, context)
        if fault is not None:
            if self._stopping.wait(fault.delay):
                context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
            self._strike(fault, request, context)
            if answer is None:
                answer = self._serve(request, serve, message, context)
        request.status = 200
        return answer

    def _serve(
        self, request: Request, serve: Serve, message: Any, context: grpc.ServicerContext
    ) -> Any:
        try:
            if self._api_key is not None and request.path != "/":
                given = request.headers.get("api-key")
                if given != self._api_key:
                    raise Rejected(
                        401,
                        "Invalid API key or JWT"
                        if given
                        else "Must provide an API key or an Authorization bearer token",
                    )
            if request.query.get("timeout") == "0":
                raise Rejected(422, "Validation error in body: [timeout: must be 1 or larger]")
            asked_consistency.set(request.query.get("consistency"))
            return serve(message)
        except Rejected as error:
            request.status = error.status
            if error.retry_after_s is not None:
                context.set_trailing_metadata((("retry-after", str(error.retry_after_s)),))
            _abort(context, _CODES.get(error.status, grpc.StatusCode.INTERNAL), error.message)
        except (ValueError, TypeError) as error:  # a message that can't be converted
            request.status = 400
            _abort(context, grpc.StatusCode.INVALID_ARGUMENT, f"Wrong input: {error}")

    @staticmethod
    def _strike(fault: Fault, request: Request, context: grpc.ServicerContext) -> None:
        if fault.drop is not None:
            _abort(context, grpc.StatusCode.UNAVAILABLE, "Socket closed")
        if fault.status is None:
            return
        request.status = fault.status
        if fault.retry_after is not None:
            context.set_trailing_metadata((("retry-after", str(fault.retry_after)),))
        code = (
            grpc.StatusCode[fault.grpc_code]
            if fault.grpc_code
            else _CODES.get(fault.status, grpc.StatusCode.INTERNAL)
        )
        _abort(context, code, fault.message)


def qdrant_server(*, grpc: bool = True, **options: Any) -> AbstractContextManager[QdrantHttp]:
    """`qdrant_http(...)` with the gRPC port open too (`server.grpc_port`)."""
    return qdrant_http(grpc=grpc, **options)


def _abort(context: grpc.ServicerContext, code: grpc.StatusCode, text: str) -> NoReturn:
    context.abort(code, text)
    raise AssertionError("abort raises")
