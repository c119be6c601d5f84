"""What a collection remembers of how it was built: reading, writing and comparing manifests.

A manifest that does not say exactly what is expected is refused; nothing is guessed, filled in
or wiped to make it fit.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import secrets
import types
import typing
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from retrieval._files import atomic_write, os_error, os_errors
from retrieval._validate import is_whole_number
from retrieval.errors import (
    InvalidInput,
    ManifestCorrupt,
    ManifestMismatch,
)
from retrieval.index.payload_fields import index_paths
from retrieval.index.tuning import tuning_from_dict, tuning_to_dict
from retrieval.types import Bm25Info, EncoderInfo, Layout, Manifest, SplitterInfo, Storage
from retrieval.types.tuning import NO_TUNING

FORMAT_VERSION = 3
"""The layout of payloads and vectors that this version of the library writes."""

MANIFEST_KEY = "retrieval_manifest"
"""Where the manifest is in the metadata of a server's collection (Qdrant 1.16 or newer)."""

_READ_VERSIONS = (2, FORMAT_VERSION)
"""Format 2 is the same without `id`."""

_ONLY_WHERE_GIVEN = ("query_suffix", "query_examples")
"""Of an encoder: few have them, and manifests before them are read as having none."""

_BM25_OF_OLD: dict[str, Any] = {"version": 1, "folds": False}
"""What manifests before version 2 of BM25's rules do not say."""

_ID = re.compile(r"[0-9a-f]{8,64}")  # it becomes a part of names

COLLECTION_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_PHYSICAL_NAME = re.compile(rf"({COLLECTION_NAME.pattern})(?:@v([1-9][0-9]{{0,8}}))?")

_T = TypeVar("_T")
_PARTS: dict[str, type[Any]] = {
    "encoder": EncoderInfo,
    "splitter": SplitterInfo,
    "bm25": Bm25Info,
    "layout": Layout,
    "storage": Storage,
}


def check_name(collection: str) -> str:
    """The collection name, checked.

    Raises:
        InvalidInput: it could not be a folder name everywhere, or would leave the store.
    """
    if isinstance(collection, str) and COLLECTION_NAME.fullmatch(collection):
        return collection
    raise InvalidInput(
        f"the collection name is {collection!r}, expected 1 to 64 letters (A-Z, a-z), digits, "
        "dots, hyphens or underscores, the first a letter or digit",
        fix="Choose such a name, for example 'docs' or 'docs-2024'.",
    )


def split_name(name: str) -> tuple[str, int | None]:
    """The name a collection is searched by and, of one version of it, the number.

    `docs` is ("docs", None) and `docs@v2` is ("docs", 2).

    Raises:
        InvalidInput: it is neither.
    """
    found = _PHYSICAL_NAME.fullmatch(name) if isinstance(name, str) else None
    if found is None:
        return check_name(name), None  # which says what is wrong with it
    return found[1], int(found[2]) if found[2] else None


def version_name(collection: str, version: int) -> str:
    """The engine's name of one version of a collection."""
    return f"{check_name(collection)}@v{version}"


def manifest_to_dict(manifest: Manifest) -> dict[str, Any]:
    """The manifest as JSON values, in the format that it says."""
    values = dataclasses.asdict(manifest)
    for name in _ONLY_WHERE_GIVEN:
        if not values["encoder"][name]:
            del values["encoder"][name]  # so that older versions read what does not need it
    if manifest.bm25.version == 1:
        for name in _BM25_OF_OLD:
            del values["bm25"][name]
    if manifest.format_version == 2:
        del values["id"]
    del values["tuning"]
    if manifest.tuning != NO_TUNING:
        values["tuning"] = tuning_to_dict(manifest.tuning)
    return values


