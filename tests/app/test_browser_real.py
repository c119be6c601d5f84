"""The page in headless Chromium over the real retriever: a question, and the answer's place."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
from app.types import Facts  # noqa: E402

expect = playwright.expect

pytestmark = [
    pytest.mark.browser,
    # gradio 6.31 keeps statistics of its queue in a way that pandas 3 calls outdated.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:gradio.queueing"),
]


@pytest.fixture(scope="module")
def url(office_store: Path, serving: Callable[..., AbstractContextManager[str]]) -> Iterator[str]:
    import retrieval

    with (
        retrieval.open("office", store=office_store, reranker="maxsim") as retriever,
        serving(
            retriever,
            examples=["how long are copies of the database kept"],
            facts=lambda: Facts(
                collection="office",
                passages=retriever.count(),
                encoder=retriever.encoder.info.model,
                reranker=retriever.reranker.info.model,
            ),
        ) as address,
    ):
        yield address


@pytest.mark.parametrize(
    ("question", "title", "words"),
    [
        ("when do I get my money back after a business trip", "Expenses", "within ten days"),
        ("I can't log in any more, what now", "Passwords", "link on the sign-in page"),
        ("how do I roll back a broken version", "Deploys", "start the previous image again"),
        ("what is there to eat for lunch", "Hostile", "soup"),
    ],
)
def test_the_answer_is_in_its_place(
    url: str, open_page: Callable[..., Any], question: str, title: str, words: str
) -> None:
    page = open_page(url)
    page.get_by_label("Your question").fill(question)
    page.get_by_label("Your question").press("Enter")
    first = page.locator('[data-stage="stage2"] .tsr-card').first
    expect(first.locator("h3")).to_have_text(title, timeout=15_000)
    expect(first.locator(".tsr-number")).to_have_text("1")
    expect(first).to_contain_text(words)
    expect(first).to_contain_text("relevance")
    expect(first).to_contain_text(f"office/{title.lower()}.md")
    expect(page.locator('[data-stage="stage1"] .tsr-card')).to_have_count(8)
    assert page.locator('[data-ms="total"]').inner_text().endswith("ms")
    expect(page.locator(".tsr-models")).to_contain_text("all-MiniLM-L6-v2")
    assert page.evaluate("window.pwned") is None


def test_the_page_shows_what_the_library_answers(
    office_store: Path, url: str, open_page: Callable[..., Any]
) -> None:
    page = open_page(url, width=390)
    page.get_by_role("button", name="how long are copies of the database kept").click()
    cards = page.locator('[data-stage="stage2"] .tsr-card')
    expect(cards).to_have_count(8, timeout=15_000)
    ranks = [card.locator(".tsr-badge").inner_text() for card in cards.all()]
    assert cards.first.locator("h3").inner_text() == "Backups"
    moved = [json.dumps(rank) for rank in ranks if "up" in rank or "down" in rank]
    stage1 = page.locator('[data-stage="stage1"] h3').all_inner_texts()
    stage2 = page.locator('[data-stage="stage2"] h3').all_inner_texts()
    assert sorted(stage1) == sorted(stage2)
    # An arrow for every passage that changed its place, and for no other.
    assert len(moved) == sum(a != b for a, b in zip(stage1, stage2, strict=True))
