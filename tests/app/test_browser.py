"""The page in headless Chromium, over a scripted searcher: states that a real one shows rarely.

The real retriever's page is in test_browser_real.py.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import pytest

from app.types import Facts
from retrieval.errors import StoreLocked
from retrieval.types import SearchResult

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = playwright.expect

pytestmark = [
    pytest.mark.browser,
    # gradio 6.31 keeps statistics of its queue in a way that pandas 3 calls outdated.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:gradio.queueing"),
]

Open = Callable[..., Any]
NAMES = [f"passage {n}" for n in range(1, 31)]


class Scripted:
    """Answers at once with a known order, or as the question says."""

    def __init__(self, make_result: Callable[..., SearchResult], hostile: str) -> None:
        self._make_result = make_result
        self._hostile = hostile
        self.calls: list[dict[str, Any]] = []
        self.released = threading.Event()
        self.running = 0
        self.most_running = 0

    def search(self, query: str, **options: Any) -> SearchResult:
        self.calls.append({"query": query, **options})
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            return self._answer(query, **options)
        finally:
            self.running -= 1

    def _answer(
        self, query: str, *, top_k: int, candidates: int, mode: Any, rerank: bool, budget_ms: Any
    ) -> SearchResult:
        if query == "locked":
            raise StoreLocked("the store is open elsewhere", fix="Close the other program.")
        if query == "broken":
            raise ZeroDivisionError("secret detail")
        if query.startswith("slow"):
            assert self.released.wait(20)
        names = list(NAMES[:candidates])
        texts = {names[0]: f"{self._hostile} how to copy a tree " * 12}
        if "hostile" in query:
            names[0] = self._hostile
            texts = {self._hostile: self._hostile * 9}
        final = names[::-1] if rerank else names
        if query.startswith("long passages"):
            long = "A passage that is read by windows, about trees. " * 30
            texts = dict.fromkeys(names, f"{long}How to copy a tree: {self._hostile} {long}")
            made = self._make_result(names, final[:top_k], query=query, texts=texts)
            hits = tuple(replace(hit, best_span=(1440, 1600)) for hit in made.hits)
            return replace(made, hits=hits, reranked=7)
        return self._make_result(
            names,
            final[:top_k],
            query=query,
            texts=texts,
            mode=mode,
            reranker="a-reranker" if rerank else None,
            notices=(self._hostile,) if "hostile" in query else (),
        )


@pytest.fixture(scope="module")
def served(
    make_result: Callable[..., SearchResult],
    hostile: str,
    serving: Callable[..., AbstractContextManager[str]],
) -> Iterator[tuple[Scripted, str]]:
    scripted = Scripted(make_result, hostile)
    with serving(
        scripted,
        examples=["how do I copy a tree", "hostile example"],
        facts=lambda: Facts(
            collection="docs",
            passages=12345,
            encoder="an-encoder",
            reranker="a-reranker",
            notices=(f"standing notice {hostile}",),
        ),
        candidates=20,
    ) as address:
        yield scripted, address


@pytest.fixture
def searcher(served: tuple[Scripted, str]) -> Iterator[Scripted]:
    scripted = served[0]
    scripted.calls.clear()
    scripted.most_running = 0
    scripted.released.clear()
    yield scripted
    scripted.released.set()


@pytest.fixture
def url(searcher: Scripted, served: tuple[Scripted, str]) -> str:
    return served[1]


def ask(page: Any, question: str) -> None:
    page.get_by_label("Your question").fill(question)
    page.get_by_label("Your question").press("Enter")


def titles(page: Any, stage: str) -> list[str]:
    return list(page.locator(f'[data-stage="{stage}"] .tsr-card h3').all_inner_texts())


def test_enter_shows_both_orders(url: str, open_page: Open) -> None:
    page = open_page(url)
    for fact in ("Test page", "docs", "12,345", "an-encoder", "a-reranker", "standing notice"):
        expect(page.locator("#tsr-head")).to_contain_text(fact)
    ask(page, "copy")
    expect(page.locator('[data-stage="stage2"] .tsr-card')).to_have_count(10)
    assert titles(page, "stage1") == NAMES[:10]
    assert titles(page, "stage2") == NAMES[10:20][::-1]
    # the 20th of stage 1 is now first, the 11th is tenth
    badges = page.locator('[data-stage="stage2"] .tsr-badge').all_inner_texts()
    assert [badge.split("\n")[0] for badge in badges] == ["new"] * 10
    expect(page.locator('[data-ms="total"]')).to_have_text("126 ms")
    page.locator('[data-stage="stage1"] .tsr-rest summary').click()
    expect(page.locator('[data-stage="stage1"] .tsr-rest li')).to_have_count(10)


def test_button_and_examples_ask_too(url: str, open_page: Open, searcher: Scripted) -> None:
    page = open_page(url)
    page.get_by_label("Your question").fill("by button")
    page.get_by_role("button", name="Search").click()
    expect(page.locator(".tsr-card")).to_have_count(20)
    page.get_by_role("button", name="how do I copy a tree").click()
    expect(page.get_by_label("Your question")).to_have_value("how do I copy a tree")
    expect(page.locator('[data-stage="stage1"] mark').first).to_be_visible()
    assert [call["query"] for call in searcher.calls] == ["by button", "how do I copy a tree"]


def test_no_text_from_outside_runs_or_changes_the_page(
    url: str, open_page: Open, hostile: str
) -> None:
    page = open_page(url)
    ask(page, f"hostile {hostile}")
    expect(page.locator(".tsr-card")).to_have_count(20)
    card = page.locator('[data-stage="stage1"] .tsr-card').first
    assert card.locator("h3").inner_text() == hostile
    card.locator("summary").click()
    expect(card.locator(".tsr-whole")).to_be_visible()
    assert card.locator(".tsr-whole").text_content() == hostile * 9
    assert page.locator("#tsr-status .tsr-notices").inner_text() == hostile
    expect(page.locator("#tsr-head .tsr-notices")).to_contain_text(hostile)
    assert page.evaluate("window.pwned") is None
    assert page.locator(".tsr-column img, .tsr-column a, .tsr-column script").count() == 0


WRONG = {
    "   ": "The question is empty. Write what you are looking for.",
    "word " * 20_000: "The question has 99,999 characters; this page takes up to 8,000.",
    "locked": "The store is open elsewhere. Close the other program.",
    "broken": "The search failed inside the program (ZeroDivisionError). Try again.",
}


def test_what_goes_wrong_is_a_sentence(
    url: str, open_page: Open, caplog: pytest.LogCaptureFixture
) -> None:
    page = open_page(url)
    for question, sentence in WRONG.items():
        ask(page, "fine")
        expect(page.locator(".tsr-card")).to_have_count(20)
        ask(page, question)
        alert = page.get_by_role("alert").filter(has_text=sentence.split(".")[0])
        expect(alert).to_be_visible()
        assert sentence in re.sub(r"\s+", " ", alert.inner_text())
        # No result of another question stays beside it, and nothing internal shows.
        expect(page.locator(".tsr-card")).to_have_count(0)
        assert "secret detail" not in page.content()
        assert page.locator(".toast-wrap .toast-body").count() == 0
    assert "secret detail" in caplog.text
    ask(page, "fine again")
    expect(page.locator(".tsr-card")).to_have_count(20)


def test_while_a_search_runs_the_page_says_so(
    url: str, open_page: Open, searcher: Scripted
) -> None:
    page = open_page(url)
    ask(page, "slow one")
    expect(page.locator(".tsr-searching")).to_have_text("Searching for “slow one” …")
    assert page.locator(".tsr-card").count() == 0
    searcher.released.set()
    expect(page.locator(".tsr-card")).to_have_count(20)
    expect(page.locator(".tsr-searching")).to_have_count(0)


def test_two_tabs_are_answered_one_after_the_other(
    url: str, open_page: Open, searcher: Scripted
) -> None:
    one, other = open_page(url), open_page(url)
    ask(one, "slow first")
    expect(one.locator(".tsr-searching")).to_be_visible()
    ask(other, "slow second")
    other.get_by_role("button", name="how do I copy a tree").click()
    other.wait_for_timeout(500)
    searcher.released.set()
    expect(one.locator(".tsr-card")).to_have_count(20)
    expect(other.locator(".tsr-card")).to_have_count(20)
    assert len(searcher.calls) >= 2
    assert searcher.most_running == 1


def test_what_is_asked_while_an_answer_is_on_its_way_is_asked_next(
    url: str, open_page: Open, searcher: Scripted
) -> None:
    page = open_page(url)
    ask(page, "slow first")
    expect(page.locator(".tsr-searching")).to_be_visible()
    for question in ("second", "third"):
        ask(page, question)
    searcher.released.set()
    for _ in range(100):
        if len(searcher.calls) == 2:
            break
        page.wait_for_timeout(50)
    expect(page.locator(".tsr-searching")).to_have_count(0)
    expect(page.locator(".tsr-card")).to_have_count(20)
    assert [call["query"] for call in searcher.calls] == ["slow first", "third"]


def test_options_reach_the_search(url: str, open_page: Open, searcher: Scripted) -> None:
    page = open_page(url)
    page.get_by_role("button", name="Options").click()
    page.get_by_label("Dense vectors").check()
    page.get_by_role("checkbox", name="Re-rank").uncheck()
    page.locator("#tsr-top-k input[type=number]").fill("3")
    page.locator("#tsr-candidates input[type=number]").fill("12")
    page.get_by_label("Re-ranking limit").fill("75")
    ask(page, "with options")
    expect(page.locator('[data-stage="stage2"] .tsr-card')).to_have_count(3)
    assert searcher.calls[-1] == {
        "query": "with options",
        "top_k": 3,
        "candidates": 12,
        "mode": "dense",
        "rerank": False,
        "budget_ms": 75,
    }
    page.get_by_label("Re-ranking limit").fill("0")
    page.locator("#tsr-top-k input[type=number]").fill("4")
    ask(page, "without limit")
    expect(page.locator('[data-stage="stage2"] .tsr-card')).to_have_count(4)
    assert searcher.calls[-1]["budget_ms"] is None
    page.locator("#tsr-candidates input[type=number]").fill("0")
    page.locator("#tsr-top-k input[type=number]").fill("5")
    ask(page, "as deep as the library thinks right")
    expect(page.locator('[data-stage="stage2"] .tsr-card')).to_have_count(5)
    assert searcher.calls[-1]["candidates"] is None
    expect(page.locator('[data-stage="stage2"]')).to_contain_text("not re-ranked")
    expect(page.locator('[data-stage="stage1"]')).to_contain_text("cosine")


def test_nothing_overflows_and_columns_stack_on_a_phone(url: str, open_page: Open) -> None:
    page = open_page(url)
    ask(page, "hostile long")
    expect(page.locator(".tsr-card")).to_have_count(20)
    page.get_by_role("button", name="Options").click()
    for details in page.locator(".tsr-card summary").all():
        details.click()
    page.locator(".tsr-rest summary").click()
    expect(page.get_by_label("Dense vectors")).to_be_visible()
    for width in (1280, 390, 320):
        page.set_viewport_size({"width": width, "height": 900})
        # Elements that stick out are found even where the body hides its overflow.
        sticking_out = page.evaluate(
            """() => [...document.querySelectorAll('main *')]
                .filter(e => e.checkVisibility() && !e.closest('.tsr-sr, .sr-only'))
                .filter(e => { const r = e.getBoundingClientRect();
                               return r.width > 0 && (r.right > innerWidth + 1 || r.left < -1); })
                .map(e => e.tagName + '.' + e.className)"""
        )
        assert sticking_out == [], width
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), width
        one = page.locator('[data-stage="stage1"]').bounding_box()
        two = page.locator('[data-stage="stage2"]').bounding_box()
        if width < 760:
            assert two["y"] + two["height"] <= one["y"]  # the final order first
            assert min(one["width"], two["width"]) > width - 50
        else:
            assert abs(one["y"] - two["y"]) < 2
            assert one["x"] + one["width"] < two["x"]


def test_the_best_part_of_a_long_passage_is_set_off(url: str, open_page: Open) -> None:
    page = open_page(url)
    ask(page, "long passages: copy tree")
    card = page.locator('[data-stage="stage2"] .tsr-card').first
    expect(card.locator(".tsr-best-label")).to_have_text("Best part")
    expect(card.locator(".tsr-snippet")).to_contain_text("How to copy a tree")
    card.locator("summary").click()
    best = card.locator(".tsr-best")
    expect(best).to_contain_text("How to copy a tree")
    assert "underline" in best.evaluate("e => getComputedStyle(e).textDecorationLine")
    expect(page.locator('[data-stage="stage1"] .tsr-best')).to_have_count(0)
    expect(page.locator(".tsr-models")).to_contain_text("7 re-ranked")
    assert page.evaluate("window.pwned") is None


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_can_be_read(url: str, open_page: Open, scheme: str) -> None:
    page = open_page(url, scheme=scheme)
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", background)[:3])) > 380) == (scheme == "light")
    page.get_by_role("button", name="Options").click()
    for query in ("hostile copy tree", "long passages: copy tree"):
        ask(page, query)
        expect(page.locator(".tsr-searching")).to_have_count(0)
        expect(page.locator(".tsr-best")).to_have_count(10 if query.startswith("long") else 0)
        expect(page.locator(".tsr-card")).to_have_count(20)
        for summary in page.locator(".tsr-list > :first-child summary").all():
            summary.click()
        assert page.evaluate(LOW_CONTRAST) == [], query


def test_the_keyboard_is_enough(url: str, open_page: Open) -> None:
    page = open_page(url)
    expect(page.get_by_text("Loading...")).to_have_count(0)  # drawing the page takes the focus
    page.get_by_label("Your question").focus()
    page.keyboard.type("typed")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.innerText.trim()") == "Search"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    expect(page.locator(".tsr-card")).to_have_count(20)
    page.locator(".tsr-card summary").first.focus()
    page.keyboard.press("Enter")
    expect(page.locator(".tsr-whole").first).to_be_visible()


# Visible text whose contrast to its background is below WCAG 2.1 AA: 4.5, or 3 for large text.
LOW_CONTRAST = """() => {
  const parse = c => { const m = c.match(/[\\d.]+/g).map(Number);
                       return {r: m[0], g: m[1], b: m[2], a: m[3] ?? 1}; };
  const over = (t, u) => ({r: t.r*t.a + u.r*(1-t.a), g: t.g*t.a + u.g*(1-t.a),
                           b: t.b*t.a + u.b*(1-t.a), a: 1});
  const behind = e => { const layers = [];
    for (let n = e; n; n = n.parentElement) layers.push(parse(getComputedStyle(n).backgroundColor));
    return layers.reverse().reduce((under, top) => over(top, under), {r: 255, g: 255, b: 255, a: 1}); };
  const light = c => { const f = v => { v /= 255; return v <= 0.03928 ? v/12.92 : ((v+0.055)/1.055)**2.4; };
                       return 0.2126*f(c.r) + 0.7152*f(c.g) + 0.0722*f(c.b); };
  const low = [];
  const walker = document.createTreeWalker(document.querySelector('main'), NodeFilter.SHOW_TEXT);
  for (let node; node = walker.nextNode();) {
    const e = node.parentElement;
    if (!node.textContent.trim() || !e.checkVisibility() || e.closest('.tsr-sr, .sr-only, .hide')) continue;
    const style = getComputedStyle(e), under = behind(e), ink = over(parse(style.color), under);
    const [a, b] = [light(ink), light(under)].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05), size = parseFloat(style.fontSize);
    const needed = size >= 24 || (size >= 18.66 && style.fontWeight >= 700) ? 3 : 4.5;
    if (ratio < needed) low.push([e.className, node.textContent.trim().slice(0, 30), ratio.toFixed(2)]);
  }
  return low;
}"""  # noqa: E501
