"""The declaration of the service's settings: one field of `Settings` each.

From a field come its variable of the environment (`RETRIEVAL_PORT`), its key in a settings file
(`port`), the option of the commands it names (`--port`), its line in `retrieval config` and its
row in docs/operations.md. `app.settings.sources` reads the values.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.settings.declaration import setting
from retrieval.errors import InvalidInput

PREFIX = "RETRIEVAL_"

# Commands that take a setting as an option.
ALL = "serve ui demo mcp"
HTTP = "serve ui demo"

_RATE = re.compile(r"\s*(\d{1,9})\s*/\s*(second|minute|hour|day)s?\s*", re.ASCII)
_WEB_ORIGIN = re.compile(r"https?://[^/\s@?#]+", re.IGNORECASE)
_WEB_ADDRESS = re.compile(_WEB_ORIGIN.pattern + r"(/\S*)?", re.IGNORECASE)


class Settings(BaseSettings):
    """What the service needs to know before it starts."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        extra="ignore",
        env_ignore_empty=True,
        enable_decoding=False,  # lists and tables may be written without JSON, see `_from_text`
    )

    host: str = setting("127.0.0.1", "address to listen on", "Service", HTTP, min_length=1)
    port: int = setting(
        7860, "port to listen on; 0 takes a free one", "Service", HTTP, ge=0, le=65535
    )
    public: bool = setting(False, "allow an address that other machines can reach", "Service", HTTP)
    public_url: str | None = setting(
        None,
        "address that people open, where it is not the one listened on: a container's published "
        "port, a proxy",
        "Service",
    )
    collection: str = setting(
        "docs",
        "collection to search where a call names none",
        "Service",
        "serve ui mcp",
        min_length=1,
    )
    store: str = setting(
        ".retrieval",
        "folder of the store, or URL of a Qdrant server, or URLs with commas",
        "Service",
        ALL,
        min_length=1,
    )
    page: bool = setting(True, "the page for people at /", "Service", "serve")
    title: str = setting(
        "Two-stage retrieval", "heading of the page", "Service", "serve ui", min_length=1
    )

    encoder: str | None = setting(
        None,
        "encoder: auto, starter, a name, folder or hub id; by default the collection's own, or "
        "auto for a new collection",
        "Models",
        HTTP,
    )
    reranker: str = setting(
        "auto",
        "second stage: auto, none, a model's name or folder",
        "Models",
        ALL,
        min_length=1,
    )
    device: str | None = setting(
        None,
        "device of the models: auto (the default), cpu, cuda, cuda:1, mps",
        "Models",
        ALL,
        min_length=1,
    )
    devices: str | None = setting(
        None, "several devices, joined by commas: cuda:0,cuda:1", "Models", HTTP
    )
    engine: Literal["auto", "packed", "openvino", "transformers"] | None = setting(
        None, "engine that runs the models", "Models", ALL
    )
    dtype: Literal["auto", "fp32", "bf16", "fp16", "int8"] | None = setting(
        None,
        "number format of the models, int8 on CPUs only",
        "Models",
        ALL,
    )
    threads: int | None = setting(None, "CPU threads of a model", "Models", ALL, ge=1)
    deterministic: bool | None = setting(
        None,
        "encode each text alone: the same bits whatever else is in the batch; slower",
        "Models",
        HTTP,
    )
    long_passages: Literal["truncate", "windows", "error"] | None = setting(
        None,
        "how a cross-encoder reads passages over its length (of windows, the best one counts)",
        "Models",
        HTTP,
    )
    budget_ms: float | None = setting(
        None,
        "milliseconds for re-ranking at first, by default without limit; the page can change it",
        "Models",
        "ui demo",
        gt=0,
        allow_inf_nan=False,
    )
    model_aliases: dict[str, str] = setting(
        {},
        'names of models that clients may use, such as {"text-embedding-3-small": "encoder"}',
        "Models",
    )

    api_key: SecretStr | None = setting(None, "API key of a Qdrant server", "Qdrant server")
    shards: int | None = setting(
        None, "shards of collections that the app makes on a server", "Qdrant server", ge=1
    )
    replicas: int | None = setting(None, "copies of each such shard", "Qdrant server", ge=1)
    write_consistency: int | None = setting(
        None, "copies that must confirm a write", "Qdrant server", ge=1
    )

    keys_file: Path | None = setting(
        None, "file of the API keys, made by `retrieval keys create`", "Access", "serve"
    )
    read_only: bool = setting(False, "refuse every change to collections", "Access", "serve mcp")
    cors_origins: tuple[str, ...] = setting(
        (), "web origins whose pages may call the service", "Access"
    )
    rate_limit: str | None = setting(
        None, 'requests of a key without its own limit, such as "600/minute"', "Access"
    )

    max_body_mb: float = setting(32, "largest body of a request, in MB", "Uploads and jobs", gt=0)
    max_upload_mb: float = setting(256, "largest upload of files, in MB", "Uploads and jobs", gt=0)
    body_timeout_s: float = setting(
        60, "seconds in which a body must arrive", "Uploads and jobs", gt=0
    )
    ingest_roots: tuple[Path, ...] = setting(
        (), "folders on this machine that jobs may read; no link leads out", "Uploads and jobs"
    )
    parse_timeout_s: float = setting(
        120, "seconds that parsing a file may take", "Uploads and jobs", gt=0
    )
    parse_memory_mb: int = setting(
        2048, "memory that parsing a file may take, in MB", "Uploads and jobs", ge=256
    )
    state_dir: Path | None = setting(
        None, "folder of uploads and jobs, by default beside the store", "Uploads and jobs"
    )

    max_requests: int = setting(512, "requests in work or waiting", "Load", ge=1)
    max_wait_ms: float = setting(
        4000, "milliseconds of work that may wait for a model", "Load", gt=0
    )
    batching: bool = setting(True, "join the texts of several requests in one batch", "Load")
    batch_tokens: int = setting(4096, "tokens in a model's batch", "Load", ge=64)
    batch_window_ms: float = setting(
        1.0, "milliseconds in which requests join a batch", "Load", ge=0
    )
    query_cache_mb: float = setting(64, "size of the cache of query vectors, in MB", "Load", ge=0)
    score_cache_mb: float = setting(64, "size of the cache of scores, in MB", "Load", ge=0)
    timeout_ms: float | None = setting(
        None, "milliseconds that a request may take if it sets no limit itself", "Load", gt=0
    )
    grace_s: float = setting(20, "seconds that requests get to end at a stop", "Load", gt=0)

    llm_url: str | None = setting(None, "base URL of an OpenAI-compatible endpoint", "Answers")
    llm_key: SecretStr | None = setting(None, "API key of that endpoint", "Answers")
    llm_model: str | None = setting(None, "name of the language model there", "Answers")
    llm_context_tokens: int = setting(8192, "tokens that the model reads", "Answers", ge=512)
    llm_answer_tokens: int = setting(1024, "tokens that an answer may have", "Answers", ge=16)
    llm_timeout_s: float = setting(120, "seconds that an answer may take", "Answers", gt=0)
    answer_min_relevance: float | None = setting(
        None,
        "relevance below which a passage is not given to the model",
        "Answers",
        ge=0,
        le=1,
    )

    log_level: Literal["debug", "info", "warning", "error"] = setting(
        "info", "least important log lines to write", "Operations"
    )
    log_format: Literal["auto", "json", "text"] = setting(
        "auto", "form of log lines (auto writes text on a terminal, else json)", "Operations"
    )
    otel: bool = setting(False, "OpenTelemetry traces", "Operations")
    search_log: Path | None = setting(
        None, "file that gets a line of JSON for each search, for `retrieval drift`", "Operations"
    )
    search_log_texts: bool = setting(
        False, "the queries' texts are in that file, too, for `retrieval questions`", "Operations"
    )

    @field_validator("cors_origins", "ingest_roots", "model_aliases", mode="before")
    @classmethod
    def _from_text(cls, value: object, info: ValidationInfo) -> object:
        """Lists and tables from text: JSON, or `a, b` and `name=value, other=value`."""
        if not isinstance(value, str):
            return value
        if value.lstrip().startswith(("[", "{")):
            try:
                return json.loads(value)
            except ValueError as error:
                raise ValueError(f"it begins as JSON but is not JSON ({error})") from None
        items = [item.strip() for item in value.split(",") if item.strip()]
        if info.field_name != "model_aliases":
            return items
        pairs = [item.partition("=") for item in items]
        table = {name.strip(): target.strip() for name, _, target in pairs}
        if not all((*table, *table.values())):
            raise ValueError('expected {"name": "value"} or name=value,other=value')
        return table

    @field_validator("cors_origins")
    @classmethod
    def _web_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if origin != "*" and not _WEB_ORIGIN.fullmatch(origin):
                raise ValueError(
                    f'{origin!r} is not a web origin; expected one such as "https://example.org", '
                    'without a path, or "*"'
                )
        return tuple(origin.lower() for origin in value)

    @field_validator("public_url")
    @classmethod
    def _web_address(cls, value: str | None) -> str | None:
        if value is not None and not _WEB_ADDRESS.fullmatch(value):
            raise ValueError("expected an address such as https://search.example.org")
        return value

    @field_validator("rate_limit")
    @classmethod
    def _rate(cls, value: str | None) -> str | None:
        if value is not None:
            rate_of(value)
        return value


