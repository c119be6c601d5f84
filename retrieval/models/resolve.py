"""Resolves a name to a model on this machine: registry name, then local folder, then hub id.

What a model declares is read; what nothing declares is an error naming the argument that settles
it. A wrong pooling or a missing instruction costs quality in silence, so neither is ever guessed.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import get_args

from retrieval.errors import InvalidInput, ModelFault, ModelNotFound, ModelSettingUnknown
from retrieval.models import hub, registry
from retrieval.models.defaults import Choice, choose_models
from retrieval.models.describe import (
    Overrides,
    agrees,
    check_built_in,
    check_overrides,
    describe,
    with_overrides,
)
from retrieval.models.examples import QueryExamples
from retrieval.models.fingerprint import fingerprint
from retrieval.models.hub_errors import not_found
from retrieval.models.model_folder import ModelFolder, read_folder
from retrieval.models.model_kinds import article, wrong_kind
from retrieval.models.score_modules import score_files
from retrieval.models.sources.known import known_folder
from retrieval.models.weight_files import has_tokenizer, weight_files
from retrieval.types import ModelKind, ModelSpec, ResolvedModel

__all__ = ["Choice", "choose_models", "resolve"]


def resolve(
    name: str | os.PathLike[str],
    kind: ModelKind,
    *,
    pooling: str | None = None,
    query_instruction: str | None = None,
    passage_instruction: str | None = None,
    query_suffix: str | None = None,
    query_examples: QueryExamples | None = None,
    max_length: int | None = None,
    score_head: str | None = None,
    revision: str | None = None,
    download: bool = True,
    endpoint: str | None = None,
    cache_dir: Path | None = None,
    fingerprint_cache: Path | None = None,
) -> ResolvedModel:
    """Find a model, fetch it where needed, and settle everything that running it takes.

    Args:
        name: a registry name or short name, a folder, or a hub id, tried in this order; a
            path object is always a folder. A hub id may end in `@revision`;
            `@int8-origin` means the weights that a package of a package index carries.
        kind: what it is used as.
        pooling, query_instruction, passage_instruction, max_length: replace what the model
            declares, or settle what it leaves open. Instructions are put before the text verbatim.
        query_suffix, query_examples: what stands behind a query, and few-shot examples before its
            instruction (bge-en-icl): see `retrieval.models.examples`.
        score_head: how a language model scores, `yes-logit`, `chat-logit` or `classification`,
            where its files do not say.
        revision: branch, tag or commit of a hub model.
        download: False keeps to what is on this machine.
        endpoint, cache_dir: another hub, another hub cache than huggingface_hub's own.
        fingerprint_cache: the file that remembers digests of weights, instead of the user's.

    Returns:
        The spec, the folder that holds config.json, tokeniser and weights, and the fingerprint.
        `spec.name` can be resolved again: a registry name, a hub id, or the folder's full path.
        It ends in `@int8-origin` also where a plain name was given, no hub answers, and a
        package carries that model: those are other weights than the hub's.

    Raises:
        ModelNotFound: it is nowhere, or incomplete, or no hub answers.
        ModelSettingUnknown: nothing declares a setting; the message names the argument for it.
        InvalidInput: an argument is wrong, or the model is of another kind or cannot be run here.
        ModelFault: files that are there cannot be read.
    """
    overrides = check_overrides(
        kind,
        pooling,
        query_instruction,
        passage_instruction,
        max_length,
        score_head,
        query_suffix,
        query_examples,
    )
    text = os.fspath(name)
    if kind not in get_args(ModelKind):
        raise InvalidInput(
            f"the kind of model {kind!r} does not exist", fix="Use 'encoder' or 'reranker'."
        )
    if not text.strip() or text in ("auto", "none"):
        raise InvalidInput(
            f"{text!r} is not the name of a model",
            fix="Give a name from `retrieval models`, a folder, or a hub id.",
        )
    if not isinstance(name, str):
        spec, found = _from_folder(Path(text), kind, overrides)
    else:
        text = registry.spelled_out(text, kind)
        base, at, pinned = text.partition("@")
        known = registry.find(base, kind)
        if known is not None:
            revision = _revision(revision, pinned if at else None)
            spec, found = _from_registry(
                known, kind, overrides, revision, download, endpoint, cache_dir
            )
        elif Path(text).expanduser().is_dir():
            spec, found = _from_folder(Path(text).expanduser(), kind, overrides)
        elif _looks_like_a_path(text) or not hub.is_hub_id(base):
            raise not_found(text, kind, "no model has that name and no such folder exists")
        else:
            revision = _revision(revision, pinned if at else None)
            spec, found = _from_hub(base, kind, overrides, revision, download, endpoint, cache_dir)
    weights = weight_files(found.transformer)
    if not has_tokenizer(found.transformer):
        raise ModelNotFound(
            f"the folder {found.transformer} has no tokeniser (tokenizer.json or a vocabulary)",
            fix="Save the tokeniser beside the model, or fetch the model again.",
        )
    if kind == "reranker":
        weights += score_files(found.root)
    mark = fingerprint(found.transformer, weights, cache=fingerprint_cache)
    return ResolvedModel(spec=spec, path=found.transformer, fingerprint=mark)


# --- where it comes from --------------------------------------------------------------------


def _from_registry(
    known: ModelSpec,
    kind: ModelKind,
    overrides: Overrides,
    revision: str | None,
    download: bool,
    endpoint: str | None,
    cache_dir: Path | None,
) -> tuple[ModelSpec, ModelFolder]:
    if known.kind != kind:
        raise wrong_kind(known.name, kind, f"it is {article(known.kind)}")
    if (reason := registry.UNSUPPORTED.get(known.name)) is not None:
        raise InvalidInput(
            f"the model {known.name} is known but cannot be run here: {reason}",
            fix="Choose another from `retrieval models`, such as "
            + ("BAAI/bge-m3." if kind == "encoder" else "BAAI/bge-reranker-v2-m3."),
        )
    repo = registry.MAXSIM_ENCODER if known.name == registry.MAXSIM else known.name
    found, revision = known_folder(
        repo, kind, revision, download=download, endpoint=endpoint, cache_dir=cache_dir
    )
    check_built_in(found)
    if not agrees(known, found):
        raise ModelFault(
            f"the files in {found.root} are not those of {known.name}: they declare "
            f"{found.architecture} with dimension {found.dimension}",
            fix="Fetch the model again, or give the folder's path if other files are meant.",
        )
    spec = replace(known, name=_pinned(known.name, revision))
    return with_overrides(spec, overrides, found), found


def _from_folder(
    folder: Path, kind: ModelKind, overrides: Overrides
) -> tuple[ModelSpec, ModelFolder]:
    if not folder.is_dir():
        what = "it is a file" if folder.exists() else "no such folder exists"
        raise not_found(str(folder), kind, what)
    folder = folder.absolute()
    found = read_folder(folder)
    known = registry.find(_folder_name(folder), kind)
    if (
        known is not None
        and known.kind == kind
        and known.name not in registry.UNSUPPORTED
        and known.score_head != "maxsim"
        and agrees(known, found)
    ):
        check_built_in(found)
        return with_overrides(replace(known, name=str(folder)), overrides, found), found
    return describe(str(folder), kind, overrides, found), found


def _from_hub(
    repo: str,
    kind: ModelKind,
    overrides: Overrides,
    revision: str | None,
    download: bool,
    endpoint: str | None,
    cache_dir: Path | None,
) -> tuple[ModelSpec, ModelFolder]:
    name = _pinned(repo, revision)
    cached = hub.cached_settings(repo, revision=revision, cache_dir=cache_dir)
    if cached is not None and hub.is_complete(cached):
        found = read_folder(cached)
        try:
            return describe(name, kind, overrides, found), found
        except ModelSettingUnknown:
            # Other tools fetch weights without the small files that declare the settings.
            if not download or (cached / "modules.json").exists():
                raise
    if not download:
        raise not_found(name, kind, "it is not on this machine, and download=False")
    snapshot = hub.fetch_settings(
        repo, kind, revision=revision, cache_dir=cache_dir, endpoint=endpoint
    )
    found = read_folder(snapshot)
    spec = describe(name, kind, overrides, found)  # refuses before the weights are fetched
    if not hub.is_complete(snapshot):
        hub.fetch_weights(
            repo, kind, snapshot, found.transformer, cache_dir=cache_dir, endpoint=endpoint
        )
    return spec, found


# --- small things ---------------------------------------------------------------------------


def _pinned(name: str, revision: str | None) -> str:
    return name if revision is None else f"{name}@{revision}"


def _revision(argument: str | None, pinned: str | None) -> str | None:
    if pinned is not None and argument is not None and pinned != argument:
        raise InvalidInput(
            f"two revisions were given, {pinned!r} in the name and revision={argument!r}",
            fix="Give one of them.",
        )
    return argument if pinned is None else pinned


def _looks_like_a_path(name: str) -> bool:
    return name.startswith(("/", ".", "~")) or name.endswith(("/", os.sep)) or "\\" in name


def _folder_name(folder: Path) -> str:
    """What a folder calls its model: its last part, or the repository of a hub cache snapshot."""
    if folder.parent.name == "snapshots":
        return folder.parent.parent.name.removeprefix("models--").replace("--", "/")
    return folder.name
