"""What `/v1/answer` and `/v1/chat/completions` take and give."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from app.answering.answer import Answer, Ask, Grounds
from app.answering.llm_client import Sampling, Usage
from app.answering.sources import Source
from retrieval.types import Hit

MOST_CHARACTERS = 20_000
MOST_MESSAGES = 200
MOST_HITS = 50


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("holds the character NUL")
    return text


Text = Annotated[str, AfterValidator(_without_nul)]
Name = Annotated[Text, Field(min_length=1, max_length=256)]


class SearchFields(BaseModel):
    """How to search for what the answer is written from."""

    model_config = ConfigDict(extra="forbid", strict=True)

    collection: Name | None = Field(None, description="null: the service's default collection")
    tenant: Name | None = Field(None, description="whose passages, where the collection has them")
    where: dict[str, Any] | None = Field(
        None, description="filter over metadata, as in `/v1/search`"
    )
    top_k: int = Field(8, ge=1, le=MOST_HITS, description="passages to answer from, at most")
    candidates: int | None = Field(
        None, ge=1, le=10_000, description="passages of the first stage that are re-ranked"
    )
    mode: Literal["dense", "sparse", "lexical", "hybrid"] | None = Field(
        None, description="first stage; null: the service's own"
    )
    rerank: bool = Field(True, description="false keeps the first stage's order")
    min_relevance: float | None = Field(
        None,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="passages below it are not used; null: the setting `answer_min_relevance`",
    )
    per_document: int | None = Field(
        None, ge=1, le=MOST_HITS, description="passages of one document, at most"
    )
    neighbours: int = Field(
        0, ge=0, le=10, description="passages before and after each hit that come along"
    )
    budget_ms: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="milliseconds that re-ranking may take"
    )
    timeout_ms: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="milliseconds that the search may take"
    )
    on_timeout: Literal["error", "first_stage"] = Field(
        "error", description="whether a search that takes longer fails, or answers un-re-ranked"
    )

    def search_options(self) -> dict[str, Any]:
        """What `Backend.search` takes as options."""
        return {
            name: getattr(self, name)
            for name in (
                "top_k", "where", "candidates", "mode", "rerank", "per_document", "neighbours",
                "budget_ms",
            )
        }  # fmt: skip


class AnswerRequest(SearchFields):
    """A question to answer from a collection."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
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
            tenant=self.tenant,
            options=self.search_options(),
            min_relevance=self.min_relevance,
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
    passage_ids: list[str] = Field(
        description="all its passages: those that lie side by side are one source"
    )
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
