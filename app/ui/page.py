"""The first page: a question, both stages' orders side by side, and what each stage cost."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias, cast

import gradio as gr
from fastapi import FastAPI
from gradio.routes import App as GradioApp
from starlette.routing import Mount

from app.types import Facts
from app.ui import columns, render, theme
from retrieval.errors import RetrievalError
from retrieval.types import Mode, SearchResult

log = logging.getLogger(__name__)

# A question is a sentence or a paragraph; every re-ranked pair carries it through the tokeniser.
MAX_QUERY_CHARACTERS = 8_000
MAX_TOP_K = 50
MAX_CANDIDATES = 200
MAX_WAITING = 32

_SEARCH_EVENT: dict[str, Any] = {
    "api_visibility": "private",
    "show_progress": "hidden",  # the status line says that a search runs
    # One search at a time, whatever started it: the models use all the cores they get.
    "concurrency_limit": 1,
    "concurrency_id": "search",
    # What is asked while an answer is still on its way is asked next; "once" would drop it unseen.
    "trigger_mode": "always_last",
}

Parts = tuple[str, str, str]
"""HTML of the status above the columns, of stage 1 and of stage 2."""


Search: TypeAlias = Callable[..., SearchResult]
"""Answers one question, with the options of the page; raises `RetrievalError` with a sentence
for the user."""


@contextlib.contextmanager
def _with_event_loop() -> Iterator[None]:
    """Where a thread has no event loop, Gradio makes one and leaves it open for ever."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        try:
            yield
        finally:
            asyncio.set_event_loop(None)
            loop.close()
    else:
        yield


@_with_event_loop()
def build(
    search: Search,
    *,
    title: str,
    facts: Callable[[], Facts],
    examples: Sequence[str] = (),
    reranks: bool = True,
    mode: Mode = "hybrid",
    candidates: int | None = None,
    top_k: int = 10,
    budget_ms: float | None = None,
) -> gr.Blocks:
    """The page over a search.

    Args:
        search: answers the questions, one at a time, as `TwoStageRetriever.search` does.
        title: the page's heading.
        facts: of the collection and the models, for the head of the page; called for each visit.
        examples: questions that a click asks.
        reranks: whether there is a second stage.
        mode, candidates, top_k, budget_ms: what the options are set to at first; candidates None
            leaves how many are re-ranked to the library.
    """
    with gr.Blocks(title=title, analytics_enabled=False, fill_width=True) as page:
        head = gr.HTML(render.header(title, Facts()), elem_id="tsr-head", apply_default_css=False)
        page.load(
            lambda: render.header(title, facts()),
            None,
            head,
            api_visibility="private",
            show_progress="hidden",
        )
        question, go, chips = _question(examples)
        options = _options(mode, top_k, candidates, reranks=reranks, budget_ms=budget_ms)
        outputs = _results()

        answer = answerer(search, standing_notices=lambda: facts().notices)
        inputs = [question, *options]
        question.submit(answer, inputs, outputs, **_SEARCH_EVENT)
        go.click(answer, inputs, outputs, **_SEARCH_EVENT)
        for chip in chips:
            filled = chip.click(None, chip, question, js="(text) => text", api_visibility="private")
            filled.then(answer, inputs, outputs, **_SEARCH_EVENT)
        page.queue(max_size=MAX_WAITING, default_concurrency_limit=1)
    return cast(gr.Blocks, page)


def _question(examples: Sequence[str]) -> tuple[gr.Textbox, gr.Button, list[gr.Button]]:
    """The field for the question, its button, and a button for each example."""
    with gr.Row(elem_id="tsr-ask"):
        field = gr.Textbox(
            label="Your question",
            placeholder="Ask in your own words",
            lines=1,
            max_lines=1,
            autofocus=True,
            container=False,
            scale=1,
            elem_id="tsr-question",
            html_attributes=gr.InputHTMLAttributes(
                autocomplete="off", enterkeyhint="search", spellcheck=True
            ),
        )
        go = gr.Button("Search", variant="primary", scale=0, elem_id="tsr-go")
    if not examples:
        return field, go, []
    with gr.Row(elem_id="tsr-examples"):
        return field, go, [gr.Button(text, size="sm") for text in examples]


