"""Answers a question: search, prompt, language model, citations."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any

from app.answering.citations import Cited, cited
from app.answering.llm_client import LanguageModel, Sampling, Usage, Written
from app.answering.prompt import Message, Prompt, build, plain
from app.answering.sources import Source
from app.backend.backend import Backend
from app.errors import NoLanguageModel
from app.settings.settings import Settings
from app.types import Caller, OnTimeout
from retrieval import SearchResult
from retrieval.types import Hit

_CONDENSED_TOKENS = 512
_MOST_CONDENSED = 2000

_CONDENSE = """\
You are given a conversation. Rewrite the user's last message as one question that can be \
understood without the rest of the conversation: put names in place of words such as "it" or \
"there". Keep its language, add nothing, do not answer it. Write the question and nothing else."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A question, and how to answer it.

    options: of `Backend.search`; a number as min_relevance is applied here, and where it is left
    out the service's own applies. query: what to search for instead of the question. condense:
    whether the language model first rewrites the question so that it can be understood without
    the `history`.
    """

    question: str
    collection: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    timeout_ms: float | None = None
    on_timeout: OnTimeout = "error"
    history: tuple[Message, ...] = ()
    instructions: str = ""
    query: str | None = None
    condense: bool = False
    sampling: Sampling = field(default_factory=Sampling)


@dataclass(frozen=True, slots=True)
class Grounds:
    """What an answer is written from. prompt: None where nothing relevant was found.

    query: what was searched for. hits: those that are relevant enough. started: time.monotonic().
    """

    ask: Ask
    collection: str
    query: str
    result: SearchResult
    hits: tuple[Hit, ...]
    prompt: Prompt | None
    notices: tuple[str, ...]
    started: float

    @property
    def sources(self) -> tuple[Source, ...]:
        """The sources in the prompt; the model cites them by number."""
        return () if self.prompt is None else self.prompt.sources


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer. found: False where nothing relevant was found and no model was asked.

    citations: the sources it cites, in the order it first does; `cited` says where. finish_reason:
    "stop", "length", "content_filter", or None where the endpoint did not say.
    """

    text: str
    found: bool
    citations: tuple[Source, ...]
    cited: Cited
    model: str
    usage: Usage | None
    finish_reason: str | None
    notices: tuple[str, ...]
    timings: Mapping[str, float | None]


