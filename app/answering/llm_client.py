"""The client of the language model: any OpenAI-compatible endpoint."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from app.answering.llm_faults import RETRY, Endpoint, endpoint_fault, shown_url
from app.answering.prompt import Message
from app.errors import LanguageModelFault
from app.settings.settings import Settings, secret
from app.types import Observer
from retrieval.errors import InvalidInput

if TYPE_CHECKING:
    from openai import AsyncOpenAI, AsyncStream
    from openai.types.chat import ChatCompletionChunk

RETRIES = 2
CONNECT_SECONDS = 10.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens, as the endpoint counted them."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(slots=True)
class Written:
    """How an answer ended; complete once its stream has ended.

    finish_reason: "stop", "length", "content_filter", or None where the endpoint did not say.
    first_token_ms: None while nothing has come.
    """

    finish_reason: str | None = None
    usage: Usage | None = None
    first_token_ms: float | None = None
    total_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the model chooses its words; None leaves it to the endpoint."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = field(default=())


class LanguageModel:
    """A model behind an OpenAI-compatible endpoint. To be used in one event loop.

    Args:
        url: base URL, such as `http://127.0.0.1:8000/v1`.
        name: of the model there.
        key: API key of the endpoint; None sends none.
        context_tokens: tokens that the model reads and writes together.
        answer_tokens: tokens that it may write.
        timeout_s: seconds that one answer may take, retries included.
        observer: gets the time of each answer, as stage "language_model".

    Raises:
        InvalidInput: the URL is not http(s), or the answer leaves no room for the prompt.
    """

    def __init__(
        self,
        url: str,
        name: str,
        *,
        key: str | None = None,
        context_tokens: int = 8192,
        answer_tokens: int = 1024,
        timeout_s: float = 120.0,
        observer: Observer | None = None,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InvalidInput(
                f"llm_url is {shown_url(url)!r}, expected an http or https address",
                fix="Give the base URL of an OpenAI-compatible endpoint, such as "
                "http://127.0.0.1:8000/v1.",
            )
        if answer_tokens >= context_tokens:
            raise InvalidInput(
                f"llm_answer_tokens is {answer_tokens:,} and llm_context_tokens {context_tokens:,},"
                " which leaves nothing for the prompt",
                fix="Set llm_context_tokens to what the model can read and write together.",
            )
        self.name = name
        self.answer_tokens = answer_tokens
        self.prompt_tokens = context_tokens - answer_tokens
        self._endpoint = Endpoint(name, shown_url(url), key, timeout_s)
        self._observer = observer or Observer()
        self._limit = "max_tokens"
        self._client = _client(url, key, timeout_s)

    async def stream(
        self, messages: Sequence[Message], sampling: Sampling, written: Written
    ) -> AsyncGenerator[str, None]:
        """The answer in pieces, none of them empty. `written` is filled in as it goes.

        Closing the iterator closes the connection, upon which endpoints stop writing.

        Raises:
            LanguageModelFault: the endpoint refused, failed, broke off, or took too long.
        """
        started = time.monotonic()
        deadline = started + self._endpoint.timeout_s
        upstream: AsyncStream[ChatCompletionChunk] | None = None
        try:
            upstream = await self._within(deadline, self._open(messages, sampling))
            chunks = aiter(upstream)
            while (chunk := await self._within(deadline, anext(chunks, None))) is not None:
                text = _read(chunk, written)
                if text:
                    if written.first_token_ms is None:
                        written.first_token_ms = 1000 * (time.monotonic() - started)
                    yield text
            if written.first_token_ms is None and written.finish_reason != "length":
                problem = f"the language model {self.name!r} wrote nothing"
                raise LanguageModelFault(problem, fix=RETRY)
        finally:
            written.total_ms = 1000 * (time.monotonic() - started)
            self._observer.stage("language_model", written.total_ms / 1000)
            if upstream is not None:
                await _closed(upstream)

    async def write(self, messages: Sequence[Message], sampling: Sampling, written: Written) -> str:
        """The whole answer; see `stream`."""
        pieces = self.stream(messages, sampling, written)
        async with contextlib.aclosing(pieces):
            return "".join([piece async for piece in pieces])

    async def close(self) -> None:
        """Close its connections."""
        await self._client.close()

    async def _open(
        self, messages: Sequence[Message], sampling: Sampling
    ) -> AsyncStream[ChatCompletionChunk]:
        import openai

        try:
            return await self._ask(messages, sampling)
        except openai.BadRequestError as error:
            # newer models know the limit by another name only, and say so
            if self._limit == "max_tokens" and "max_completion_tokens" in str(error):
                self._limit = "max_completion_tokens"
                return await self._ask(messages, sampling)
            raise

    async def _ask(
        self, messages: Sequence[Message], sampling: Sampling
    ) -> AsyncStream[ChatCompletionChunk]:
        from openai import omit

        most = min(sampling.max_tokens or self.answer_tokens, self.answer_tokens)
        options: dict[str, Any] = {
            self._limit: most,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": sampling.seed,
            "stop": list(sampling.stop) or None,
        }
        headers: dict[str, Any] = {"OpenAI-Organization": omit, "OpenAI-Project": omit}
        if self._endpoint.key is None:
            headers["Authorization"] = omit
        create: Any = self._client.chat.completions.create  # its overloads name options one by one
        stream: AsyncStream[ChatCompletionChunk] = await create(
            model=self.name,
            messages=[{"role": one.role, "content": one.content} for one in messages],
            stream=True,
            stream_options={"include_usage": True},
            extra_headers=headers,
            **{name: value for name, value in options.items() if value is not None},
        )
        return stream

    async def _within(self, deadline: float, work: Awaitable[T]) -> T:
        """The result of one step, with every error of the endpoint translated."""
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                return await work
        except Exception as error:
            fault = endpoint_fault(error, self._endpoint)
            if fault is None:
                raise
            raise fault from None


def language_model(settings: Settings, *, observer: Observer | None = None) -> LanguageModel | None:
    """The configured language model; None where none is.

    Raises:
        InvalidInput: only one of `llm_url` and `llm_model` is set, or one cannot be used.
    """
    if settings.llm_url is None and settings.llm_model is None:
        return None
    if settings.llm_url is None or settings.llm_model is None:
        one, missing = (
            ("llm_model", "llm_url") if settings.llm_url is None else ("llm_url", "llm_model")
        )
        raise InvalidInput(
            f"{one} is set and {missing} is not",
            fix=f"Set {missing} too, or neither.",
        )
    return LanguageModel(
        settings.llm_url,
        settings.llm_model,
        key=secret(settings.llm_key),
        context_tokens=settings.llm_context_tokens,
        answer_tokens=settings.llm_answer_tokens,
        timeout_s=settings.llm_timeout_s,
        observer=observer,
    )


def _client(url: str, key: str | None, timeout_s: float) -> AsyncOpenAI:
    import httpx2
    import openai

    return openai.AsyncOpenAI(
        # never a key from the environment, which would be another endpoint's
        api_key=key or "none",
        base_url=url,
        timeout=httpx2.Timeout(timeout_s, connect=min(CONNECT_SECONDS, timeout_s)),
        max_retries=RETRIES,
    )


def _read(chunk: ChatCompletionChunk, written: Written) -> str:
    """The text in a chunk; what else it says goes into `written`."""
    if chunk.usage is not None:
        written.usage = Usage(chunk.usage.prompt_tokens or 0, chunk.usage.completion_tokens or 0)
    if not chunk.choices:
        return ""
    choice = chunk.choices[0]
    if choice.finish_reason is not None:
        written.finish_reason = choice.finish_reason
    text = (choice.delta.content if choice.delta else None) or ""
    # half of a surrogate pair cannot be written in UTF-8
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


async def _closed(upstream: AsyncStream[ChatCompletionChunk]) -> None:
    """Close the connection also where this task is being cancelled."""
    import anyio

    with anyio.move_on_after(2, shield=True), contextlib.suppress(Exception):
        await upstream.close()
