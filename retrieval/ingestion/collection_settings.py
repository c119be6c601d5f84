"""How a collection is laid out and stored: its own settings, the caller's, or defaults."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias, TypedDict

from retrieval._validate import is_number, is_whole_number
from retrieval.errors import InvalidInput
from retrieval.index.bm25 import bm25_info
from retrieval.index.tenants import Tenancy
from retrieval.ingestion.infer_fields import payload_fields
from retrieval.splitting.splitter import DEFAULT_MAX_TOKENS, DEFAULT_OVERLAP_TOKENS, Splitter
from retrieval.types import (
    Document,
    Encoder,
    FieldKind,
    Index,
    Layout,
    Manifest,
    MultiEncoder,
    SplitterInfo,
    Storage,
)

StorageOptions: TypeAlias = "Storage | Mapping[str, Any] | None"
"""A `Storage`, which gives all values, or some of its values by name."""

FieldOptions: TypeAlias = "Literal['auto'] | Mapping[str, FieldKind] | None"


class CollectionOptions(TypedDict, total=False):
    """How a new collection is made; of one that exists, each must be as it is.

    See `retrieval.api.ingest.IngestOptions` for each, and `settle` for the defaults.
    """

    language: str
    fold_accents: bool | None
    max_tokens: int | Literal["default"] | None
    overlap_tokens: int | None
    storage: StorageOptions
    fields: FieldOptions
    lexical: bool
    token_vectors: bool


SAMPLE_DOCUMENTS = 200
"""Documents from the beginning of a source that its language and its fields are judged by."""

EMBEDDED_PASSAGES = 1_000_000
"""From here on the embedded engine's one process, one writer and minutes of optimising, during
which it answers nobody, are a worse deal than a server."""

_PROBE = "dimension"
_COUNT = ("None or a whole number from 1", lambda v: v is None or is_whole_number(v, 1))
_FORMS: dict[str, tuple[str, Any]] = {
    "quantization": ("none, int8 or binary", lambda v: v in ("none", "int8", "binary")),
    "oversampling": ("a number from 1 to 100", lambda v: is_number(v, 1, 100)),
    "hnsw_m": ("a whole number from 4 to 256", lambda v: is_whole_number(v, 4, 256)),
    "hnsw_ef_construct": (
        "a whole number from 4 to 10,000",
        lambda v: is_whole_number(v, 4, 10_000),
    ),
    "search_ef": _COUNT,
    "on_disk": ("True or False", lambda v: isinstance(v, bool)),
    "fields": ("a mapping of names to kinds", lambda v: isinstance(v, Mapping)),
    "shards": _COUNT,
    "replicas": _COUNT,
    "write_consistency": _COUNT,
}


def settle(
    built: Manifest | None,
    collection: str,
    encoder: Encoder,
    sample: Sequence[Document],
    tenant: str | None,
    *,
    language: str = "auto",
    fold_accents: bool | None = None,
    max_tokens: int | Literal["default"] | None = "default",
    overlap_tokens: int | None = None,
    storage: StorageOptions = None,
    fields: FieldOptions = "auto",
    lexical: bool = False,
    token_vectors: bool = False,
) -> tuple[Manifest, Splitter]:
    """The manifest that is asked for, and its splitter.

    Args:
        built: the manifest that the collection was built with; None for a new one. What the
            options leave open stays as it says.
        collection: its name, for a new one.
        sample: the first documents, by which a new collection's language and fields are judged.
        language, max_tokens, …: see `CollectionOptions`.

    Raises:
        InvalidInput: a value that cannot be used.
    """
    usual = SplitterInfo(min(DEFAULT_MAX_TOKENS, encoder.info.max_length), DEFAULT_OVERLAP_TOKENS)
    if built is not None:
        usual = built.splitter
    if max_tokens == "default":
        max_tokens = usual.max_tokens
    if overlap_tokens is None:
        overlap_tokens = usual.overlap_tokens
    if built is None and max_tokens is None:
        overlap_tokens = 0  # a whole document is one passage, which has no next one
    splitter = Splitter(encoder.token_counter, max_tokens=max_tokens, overlap_tokens=overlap_tokens)
    if built is None:
        texts = [document.text for document in sample]
        bm25 = bm25_info(language, texts, fold_accents=fold_accents)
    elif language != "auto" or fold_accents is not None:
        bm25 = bm25_info(
            built.bm25.language if language == "auto" else language,
            fold_accents=built.bm25.folds if fold_accents is None else fold_accents,
            version=built.bm25.version,
        )
    else:
        bm25 = built.bm25
    settled: dict[str, Any] = {
        "encoder": encoder.info,
        "splitter": splitter.info,
        "bm25": bm25,
        "layout": _layout(
            built, encoder, lexical=lexical, token_vectors=token_vectors, tenant=tenant
        ),
        "storage": _storage(built, storage, fields, sample),
    }
    if built is None:
        return Manifest(collection, **settled), splitter
    return dataclasses.replace(built, **settled), splitter


def _layout(
    built: Manifest | None,
    encoder: Encoder,
    *,
    lexical: bool,
    token_vectors: bool,
    tenant: str | None,
) -> Layout:
    """The layout that is asked for; an existing collection's own where the options say nothing.

    Raises:
        InvalidInput: the encoder lacks an output that the collection stores, or the tenant is
            missing or no usable name.
    """
    own = Layout() if built is None else built.layout
    tenants = own.tenants or tenant is not None
    Tenancy(tenants).check(tenant)
    dimension = own.token_dimension
    if token_vectors and dimension is None:
        dimension = _token_dimension(encoder)
    if lexical and not own.lexical:
        _multi(encoder, "term weights").encode_all([_PROBE], "passage", lexical=True)
    return Layout(own.lexical or lexical, dimension, tenants)


def _storage(
    built: Manifest | None,
    storage: StorageOptions,
    fields: FieldOptions,
    sample: Sequence[Document],
) -> Storage:
    """The storage that is asked for; an existing collection's own where nothing is given.

    Args:
        built: what built the collection; None for a new one.
        storage, fields: as for `retrieval.ingest`.
        sample: the first documents, of a new collection.

    Raises:
        InvalidInput: a value that cannot be used.
    """
    chosen = _storage_values(storage)
    if isinstance(fields, str) and fields != "auto":
        raise InvalidInput(
            f"fields={fields!r} was given, expected 'auto', None or a mapping",
            fix='Name them with their kinds: fields={"year": "number", "lang": "keyword"}.',
        )
    if isinstance(fields, Mapping):
        chosen["fields"] = dict(fields)
    elif isinstance(storage, Storage) and not storage.fields:
        del chosen["fields"]  # its default, which says nothing
    if "fields" not in chosen and built is None and fields == "auto":
        chosen["fields"] = payload_fields(sample)
    return dataclasses.replace(Storage() if built is None else built.storage, **chosen)


def size_notices(index: Index, store: str) -> tuple[str, ...]:
    """Advice where an embedded collection has outgrown its engine."""
    points = index.status().points
    if points <= EMBEDDED_PASSAGES:
        return ()
    return (
        f"The collection holds {points:,} passages; from {EMBEDDED_PASSAGES:,} on a Qdrant server "
        f"serves better. Move it with: retrieval copy {index.collection} --store {store} "
        "--to http://HOST:6333",
    )


def _storage_values(storage: StorageOptions) -> dict[str, Any]:
    if storage is None:
        return {}
    names = [one.name for one in dataclasses.fields(Storage)]
    if isinstance(storage, Storage):
        chosen = {name: getattr(storage, name) for name in names}
    elif isinstance(storage, Mapping):
        chosen = dict(storage)
    else:
        raise InvalidInput(
            f"storage is a {type(storage).__name__}, expected a Storage or a mapping",
            fix='Write storage={"quantization": "int8"}.',
        )
    for name, value in chosen.items():
        if name not in names:
            raise InvalidInput(
                f"storage has {name!r}, expected {', '.join(names)}", fix="Use one of these."
            )
        expected, fits = _FORMS[name]
        if not fits(value):
            raise InvalidInput(
                f"storage has {name}={value!r}, expected {expected}",
                fix="Leave it out, or correct it.",
            )
    return chosen


def _token_dimension(encoder: Encoder) -> int:
    encoding = _multi(encoder, "token vectors").encode_all([_PROBE], "passage", token_vectors=True)
    assert encoding.token_vectors is not None
    return int(encoding.token_vectors[0].shape[1])


def _multi(encoder: Encoder, what: str) -> MultiEncoder:
    if isinstance(encoder, MultiEncoder):
        return encoder
    raise InvalidInput(
        f"{what} were requested, and the encoder {encoder.info.model!r} gives one vector per text",
        fix="Use an encoder that has them, such as bge-m3.",
    )
