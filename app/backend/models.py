"""The models by the names that requests give them: their own, aliases, or none for the default."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from app.backend.loaded_models import LoadedModels
from app.batching.encoder import BatchedEncoder
from app.batching.reranker import BatchedReranker
from app.errors import NotHere
from app.types import ModelInfo
from retrieval.api.models import gives_term_weights, shorter_dimensions
from retrieval.errors import InvalidInput
from retrieval.types import EncoderInfo

Model = TypeVar("Model", BatchedEncoder, BatchedReranker)


class Models:
    """Finds models by name. May be used from several threads.

    Args:
        loaded: those that run.
        aliases: the setting `model_aliases`.
    """

    def __init__(self, loaded: LoadedModels, aliases: Mapping[str, str]) -> None:
        self.loaded = loaded
        self._aliases = aliases

    def encoder(self, name: str | None) -> BatchedEncoder:
        """The encoder that a request names; None for the default.

        Raises:
            NotHere: the service has none of that name.
        """
        default = self.loaded.default_encoder()
        wanted = self._resolved(name, "encoder")
        return default if wanted is None else self._found(wanted, name, self._encoders(), "encoder")

    def encoder_if_loaded(self, name: str | None) -> BatchedEncoder | None:
        """The same, or None where it is not loaded; never waits."""
        default = self.loaded.default_encoder_if_loaded()
        wanted = self._resolved(name, "encoder")
        if default is None or wanted is None:
            return default
        known = (one for one in self._encoders() if wanted in _names(one.info.model))
        return next(known, None)

    def reranker(self, name: str | None) -> BatchedReranker:
        """The reranker that a request names; None for the default.

        Raises:
            NotHere: the service has none of that name, or none at all.
        """
        default = self.loaded.second_stage_for(self.loaded.default_encoder()).reranker
        wanted = self._resolved(name, "reranker")
        known = self.loaded.rerankers(default)
        if not known:
            raise NotHere(
                "the service runs no reranker",
                fix="Start it with --reranker NAME; `retrieval models` lists them.",
                what="model",
            )
        return known[0] if wanted is None else self._found(wanted, name, known, "reranker")

    def reranker_if_loaded(self, name: str | None) -> BatchedReranker | None:
        """The same, or None where it is not loaded; never waits."""
        default = self.loaded.default_encoder_if_loaded()
        if default is None or self.loaded.second_stage_if_loaded(default) is None:
            return None
        return self.reranker(name)

    def infos(self) -> list[ModelInfo]:
        """What is loaded, encoders first, each kind with its default first; never loads."""
        default = self.loaded.default_encoder_if_loaded()
        encoders = [
            ModelInfo(
                names=self._all_names(one.info.model, "encoder", one is default),
                kind="encoder",
                max_length=one.info.max_length,
                fingerprint=one.info.fingerprint,
                dimension=one.info.dimension,
                query_instruction=one.info.query_instruction,
                passage_instruction=one.info.passage_instruction,
                sparse=gives_term_weights(one.inner),
                default=one is default,
            )
            for one in self._encoders()
        ]
        second = None if default is None else self.loaded.second_stage_if_loaded(default)
        default_reranker = None if second is None else second.reranker
        return encoders + [
            ModelInfo(
                names=self._all_names(one.info.model, "reranker", one is default_reranker),
                kind="reranker",
                max_length=one.info.max_length,
                fingerprint=one.info.fingerprint,
                default=one is default_reranker,
            )
            for one in self.loaded.rerankers(default_reranker)
        ]

    # --- names

    def _encoders(self) -> list[BatchedEncoder]:
        return self.loaded.encoders(self.loaded.default_encoder_if_loaded())

    def _resolved(self, name: str | None, kind: str) -> str | None:
        """The name behind an alias; None for the default."""
        if name is None:
            return None
        name = self._aliases.get(name, name)
        return None if name in ("default", kind) else name

    def _all_names(self, model: str, kind: str, default: bool) -> tuple[str, ...]:
        own = _names(model)
        general = (kind, "default") if default else ()
        aliases = (
            alias for alias, target in self._aliases.items() if target in own or target in general
        )
        return tuple(dict.fromkeys((*own, *general, *aliases)))

    def _found(self, wanted: str, name: str | None, known: list[Model], kind: str) -> Model:
        for one in known:
            if wanted in _names(one.info.model):
                return one
        models: list[str] = [one.info.model for one in known]
        aliases: list[str] = [
            alias
            for alias, target in self._aliases.items()
            if target == kind or any(target in _names(model) for model in models)
        ]
        names = ", ".join(repr(one) for one in dict.fromkeys((*models, *aliases)))
        raise NotHere(
            f"the service has no {kind} {name!r}; it has {names}",
            fix=f"Name one of them, or leave the model out for the default {kind}; an operator "
            "can add names with the setting model_aliases.",
            what="model",
        )


def check_dimensions(encoder: EncoderInfo, dimensions: int) -> None:
    """Refuse to cut vectors to a dimension that the model was not trained for.

    Raises:
        InvalidInput: says which there are.
    """
    shorter = shorter_dimensions(encoder)
    if isinstance(dimensions, bool) or dimensions not in (encoder.dimension, *shorter):
        known = " or ".join(str(one) for one in (encoder.dimension, *shorter))
        raise InvalidInput(
            f"dimensions is {dimensions!r}, and {encoder.model} gives vectors of {known}",
            fix=f"Ask for {known} dimensions, or leave dimensions out.",
        )


def _names(model: str) -> tuple[str, ...]:
    """A model's own name, and the last part of a hub id or a folder's path."""
    plain = model.partition("@")[0]
    return tuple(dict.fromkeys((model, plain, plain.rstrip("/").rpartition("/")[2])))
