"""What the workers do: read, split, encode, write. Callables for `ray.data.Dataset.map_batches`.

Each takes a block with one item and gives blocks with one item. Models and collections are opened
at the first item that needs them, so a run in which nothing changed loads no model. An error of
this library becomes a `Failure` among the items; the driver raises it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar, cast

import numpy as np

from retrieval.api.models import load_encoder_of
from retrieval.distributed.messages import (
    Counts,
    DocumentBatch,
    Encoded,
    Failure,
    FileGroup,
    Item,
    Prepared,
    packed,
    unpacked,
)
from retrieval.distributed.partitions import read_group
from retrieval.distributed.writers import CollectionAccess, Target, access_to
from retrieval.errors import RetrievalError
from retrieval.index.manifest import check_manifest
from retrieval.ingestion.prepare import DocumentSplitter, Preparing
from retrieval.ingestion.seen_documents import SeenDocuments
from retrieval.models.resolve import resolve
from retrieval.readers.options import ReadOptions
from retrieval.splitting.splitter import Splitter
from retrieval.types import (
    Document,
    DocumentState,
    Encoder,
    Encoding,
    Index,
    Manifest,
    Passage,
    Problem,
    TokenCounter,
)

if TYPE_CHECKING:
    import pyarrow as pa

EncoderFactory: TypeAlias = Callable[[], Encoder]

# A batch has more only where one document does; this many are tokenised and held at a time.
_ENCODE_AT_ONCE = 4_096

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Job:
    """What all workers of a run know.

    owner: handle of the embedded collection's owner; None for a server. factory: makes the
    encoder, where it is not one that the manifest names. model_options: of the encoder.
    """

    target: Target
    manifest: Manifest
    owner: Any | None
    factory: EncoderFactory | None
    model_options: Mapping[str, Any]

    def load_encoder(self) -> Encoder:
        """The encoder that the collection was built with.

        Raises:
            ManifestMismatch: the model on this machine is another.
        """
        if self.factory is None:
            loaded = load_encoder_of(self.manifest, self.model_options)
        else:
            loaded = self.factory()
        check_manifest(self.manifest, replace(self.manifest, encoder=loaded.info))
        return loaded

    def token_counter(self) -> TokenCounter:
        """The encoder's tokeniser, without its weights where it is a model that can be named."""
        if self.factory is not None:
            return self.factory().token_counter
        from retrieval.models.tokenization.tokenizer import Tokenizer

        built = self.manifest.encoder
        resolved = resolve(
            built.model, "encoder", pooling=built.pooling, max_length=built.max_length
        )
        cache = self.model_options.get("cache_dir")
        return Tokenizer(resolved.path, built.max_length, cache_dir=cache)


def handled(block: pa.Table, handle: Callable[[Any], Iterator[Item]]) -> Iterator[pa.Table]:
    """The items of a block, handled one by one; what failed before passes through."""
    for item in unpacked(block):
        try:
            if isinstance(item, Failure):
                yield packed(item)
            else:
                yield from map(packed, handle(item))
        except RetrievalError as error:
            yield packed(Failure.of(error))


class Read:
    """FileGroup → document batches. Batches, of documents that a program made, pass through."""

    def __init__(self, options: ReadOptions, batch: int, characters: int) -> None:
        self._options = options
        self._batch = batch
        self._characters = characters

    def __call__(self, block: pa.Table) -> Iterator[pa.Table]:
        """For `map_batches`."""
        return handled(block, self.read)

    def read(self, item: FileGroup | DocumentBatch) -> Iterator[Item]:
        """The documents of a group, in batches."""
        if isinstance(item, DocumentBatch):
            yield item
        else:
            yield from read_group(item, self._options, self._batch, self._characters)


