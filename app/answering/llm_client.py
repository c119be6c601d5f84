"""The one boundary to the language model: any OpenAI-compatible endpoint.

What the `openai` package raises leaves here as `LanguageModelFault`, and without the key.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from app.answering.prompt import Message
from app.errors import LanguageModelFault
from app.settings.settings import Settings, secret
from app.types import Observer, Unobserved
from retrieval.errors import InvalidInput

if TYPE_CHECKING:
    from openai import AsyncOpenAI, AsyncStream
    from openai.types.chat import ChatCompletionChunk

RETRIES = 2
CONNECT_SECONDS = 10.0
_MOST_QUOTED = 300


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
    """How the model is to choose its words; None leaves it to the endpoint."""

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
        observer: is told how long each answer took, as stage "language_model".

    Raises:
        InvalidInput: the URL is no http(s) address.
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
                f"llm_url is {_hidden(url)!r}, expected an http or https address",
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
        self._timeout_s = timeout_s
        self._place = _hidden(url)
        self._key = key
        self._observer = observer or Unobserved()
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
        deadline = started + self._timeout_s
        upstream: AsyncStream[ChatCompletionChunk] | None = None
        try:
            upstream = await self._within(deadline, self._open(messages, sampling))
            chunks = aiter(upstream)
            while True:
                chunk = await self._within(deadline, anext(chunks, None))
                if chunk is None:
                    break
                text = _read(chunk, written)
                if text:
                    if written.first_token_ms is None:
                        written.first_token_ms = 1000 * (time.monotonic() - started)
                    yield text
            if written.first_token_ms is None and written.finish_reason != "length":
                raise LanguageModelFault(
                    f"the language model {self.name!r} wrote nothing",
                    fix="Ask again; if it goes on, look at the log of its endpoint.",
                )
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
        if self._key is None:
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

    async def _within(self, deadline: float, work: Any) -> Any:
        """The result of one step, with every error of the endpoint translated."""
        import httpx2
        import openai

        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                return await work
        except (TimeoutError, openai.APITimeoutError, httpx2.TimeoutException):
            raise LanguageModelFault(
                f"the language model at {self._place} did not answer within "
                f"{self._timeout_s:g} seconds",
                fix="Ask again, ask for a shorter answer, or raise llm_timeout_s.",
            ) from None
        except openai.APIStatusError as error:
            raise self._refused(error) from None
        except (openai.APIConnectionError, httpx2.HTTPError) as error:
            raise LanguageModelFault(
                f"the connection to the language model at {self._place} failed "
                f"({self._shown(error)})",
                fix="See whether the endpoint runs and llm_url is right.",
            ) from None
        except (openai.OpenAIError, ValueError) as error:
            raise LanguageModelFault(
                f"the language model at {self._place} sent what cannot be read "
                f"({self._shown(error)})",
                fix="See whether llm_url is the base URL of an OpenAI-compatible endpoint; it "
                "usually ends in /v1.",
            ) from None

    def _refused(self, error: Any) -> LanguageModelFault:
        status = error.status_code
        said = self._shown(error)
        if status in (401, 403):
            # nothing of what it said: some endpoints repeat the key
            return LanguageModelFault(
                f"the language model at {self._place} refused the service's key (HTTP {status})",
                fix="The service's operator must correct llm_key.",
            )
        if status == 404:
            return LanguageModelFault(
                f"the language model at {self._place} has no such address or no model "
                f"{self.name!r} (HTTP 404: {said})",
                fix="The service's operator must correct llm_url or llm_model.",
            )
        if status == 429:
            return LanguageModelFault(
                f"the language model at {self._place} has too much to do (HTTP 429: {said})",
                fix="Ask again later.",
            )
        if status >= 500:
            return LanguageModelFault(
                f"the language model at {self._place} failed (HTTP {status}: {said})",
                fix="Ask again; if it goes on, look at the log of its endpoint.",
            )
        return LanguageModelFault(
            f"the language model at {self._place} refused the request (HTTP {status}: {said})",
            fix="See whether llm_context_tokens and llm_answer_tokens fit the model.",
        )

    def _shown(self, error: Exception) -> str:
        """The start of what was said, without the key."""
        cause = error.__cause__ or error
        said = " ".join(str(getattr(cause, "message", cause)).split()) or type(cause).__name__
        if self._key:
            said = said.replace(self._key, "…")
        return said[:_MOST_QUOTED]


def language_model(settings: Settings, *, observer: Observer | None = None) -> LanguageModel | None:
    """The configured language model; None where none is.

    Raises:
        InvalidInput: only one of `llm_url` and `llm_model` is set, or one cannot be used.
    """
    if settings.llm_url is None and settings.llm_model is None:
        return None
    if settings.llm_url is None or settings.llm_model is None:
        given, missing = (
            ("llm_model", "llm_url") if settings.llm_url is None else ("llm_url", "llm_model")
        )
        raise InvalidInput(
            f"{given} is set and {missing} is not",
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
        # never a key from the environment: it would be that of another endpoint
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
    # half of a sign that was torn apart cannot be written in UTF-8
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


async def _closed(upstream: AsyncStream[ChatCompletionChunk]) -> None:
    """Close the connection also where this task is being cancelled."""
    import anyio

    with anyio.move_on_after(2, shield=True), contextlib.suppress(Exception):
        await upstream.close()


def _hidden(url: str) -> str:
    """An address without what may be secret in it: user, password and query."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}" if host else parts.path
