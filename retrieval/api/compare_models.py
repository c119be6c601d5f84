"""The models of a comparison: found by name before any work, loaded, and what they take."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from retrieval.api.models import encoder_of, gives_term_weights
from retrieval.api.remembering import RememberingEncoder, RememberingReranker, remembering
from retrieval.errors import InvalidInput
from retrieval.evaluation.grid import joined
from retrieval.evaluation.settings import NONE, OWN, PassageLength, Setting
from retrieval.models.defaults import Choice, choose_models
from retrieval.models.load import load_encoder, load_reranker
from retrieval.models.options import checked, first_device, for_reranker_named, of_encoder
from retrieval.models.rerankers.late_interaction import LateInteractionReranker
from retrieval.models.resolve import resolve
from retrieval.search.plan import chosen_blend
from retrieval.search.retriever import close_models
from retrieval.splitting.splitter import DEFAULT_MAX_TOKENS, DEFAULT_OVERLAP_TOKENS
from retrieval.types import Encoder, Manifest, Reranker, ResolvedModel
from retrieval.types.closing import Closing

Key: TypeAlias = tuple[str, str]
"""A model's name and its number format."""


class ComparedModels(Closing):
    """All rerankers of some settings, and one encoder at a time.

    Args:
        running: how models run, as for `retrieval.open`, but for their number format.
        manifest: of the collection whose encoder is used; None where encoders are named.
    """

    def __init__(self, running: Mapping[str, Any], manifest: Manifest | None) -> None:
        checked(running)
        self._running = dict(running)
        self._manifest = manifest
        self._resolved: dict[tuple[str, str], ResolvedModel] = {}
        self._choices: dict[tuple[str, str], Choice] = {}
        self._rerankers: dict[Key, RememberingReranker] = {}
        self._encoder: tuple[Key, Encoder, RememberingEncoder] | None = None
        self._bytes: dict[tuple[str, Key], int | None] = {}
        self._terms: set[str] = set()
        self._several: set[Key] = set()

    def settle(self, settings: Sequence[Setting]) -> list[Setting]:
        """Find all models, load the rerankers, and join what turns out to be the same.

        What is "auto" becomes what it means: a model's name, the reranker's own blend and what it
        reads, the instruction that the model declares, the default length of passages.

        Raises:
            ModelNotFound, ModelSettingUnknown, InvalidInput, ModelFault: see `retrieval.open`.
        """
        named = [self._named(setting) for setting in settings]
        for setting in named:
            if setting.reranker is not None:
                self._resolve(setting.reranker, "reranker")
        self._terms = {one.encoder for one in named if one.mode == "lexical"}
        settled = joined(self._as_the_reranker_says(setting) for setting in named)
        lengths = {(one.encoder, one.dtype, one.passages) for one in settled}
        keys = [(encoder, dtype) for encoder, dtype, _ in lengths]
        self._several = {key for key in keys if keys.count(key) > 1}
        return settled

    def encoder(self, setting: Setting) -> RememberingEncoder:
        """The encoder of a setting; the one before is closed where it is another."""
        key = (setting.encoder, setting.dtype)
        if self._encoder is not None and self._encoder[0] == key:
            return self._encoder[2]
        self._close_encoder()
        before = resident_bytes()
        loaded = self._load_encoder(setting)
        own = self.own_instruction(setting.encoder)
        info = replace(loaded.info, query_instruction=own)
        kept = remembering(loaded, info, passages=key in self._several)
        self._encoder = (key, loaded, kept)
        loaded.encode_passages([_PROBE])
        self._bytes.setdefault(("encoder", key), _growth(before))
        return kept

    def plain_encoder(self, setting: Setting) -> Encoder:
        """The same without any memory, for measuring what it takes."""
        self.encoder(setting)
        assert self._encoder is not None
        return self._encoder[1]

    def reranker(self, setting: Setting) -> RememberingReranker | None:
        """The second stage of a setting."""
        if setting.reranker is None:
            return None
        key = (setting.reranker, setting.dtype)
        if key not in self._rerankers:
            before = resident_bytes()
            own, _ = for_reranker_named(setting.reranker, self._options(setting))
            loaded = load_reranker(setting.reranker, **own)
            assert loaded is not None
            loaded.score([(_PROBE, _PROBE)])
            self._rerankers[key] = RememberingReranker(loaded)
            self._bytes[("reranker", key)] = _growth(before)
        return self._rerankers[key]

    def plain_reranker(self, setting: Setting) -> Reranker | None:
        """The same without any memory of what it has scored, for measuring what it takes."""
        kept = self.reranker(setting)
        if kept is None:
            return None
        inner = kept.inner
        if isinstance(inner, LateInteractionReranker):  # keeps passages' token vectors itself
            return LateInteractionReranker(inner.encoder, name=inner.info.model)
        return inner

    def instruction(self, setting: Setting) -> str:
        """What is put before the queries of a setting."""
        if setting.instruction == OWN:
            return self.own_instruction(setting.encoder)
        return "" if setting.instruction == NONE else setting.instruction

    def own_instruction(self, encoder: str) -> str:
        """What the model declares, or the collection was built with."""
        if self._manifest is not None:
            return self._manifest.encoder.query_instruction
        return self._resolve(encoder, "encoder").spec.query_instruction

    def longest(self, encoder: str) -> int:
        """Tokens that an encoder reads."""
        if self._manifest is not None:
            return self._manifest.encoder.max_length
        return self._resolve(encoder, "encoder").spec.max_length or DEFAULT_MAX_TOKENS

    def model_bytes(self, setting: Setting) -> int | None:
        """How much memory the models of a setting took; None where that is unknown."""
        taken = [self._bytes.get(("encoder", (setting.encoder, setting.dtype)))]
        if setting.reranker is not None:
            taken.append(self._bytes.get(("reranker", (setting.reranker, setting.dtype))))
        known = [one for one in taken if one is not None]
        return sum(known) if len(known) == len(taken) else None

    def stores_terms(self, encoder: str) -> bool:
        """Whether term weights are indexed, too: some setting of this encoder searches by them."""
        return encoder in self._terms

    @property
    def fingerprints(self) -> dict[str, str]:
        """By kind and name."""
        found = {f"{kind} {name}": one.fingerprint for (name, kind), one in self._resolved.items()}
        if self._manifest is not None:
            found["encoder"] = self._manifest.encoder.fingerprint
        return dict(sorted(found.items()))

    def close(self) -> None:
        """End what the models keep running."""
        self._close_encoder()
        close_models([one.inner for one in self._rerankers.values()])
        self._rerankers.clear()

    def _named(self, setting: Setting) -> Setting:
        if self._manifest is None:
            encoder = self._chosen(setting.encoder, NONE).encoder
            self._resolve(encoder, "encoder")
        else:
            encoder = self._manifest.encoder.model
        reranker = setting.reranker
        if reranker is not None:
            reranker = self._chosen(encoder, reranker).reranker
        named = replace(setting, encoder=encoder, reranker=reranker)
        own = self.own_instruction(encoder)
        if self.instruction(named) == own:
            named = replace(named, instruction=OWN)
        if named.passages == PassageLength():
            most = min(DEFAULT_MAX_TOKENS, self.longest(encoder))
            overlap = min(DEFAULT_OVERLAP_TOKENS, most // 2)
            named = replace(named, passages=PassageLength(most, overlap))
        return named

    def _chosen(self, encoder: str, reranker: str) -> Choice:
        """What "auto" means; a hub is asked once."""
        if (encoder, reranker) not in self._choices:
            device = first_device(self._running)
            self._choices[encoder, reranker] = choose_models(encoder, reranker, device=device)
        return self._choices[encoder, reranker]

    def _as_the_reranker_says(self, setting: Setting) -> Setting:
        reranker = self.reranker(setting)
        if reranker is None:
            return setting
        return replace(
            setting,
            blend=chosen_blend(setting.blend, reranker.info),
            read=setting.read or reranker.info.default_read,
        )

    def _resolve(self, name: str, kind: Any) -> ResolvedModel:
        if (name, kind) not in self._resolved:
            self._resolved[name, kind] = resolve(name, kind)
        return self._resolved[name, kind]

    def _options(self, setting: Setting) -> dict[str, Any]:
        return {**self._running, "dtype": None if setting.dtype == "auto" else setting.dtype}

    def _load_encoder(self, setting: Setting) -> Encoder:
        """The encoder without an instruction, which `RememberingEncoder` puts before queries."""
        options = self._options(setting)
        if self._manifest is not None:
            return encoder_of(self._manifest, None, options, {"query_instruction": ""})
        terms = self.stores_terms(setting.encoder)
        loaded = load_encoder(
            setting.encoder,
            query_instruction="",
            outputs="all" if terms else "dense",
            **of_encoder(options),
        )
        if terms and not gives_term_weights(loaded):
            close_models([loaded])
            raise InvalidInput(
                f"mode 'lexical' searches by term weights, and the encoder {setting.encoder!r} "
                "gives none",
                fix="Leave lexical out of the modes, or name bge-m3.",
            )
        return loaded

    def _close_encoder(self) -> None:
        if self._encoder is None:
            return
        _, loaded, kept = self._encoder
        self._encoder = None
        kept.close()
        close_models([loaded])
        del loaded, kept
        gc.collect()


def resident_bytes() -> int | None:
    """Memory of this process that is not swapped out (on macOS its peak); None where unknown."""
    try:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return _peak()
    return pages * os.sysconf("SC_PAGE_SIZE")


def _peak() -> int | None:
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return None


def _growth(before: int | None) -> int | None:
    now = resident_bytes()
    return None if before is None or now is None else max(0, now - before)


_PROBE = "how long does it take until the costs of a journey are paid back? " * 20
"""A text by which a model has computed once, so that what it needs for that is allocated."""
