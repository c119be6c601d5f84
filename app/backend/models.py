"""The models that the service runs: each loaded once, whoever uses it, and found by its names."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from app.backend.lazy import Once
from app.batching.encoder import BatchedEncoder
from app.batching.encoder_rows import query_cache
from app.batching.reranker import BatchedReranker, score_cache
from app.errors import NotHere
from app.settings.settings import Settings, model_options
from app.types import ModelInfo, Observer
from retrieval.api.models import (
    gives_term_weights,
    load_encoder_named,
    load_encoder_of,
    load_reranker_named,
    shorter_dimensions,
)
from retrieval.errors import InvalidInput, ModelNotFound
from retrieval.types import Encoder, EncoderInfo, Manifest, Reranker

# A model that is not there may be on its way; asking a hub for it takes seconds.
RETRY_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Second:
    """The second stage that goes with an encoder, None for none, and what to say of it."""

    reranker: BatchedReranker | None
    notices: tuple[str, ...] = ()


class Models:
    """Encoders by what they are, and for each the second stage of the settings.

    Two collections that were built with the same encoder get the same object, and with it the
    same lane: their texts share batches. Loading goes on one model at a time, beside whatever
    runs already. May be used from several threads.

    Args:
        settings: which models, and how they run.
        observer: is told what the lanes do.
        encoder: made by the caller, who closes it; the default where the default collection does
            not name another one.
        reranker: made by the caller, who closes it; goes with every encoder.
    """

    def __init__(
        self,
        settings: Settings,
        observer: Observer,
        *,
        encoder: Encoder | None = None,
        reranker: Reranker | None = None,
    ) -> None:
        self._settings = settings
        self._observer = observer
        self._loading = threading.RLock()
        # Shared by all models: a model's weights and settings are part of what is looked up.
        self._queries = query_cache(_bytes(settings.query_cache_mb), observer)
        self._scores = score_cache(_bytes(settings.score_cache_mb), observer)
        self._encoders: dict[EncoderInfo, BatchedEncoder] = {}
        self._seconds: dict[EncoderInfo, Once[Second]] = {}
        self._rerankers: dict[tuple[str, str], BatchedReranker] = {}
        self._given = (encoder, reranker)
        self._default: BatchedEncoder | None = None
        self.encoder_notices: tuple[str, ...] = ()
        self._named = Once(self._load_named, retry_s=RETRY_SECONDS)
        self._own = Once(self._wrap_given, retry_s=0)
        if encoder is not None:
            self._own.get()

    # --- by what they are

    def encoder_for(self, manifest: Manifest) -> BatchedEncoder:
        """The encoder that a collection was built with.

        Raises:
            ModelNotFound: it is not on this machine and no hub answers.
        """
        key = _key(manifest.encoder)
        found = self._encoders.get(key)
        if found is not None:
            return found
        with self._loading:
            found = self._encoders.get(key)
            return found or self._taken_in(self._load_for(manifest))

    def second_for(self, encoder: BatchedEncoder) -> Second:
        """The second stage that goes with an encoder.

        Raises:
            ModelNotFound: the reranker of the settings is not on this machine.
        """
        key = _key(encoder.info)
        with self._loading:
            once = self._seconds.get(key)
            if once is None:
                once = Once(lambda: self._load_second(encoder), retry_s=RETRY_SECONDS)
                self._seconds[key] = once
        return once.get()

    def default_encoder(self) -> BatchedEncoder:
        """The encoder of the default collection; without one, that of the settings.

        Raises:
            ModelNotFound: it is not on this machine and no hub answers.
        """
        return self._default or self._named.get()

    def be_default(self, encoder: BatchedEncoder) -> None:
        """From now on requests that name no model get this one."""
        self._default = encoder

    # --- by name

    def encoder_named(self, name: str | None) -> BatchedEncoder:
        """The encoder that a request names; None for the default.

        Raises:
            NotHere: the service has none of that name.
        """
        default = self.default_encoder()
        wanted = self._meant(name, "encoder")
        if wanted is None:
            return default
        for one in self._in_order(default):
            if wanted in _names(one.info.model):
                return one
        raise self._unknown(name, "encoder", [one.info.model for one in self._in_order(default)])

    def encoder_if_loaded(self, name: str | None) -> BatchedEncoder | None:
        """The same, or None where it is not loaded; never waits."""
        default = self._default or self._named.value
        wanted = self._meant(name, "encoder")
        if default is None or wanted is None:
            return default
        known = (one for one in self._in_order(default) if wanted in _names(one.info.model))
        return next(known, None)

    def reranker_named(self, name: str | None) -> BatchedReranker:
        """The reranker that a request names; None for the default.

        Raises:
            NotHere: the service has none of that name, or none at all.
        """
        default = self.second_for(self.default_encoder()).reranker
        wanted = self._meant(name, "reranker")
        known = list(dict.fromkeys([*([default] if default else []), *self._rerankers.values()]))
        if not known:
            raise NotHere(
                "the service runs no reranker",
                fix="Start it with --reranker NAME; `retrieval models` lists them.",
                what="model",
            )
        if wanted is None:
            return default or known[0]
        for one in known:
            if wanted in _names(one.info.model):
                return one
        raise self._unknown(name, "reranker", [one.info.model for one in known])

    def reranker_if_loaded(self, name: str | None) -> BatchedReranker | None:
        """The same, or None where it is not loaded; never waits."""
        default = self._default or self._named.value
        once = None if default is None else self._seconds.get(_key(default.info))
        if once is None or once.value is None:
            return None
        return self.reranker_named(name)

    def encoder_to_build_with(self, name: str | None) -> BatchedEncoder:
        """The encoder of a new collection: one that runs already, or loaded by its name.

        Raises:
            ModelNotFound: no such model on this machine or the hub.
        """
        try:
            return self.encoder_named(name)
        except NotHere:
            assert name is not None
        with self._loading:
            loaded, _ = load_encoder_named(name, outputs_all=True, **self._options())
            return self._taken_in(loaded)

    def infos(self) -> list[ModelInfo]:
        """What is loaded, encoders first, each kind with its default first; never loads."""
        default = self._default or self._named.value
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
            for one in self._in_order(default)
        ]
        once = None if default is None else self._seconds.get(_key(default.info))
        second = None if once is None or once.value is None else once.value.reranker
        rerankers = [*([second] if second else []), *self._rerankers.values()]
        return encoders + [
            ModelInfo(
                names=self._all_names(other.info.model, "reranker", other is second),
                kind="reranker",
                max_length=other.info.max_length,
                fingerprint=other.info.fingerprint,
                default=other is second,
            )
            for other in dict.fromkeys(rerankers)
        ]

    def close(self) -> None:
        """Close lanes and models, but for models that the caller made."""
        with self._loading:
            everything: list[BatchedReranker | BatchedEncoder] = []
            everything += self._rerankers.values()
            everything += self._encoders.values()
            for one in everything:
                if any(one.inner is given for given in self._given):
                    one.lane.close()
                else:
                    one.close()

    # --- loading

    def _load_for(self, manifest: Manifest) -> Encoder:
        options = self._options()
        try:
            return load_encoder_of(manifest, options, outputs_all=True)
        except ModelNotFound:
            # The same weights may lie here by the name that the settings give.
            asked = self._settings.encoder
            if asked is None:
                raise
            named = replace(manifest, encoder=replace(manifest.encoder, model=asked))
            loaded = load_encoder_of(named, options, outputs_all=True)
            if loaded.info.fingerprint == manifest.encoder.fingerprint:
                return loaded
            _close(loaded)
            raise

    def _load_named(self) -> BatchedEncoder:
        if self._given[0] is not None:
            return self._own.get()
        with self._loading:
            name = self._settings.encoder or "auto"
            loaded, self.encoder_notices = load_encoder_named(
                name, outputs_all=True, **self._options()
            )
            return self._taken_in(loaded)

    def _taken_in(self, loaded: Encoder) -> BatchedEncoder:
        """What was loaded, or the same encoder if it runs already."""
        key = _key(loaded.info)
        if key in self._encoders:
            _close(loaded)
        else:
            self._encoders[key] = self._batched(loaded)
        return self._encoders[key]

    def _wrap_given(self) -> BatchedEncoder:
        given = self._given[0]
        assert given is not None
        found = self._encoders[_key(given.info)] = self._batched(given)
        return found

    def _load_second(self, encoder: BatchedEncoder) -> Second:
        given = self._given[1]
        with self._loading:
            if given is not None:
                return Second(self._pooled(given))
            options = model_options(self._settings)
            loaded, notices = load_reranker_named(self._settings.reranker, encoder.inner, **options)
            return Second(None if loaded is None else self._pooled(loaded), notices)

    def _pooled(self, loaded: Reranker) -> BatchedReranker:
        info = loaded.info
        known = self._rerankers.get((info.model, info.fingerprint))
        if known is not None:
            if loaded is not self._given[1]:
                _close(loaded)
            return known
        made = BatchedReranker(
            loaded,
            name=self._lane_name("reranker", len(self._rerankers)),
            budget=self._settings.batch_tokens,
            window_ms=self._settings.batch_window_ms,
            joined=self._settings.batching,
            cache=self._scores,
            settings=model_options(self._settings),
            observer=self._observer,
        )
        self._rerankers[info.model, info.fingerprint] = made
        return made

    def _batched(self, encoder: Encoder) -> BatchedEncoder:
        return BatchedEncoder(
            encoder,
            name=self._lane_name("encoder", len(self._encoders)),
            budget=self._settings.batch_tokens,
            window_ms=self._settings.batch_window_ms,
            joined=self._settings.batching,
            cache=self._queries,
            settings=repr(sorted(self._options().items())),
            observer=self._observer,
        )

    def _lane_name(self, kind: str, before: int) -> str:
        """Metrics are counted by it: short, and the same after every start."""
        return kind if before == 0 else f"{kind}-{before + 1}"

    def _options(self) -> dict[str, Any]:
        return model_options(self._settings, reranker=False)

    # --- names

    def _meant(self, name: str | None, kind: str) -> str | None:
        """The name behind an alias; None for the default."""
        if name is None:
            return None
        name = self._settings.model_aliases.get(name, name)
        return None if name in ("default", kind) else name

    def _all_names(self, model: str, kind: str, default: bool) -> tuple[str, ...]:
        own = _names(model)
        general = (kind, "default") if default else ()
        aliases = (
            alias
            for alias, target in self._settings.model_aliases.items()
            if target in own or target in general
        )
        return tuple(dict.fromkeys((*own, *general, *aliases)))

    def _in_order(self, default: BatchedEncoder | None) -> Iterator[BatchedEncoder]:
        if default is not None:
            yield default
        yield from (one for one in list(self._encoders.values()) if one is not default)

    def _unknown(self, name: str | None, kind: str, known: list[str]) -> NotHere:
        aliases = [
            alias
            for alias, target in self._settings.model_aliases.items()
            if target == kind or any(target in _names(one) for one in known)
        ]
        names = ", ".join(repr(one) for one in dict.fromkeys((*known, *aliases)))
        return NotHere(
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


def _key(info: EncoderInfo) -> EncoderInfo:
    """What makes two encoders the same: all but the name."""
    return replace(info, model="")


def _bytes(megabytes: float) -> int:
    return round(megabytes * 1_000_000)


def _close(model: object) -> None:
    close = getattr(model, "close", None)
    if close is not None:
        close()