class Answering:
    """Writes answers over a backend.

    Args:
        backend: searches.
        settings: `answer_min_relevance`, and the prompt's size where there is no model.
        model: writes; None can only find and build prompts.
    """

    def __init__(self, backend: Backend, settings: Settings, model: LanguageModel | None) -> None:
        self._backend = backend
        self._settings = settings
        self._model = model

    @property
    def model(self) -> LanguageModel:
        """The language model.

        Raises:
            NoLanguageModel: none is configured.
        """
        if self._model is None:
            raise NoLanguageModel(
                "this service has no language model, which writes the answers",
                fix="Set llm_url and llm_model (RETRIEVAL_LLM_URL, RETRIEVAL_LLM_MODEL, and "
                "RETRIEVAL_LLM_KEY where the endpoint needs one) to an OpenAI-compatible "
                'endpoint, or send "generate": false to /v1/answer for the passages and the '
                "prompt.",
            )
        return self._model

    async def close(self) -> None:
        """Close the language model's connections, where there is one."""
        if self._model is not None:
            await self._model.close()

    async def ground(self, caller: Caller, ask: Ask) -> Grounds:
        """Search, and build the prompt.

        Raises:
            NoLanguageModel: the question should be condensed, and there is no model.
            InvalidInput: the question leaves no room for what was found.
            RetrievalError: what `Backend.search` raises.
        """
        started = time.monotonic()
        notices: list[str] = []
        query = ask.query or ask.question
        if ask.condense and ask.history and ask.query is None:
            query = await self._condensed(ask, notices)
        collection = ask.collection or self._backend.collections.default(caller)
        options = dict(ask.options)
        least = options.pop("min_relevance", None)
        if least is None:
            least = self._settings.answer_min_relevance
        if least is not None:
            # a promise is on the scale of a score, which the search alone knows; a number is held
            # against the hits below, and the collection's default is not
            options["min_relevance"] = least if isinstance(least, str) else 0
        (result,) = await self._backend.search(
            caller,
            [query],
            collection=collection,
            timeout_ms=ask.timeout_ms,
            on_timeout=ask.on_timeout,
            **options,
        )
        hits = result.hits
        if least is not None and not isinstance(least, str):
            hits = _relevant(least, result, notices)
        prompt = None
        if hits:
            prompt = build(
                ask.question,
                hits,
                budget=self._budget(),
                history=ask.history,
                instructions=ask.instructions,
            )
            notices += prompt.notices
        return Grounds(
            ask=ask,
            collection=collection,
            query=query,
            result=result,
            hits=hits,
            prompt=prompt,
            notices=(*result.notices, *notices),
            started=started,
        )

    async def write(self, grounds: Grounds) -> Answer:
        """The whole answer; see `stream`."""
        answer: Answer | None = None
        pieces = self.stream(grounds)
        async with contextlib.aclosing(pieces):
            async for piece in pieces:
                if isinstance(piece, Answer):
                    answer = piece
        assert answer is not None, "a stream ends with the answer, or raises"
        return answer

    async def stream(self, grounds: Grounds) -> AsyncGenerator[str | Answer, None]:
        """The answer's pieces as they are written, and at the end the whole.

        Where nothing relevant was found, it says so and asks no model.

        Raises:
            NoLanguageModel: none is configured.
            LanguageModelFault: the endpoint failed; pieces may have come before.
        """
        if grounds.prompt is None:
            text = nothing_found(grounds.collection)
            yield text
            yield self._answer(grounds, text, Written(finish_reason="stop"), found=False)
            return
        written = Written()
        pieces: list[str] = []
        writing = self.model.stream(grounds.prompt.messages, grounds.ask.sampling, written)
        async with contextlib.aclosing(writing):
            async for piece in writing:
                pieces.append(piece)
                yield piece
        yield self._answer(grounds, "".join(pieces), written, found=True)

    async def _condensed(self, ask: Ask, notices: list[str]) -> str:
        asked = (
            Message("system", _CONDENSE),
            *(Message(one.role, plain(one.content)) for one in ask.history[-6:]),
            Message("user", plain(ask.question)),
        )
        sampling = Sampling(max_tokens=_CONDENSED_TOKENS)
        query = " ".join((await self.model.write(asked, sampling, Written())).split())
        if not query or len(query) > _MOST_CONDENSED:
            notices.append(
                "The question could not be condensed; it was searched as it was written."
            )
            return ask.question
        return query

    def _budget(self) -> int:
        if self._model is not None:
            return self._model.prompt_tokens
        return self._settings.llm_context_tokens - self._settings.llm_answer_tokens

    def _answer(self, grounds: Grounds, text: str, written: Written, *, found: bool) -> Answer:
        marks = cited(text, len(grounds.sources))
        notices = list(grounds.notices)
        if marks.unknown:
            notices.append(
                f"The answer cites {_listed(marks.unknown)}, which is not the number of a source; "
                "do not rely on what it says there."
            )
        elif found and text and not marks.marks:
            notices.append("The answer cites no source; check it against the passages.")
        if written.finish_reason == "length":
            notices.append(
                "The answer was cut off at its largest length; ask for less, or raise max_tokens "
                "or llm_answer_tokens."
            )
        elif written.finish_reason == "content_filter":
            notices.append("The language model's endpoint held back a part of the answer.")
        elif written.finish_reason is None:
            notices.append(
                "The language model did not report its end; the answer may be incomplete."
            )
        timings = grounds.result.timings
        return Answer(
            text=text,
            found=found,
            citations=tuple(grounds.sources[n - 1] for n in marks.marks),
            cited=marks,
            model=self._model.name if self._model is not None else "",
            usage=written.usage,
            finish_reason=written.finish_reason,
            notices=tuple(notices),
            timings={
                "encode_ms": timings.encode_ms,
                "retrieve_ms": timings.retrieve_ms,
                "rerank_ms": timings.rerank_ms,
                "search_ms": timings.total_ms,
                "first_token_ms": written.first_token_ms,
                "language_model_ms": written.total_ms,
                "total_ms": 1000 * (time.monotonic() - grounds.started),
            },
        )


def _relevant(least: float, result: SearchResult, notices: list[str]) -> tuple[Hit, ...]:
    if result.hits and all(hit.relevance is None for hit in result.hits):
        notices.append(
            "The least relevance was not applied: without a re-ranker, this way of searching "
            "has no scale for it."
        )
    return tuple(hit for hit in result.hits if hit.relevance is None or hit.relevance >= least)


def nothing_found(collection: str) -> str:
    """What is answered where nothing is relevant enough."""
    return f"Nothing relevant to this question was found in the collection {collection!r}."


def _listed(numbers: tuple[int, ...]) -> str:
    return ", ".join(f"[{n}]" for n in numbers)