def rate_of(text: str) -> tuple[int, float]:
    """Requests and the seconds in which they may come, of a rate such as "600/minute".

    Raises:
        InvalidInput: the text has another form, or allows nothing.
    """
    found = _RATE.fullmatch(text)
    if found is None or int(found[1]) == 0:
        raise InvalidInput(
            f"{text!r} is not a rate; expected a number of requests and a time",
            fix='Write it as "10/second", "600/minute", "5000/hour" or "100000/day".',
        )
    seconds = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86400.0}
    return int(found[1]), seconds[found[2]]


def secret(value: SecretStr | None) -> str | None:
    """The text of a secret setting, for the one place that needs it."""
    return None if value is None else value.get_secret_value()


def model_options(chosen: Settings, *, reranker: bool = True) -> dict[str, Any]:
    """How the models are to run, as `retrieval.open` and `retrieval.ingest` take it.

    Args:
        chosen: settings; what is None is left out.
        reranker: False leaves out what only a second stage takes.
    """
    names = ["device", "engine", "dtype", "threads", "deterministic"]
    if reranker and chosen.reranker != "none":
        names.append("long_passages")
    options = {name: getattr(chosen, name) for name in names}
    if chosen.devices is not None:
        options["devices"] = [part.strip() for part in chosen.devices.split(",") if part.strip()]
    return {name: value for name, value in options.items() if value is not None}


def storage(chosen: Settings) -> dict[str, int]:
    """How a server is to keep collections that the app makes, as `retrieval.ingest` takes it."""
    given = {name: getattr(chosen, name) for name in ("shards", "replicas", "write_consistency")}
    return {name: value for name, value in given.items() if value is not None}
