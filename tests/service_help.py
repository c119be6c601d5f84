"""A whole service on a free port, with real models and a real store, for tests of its edges."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import retrieval
from app.observability.metrics import Metrics
from app.server import sockets
from app.settings.settings import Settings

DOCUMENTS = [
    retrieval.Document(
        id="expenses",
        title="Expenses",
        text="Travel costs are paid back within ten days after the receipts were handed in. "
        "Receipts go to the front office, by post or as photographs.",
        metadata={"team": "finance", "year": 2024, "tags": ["money", "travel"]},
        source="office/expenses.md",
    ),
    retrieval.Document(
        id="passwords",
        title="Passwords",
        text="Whoever has lost a password follows the link on the sign-in page. "
        "A new password has at least fourteen characters.",
        metadata={"team": "it", "year": 2023},
        source="office/passwords.md",
    ),
    retrieval.Document(
        id="backups",
        title="Backups",
        text="Copies of the database are made every night and kept for thirty days. "
        "They are stored in another city.",
        metadata={"team": "it", "year": 2025, "nested": {"level": 3}},
        source="office/backups.md",
    ),
    retrieval.Document(
        id="lunch",
        title="Lunch",
        text="The canteen serves soup and bread from noon until two. On Fridays there is fish.",
        metadata={"team": "kitchen", "year": 2024},
        source="office/lunch.md",
    ),
]
"""Four documents of one passage each, with metadata of several kinds."""


@dataclass(frozen=True)
class Service:
    """What runs, and its parts."""

    url: str
    app: Any
    backend: Any
    settings: Settings
    metrics: Metrics


@contextmanager
def running(app: Any, *, grace_s: float = 3.0, timeout: float = 60.0) -> Iterator[str]:
    """Serve an app from a thread on a free port of this machine; yields its URL."""
    sock = sockets.reserve_port("127.0.0.1", 0)
    sock.listen(256)
    up = threading.Event()
    runner = sockets.make_server(app, ready=up.set, grace_s=grace_s)
    thread = threading.Thread(target=runner.run, kwargs={"sockets": [sock]}, daemon=True)
    thread.start()
    try:
        assert up.wait(timeout), "the server did not start"
        yield sockets.url_of(sock)
    finally:
        runner.should_exit = True
        thread.join(timeout)
        assert not thread.is_alive(), "the server did not stop"


def make_settings(folder: Path, **options: Any) -> Settings:
    """Settings for a store in a folder: collection `docs`, starter models, no environment."""
    defaults: dict[str, Any] = {
        "store": str(folder / "store"),
        "state_dir": folder / "state",
        "collection": "docs",
        "encoder": "all-MiniLM-L6-v2",
        "reranker": "maxsim",
        "threads": 2,
        "page": False,
        "grace_s": 5,
    }
    return Settings(**{**defaults, **options})


@contextmanager
def small_service(
    folder: Path,
    *,
    documents: Sequence[retrieval.Document] = DOCUMENTS,
    keys: Any = None,
    language_model: Any = None,
    **options: Any,
) -> Iterator[Service]:
    """The whole service over a new embedded store with a few documents in `docs`.

    Args:
        folder: where the store and the service's state lie.
        documents: what is indexed; none leaves the store empty.
        keys: a `KeyRing`.
        language_model: writes answers.
        options: settings, see `make_settings`.
    """
    from app.backend.backend import Backend
    from app.server.app import create_app

    settings = make_settings(folder, **options)
    if documents and not Path(settings.store).exists():
        retrieval.ingest(
            documents, settings.collection, store=settings.store, encoder="all-MiniLM-L6-v2"
        )
    metrics = Metrics()
    backend = Backend(settings, observer=metrics)
    try:
        backend.open()
        app = create_app(
            backend, settings, metrics=metrics, keys=keys, language_model=language_model
        )
        with running(app) as url:
            yield Service(url, app, backend, settings, metrics)
    finally:
        backend.close()
