"""A Qdrant server's double that real clients talk to over real sockets: REST, optionally TLS.

    with qdrant_http(api_key="secret") as server:
        client = QdrantClient(url=server.url, api_key="secret")
        server.fail(method="PUT", path_contains="/points", status=503, times=2)

It speaks what the library asks of the REST API: collections, payload indexes, points, queries,
aliases and collection snapshots. Where it differs from a real server:

- Search is exact and by Qdrant's own Python code, so `hnsw_ef`, `exact`, `quantization` and
  `indexed_only` are accepted and change nothing, and scores lack the noise of quantisation.
- Configuration (HNSW, quantisation, `on_disk`, shards, replicas) is kept and told back, never
  acted upon; points are in memory; there is one shard and one node whatever was asked, so
  consistency, ordering and timeouts are checked for form and logged, no more (`cluster` has
  nodes, shards and copies, and acts upon consistency).
- Payload indexes are recorded only: no filter needs one, unless strict mode says so. What strict
  mode limits: `strict_mode`, and calls a minute: `rate_limits`.
- Changes of single payload fields and vectors, batches of updates, groups and facets are not there.
- `wait=false` answers "acknowledged" but has already been applied.
- Several alias actions in one request are applied together or not at all; a server applies them
  one after the other.
- Snapshots are tar archives with content of this double's own; recovering from a
  location, full-storage and shard snapshots, telemetry, metrics, cluster changes, sharding keys,
  and inference are not there (404 without a body, as for any unknown path). What tokens (JWT) may
  do is `faults.tokens`, over REST.
- A body over `body_limit` is read to its end and then refused with 400 and the words of a real
  server; a real one answers while the client is still writing, which some clients see as a reset
  or a time-out. A proxy in front of a server answers 413: `body_limit_status=413`.
- Bodies are parsed by the client's own models, so the texts of "Format error in JSON body" are
  pydantic's.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version as installed
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

import uvicorn
from uvicorn.server import ServerState

from .backend import Backend
from .certificates import make_certificates
from .fault_layer import FaultLayer
from .faults import Fault, Faults, Request
from .http_app import http_app
from .ports import bound, free_port

if TYPE_CHECKING:
    from .qdrant_grpc import QdrantGrpc

BODY_LIMIT = 32 * 2**20
"""A server's `max_request_size_mb`, by default."""