def manifest_from_dict(values: object, *, origin: str) -> Manifest:
    """A manifest from JSON values, every field checked.

    Args:
        values: what was stored.
        origin: where it was stored (a file or a URL), for messages.

    Raises:
        ManifestMismatch: it was written in a format that this version does not know.
        ManifestCorrupt: a field is missing, unknown or of the wrong type.
    """
    if not isinstance(values, dict):
        raise _corrupt(origin, f"it holds {_kind(values)}, not an object")
    version = values.get("format_version")
    if is_whole_number(version) and version not in _READ_VERSIONS:
        known = " and ".join(map(str, _READ_VERSIONS))
        raise ManifestMismatch(
            f"the manifest in {origin} has format version {version}, this library reads "
            f"versions {known}; nothing was changed",
            fix="Use the version of the library that wrote it, or index the documents again into "
            "a new collection.",
        )
    parts = {
        name: _build(kind, values[name], origin, f"{name}.")
        for name, kind in _PARTS.items()
        if name in values
    }
    if "tuning" in values:
        try:
            parts["tuning"] = tuning_from_dict(values["tuning"])
        except ValueError as error:
            raise ManifestCorrupt(
                f"the manifest {origin} cannot be used: tuning.{error}",
                fix="Use the version of the library that wrote it, or take its entry 'tuning' out "
                "and choose defaults and calibrate again: nothing that is stored hangs on it.",
            ) from None
    else:
        parts["tuning"] = NO_TUNING
    if version == 2 and "id" not in values:
        parts["id"] = ""
    manifest = _build(Manifest, {**values, **parts}, origin, "")
    if version != 2 and not _ID.fullmatch(manifest.id):
        raise _corrupt(origin, f"id is {manifest.id!r}, expected 8 to 64 hex digits")
    return manifest


def prepare_manifest(name: str, manifest: Manifest) -> Manifest:
    """The manifest of a new collection, or of a new version of one, with the time of creation and
    an id that no other has.

    Args:
        name: `docs`, or `docs@v2`; the manifest names `docs` in both cases.

    Raises:
        InvalidInput: it names another collection, or asks for a storage that does not exist.
    """
    collection, _ = split_name(name)
    if manifest.collection != collection:
        raise InvalidInput(
            f"the manifest names the collection {manifest.collection!r}, expected {collection!r}",
            fix="Give both the same name.",
        )
    _check_storage(manifest.storage)
    index_paths(manifest.layout, manifest.storage)  # which refuses what cannot be indexed
    created = manifest.created or datetime.now(UTC).isoformat(timespec="seconds")
    return dataclasses.replace(
        manifest, created=created, format_version=FORMAT_VERSION, id=secrets.token_hex(8)
    )


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write the manifest so that after a crash either the old or the new file is there, whole.

    Raises:
        DiskFull, StoreDenied, StoreFault: the file could not be written; the old one is untouched.
    """
    text = json.dumps(manifest_to_dict(manifest), ensure_ascii=False, indent=2) + "\n"
    with os_errors(f"write the manifest {path}"), atomic_write(path) as file:
        file.write(text)


def read_manifest_file(path: Path) -> Manifest:
    """Read and check a manifest.

    Raises:
        ManifestCorrupt: the file is missing, no JSON, or not a manifest.
        ManifestMismatch: its format is of another version.
        StoreDenied, StoreFault: the file could not be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise _corrupt(str(path), "the file is missing") from None
    except UnicodeDecodeError as error:
        raise _corrupt(str(path), f"it is not UTF-8 text ({error.reason})") from None
    except OSError as error:
        raise os_error(error, f"read the manifest {path}") from error
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        what = "it is empty" if not text.strip() else f"it is not JSON ({error})"
        raise _corrupt(str(path), what) from None
    return manifest_from_dict(values, origin=str(path))


