"""How models run, as named options, and which of the two models each one is for."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

from retrieval.errors import InvalidInput
from retrieval.models import registry

if TYPE_CHECKING:
    from retrieval.models.engines.base import Dtype, EngineName
    from retrieval.models.examples import QueryExamples
    from retrieval.types import Pooling


class EncoderOptions(TypedDict, total=False):
    """What an encoder that is named can be loaded with; see `BiEncoder` for each."""

    pooling: Pooling | None
    query_instruction: str | None
    passage_instruction: str | None
    query_suffix: str | None
    query_examples: QueryExamples | None
    max_length: int | None
    device: str | None
    devices: Sequence[str] | None
    engine: EngineName | None
    dtype: Dtype | None
    threads: int | None
    deterministic: bool
    calibration: Sequence[str] | None
    token_budget: int | None
    cache_dir: str | os.PathLike[str] | None
    truncate_dim: int | None
    allow_untrained_truncation: bool


SETTINGS = (
    "pooling",
    "query_instruction",
    "passage_instruction",
    "query_suffix",
    "query_examples",
    "max_length",
)
"""Those that replace what the model declares of itself; a collection remembers them."""

SHARED = (
    "device",
    "devices",
    "engine",
    "dtype",
    "threads",
    "deterministic",
    "calibration",
    "token_budget",
    "cache_dir",
)
ENCODER = ("truncate_dim", "allow_untrained_truncation")
RERANKER = ("long_passages", "window_overlap", "token_cache_bytes")

# What an option means when it is left out: such a value asks for nothing.
_DEFAULTS: dict[str, Any] = {
    "deterministic": False,
    "allow_untrained_truncation": False,
    "long_passages": "truncate",
}


def checked(given: Mapping[str, Any], *, encoder: bool = True, reranker: bool = True) -> None:
    """Refuse names that are not options of the models that will be loaded.

    Args:
        given: option → value; None leaves an option out.
        encoder, reranker: whether such a model will be loaded. One that the caller made has
            its options already.

    Raises:
        InvalidInput: names what was given and what there is.
    """
    allowed = (
        *(SHARED if encoder or reranker else ()),
        *(ENCODER if encoder else ()),
        *(RERANKER if reranker else ()),
    )
    for name, value in given.items():
        if name not in (*SHARED, *ENCODER, *RERANKER):
            raise InvalidInput(
                f"there is no option {name!r}; expected one of {', '.join(sorted(allowed))}",
                fix="Correct its name, or leave it out.",
            )
        if name not in allowed and value is not None and value != _DEFAULTS.get(name):
            kind = _kind(name)
            raise InvalidInput(
                f"{name}={value!r} was given for {kind}, and none is loaded here",
                fix=f"Leave {name} out, or name {kind}. A model made beforehand takes it when it "
                "is made.",
            )
    if given.get("device") not in (None, "auto") and given.get("devices") is not None:
        raise InvalidInput(
            f"device={given['device']!r} and devices={given['devices']!r} were both given",
            fix="Give one of the two: device for one, devices for several.",
        )


def of_encoder(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options that an encoder takes."""
    return _of(given, (*SHARED, *ENCODER))


def of_reranker(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options that a reranker takes."""
    return _of(given, (*SHARED, *RERANKER))


def without_reranker(given: Mapping[str, Any]) -> dict[str, Any]:
    """All except those that are only for a reranker, valid or not."""
    return {name: value for name, value in given.items() if name not in RERANKER}


def first_device(given: Mapping[str, Any]) -> str:
    """The device by which models are chosen: the first of several."""
    devices = given.get("devices")
    if isinstance(devices, (list, tuple)) and devices:
        return str(devices[0])
    return str(given.get("device") or "auto")


def for_reranker_named(name: str, given: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The options that the reranker of that name takes, and those that mean nothing to it."""
    options = of_reranker(given)
    known = registry.find(name, "reranker")
    if known is None or known.score_head == "classification":
        return options, []
    idle = [option for option in RERANKER if option in options]
    return {key: value for key, value in options.items() if key not in RERANKER}, idle


def check_reranker_named(name: str, given: Mapping[str, Any]) -> None:
    """Refuse options that mean nothing to the reranker of that name.

    Raises:
        InvalidInput: names them.
    """
    _, idle = for_reranker_named(name, given)
    if idle:
        raise InvalidInput(
            f"{', '.join(f'{option}={given[option]!r}' for option in idle)} was given for the "
            f"reranker {name}, which is not a cross-encoder and always cuts long passages",
            fix="Leave it out, or name a cross-encoder such as BAAI/bge-reranker-base.",
        )


def _of(given: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {
        name: value
        for name, value in given.items()
        if name in names and value is not None and value != _DEFAULTS.get(name)
    }


def _kind(name: str) -> str:
    if name in ENCODER:
        return "an encoder"
    return "a reranker" if name in RERANKER else "a model"
