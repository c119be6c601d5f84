"""A service whose encoder has a query instruction, for tests of the protocols."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from service_help import Service, make_settings, running

import retrieval

QUESTION = "how do I get my travel costs back?"
TEXTS = [
    "The canteen serves soup and bread until two.",
    "Travel costs are paid back within ten days.",
    "Passwords have fourteen characters.",
    "The canteen serves soup and bread until two.",
]
"""Texts to rank for `QUESTION`; the second is the answer, the first and the last are equal."""

INSTRUCTION = "Represent this sentence for searching relevant passages: "


def instructed_encoder() -> retrieval.BiEncoder:
    """The starter's model with an instruction, so that queries and passages differ."""
    return retrieval.BiEncoder("all-MiniLM-L6-v2", query_instruction=INSTRUCTION, threads=2)


@contextmanager
def instructed_service(
    folder: Path,
    encoder: retrieval.BiEncoder,
    collections: Mapping[str, Sequence[retrieval.Document]],
    **options: Any,
) -> Iterator[Service]:
    """The whole service over collections that were made with that encoder."""
    from app.backend.backend import Backend
    from app.observability.metrics import Metrics
    from app.server.app import create_app

    keys = options.pop("keys", None)
    # the encoder has its threads already, and a busy machine is no overload here
    settings = make_settings(folder, **{"threads": None, "max_wait_ms": 3_600_000, **options})
    for name, documents in collections.items():
        retrieval.ingest(documents, name, store=settings.store, encoder=encoder)
    metrics = Metrics()
    backend = Backend(settings, observer=metrics, encoder=encoder)
    try:
        backend.open()
        with running(create_app(backend, settings, metrics=metrics, keys=keys)) as url:
            yield Service(url, None, backend, settings, metrics)
    finally:
        backend.close()
