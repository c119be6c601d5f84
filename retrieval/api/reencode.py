"""The next version of a collection, with another encoder's vectors of the passages it holds.

No source is read: passages, their BM25 terms and all that is stored with them stay as they are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from retrieval.api.lent_models import EncoderLike, loaded_encoder
from retrieval.errors import InvalidInput, StoreFault
from retrieval.index.payload import payload_to_passage
from retrieval.index.point_store import PointData
from retrieval.index.store import Store, StoreLike
from retrieval.index.upsert_checks import check_vectors, point
from retrieval.ingestion.pipeline import WINDOW_PASSAGES, is_plain
from retrieval.types import Encoder, Manifest
from retrieval.types.tuning import NO_TUNING


@dataclass(frozen=True, slots=True)
class Reencoded:
    """What was built.

    Attributes:
        version: by the engine's own name.
        passages: that it holds.
        truncated: of those encoded by this call, how many the encoder read only in part.
    """

    version: str
    passages: int
    truncated: int


def reencode(
    collection: str,
    encoder: EncoderLike,
    version: str,
    *,
    store: StoreLike,
    options: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Reencoded:
    """Build a version of a collection from another one's passages, with another encoder.

    Searches go on with the version that they use; `Store.switch` lets them use the new one. A
    call that was cut off is continued by the next.

    Args:
        collection: its name, or the version whose passages are taken.
        encoder: a name, a folder, or an encoder.
        version: to build, such as docs@v2: a new one, or one that was begun by this.
        store: folder, URL or `Store`.
        options: how the encoder runs, as for `retrieval.ingest`.
        progress: called with passages done, and in total.

    Raises:
        InvalidInput: the collection stores more than one vector a passage.
        ManifestMismatch: the version was begun with another encoder.
        StoreFault: passages are kept in copies that differ, or were deleted meanwhile.
        As `retrieval.open`, for collection and encoder.
    """
    place = Store.of(store)
    with place.open(collection) as source:
        built = source.manifest
        if not is_plain(built.layout):
            raise InvalidInput(
                f"the collection {built.collection!r} stores more than one vector a passage, "
                "which are not made from stored passages",
                fix="Build it from its sources: retrieval reindex PATH --encoder NAME.",
            )
        total = source.status().points
        with loaded_encoder(encoder, options or {}) as loaded:
            wanted = replace(built, encoder=loaded.info, created="", id="", tuning=NO_TUNING)
            with place.open_or_create(wanted, version=version) as target:
                there = {_state(one) for one in target.points()}
                done = truncated = 0
                points = source.agreed_points()
                while batch := list(islice(points, WINDOW_PASSAGES)):
                    left = [one for one in batch if _state(one) not in there]
                    if left:
                        new, cut = _encoded(left, loaded, wanted)
                        target.write_points(new)
                        truncated += cut
                    done += len(batch)
                    if progress is not None:
                        progress(done, max(done, total))
                target.optimize()
                written = target.status().points
    if written != done:
        raise StoreFault(
            f"{version} holds {written:,} passages after {done:,} were encoded: some were deleted "
            f"from {collection} meanwhile",
            fix=f"Delete it and encode again: retrieval delete {version}.",
        )
    return Reencoded(version, written, truncated)


def _state(one: PointData) -> tuple[str, bytes]:
    """A point and what is stored with it: where both are the same, its vector is, too."""
    text = json.dumps(one.payload, sort_keys=True, ensure_ascii=False)
    return one.id, hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _encoded(
    points: Sequence[PointData], encoder: Encoder, manifest: Manifest
) -> tuple[list[PointData], int]:
    """The points with this encoder's vectors, and how many texts it cut."""
    texts = [payload_to_passage(one.id, one.payload).content for one in points]
    encoding = encoder.encode_passages(texts)
    rows = check_vectors(encoding.vectors, len(points), manifest.encoder.dimension)
    new = [
        point(one.id, row, one.sparse, one.payload, None, None)
        for one, row in zip(points, rows, strict=True)
    ]
    return new, int(encoding.truncated.sum())
