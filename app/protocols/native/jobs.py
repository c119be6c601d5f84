"""Ingestion in the background: `/v1/ingest`, and `/v1/jobs…` with their events."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi import Path as PathParameter
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from sse_starlette import EventSourceResponse
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

from app.backend.backend import Backend
from app.errors import BadRequest, BodyTooLarge, UnsupportedBody
from app.jobs.state_dir import UPLOADING, state_folder, translated
from app.protocols.errors import InvalidField, error_body, is_json, request_id_of
from app.protocols.native.documents import documents_of
from app.protocols.native.requests import IngestRequest
from app.protocols.native.responses import JobBody, JobsBody, job_body
from app.protocols.openapi_responses import responses
from app.protocols.requests import caller_of
from app.protocols.sse import event, event_stream
from app.settings.settings import Settings
from app.types import Job, JobSource
from retrieval import RetrievalError

MOST_FILES = 1000
MOST_FORM_FIELDS = 8
HEARTBEAT_SECONDS = 10.0
LEAST_PAUSE_SECONDS = 0.1
_FORM = "multipart/form-data"
_FLAGS = {"true": True, "false": False}

_EVENT = {
    "type": "object",
    "required": ["event", "data"],
    "properties": {
        "event": {"enum": ["job", "error"]},
        "data": {"type": "string", "description": "a job, or an error, as JSON"},
    },
}

JobId = Annotated[str, PathParameter(min_length=1, max_length=100)]


def router(
    backend: Backend, settings: Settings, *, heartbeat_s: float = HEARTBEAT_SECONDS
) -> APIRouter:
    """Routes of jobs. heartbeat_s: seconds between the comments on a stream of events."""
    routes = APIRouter(prefix="/v1", tags=["Jobs"])

    _add_ingest(routes, backend, settings)

    @routes.get(
        "/jobs",
        response_model=JobsBody,
        responses=responses(),
        operation_id="list_jobs",
        summary="The caller's jobs, newest first",
    )
    async def list_jobs(request: Request) -> JSONResponse:
        jobs = await run_in_threadpool(backend.jobs.list, caller_of(request))
        return JSONResponse({"jobs": [job_body(job) for job in jobs]})

    @routes.get(
        "/jobs/{job_id}",
        response_model=JobBody,
        responses=responses(404),
        operation_id="get_job",
        summary="One job",
    )
    async def get_job(request: Request, job_id: JobId) -> JSONResponse:
        job = await run_in_threadpool(backend.jobs.get, caller_of(request), job_id)
        return JSONResponse(job_body(job))

    @routes.delete(
        "/jobs/{job_id}",
        response_model=JobBody,
        responses=responses(404, 409),
        operation_id="cancel_job",
        summary="Stop a job; what it has written stays",
    )
    async def cancel_job(request: Request, job_id: JobId) -> JSONResponse:
        return JSONResponse(job_body(await backend.jobs.cancel(caller_of(request), job_id)))

    @routes.get(
        "/jobs/{job_id}/events",
        response_class=EventSourceResponse,
        responses={
            **responses(404),
            200: {
                "description": "events `job`, each with the job as data, until it has ended; "
                "comments in between keep the connection alive",
                "content": {"text/event-stream": {"itemSchema": _EVENT}},
            },
        },
        operation_id="watch_job",
        summary="A job's progress, as server-sent events",
    )
    async def watch_job(request: Request, job_id: JobId) -> EventSourceResponse:
        caller = caller_of(request)
        # a job that is not there is answered as such
        await run_in_threadpool(backend.jobs.get, caller, job_id)
        events = _events(request, backend.jobs.watch(caller, job_id))
        return event_stream(events, keep_alive_s=heartbeat_s, ends_with_service=True)

    return routes


def _add_ingest(routes: APIRouter, backend: Backend, settings: Settings) -> None:
    @routes.post(
        "/ingest",
        status_code=202,
        response_model=JobBody,
        responses=responses(404, 409, 507),
        operation_id="ingest",
        summary="Ingest documents or files in the background",
        description="JSON: documents, or a path on the service's machine. Form data: files (txt, "
        "md, html, pdf, docx, xlsx, eml, jsonl, csv …), each parsed by a process with limits; "
        "what cannot be parsed is a problem in the job's report. What was sent is on disk when "
        "this is answered, and the job goes on after a restart.",
        openapi_extra={"requestBody": _request_body()},
    )
    async def ingest(request: Request) -> JSONResponse:
        media = request.headers.get("content-type", "")
        if is_json(media):
            body = _ingest_request(await request.body())
            job = await backend.jobs.start(
                caller_of(request),
                JobSource(
                    documents=None if body.documents is None else documents_of(body.documents),
                    path=body.path,
                ),
                collection=body.collection,
                tenant=body.tenant,
                prune=body.prune,
            )
        elif media.partition(";")[0].strip().lower() == _FORM:
            job = await _ingest_files(backend, settings, request)
        else:
            raise UnsupportedBody(
                f"the body has the content type {media[:100]!r}",
                fix=f"Send JSON as application/json, or files as {_FORM}.",
            )
        return JSONResponse(job_body(job), 202, headers={"Location": f"/v1/jobs/{job.id}"})


async def _events(
    request: Request, watch: AsyncGenerator[Job, None]
) -> AsyncGenerator[bytes, None]:
    """The job's states as server-sent events; ends with the job."""
    try:
        async with contextlib.aclosing(watch):
            async for job in watch:
                yield event(job_body(job), name="job")
                if job.finished is not None:
                    return
                # Changes in between are skipped: the next event has the newest state.
                await asyncio.sleep(LEAST_PAUSE_SECONDS)
    except RetrievalError as error:
        yield event(error_body(error, request_id_of(request)), name="error")


