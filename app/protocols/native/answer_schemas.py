"""Requests and responses of `/v1/answer` and `/v1/chat/completions`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from app.answering.answer import Answer, Ask, Grounds
from app.answering.llm_client import Sampling, Usage
from app.answering.sources import Source
from app.protocols.json_limits import Text
from app.protocols.search_fields import SearchTarget, offers_search, options_of
from retrieval.types import Hit

MOST_CHARACTERS = 20_000
MOST_MESSAGES = 200


@offers_search("answers")
class GroundingFields(SearchTarget):
    """How to search for what the answer is written from."""

    def search_options(self) -> dict[str, Any]:
        """What `app.answering` takes as options of the search."""
        return options_of(self, "answers")


class AnswerRequest(GroundingFields):
    """A question to answer from a collection."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"question": "How do I get my expenses back?"},
                {
                    "question": "How long are backups kept?",
                    "collection": "docs",
                    "where": {"team": "it"},
                    "min_relevance": 0.2,
                    "stream": True,
                },
            ]
        },
    )

    question: Annotated[Text, Field(min_length=1, max_length=MOST_CHARACTERS)]
    stream: bool = Field(False, description="true: server-sent events, see the description")
    generate: bool = Field(
        True, description="false: passages and prompt only; no language model is asked"
    )
    instructions: Annotated[Text, Field(max_length=MOST_CHARACTERS)] = Field(
        "", description="what to tell the language model beside its rules, such as a tone"
    )
    max_tokens: int | None = Field(
        None, ge=1, description="tokens of the answer; at most the setting `llm_answer_tokens`"
    )
    temperature: float | None = Field(None, ge=0, le=2, allow_inf_nan=False)

    def ask(self) -> Ask:
        """The question as `app.answering` takes it."""
        return Ask(
            question=self.question,
            collection=self.collection,
            options=self.search_options(),
            timeout_ms=self.timeout_ms,
            on_timeout=self.on_timeout,
            instructions=self.instructions,
            sampling=Sampling(max_tokens=self.max_tokens, temperature=self.temperature),
        )


class UsedPassage(BaseModel):
    """A source that the language model is given, or would be."""

    n: int = Field(description="the number that the answer cites it by")
    document_id: str
    passage_id: str = Field(description="the best of its passages")
    passage_ids: list[str] = Field(description="all its passages: adjacent ones are one source")
    title: str
    headings: list[str]
    source: str
    start: int = Field(description="where `text` begins in the document, in characters")
    end: int
    text: str
    relevance: float | None = Field(description="0 to 1; null where there is no such scale")
    score: float
    rank: int
    metadata: dict[str, Any]
    shortened: bool = Field(description="whether the last sentences were left out to fit")


class Mark(BaseModel):
    """A place in the answer, in characters."""

    start: int
    end: int


class Citation(UsedPassage):
    """A source that the answer cites."""

    marks: list[Mark] = Field(description="where the answer cites it")


