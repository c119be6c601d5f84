"""Settings of the service. The only reader of environment variables.

Each field of `Settings` can be given as an option of a command, as a variable of the environment
(`RETRIEVAL_HOST`, `RETRIEVAL_PORT`, … : the field with the prefix `RETRIEVAL_`) or in a TOML file,
under its own name. An option goes before the environment, that before the file, the file before
the default. How they are read and joined stands in `app.settings.sources`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.settings import sources
from retrieval.errors import InvalidInput

PREFIX = "RETRIEVAL_"

RATE = re.compile(r"\s*(\d{1,9})\s*/\s*(second|minute|hour|day)s?\s*", re.ASCII)
"""How many requests in which time: "600/minute"."""

_ORIGIN = re.compile(r"https?://[^/\s@?#]+", re.IGNORECASE)

Origin: TypeAlias = Literal["default", "file", "environment", "option"]


class Settings(BaseSettings):
    """What the service needs to know before it starts."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        extra="ignore",
        env_ignore_empty=True,
        enable_decoding=False,  # lists and tables may be written without JSON, see `_structure`
    )

    host: str = Field("127.0.0.1", min_length=1, description="address to listen on")
    port: int = Field(7860, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    public: bool = Field(False, description="allow an address that other machines can reach")
    collection: str = Field("docs", min_length=1, description="the collection to search")
    store: str = Field(".retrieval", min_length=1, description="the folder of the collections")
    encoder: str | None = Field(None, description="encoder; None takes the collection's own")
    reranker: str = Field("auto", min_length=1, description="second stage; none: no re-ranking")
    device: str | None = Field(None, min_length=1, description="device of the models")
    devices: str | None = Field(None, description="several devices, joined by commas")
    engine: Literal["auto", "packed", "openvino", "transformers"] | None = Field(
        None, description="engine that runs the models"
    )
    dtype: Literal["auto", "fp32", "bf16", "fp16", "int8"] | None = Field(
        None, description="number format of the models"
    )
    threads: int | None = Field(None, ge=1, description="number of CPU threads of a model")
    deterministic: bool | None = Field(
        None, description="switch for results that do not depend on the batch"
    )
    long_passages: Literal["truncate", "windows", "error"] | None = Field(
        None, description="way in which a cross-encoder reads passages over its length"
    )
    budget_ms: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="milliseconds that re-ranking may take at first; the page can change it",
    )
    api_key: SecretStr | None = Field(None, description="API key of a Qdrant server")
    shards: int | None = Field(
        None, ge=1, description="number of shards of collections the app makes on a server"
    )
    replicas: int | None = Field(None, ge=1, description="number of copies of each such shard")
    write_consistency: int | None = Field(
        None, ge=1, description="number of copies that must have a write before it counts"
    )
    title: str = Field("Two-stage retrieval", min_length=1, description="the page's heading")

    # --- the service: who may do what
    keys_file: Path | None = Field(None, description="file of the API keys, see `retrieval keys`")
    read_only: bool = Field(False, description="switch that refuses every change to collections")
    cors_origins: tuple[str, ...] = Field(
        (), description="list of web origins whose pages may call the service"
    )
    rate_limit: str | None = Field(
        None, description='limit of a key without its own, such as "600/minute"'
    )
    max_body_mb: float = Field(32, gt=0, description="largest body of a request, in MB")
    max_upload_mb: float = Field(256, gt=0, description="largest upload of files, in MB")
    body_timeout_s: float = Field(60, gt=0, description="seconds in which a body must arrive")
    ingest_roots: tuple[Path, ...] = Field(
        (), description="list of folders on this machine that jobs may read"
    )
    parse_timeout_s: float = Field(120, gt=0, description="seconds that parsing a file may take")
    parse_memory_mb: int = Field(2048, ge=256, description="memory that parsing a file may take")
    state_dir: Path | None = Field(
        None, description="folder of uploads and jobs; None: beside the store"
    )

    # --- the service: load
    max_requests: int = Field(512, ge=1, description="number of requests in work or waiting")
    max_wait_ms: float = Field(
        4000, gt=0, description="milliseconds of work that may wait for a model"
    )
    batching: bool = Field(True, description="switch for batches across requests")
    batch_tokens: int = Field(4096, ge=64, description="number of tokens in a model's batch")
    batch_window_ms: float = Field(
        1.0, ge=0, description="milliseconds in which requests join a batch"
    )
    query_cache_mb: float = Field(64, ge=0, description="size of the cache of query vectors, MB")
    score_cache_mb: float = Field(64, ge=0, description="size of the cache of scores, MB")
    timeout_ms: float | None = Field(
        None, gt=0, description="milliseconds a request may take where it says nothing itself"
    )
    grace_s: float = Field(20, gt=0, description="seconds that requests get to end at a stop")

    # --- the service: names of models that clients may use
    model_aliases: dict[str, str] = Field(
        {}, description='names for the models, such as {"text-embedding-3-small": "encoder"}'
    )

    # --- answers
    llm_url: str | None = Field(None, description="base URL of an OpenAI-compatible endpoint")
    llm_key: SecretStr | None = Field(None, description="API key of that endpoint")
    llm_model: str | None = Field(None, description="name of the language model there")
    llm_context_tokens: int = Field(8192, ge=512, description="tokens that the model reads")
    llm_answer_tokens: int = Field(1024, ge=16, description="tokens that an answer may have")
    llm_timeout_s: float = Field(120, gt=0, description="seconds that an answer may take")
    answer_min_relevance: float | None = Field(
        None, ge=0, le=1, description="relevance below which a passage is not given to the model"
    )

    # --- operations
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="least important log lines to write"
    )
    log_format: Literal["auto", "json", "text"] = Field(
        "auto", description="form of log lines; auto: text on a terminal, else json"
    )
    otel: bool = Field(False, description="switch for OpenTelemetry traces")
    page: bool = Field(True, description="switch for the page at /")

    @field_validator("cors_origins", "ingest_roots", "model_aliases", mode="before")
    @classmethod
    def _structure(cls, value: object, info: ValidationInfo) -> object:
        """Lists and tables from text: JSON, or `a, b` and `name=value, other=value`."""
        if not isinstance(value, str):
            return value
        table = info.field_name == "model_aliases"
        return sources.table_of(value) if table else sources.list_of(value)

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for one in value:
            if one != "*" and not _ORIGIN.fullmatch(one):
                raise ValueError(
                    f'{one!r} is no origin; expected one such as "https://example.org", without '
                    'a path, or "*"'
                )
        return tuple(one.lower() for one in value)

    @field_validator("rate_limit")
    @classmethod
    def _rate(cls, value: str | None) -> str | None:
        if value is not None:
            rate_of(value)
        return value


