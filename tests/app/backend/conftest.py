"""Backends over embedded stores."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from backend_help import ANYONE, DOCUMENTS, Made, Make, run


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Factory: `make(max_requests=…)`, a backend over an empty store; closed at the end."""
    made: list[Made] = []

    def factory(**options: Any) -> Made:
        one = Made(tmp_path, **options)
        made.append(one)
        return one

    yield factory
    for one in made:
        one.reranker.go.set()
        one.backend.close()


@pytest.fixture
def filled(make: Make) -> Made:
    one = make()
    run(one.backend.documents.upsert(ANYONE, DOCUMENTS))
    return one