class QdrantHttp:
    """One double: started, stopped and started again on the same port with the same points."""

    def __init__(
        self,
        *,
        api_key: str | None = None,
        tls: bool = False,
        body_limit: int = BODY_LIMIT,
        body_limit_status: int = 400,
        version: str | None = None,
        grpc: bool = False,
        grpc_message_limit: int | None = None,
        backend: Backend | None = None,
    ) -> None:
        self.backend = Backend() if backend is None else backend
        self.faults = Faults()
        self.port = free_port()
        self.ca_certificate: Path | None = None
        """With TLS: the file of the authority that signed the server's certificate."""
        self._directory = TemporaryDirectory() if tls else None
        tls_options: dict[str, Any] = {}
        certificates = None
        if self._directory is not None:
            certificates = make_certificates(Path(self._directory.name))
            self.ca_certificate = certificates.authority
            tls_options = {
                "ssl_certfile": certificates.certificate,
                "ssl_keyfile": certificates.key,
            }
        version = version or _installed_version()
        self._grpc: QdrantGrpc | None = None
        if grpc:
            from .qdrant_grpc import QdrantGrpc

            self._grpc = QdrantGrpc(
                self.backend,
                self.faults,
                api_key=api_key,
                certificates=certificates,
                message_limit=grpc_message_limit,
                version=version,
            )
        app = http_app(self.backend, version)
        self._config = uvicorn.Config(
            FaultLayer(app, self.faults, api_key, body_limit, body_limit_status),
            loop="asyncio",
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            log_level="critical",
            **tls_options,
        )
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None

    @property
    def url(self) -> str:
        """The address; the host is 127.0.0.1, which the TLS certificate is good for."""
        return f"{'http' if self._directory is None else 'https'}://127.0.0.1:{self.port}"

    @property
    def grpc_port(self) -> int:
        """The port of the gRPC side (`grpc=True`)."""
        if self._grpc is None:
            raise RuntimeError("this double has no gRPC side: qdrant_http(grpc=True)")
        return self._grpc.port

    @property
    def requests(self) -> list[Request]:
        """The log of all requests that came in whole, oldest first; clear it as you like."""
        return self.faults.requests

    def calls(self, method: str | None = None, path_contains: str = "") -> list[Request]:
        """The logged requests of a method and with a piece of path."""
        rule = Fault(method=method, path_contains=path_contains, delay=1.0)
        return [request for request in list(self.requests) if rule.matches(request)]

    def fail(
        self,
        *,
        method: str | None = None,
        path_contains: str = "",
        when: Callable[[Request], bool] | None = None,
        times: int | None = 1,
        skip: int = 0,
        status: int | None = None,
        message: str = "a fault made on purpose",
        grpc_code: str | None = None,
        retry_after: str | int | None = None,
        delay: float = 0.0,
        drop: Literal["reset", "close"] | None = None,
        after: bool = False,
    ) -> Fault:
        """Let the next `times` requests that match fail (None: all of them, until removed).

        `delay` seconds pass first, then the connection is dropped (`drop`: by RST or an orderly
        close), or `status` is answered with the server's error envelope; with neither, the
        request is only late, and is applied even where its client has gone. `after=True`: the
        request is applied first, and the client doesn't learn of it. `skip` matching requests
        pass before the first is hit. The rule that comes back counts its `hits`;
        `server.faults.remove(rule)` and `server.faults.clear()` end rules.
        """
        return self.faults.add(
            Fault(
                method=method,
                path_contains=path_contains,
                when=when,
                times=times,
                skip=skip,
                status=status,
                message=message,
                grpc_code=grpc_code,
                retry_after=retry_after,
                delay=delay,
                drop=drop,
                after=after,
            )
        )

    def start(self) -> None:
        """Listen (again) on the port; returns when it does."""
        if self._thread is not None:
            return
        up = threading.Event()
        failed: list[BaseException] = []

        def run() -> None:
            try:
                asyncio.run(self._serve(up))
            except BaseException as error:  # noqa: BLE001 - handed to the thread that waits
                failed.append(error)
            finally:
                up.set()

        self._thread = threading.Thread(target=run, name="qdrant-double", daemon=True)
        self._thread.start()
        up.wait(30)
        if failed or not self._thread.is_alive():
            self._thread = None
            raise RuntimeError("the double did not start") from next(iter(failed), None)
        if self._grpc is not None:
            self._grpc.start()

    def stop(self) -> None:
        """Go away at once, as a killed server does: open connections are closed, what is being
        applied is applied, its answer is lost. The points stay for the next `start`."""
        if self._grpc is not None:
            self._grpc.stop()
        thread, self._thread = self._thread, None
        if thread is None:
            return
        assert self._loop is not None
        assert self._stopping is not None
        self._loop.call_soon_threadsafe(self._stopping.set)
        thread.join(30)
        if thread.is_alive():
            raise RuntimeError("the double did not stop")

    def close(self) -> None:
        """Stop, and remove the certificate files."""
        self.stop()
        if self._directory is not None:
            self._directory.cleanup()

    async def _serve(self, up: threading.Event) -> None:
        """Accept connections until told to stop, by uvicorn's HTTP protocol: its own server looks
        up from its work ten times a second, which would be most of the time of many a test."""
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        if not self._config.loaded:
            self._config.load()
        state = ServerState()

        def connected() -> asyncio.Protocol:
            protocol: Any = self._config.http_protocol_class
            made: asyncio.Protocol = protocol(config=self._config, server_state=state, app_state={})
            return made

        listener = bound(self.port)
        try:
            listening = await self._loop.create_server(
                connected, sock=listener, ssl=self._config.ssl, backlog=256
            )
        except BaseException:
            listener.close()
            raise
        up.set()
        try:
            await self._stopping.wait()
        finally:
            listening.close()
            for connection in list(state.connections):
                connection.transport.abort()
            await asyncio.sleep(0)  # where the transports close their sockets


@contextmanager
def qdrant_http(
    *,
    api_key: str | None = None,
    tls: bool = False,
    body_limit: int = BODY_LIMIT,
    body_limit_status: int = 400,
    version: str | None = None,
    grpc: bool = False,
    grpc_message_limit: int | None = None,
) -> Iterator[QdrantHttp]:
    """A running double, closed at the end of the block.

    `api_key`: asked for in each request (401 otherwise). `tls`: https, by a certificate of an
    authority of its own (`server.ca_certificate`). `body_limit`: bytes of a request's body,
    over it `body_limit_status` (400 as a server, 413 as a proxy in front of one). `version`:
    what it says it is (the installed client's version). `grpc`: open a gRPC port too
    (`server.grpc_port`, see `qdrant_grpc`), which takes messages of up to `grpc_message_limit`
    bytes (None: any, as a server).
    """
    server = QdrantHttp(
        api_key=api_key,
        tls=tls,
        body_limit=body_limit,
        body_limit_status=body_limit_status,
        version=version,
        grpc=grpc,
        grpc_message_limit=grpc_message_limit,
    )
    try:
        server.start()
        yield server
    finally:
        server.close()


def _installed_version() -> str:
    return ".".join(installed("qdrant-client").split(".")[:2]) + ".0"