def check_manifest(stored: Manifest, expected: Manifest) -> None:
    """Refuse to go on with other models or settings than those that built the collection.

    The encoder's name does not decide where the fingerprints agree: the same weights may be in
    another folder, or go by another name.

    Raises:
        ManifestMismatch: names every field that differs, except those that say when it was made
            and which one it is.
    """
    # how it is searched may differ: it changes nothing of what is stored
    stored, expected = (dataclasses.replace(one, tuning=NO_TUNING) for one in (stored, expected))
    was, asked = _flat(manifest_to_dict(stored)), _flat(manifest_to_dict(expected))
    free = {"created", "id", "format_version"}
    if stored.encoder.fingerprint == expected.encoder.fingerprint:
        free.add("encoder.model")
    different = [
        f"{name} is {was.get(name)!r}, asked for {asked.get(name)!r}"
        for name in {**was, **asked}
        if name not in free and was.get(name) != asked.get(name)
    ]
    if different:
        raise ManifestMismatch(
            f"the collection {stored.collection!r} was built with other settings: "
            + "; ".join(different)
            + ". Nothing was changed",
            fix=f"Use what built it (encoder {stored.encoder.model!r} and the stored values "
            "above), or index into a new collection.",
        )


_LEAST = {
    "oversampling": 1.0, "hnsw_m": 2, "hnsw_ef_construct": 4, "search_ef": 1, "shards": 1,
    "replicas": 1, "write_consistency": 1,
}  # fmt: skip


def _check_storage(storage: Storage) -> None:
    hints = typing.get_type_hints(Storage)
    for name, hint in hints.items():
        value = getattr(storage, name)
        least = _LEAST.get(name)
        if name == "fields":
            continue  # checked where they become payload paths
        if not _fits(value, hint) or (least is not None and value is not None and value < least):
            expected = _say(hint) if least is None else f"a number of at least {least}"
            raise InvalidInput(
                f"storage.{name} is {value!r}, expected {expected}",
                fix="Leave it out for the default. Nothing was made.",
            )


def _build(kind: type[_T], values: object, origin: str, prefix: str) -> _T:
    if not isinstance(values, dict):
        raise _corrupt(origin, f"{prefix.rstrip('.')!r} holds {_kind(values)}, not an object")
    hints = typing.get_type_hints(kind)
    if kind is EncoderInfo:
        none: dict[str, Any] = dict.fromkeys(_ONLY_WHERE_GIVEN, "")
        values = none | values
    if kind is Bm25Info:
        values = _BM25_OF_OLD | values
    missing = [name for name in hints if name not in values]
    unknown = [name for name in values if name not in hints]
    if missing:
        raise _corrupt(origin, "missing: " + ", ".join(prefix + name for name in missing))
    if unknown:
        raise _corrupt(origin, "unknown: " + ", ".join(f"{prefix}{name}" for name in unknown))
    for name, hint in hints.items():
        if not _fits(values[name], hint):
            raise _corrupt(origin, f"{prefix}{name} is {values[name]!r}, expected {_say(hint)}")
    for name in ("dimension", "max_length", "max_tokens", "avg_len"):
        if name in hints and values[name] is not None and not values[name] > 0:
            raise _corrupt(origin, f"{prefix}{name} is {values[name]!r}, expected more than 0")
    return kind(**values)


def _fits(value: object, hint: Any) -> bool:
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return any(_fits(value, part) for part in typing.get_args(hint))
    if typing.get_origin(hint) is typing.Literal:
        return value in typing.get_args(hint)
    if typing.get_origin(hint) is Mapping:
        kinds = typing.get_args(hint)
        return isinstance(value, dict) and all(
            _fits(key, kinds[0]) and _fits(item, kinds[1]) for key, item in value.items()
        )
    if hint is float:
        # JSON has one kind of number: a server may hand 100.0 back as 100
        return type(value) in (int, float) and math.isfinite(typing.cast(float, value))
    return type(value) is hint


def _say(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(repr(choice) for choice in typing.get_args(hint))
    if typing.get_origin(hint) is Mapping:
        return "a mapping to " + _say(typing.get_args(hint)[1])
    if hint is float:
        return "a finite number"
    return getattr(hint, "__name__", str(hint)) if isinstance(hint, type) else str(hint)


def _kind(value: object) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat


def _corrupt(origin: str, what: str) -> ManifestCorrupt:
    return ManifestCorrupt(
        f"the manifest {origin} cannot be used: {what}",
        fix="Restore it from a backup, or delete the collection and index again; "
        "nothing was changed.",
    )
