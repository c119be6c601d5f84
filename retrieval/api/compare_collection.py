"""A comparison and a collection: what its settings start from, can vary, and decide for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from retrieval.errors import InvalidInput
from retrieval.evaluation.comparison import ComparisonReport
from retrieval.evaluation.settings import DIMENSIONS, NONE, OWN, PassageLength, Setting
from retrieval.index.store import DEFAULT_STORE, Store, StoreLike
from retrieval.models.resolve import resolve
from retrieval.types import Manifest, SearchDefaults


def base_setting(
    collection: str | None, store: StoreLike = DEFAULT_STORE, api_key: str | None = None
) -> Setting:
    """How a search goes that says nothing: by the library's defaults, or the collection's own."""
    if collection is None:
        return Setting()
    manifest = Store.of(store, api_key).manifest(collection)
    own, usual = manifest.tuning.defaults, Setting()
    splitter = manifest.splitter
    reranker = own.reranker or usual.reranker
    return Setting(
        encoder=manifest.encoder.model,
        passages=PassageLength(splitter.max_tokens, splitter.overlap_tokens),
        dtype=own.dtype or usual.dtype,  # type: ignore[arg-type]  # checked where it was set
        mode=own.mode or usual.mode,
        fusion=own.fusion,
        reranker=None if own.rerank is False or reranker == NONE else reranker,
        candidates=own.candidates or usual.candidates,
        blend=own.blend or usual.blend,
        blend_weight=own.blend_weight,
        read=own.read,
    )


def apply_choice(
    report: ComparisonReport, collection: str, store: StoreLike, api_key: str | None = None
) -> str:
    """Let a collection be searched by the setting that a comparison chose; says what changed.

    Raises:
        InvalidInput: the choice needs another encoder, or passages of another length.
        CollectionNotFound: there is no such collection.
    """
    place = Store.of(store, api_key)
    manifest = place.manifest(collection)
    chosen = report.choice[0].setting
    check_built(chosen, manifest)
    today = datetime.now(UTC).date().isoformat()
    defaults = _as_defaults(chosen, manifest.tuning.defaults)
    defaults = replace(
        defaults, chosen=f"{today} by retrieval compare on {report.judged} {report.split}"
    )
    place.set_defaults(collection, defaults)
    said = [
        f"{name}={value}"
        for name, value in chosen.as_dict().items()
        if not DIMENSIONS[name].indexing and name != "instruction"
    ]
    if chosen.instruction != OWN:
        text = "" if chosen.instruction == NONE else chosen.instruction
        place.set_query_instruction(collection, text)
        said.append(f"query instruction {text!r}")
    return f"Searches of {collection} take from now on: {', '.join(said)}."


def check_varying(settings: Sequence[Setting], manifest: Manifest | None, corpus: object) -> None:
    """Refuse settings that a collection, if one is compared on, would have to be built anew for.

    Raises:
        InvalidInput: says how to compare them, and how to build it.
    """
    if manifest is None:
        return
    if corpus is not None:
        raise InvalidInput(
            f"a corpus ({corpus}) was given besides the collection {manifest.collection!r}",
            fix="Leave out one of them.",
        )
    for setting in settings:
        check_built(setting, manifest, "Leave --collection out to compare on the corpus. ")


def check_built(setting: Setting, manifest: Manifest, instead: str = "") -> None:
    """Refuse a setting that needs another index than the collection has.

    Raises:
        InvalidInput: says `instead` what else can be done, and the command that builds it.
    """
    splitter, name = manifest.splitter, manifest.collection
    own = PassageLength(splitter.max_tokens, splitter.overlap_tokens)
    built = manifest.encoder
    different = []
    options = ""
    if setting.encoder != built.model and not _same_model(setting.encoder, manifest):
        different.append(f"the encoder {setting.encoder} (it has {built.model})")
        options += f" --encoder {setting.encoder}"
    if setting.passages != own:
        different.append(f"passages of {setting.passages} (it has {own})")
        if isinstance(setting.passages.max_tokens, int):
            options += f" --max-tokens {setting.passages.max_tokens}"
            options += f" --overlap-tokens {setting.passages.overlap}"
        elif setting.passages.max_tokens is None:
            options += ", in Python, with max_tokens=None"
    if different:
        raise InvalidInput(
            f"the collection {name!r} cannot be searched with {' and '.join(different)}",
            fix=f"{instead}Build it so: retrieval reindex SOURCE --collection {name}{options}",
        )


def _same_model(name: str, manifest: Manifest) -> bool:
    return resolve(name, "encoder").fingerprint == manifest.encoder.fingerprint


def _as_defaults(setting: Setting, before: SearchDefaults) -> SearchDefaults:
    """What a collection is to remember of a setting; a threshold stays as it was."""
    second: dict[str, Any] = {"rerank": False}
    if setting.reranker is not None:
        second = {
            "rerank": True,
            "reranker": resolve(setting.reranker, "reranker").spec.name,
            "candidates": setting.candidates,
            "read": setting.read,
            "blend": None if setting.blend == "auto" else setting.blend,
            "blend_weight": setting.blend_weight,
        }
    return SearchDefaults(
        mode=setting.mode,
        fusion=setting.fusion,
        dtype=None if setting.dtype == "auto" else setting.dtype,
        min_relevance=before.min_relevance,
        **second,
    )
