"""The native API's answers, as OpenAPI describes them, and how they are made."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.types import CollectionInfo, Job, JobState, ModelInfo, StoredDocument
from retrieval.serialization import report_as_dict


class PassageBody(BaseModel):
    """A slice of a document. start, end: offsets in the document's characters."""

    id: str
    document_id: str
    position: int
    text: str
    start: int
    end: int
    title: str
    headings: list[str]
    metadata: dict[str, Any]
    source: str


class HitBody(BaseModel):
    """A passage, its final rank, and what each stage said of it."""

    rank: int = Field(ge=1)
    score: float = Field(description="what the final order follows")
    relevance: float | None = Field(description="in [0, 1]; null where no stage has such a scale")
    stage1_rank: int
    stage1_score: float
    stage2_rank: int | None = Field(description="null where it was not re-ranked")
    stage2_score: float | None = Field(description="the reranker's raw score")
    best_span: list[int] | None
    passage: PassageBody
    before: list[PassageBody]
    after: list[PassageBody]


class CandidateBody(BaseModel):
    """A result of the first stage."""

    rank: int
    score: float
    passage: PassageBody


class UsedModels(BaseModel):
    """What answered. reranker: null without a second stage."""

    encoder: str
    reranker: str | None


class TimingsBody(BaseModel):
    """Milliseconds of each stage."""

    encode: float
    retrieve: float
    rerank: float
    total: float


class ResultBody(BaseModel):
    """Hits in their final order, and how they came about."""

    query: str
    mode: Literal["dense", "sparse", "lexical", "hybrid"]
    blend: Literal["none", "rrf", "scores"]
    models: UsedModels
    timings_ms: TimingsBody
    reranked: int = Field(description="how many candidates the second stage read")
    offset: int
    relevance_is: Literal["probability", "sigmoid", "cosine"] | None = Field(
        description="what the hits' relevance is: the probability of being relevant, of a "
        "calibrated collection, else a score cut to a scale from 0 to 1"
    )
    best_relevance: float | None = Field(
        description="the highest among the candidates, also where min_relevance left them out"
    )
    notices: list[str] = Field(description="truncation, a time budget that ended early, …")
    hits: list[HitBody]
    candidates: list[CandidateBody] | None = Field(
        None, description="the first stage's list, where it was requested"
    )


class SearchAnswer(ResultBody):
    """The answer to one question."""

    collection: str
    request_id: str


class BatchAnswer(BaseModel):
    """One result a query, in their order."""

    results: list[ResultBody]
    collection: str
    request_id: str


class CollectionBody(BaseModel):
    """A collection. passages, version: null while it is not open."""

    name: str
    default: bool
    passages: int | None
    version: str | None
    manifest: dict[str, Any] = Field(description="what built it: encoder, splitter, BM25, storage")


class CollectionsBody(BaseModel):
    """The collections that the caller may use."""

    collections: list[CollectionBody]


class DeletedBody(BaseModel):
    """What was deleted, and what was not there."""

    deleted: list[str]
    missing: list[str]


class DocumentCounts(BaseModel):
    """Documents by what was done with them."""

    read: int
    new: int
    changed: int
    unchanged: int
    pruned: int
    duplicates: int
    failed: int


class ProblemBody(BaseModel):
    """What could not be read, and why."""

    source: str
    line: int | None
    reason: str


class SameAs(BaseModel):
    """Two documents with the same text."""

    id: str
    same_as: str


class ReportBody(BaseModel):
    """What writing documents did; durable."""

    collection: str
    documents: DocumentCounts
    passages: int
    tokens: int
    truncated_passages: int
    seconds: float
    passages_per_second: float
    duplicate_examples: list[SameAs]
    problems: list[ProblemBody]
    notices: list[str]


class DocumentBody(BaseModel):
    """A stored document. complete: whether all its passages are stored."""

    id: str
    text: str
    title: str
    source: str
    metadata: dict[str, Any]
    complete: bool
    passages: list[PassageBody]


class JobBody(BaseModel):
    """An ingestion in the background."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "job-0b7d5c1e9f",
                    "collection": "docs",
                    "state": "running",
                    "created": "2026-01-05T09:30:00.000+00:00",
                    "finished": None,
                    "documents": 120,
                    "total_documents": None,
                    "passages": 871,
                    "seconds": 4.2,
                    "report": None,
                    "problem": None,
                    "fix": None,
                }
            ]
        }
    )

    id: str
    collection: str
    state: JobState
    created: str
    finished: str | None
    documents: int
    total_documents: int | None
    passages: int
    seconds: float
    report: ReportBody | None
    problem: str | None
    fix: str | None


class JobsBody(BaseModel):
    """The caller's jobs, newest first."""

    jobs: list[JobBody]


class ModelBody(BaseModel):
    """A model, as OpenAI's clients list it, and what more is known of it."""

    id: str
    object: Literal["model"] = "model"
    created: int = Field(default=0, description="not known")
    owned_by: str
    kind: Literal["encoder", "reranker"]
    names: list[str] = Field(description="what requests may call it by")
    default: bool
    loaded: bool
    max_length: int
    dimension: int | None
    sparse: bool
    fingerprint: str
    query_instruction: str
    passage_instruction: str | None


class ModelsBody(BaseModel):
    """The models of the service."""

    object: Literal["list"] = "list"
    data: list[ModelBody]


class ServiceBody(BaseModel):
    """What this service is, and its limits."""

    name: str
    version: str
    default_collection: str | None
    read_only: bool
    limits: dict[str, float]


def collection_body(info: CollectionInfo) -> dict[str, Any]:
    """A collection as JSON."""
    return CollectionBody.model_validate(asdict(info)).model_dump()


def document_body(document: StoredDocument) -> dict[str, Any]:
    """A stored document as JSON."""
    return DocumentBody.model_validate(document, from_attributes=True).model_dump()


def job_body(job: Job) -> dict[str, Any]:
    """A job as JSON."""
    values = {name: getattr(job, name) for name in JobBody.model_fields}
    report = None if job.report is None else report_as_dict(job.report)
    return {**values, "seconds": round(job.seconds, 3), "report": report}


def model_body(info: ModelInfo) -> dict[str, Any]:
    """A model as JSON."""
    name = info.names[0]
    owner = name.partition("/")[0] if "/" in name else "local"
    return ModelBody.model_validate({**asdict(info), "id": name, "owned_by": owner}).model_dump()
