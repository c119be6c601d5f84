"""The models that the service runs: each is loaded once, when it is first needed."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import Any

from app.backend.lazy import Lazy
from app.batching.encoder import BatchedEncoder, query_cache
from app.batching.reranker import BatchedReranker, score_cache
from app.settings.settings import Settings, model_options
from app.types import Observer
from retrieval.api.models import load_encoder_named, load_encoder_of, load_reranker_named
from retrieval.errors import ModelNotFound
from retrieval.types import Encoder, EncoderInfo, Manifest, Reranker

# A model that is missing may be on its way; asking a hub for it takes seconds.
RETRY_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class SecondStage:
    """The reranker that goes with an encoder, None for none, and notices about it."""

    reranker: BatchedReranker | None
    notices: tuple[str, ...] = ()


class LoadedModels:
    """Encoders by what they are, and for each the second stage of the settings.

    Two collections that were built with the same encoder get the same object, and with it the
    same batcher: their texts share batches. Loading goes on one model at a time, beside whatever
    runs already. May be used from several threads.

    Args:
        settings: which models, and how they run.
        observer: gets the events of the batchers.
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
        self._query_cache = query_cache(_bytes(settings.query_cache_mb), observer)
        self._score_cache = score_cache(_bytes(settings.score_cache_mb), observer)
        self._encoders: dict[EncoderInfo, BatchedEncoder] = {}
        self._rerankers: dict[tuple[str, str], BatchedReranker] = {}
        self._second_stages: dict[EncoderInfo, Lazy[SecondStage]] = {}
        self._callers_encoder = encoder
        self._callers_reranker = reranker
        self._default: BatchedEncoder | None = None
        self._from_settings = Lazy(self._load_from_settings, retry_s=RETRY_SECONDS)
        self.encoder_notices: tuple[str, ...] = ()
        if encoder is not None:
            self._from_settings.get()

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
            return self._encoders.get(key) or self._kept(self._load_for(manifest))

    def default_encoder(self) -> BatchedEncoder:
        """The encoder of the default collection; without one, that of the settings.

        Raises:
            ModelNotFound: it is not on this machine and no hub answers.
        """
        return self._default or self._from_settings.get()

    def default_encoder_if_loaded(self) -> BatchedEncoder | None:
        """The same, or None where it is not loaded; never waits."""
        return self._default or self._from_settings.value

    def set_default(self, encoder: BatchedEncoder) -> None:
        """From now on requests that name no model get this one."""
        self._default = encoder

    def second_stage_for(self, encoder: BatchedEncoder) -> SecondStage:
        """The second stage that goes with an encoder.

        Raises:
            ModelNotFound: the reranker of the settings is not on this machine.
        """
        key = _key(encoder.info)
        with self._loading:
            lazy = self._second_stages.get(key)
            if lazy is None:
                lazy = Lazy(lambda: self._load_second_stage(encoder), retry_s=RETRY_SECONDS)
                self._second_stages[key] = lazy
        return lazy.get()

    def second_stage_if_loaded(self, encoder: BatchedEncoder) -> SecondStage | None:
        """The same, or None where it is not loaded; never waits."""
        lazy = self._second_stages.get(_key(encoder.info))
        return None if lazy is None else lazy.value

    def encoders(self, default: BatchedEncoder | None) -> list[BatchedEncoder]:
        """Those that run, `default` first."""
        first = [] if default is None else [default]
        return list(dict.fromkeys([*first, *self._encoders.values()]))

    def rerankers(self, default: BatchedReranker | None) -> list[BatchedReranker]:
        """Those that run, `default` first."""
        first = [] if default is None else [default]
        return list(dict.fromkeys([*first, *self._rerankers.values()]))

    def close(self) -> None:
        """Close batchers and models, except models that the caller made."""
        with self._loading:
            running: list[BatchedReranker | BatchedEncoder] = [*self._rerankers.values()]
            for one in [*running, *self._encoders.values()]:
                if one.inner is self._callers_encoder or one.inner is self._callers_reranker:
                    one.batcher.close()
                else:
                    one.close()

    # --- loading

    def _load_for(self, manifest: Manifest) -> Encoder:
        options = self._options()
        try:
            return load_encoder_of(manifest, options, outputs_all=True)
        except ModelNotFound:
            # The same weights may be here under the name that the settings give.
            asked = self._settings.encoder
            if asked is None:
                raise
            named = replace(manifest, encoder=replace(manifest.encoder, model=asked))
            loaded = load_encoder_of(named, options, outputs_all=True)
            if loaded.info.fingerprint == manifest.encoder.fingerprint:
                return loaded
            _close(loaded)
            raise

    def _load_from_settings(self) -> BatchedEncoder:
        with self._loading:
            if self._callers_encoder is not None:
                return self._kept(self._callers_encoder)
            name = self._settings.encoder or "auto"
            loaded, self.encoder_notices = load_encoder_named(
                name, outputs_all=True, **self._options()
            )
            return self._kept(loaded)

    def _load_second_stage(self, encoder: BatchedEncoder) -> SecondStage:
        with self._loading:
            if self._callers_reranker is not None:
                return SecondStage(self._kept_reranker(self._callers_reranker))
            options = model_options(self._settings)
            loaded, notices = load_reranker_named(self._settings.reranker, encoder.inner, **options)
            return SecondStage(None if loaded is None else self._kept_reranker(loaded), notices)

    def _kept(self, loaded: Encoder) -> BatchedEncoder:
        """What was loaded, over a batcher; or the same encoder if it runs already."""
        key = _key(loaded.info)
        if key in self._encoders:
            _close(loaded)
            return self._encoders[key]
        made = self._encoders[key] = BatchedEncoder(
            loaded,
            cache=self._query_cache,
            settings=repr(sorted(self._options().items())),
            **self._batching("encoder", len(self._encoders)),
        )
        return made

    def _kept_reranker(self, loaded: Reranker) -> BatchedReranker:
        """What was loaded, over a batcher; or the same reranker if it runs already."""
        key = (loaded.info.model, loaded.info.fingerprint)
        if key in self._rerankers:
            if loaded is not self._callers_reranker:
                _close(loaded)
            return self._rerankers[key]
        made = self._rerankers[key] = BatchedReranker(
            loaded,
            cache=self._score_cache,
            settings=model_options(self._settings),
            **self._batching("reranker", len(self._rerankers)),
        )
        return made

    def _batching(self, kind: str, others: int) -> dict[str, Any]:
        """Metrics are counted by the name: short, and the same after every start."""
        return {
            "name": kind if others == 0 else f"{kind}-{others + 1}",
            "budget": self._settings.batch_tokens,
            "window_ms": self._settings.batch_window_ms,
            "joined": self._settings.batching,
            "observer": self._observer,
        }

    def _options(self) -> dict[str, Any]:
        return model_options(self._settings, reranker=False)


def _key(info: EncoderInfo) -> EncoderInfo:
    """What makes two encoders the same: all but the name."""
    return replace(info, model="")


def _bytes(megabytes: float) -> int:
    return round(megabytes * 1_000_000)


def _close(model: object) -> None:
    close = getattr(model, "close", None)
    if close is not None:
        close()