class Lazy(Generic[T]):
    """Made at the first use, and kept."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._made: list[T] = []

    def __call__(self) -> T:
        """What was made."""
        if not self._made:
            self._made.append(self._make())
        return self._made[0]


class Split:
    """DocumentBatch → passages of new and changed documents; unchanged ones are only counted."""

    def __init__(self, job: Job) -> None:
        self._access: CollectionAccess = access_to(job.target, job.owner)
        built = job.manifest.splitter
        self._splitter = Lazy(
            lambda: Splitter(
                job.token_counter(),
                max_tokens=built.max_tokens,
                overlap_tokens=built.overlap_tokens,
            )
        )

    def __call__(self, block: pa.Table) -> Iterator[pa.Table]:
        """For `map_batches`."""
        return handled(block, self.split)

    def split(self, batch: DocumentBatch) -> Iterator[Item]:
        """The batch, prepared."""
        problems: list[Problem] = []
        passages: list[Passage] = []
        stale: list[str] = []
        changed: set[str] = set()
        new = 0
        with contextlib.closing(SeenDocuments()) as seen:
            preparing = Preparing(
                index=cast("Index", _States(self._access)),
                splitter=cast("DocumentSplitter", _LazySplitter(self._splitter)),
                seen=seen,
                problems=problems,
                on_error="skip",
                tenant=None,  # `CollectionAccess` knows it
                note_files=False,
            )
            for prepared in preparing.prepare(batch.documents):
                passages += prepared.passages
                stale += prepared.stale
                new += bool(prepared.passages and prepared.is_new)
                if prepared.passages and not prepared.is_new:
                    changed.add(prepared.passages[0].document_id)
        counts = Counts(
            read=preparing.read,
            new=new,
            changed=len(changed),
            unchanged=preparing.unchanged,
            differing=preparing.differing,
            problems=(*batch.problems, *problems),
        )
        if passages:
            yield Prepared(tuple(passages), tuple(stale), frozenset(changed), counts)
        else:
            yield counts


@dataclass(frozen=True, slots=True)
class _States:
    """The part of an index that `Preparing` reads."""

    access: CollectionAccess

    def document_states(
        self, document_ids: list[str], *, tenant: str | None = None
    ) -> dict[str, DocumentState]:
        return self.access.states(document_ids)


@dataclass(frozen=True, slots=True)
class _LazySplitter:
    """A splitter that is made at the first document that must be split."""

    make: Lazy[Splitter]

    def split(self, document: Document) -> list[Passage]:
        return self.make().split(document)


class Encode:
    """Prepared passages → encoded ones. What has nothing to encode passes through."""

    def __init__(self, job: Job) -> None:
        self._layout = job.manifest.layout
        self._encoder = Lazy(job.load_encoder)

    def __call__(self, block: pa.Table) -> Iterator[pa.Table]:
        """For `map_batches`."""
        return handled(block, self.encode)

    def encode(self, item: Prepared | Counts) -> Iterator[Item]:
        """The passages with their vectors."""
        if isinstance(item, Counts):
            yield item
            return
        texts = [passage.content for passage in item.passages]
        parts = [
            self._encoding(texts[start : start + _ENCODE_AT_ONCE])
            for start in range(0, len(texts), _ENCODE_AT_ONCE)
        ]
        layout = self._layout
        yield Encoded(
            item.passages,
            np.concatenate([part.vectors for part in parts]),
            tuple(one for part in parts for one in part.lexical or ()) if layout.lexical else None,
            tuple(one for part in parts for one in part.token_vectors or ())
            if layout.token_dimension is not None
            else None,
            item.stale,
            item.changed,
            item.counts
            + Counts(
                passages=len(texts),
                tokens=sum(int(part.tokens.sum()) for part in parts),
                truncated=sum(int(part.truncated.sum()) for part in parts),
            ),
        )

    def _encoding(self, texts: list[str]) -> Encoding:
        encoder: Any = self._encoder()
        lexical, tokens = self._layout.lexical, self._layout.token_dimension is not None
        found: Encoding
        if lexical or tokens:
            found = encoder.encode_all(texts, "passage", lexical=lexical, token_vectors=tokens)
        else:
            found = encoder.encode_passages(texts)
        return found


class Write:
    """Encoded passages → counts, once the passages are durable."""

    def __init__(self, job: Job) -> None:
        self._access: CollectionAccess = access_to(job.target, job.owner)

    def __call__(self, block: pa.Table) -> Iterator[pa.Table]:
        """For `map_batches`."""
        return handled(block, self.write)

    def write(self, item: Encoded | Counts) -> Iterator[Item]:
        """The counts of what was written."""
        if isinstance(item, Counts):
            yield item
            return
        self._access.write(item)
        yield item.counts
