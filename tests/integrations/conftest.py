"""A small collection with real models, for all adapters: opened once for the whole test run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import retrieval
from retrieval import Document, TwoStageRetriever

DOCUMENTS = [
    Document(
        id="expenses",
        title="Expenses",
        text="Travel costs are paid back within ten days after the receipts were handed in. "
        "Receipts go to the front office, by post or as photographs. Whoever travels by car is "
        "paid thirty cents a kilometre. Hotels are booked by the front office, not by travellers. "
        "A meal during a journey may cost up to twenty-five euros without a receipt.",
        metadata={"team": "finance", "year": 2024, "tags": ["money", "travel"]},
        source="office/expenses.md",
    ),
    Document(
        id="passwords",
        title="Passwords",
        text="Whoever has lost a password follows the link on the sign-in page. "
        "A new password has at least fourteen characters.",
        metadata={"team": "it", "year": 2023, "title": "Own title", "rank": "secret", "url": "x"},
        source="office/passwords.md",
    ),
    Document(
        id="backups",
        text="Copies of the database are made every night and kept for thirty days. "
        "They are stored in another city.",
        metadata={"team": "it", "source": "https://wiki.test/backups", "metadata": 7},
    ),
    Document(
        id="lunch",
        title="Lunch",
        text="The canteen serves soup and bread from noon until two. On Fridays there is fish.",
        metadata={"team": "kitchen", "year": 2024},
        source="office/lunch.md",
    ),
]
"""One document of several passages; two whose metadata has names that the adapters use, too."""


@pytest.fixture(scope="session")
def office_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the collection `office`, indexed with the starter encoder."""
    store = tmp_path_factory.mktemp("office") / "store"
    retrieval.ingest(
        DOCUMENTS,
        "office",
        store=store,
        encoder="all-MiniLM-L6-v2",
        max_tokens=24,
        overlap_tokens=0,
    )
    return store


@pytest.fixture(scope="session")
def office(office_store: Path) -> Iterator[TwoStageRetriever]:
    """The collection, open, with both starter models."""
    with retrieval.open("office", store=office_store, reranker="maxsim") as retriever:
        yield retriever
