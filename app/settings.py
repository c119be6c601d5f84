"""Settings of the service. The only reader of environment variables.

`RETRIEVAL_HOST`, `RETRIEVAL_PORT`, `RETRIEVAL_COLLECTION`, … : each field of `Settings`, with the
prefix `RETRIEVAL_`. An option on the command line goes before the environment.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from retrieval.errors import InvalidInput

PREFIX = "RETRIEVAL_"


class Settings(BaseSettings):
    """What the service needs to know before it starts."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", env_ignore_empty=True)

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


def load(**options: Any) -> Settings:
    """Settings from the environment, with the options that are not None going before it.

    Raises:
        InvalidInput: a value cannot be used; says which, from where, and what was expected.
    """
    given = {name: value for name, value in options.items() if value is not None}
    try:
        return Settings(**given)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        if name in given:
            origin, fix = f"--{name.replace('_', '-')}", "Correct the option"
        else:
            origin, fix = f"the environment variable {PREFIX}{name.upper()}", "Correct or unset it"
        expected = first["msg"][:1].lower() + first["msg"][1:]
        raise InvalidInput(
            f"{origin} is {first['input']!r}: {expected}",
            fix=f"{fix}; it is the {Settings.model_fields[name].description}.",
        ) from None