class TokenUsage(BaseModel):
    """Tokens, as the language model's endpoint counted them."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class AnswerTimings(BaseModel):
    """Milliseconds; null for what was not done."""

    encode_ms: float
    retrieve_ms: float
    rerank_ms: float
    search_ms: float
    first_token_ms: float | None = Field(None, description="from asking the language model")
    language_model_ms: float | None = None
    total_ms: float | None = None


class PromptMessage(BaseModel):
    """A message of the prompt."""

    role: str
    content: str


class AnswerResponse(BaseModel):
    """An answer with what it rests on."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "answer": "Within ten days after the receipts were handed in [1].",
                    "found": True,
                    "citations": [
                        {
                            "n": 1,
                            "document_id": "expenses",
                            "passage_id": "0b0b6d9e-0d5f-5b1f-8b9b-4a4c9e4c8f11",
                            "passage_ids": ["0b0b6d9e-0d5f-5b1f-8b9b-4a4c9e4c8f11"],
                            "title": "Expenses",
                            "headings": [],
                            "source": "office/expenses.md",
                            "start": 0,
                            "end": 76,
                            "text": "Travel costs are paid back within ten days after the "
                            "receipts were handed in.",
                            "relevance": 0.98,
                            "score": 7.1,
                            "rank": 1,
                            "metadata": {"team": "finance"},
                            "shortened": False,
                            "marks": [{"start": 50, "end": 53}],
                        }
                    ],
                    "passages": [],
                    "query": "How do I get my expenses back?",
                    "collection": "docs",
                    "model": "a-language-model",
                    "finish_reason": "stop",
                    "usage": {"prompt_tokens": 410, "completion_tokens": 14, "total_tokens": 424},
                    "timings": {
                        "encode_ms": 2.1,
                        "retrieve_ms": 1.4,
                        "rerank_ms": 22.5,
                        "search_ms": 26.3,
                        "first_token_ms": 120.0,
                        "language_model_ms": 480.0,
                        "total_ms": 509.0,
                    },
                    "notices": [],
                    "prompt": None,
                }
            ]
        }
    )

    answer: str | None = Field(description="null with `generate: false`")
    found: bool = Field(description="false: nothing relevant was found, no model was asked")
    citations: list[Citation] = Field(description="in the order the answer first cites them")
    passages: list[UsedPassage] = Field(description="all that the model was given, best first")
    query: str
    collection: str
    model: str | None = Field(description="the language model; null where none was asked")
    finish_reason: str | None
    usage: TokenUsage | None = Field(description="null where the endpoint does not say")
    timings: AnswerTimings
    notices: list[str]
    prompt: list[PromptMessage] | None = Field(description="with `generate: false`")


def used(source: Source) -> UsedPassage:
    """A source as the wire has it."""
    return UsedPassage(**_fields(source))


def citations(answer: Answer) -> list[Citation]:
    """The citations of an answer."""
    return [
        Citation(
            **_fields(source),
            marks=[Mark(start=start, end=end) for start, end in answer.cited.marks[source.n]],
        )
        for source in answer.citations
    ]


def usage(given: Usage | None) -> TokenUsage | None:
    """Tokens as the wire has them."""
    if given is None:
        return None
    return TokenUsage(
        prompt_tokens=given.prompt_tokens,
        completion_tokens=given.completion_tokens,
        total_tokens=given.prompt_tokens + given.completion_tokens,
    )


def answered(grounds: Grounds, answer: Answer) -> AnswerResponse:
    """The response with an answer."""
    return AnswerResponse(
        answer=answer.text,
        found=answer.found,
        citations=citations(answer),
        passages=[used(source) for source in grounds.sources],
        query=grounds.query,
        collection=grounds.collection,
        model=answer.model if answer.found else None,
        finish_reason=answer.finish_reason,
        usage=usage(answer.usage),
        timings=AnswerTimings.model_validate(answer.timings) if answer.found else searched(grounds),
        notices=list(answer.notices),
        prompt=None,
    )


def grounded(grounds: Grounds) -> AnswerResponse:
    """The response without an answer: what one would be written from."""
    messages = () if grounds.prompt is None else grounds.prompt.messages
    return AnswerResponse(
        answer=None,
        found=grounds.prompt is not None,
        citations=[],
        passages=[used(source) for source in grounds.sources],
        query=grounds.query,
        collection=grounds.collection,
        model=None,
        finish_reason=None,
        usage=None,
        timings=searched(grounds),
        notices=list(grounds.notices),
        prompt=[PromptMessage(role=one.role, content=one.content) for one in messages],
    )


def searched(grounds: Grounds) -> AnswerTimings:
    """The times of the search alone."""
    times = grounds.result.timings
    return AnswerTimings.model_validate(
        {
            "encode_ms": times.encode_ms,
            "retrieve_ms": times.retrieve_ms,
            "rerank_ms": times.rerank_ms,
            "search_ms": times.total_ms,
        }
    )


def _fields(source: Source) -> dict[str, Any]:
    hit: Hit = source.hit
    passage = hit.passage
    return {
        "n": source.n,
        "document_id": passage.document_id,
        "passage_id": passage.id,
        "passage_ids": list(source.passage_ids),
        "title": passage.title,
        "headings": list(passage.headings),
        "source": passage.source,
        "start": source.start,
        "end": source.end,
        "text": source.text,
        "relevance": hit.relevance,
        "score": hit.score,
        "rank": hit.rank,
        "metadata": dict(passage.metadata),
        "shortened": source.shortened,
    }