def _options(
    mode: Mode, top_k: int, candidates: int | None, *, reranks: bool, budget_ms: float | None
) -> list[gr.components.Component]:
    """The options, in the order of `answerer`'s parameters."""
    with gr.Accordion("Options", open=False, elem_id="tsr-options"):
        with gr.Row():
            first_stage = gr.Radio(
                [("Hybrid", "hybrid"), ("Dense vectors", "dense"), ("BM25 terms", "sparse")],
                value=mode,
                label="First stage",
                elem_id="tsr-mode",
            )
            shown = gr.Slider(
                1, MAX_TOP_K, value=top_k, step=1, label="Passages shown", elem_id="tsr-top-k"
            )
            depth = gr.Slider(
                0,
                MAX_CANDIDATES,
                value=candidates or 0,
                step=1,
                label="Candidates to re-rank, 0: auto",
                elem_id="tsr-candidates",
            )
        with gr.Row(elem_id="tsr-second"):
            rerank = gr.Checkbox(
                value=reranks,
                label="Re-rank",
                scale=0,
                min_width=110,
                interactive=reranks,
                elem_id="tsr-rerank",
            )
            budget = gr.Number(
                value=budget_ms or 0,
                minimum=0,
                label="Re-ranking limit, ms (0: none)",
                scale=0,
                min_width=230,
                interactive=reranks,
                elem_id="tsr-budget",
            )
    return [first_stage, shown, depth, rerank, budget]


def _results() -> list[gr.HTML]:
    """The status above the columns, and the columns of the two stages; see `Parts`."""
    status = gr.HTML(
        elem_id="tsr-status",
        html_template='<div role="status" aria-live="polite">${value}</div>',
        apply_default_css=False,
    )
    with gr.Row(elem_id="tsr-columns"):
        stages = [gr.HTML(elem_id=f"tsr-stage{n}", apply_default_css=False) for n in (1, 2)]
    return [status, *stages]


@_with_event_loop()
def mount(service: FastAPI, page: gr.Blocks, *, path: str = "/") -> Callable[[], None]:
    """Serve the page from a FastAPI app, and return what must be called before it shuts down.

    A browser tab holds a connection open to keep its session; without the call the server would
    wait for the tabs to be closed.
    """
    gr.mount_gradio_app(
        service,
        page,
        path=path,
        footer_links=[],
        run_history=False,
        show_error=False,
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
        max_file_size=1,  # the page takes no files
        theme=theme.theme(),
        head=theme.head(),
    )
    mounted = next(r.app for r in reversed(service.routes) if isinstance(r, Mount))
    stop_event = cast(GradioApp, mounted).stop_event
    return stop_event.set


def answerer(
    search: Search, *, standing_notices: Callable[[], Sequence[str]] = tuple
) -> Callable[[str, Mode, int, int, bool, float | None], Iterator[Parts]]:
    """The page's one action: yields what to show while searching, then what was found.

    Whatever goes wrong is shown as a sentence; only what the library didn't expect is logged.
    Notices that are at the head of the page are not repeated with every result.
    """

    def answer(
        question: str,
        mode: Mode,
        top_k: int,
        candidates: int,
        rerank: bool,
        budget_ms: float | None = None,
    ) -> Iterator[Parts]:
        question = (question or "").strip()
        if not question:
            yield render.message("The question is empty", "Write what you are looking for."), "", ""
            return
        if len(question) > MAX_QUERY_CHARACTERS:
            yield (
                render.message(
                    f"The question has {len(question):,} characters; this page takes up to "
                    f"{MAX_QUERY_CHARACTERS:,}",
                    "Ask in a sentence or two: the models read only the beginning of a long text.",
                ),
                "",
                "",
            )
            return
        yield render.searching(question), "", ""
        try:
            result = search(
                question,
                top_k=int(top_k),
                candidates=int(candidates) or None,  # 0: the library's own choice
                mode=mode,
                rerank=rerank,
                budget_ms=budget_ms or None,  # an empty field is None, and 0 means no limit
            )
        except RetrievalError as error:
            yield render.message(error.problem, error.fix), "", ""
        except Exception as error:  # the page must answer; the cause is in the log
            log.exception("search failed")
            yield (
                render.message(
                    f"The search failed inside the program ({type(error).__name__})",
                    "Try again. If it happens again, the server's log says where.",
                ),
                "",
                "",
            )
        else:
            shown = int(top_k)
            standing = standing_notices()
            yield (
                render.summary(result, notices=[n for n in result.notices if n not in standing]),
                columns.stage1_column(result, shown),
                columns.stage2_column(result, shown),
            )

    return answer