@dataclass(frozen=True)
class Loaded:
    """Settings, and where each of them came from. file: the TOML file that was read, if any."""

    settings: Settings
    origins: Mapping[str, Origin]
    file: Path | None


def rate_of(text: str) -> tuple[int, float]:
    """Requests and the seconds in which they may come, of a rate such as "600/minute".

    Raises:
        InvalidInput: it is no rate, or allows nothing.
    """
    found = RATE.fullmatch(text)
    if found is None or int(found[1]) == 0:
        raise InvalidInput(
            f"{text!r} is no rate; expected a number of requests and a time",
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


def load(*, config: Path | str | None = None, **options: Any) -> Settings:
    """Settings; options that are not None go before the environment, that before the file.

    Args:
        config: the TOML file; None takes the one that `RETRIEVAL_CONFIG` names, or
            `retrieval.toml` of the current folder where there is one.
        options: fields of `Settings`.

    Raises:
        InvalidInput: a value cannot be used, or the file; says which, from where, and what was
            expected.
    """
    return load_all(config=config, **options).settings


def load_all(*, config: Path | str | None = None, **options: Any) -> Loaded:
    """What `load` gives, with where each setting came from."""
    file = sources.find_file(config, PREFIX)
    written = {} if file is None else sources.read_file(file, Settings.model_fields, secrets())
    environment = sources.set_variables(PREFIX)
    given = {name: value for name, value in options.items() if value is not None}
    filed = {name: value for name, value in written.items() if name not in environment}

    def origin(name: str) -> Origin:
        if name in given:
            return "option"
        if name in environment:
            return "environment"
        return "file" if name in filed else "default"

    try:
        chosen = Settings(**{**filed, **given})
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        raise _unusable(name, origin(name), file, first["input"], first["msg"]) from None
    return Loaded(chosen, {name: origin(name) for name in Settings.model_fields}, file)


def secrets() -> frozenset[str]:
    """The settings that must never be shown."""
    fields = Settings.model_fields
    return frozenset(name for name in fields if "SecretStr" in str(fields[name].annotation))


def _unusable(name: str, origin: Origin, file: Path | None, value: Any, reason: str) -> Exception:
    places = {
        "option": (f"--{name.replace('_', '-')}", "Correct the option"),
        "environment": (
            f"the environment variable {PREFIX}{name.upper()}",
            "Correct or unset it",
        ),
        "file": (f"{name} in {file}", "Correct the file"),
        "default": (name, "Give another"),
    }
    place, fix = places[origin]
    shown = "not shown" if name in secrets() else repr(value)
    reason = reason.removeprefix("Value error, ")
    return InvalidInput(
        f"{place} is {shown}: {reason[:1].lower() + reason[1:]}",
        fix=f"{fix}; it is the {Settings.model_fields[name].description}.",
    )