def _ingest_request(body: bytes) -> IngestRequest:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)[:200]
        raise BadRequest(
            f"the body is not JSON: {reason}",
            fix="Send one JSON value in UTF-8, with Content-Type: application/json.",
        ) from None
    try:
        found = IngestRequest.model_validate(value)
    except ValidationError as error:
        problems = [{**one, "loc": ("body", *one["loc"])} for one in error.errors()]
        raise RequestValidationError(problems) from None
    if (found.documents is None) == (found.path is None):
        raise InvalidField(
            "a job reads documents or a path, and "
            + ("neither was" if found.path is None else "both were")
            + " given",
            fix="Send one of them; files go as multipart/form-data.",
            param=None,
        )
    return found


async def _ingest_files(backend: Backend, settings: Settings, request: Request) -> Job:
    try:
        form = await request.form(max_files=MOST_FILES, max_fields=MOST_FORM_FIELDS)
    except HTTPException as error:
        raise BadRequest(
            f"the form cannot be read: {str(error.detail)[:300]}",
            fix=f"Send at most {MOST_FILES:,} files in the field 'files', as multipart/form-data.",
        ) from None
    async with _closing(form):
        options, uploads = _form_fields(form)
        with _folder(settings) as folder:
            files = await asyncio.to_thread(
                _copy, uploads, folder, int(settings.max_upload_mb * 1e6)
            )
            return await backend.jobs.start(
                caller_of(request),
                JobSource(files=files),
                collection=options.collection,
                tenant=options.tenant,
                prune=options.prune,
            )


@contextlib.asynccontextmanager
async def _closing(form: FormData) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await form.close()


def _form_fields(form: FormData) -> tuple[IngestRequest, list[UploadFile]]:
    uploads: list[UploadFile] = []
    options: dict[str, Any] = {}
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            if name not in ("files", "file"):
                raise _invalid(name, "is not a field for files", "Send files in the field 'files'.")
            uploads.append(value)
        elif name in ("collection", "tenant"):
            options[name] = value or None
        elif name == "prune":
            if value.lower() not in _FLAGS:
                raise _invalid(name, f"is {value[:50]!r}", "Send true or false.")
            options[name] = _FLAGS[value.lower()]
        else:
            raise _invalid(
                name, "is not a field of this form", "Send files, collection, tenant and prune."
            )
    if not uploads:
        raise _invalid("files", "is missing", "Send at least one file in the field 'files'.")
    try:
        return IngestRequest.model_validate(options), uploads
    except ValidationError as error:
        problems = [{**one, "loc": ("body", *one["loc"])} for one in error.errors()]
        raise RequestValidationError(problems) from None


def _invalid(name: str, what: str, fix: str) -> InvalidField:
    return InvalidField(f"the form's field {name[:100]!r} {what}", fix=fix, param=name[:100])


@contextlib.contextmanager
def _folder(settings: Settings) -> Iterator[Path]:
    """A folder for uploads, until the job has taken them over."""
    state = state_folder(settings)
    with translated(state):
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder = Path(tempfile.mkdtemp(prefix=UPLOADING, dir=state))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _copy(uploads: list[UploadFile], folder: Path, most: int) -> list[tuple[str, Path]]:
    """Uploads as files, under names of this service's own."""
    found: list[tuple[str, Path]] = []
    total = 0
    for number, upload in enumerate(uploads):
        own = folder / f"{number:04}"
        with translated(folder), own.open("xb") as file:
            while part := upload.file.read(1 << 20):
                total += len(part)
                if total > most:
                    raise BodyTooLarge(
                        f"the files have more than {most / 1e6:g} MB together",
                        fix="Send them in several requests, or raise the setting max_upload_mb.",
                    )
                file.write(part)
        found.append((upload.filename or "upload", own))
    return found


def _request_body() -> dict[str, Any]:
    schema = IngestRequest.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)
    examples = schema.pop("examples")
    files = {"type": "array", "items": {"type": "string", "format": "binary"}, "minItems": 1}
    text = {"type": "string", "minLength": 1, "maxLength": 255}
    return {
        "required": True,
        "content": {
            "application/json": {
                "schema": schema,
                "examples": {
                    name: {"value": value}
                    for name, value in zip(("documents", "path"), examples, strict=True)
                },
            },
            _FORM: {
                "schema": {
                    "type": "object",
                    "required": ["files"],
                    "additionalProperties": False,
                    "properties": {
                        "files": files,
                        "collection": text,
                        "tenant": text,
                        "prune": {"type": "boolean"},
                    },
                }
            },
        },
    }
