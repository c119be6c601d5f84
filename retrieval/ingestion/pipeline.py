"""The threads of one indexing run, the encoder in the caller's, and what they have done."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from retrieval.ingestion.prepare import Prepared, Preparing
from retrieval.ingestion.queues import Channel, Flow, Stopped
from retrieval.ingestion.source_size import SourceSize
from retrieval.ingestion.throughput import Throughput
from retrieval.types import (
    Document,
    Encoder,
    Encoding,
    Index,
    IngestProgress,
    Layout,
    Manifest,
    MultiEncoder,
    Passage,
)

# A window is one call to the encoder and one acknowledged write: long enough that sorting by
# length saves padding (2,048 would save another 1.5% of the encoder's time), short enough that a
# killed run loses seconds of work.
WINDOW_PASSAGES = 512
# Bytes of a window's token vectors, where they are stored.
WINDOW_BYTES = 128 * 1024 * 1024
# How far the threads may run ahead of each other, in characters: of documents that were read, and
# of passages that wait for the encoder (their texts overlap and carry titles).
READ_AHEAD_CHARACTERS = 8_000_000
PREPARED_CHARACTERS = 8_000_000
# Documents whose states are asked for in one call, and how long to wait for as many.
STATES_AT_ONCE = 256
STATES_PATIENCE_S = 0.05

_ITEM = 400  # characters that an empty document or passage counts for
_LEAST_WINDOW = 16
_TELL_S = 0.1
_IDLE_S = 5.0  # a window that a slow source does not fill is written as it is
_JOIN_S = 5.0

IngestProgressCallback = Callable[[IngestProgress], None]


def is_plain(layout: Layout) -> bool:
    """Whether a collection stores one vector per passage and nothing else of an encoder."""
    return not layout.lexical and layout.token_dimension is None


@dataclass(slots=True)
class _Window:
    """What is encoded in one call and written in one; documents count where they end in it.

    leading: new documents that begin in it, trailing: changed ones that end in it, each with its
    number of passages.
    """

    passages: list[Passage] = field(default_factory=list)
    leading: dict[str, int] = field(default_factory=dict)
    trailing: dict[str, int] = field(default_factory=dict)
    stale: list[str] = field(default_factory=list)
    new: int = 0
    changed: int = 0
    characters: int = 0
    encoding: Encoding | None = None
    began: float = field(default_factory=time.monotonic)


class Pipeline:
    """The threads of one run.

    Every counter has one thread that writes it: what is durable the writing thread, what was read
    the reading one, the rest the caller's.
    """

    def __init__(
        self,
        index: Index,
        encoder: Encoder,
        preparing: Preparing,
        window: int,
        tenant: str | None,
        progress: IngestProgressCallback | None,
        size: SourceSize | None,
    ) -> None:
        self._index = index
        self._encoder = encoder
        self._preparing = preparing
        self._window = _bounded(window, index.manifest)
        self._tenant = tenant
        self._progress = progress
        self._size = size
        self.throughput = Throughput()
        self.passages = self.tokens = self.truncated = self.new = self.changed = 0
        self._read = self._read_characters = 0
        self._all_read = self._all_written = False
        self._settled = self._characters = self._encoded = 0
        self._told = 0.0
        self._flow = Flow()
        self._source: Channel[Document] = Channel(self._flow, READ_AHEAD_CHARACTERS)
        self._prepared: Channel[Prepared] = Channel(self._flow, PREPARED_CHARACTERS)
        self._encodings: Channel[_Window] = Channel(self._flow, 1)

    def over(self, documents: Iterable[Document]) -> None:
        """Index all documents; returns when they are durable."""
        flow = self._flow
        try:
            if self._size is not None:
                self._size.start()
            flow.start("retrieval-reader", lambda: self._read_all(documents))
            flow.start("retrieval-preparer", self._prepare_all)
            flow.start("retrieval-writer", self._write_all)
            self._encode_all()
        except Stopped:
            assert flow.failure is not None
            raise flow.failure from None
        finally:
            # After a failure, this waits for the write that is under way.
            flow.stop()
            flow.join(_JOIN_S)
            if self._size is not None:
                self._size.stop()

    def tell(self, *, force: bool = False, passages: int = 0, characters: float = 0.0) -> None:
        """Report the progress, if it is time.

        passages, characters: what has been encoded of the current window.
        """
        now = time.monotonic()
        if self._progress is None or (not force and now - self._told < _TELL_S):
            return
        self._told = now
        self.throughput.note(self._encoded + passages, self._characters + characters)
        total: float | None = None
        if self._all_read:
            total = self._read_characters
        elif self._size is not None and (share := self._size.share()):
            total = self._read_characters / share
        self._progress(
            IngestProgress(
                documents=self._settled + self.new + self.changed,
                total_documents=self._read if self._all_read else None,
                passages=self.passages,
                tokens=self.tokens,
                seconds=self.throughput.seconds,
                passages_per_second=self.throughput.passages_per_second,
                remaining_seconds=self.throughput.remaining(total),
            )
        )

    def _read_all(self, documents: Iterable[Document]) -> None:
        with _ends(self._source):
            for document in documents:
                self._read += 1
                self._read_characters += len(document.text)
                if self._size is not None:
                    self._size.read(document)
                self._source.put(document, len(document.text) + _ITEM)
            self._all_read = True

    def _prepare_all(self) -> None:
        with _ends(self._prepared):
            while documents := self._source.take(STATES_AT_ONCE, patience=STATES_PATIENCE_S):
                for prepared in self._preparing.prepare(documents):
                    weight = sum(len(p.text) + len(p.title) + _ITEM for p in prepared.passages)
                    self._prepared.put(prepared, weight + _ITEM)
            if self._source.error is not None:
                raise self._source.error

    def _encode_all(self) -> None:
        window = _Window()
        while not self._prepared.ended:
            taken = self._prepared.take(STATES_AT_ONCE, timeout=_TELL_S)
            for prepared in taken:
                window = self._add(prepared, window)
            if not taken and window.passages and time.monotonic() - window.began > _IDLE_S:
                self._encode(window)
                window = _Window()
            self.tell()
        if window.passages:
            self._encode(window)
        self._encodings.end()
        while not self._flow.wait(lambda: self._all_written, _TELL_S):
            self.tell()
        if self._prepared.error is not None:
            raise self._prepared.error

    def _add(self, prepared: Prepared, window: _Window) -> _Window:
        """Fill the window, encode it where it is full, and give the one to fill next."""
        if not prepared.passages:
            self._settled += 1
            self._characters += prepared.characters
            return window
        length = len(prepared.passages)
        for passage in prepared.passages:
            window.passages.append(passage)
            if passage is prepared.passages[0] and prepared.is_new:
                window.leading[passage.document_id] = length
            if passage is prepared.passages[-1]:
                if not prepared.is_new:
                    window.trailing[passage.document_id] = length
                # Stale passages go with their document's last new one: all of them are durable.
                window.stale += prepared.stale
                window.new += prepared.is_new
                window.changed += not prepared.is_new
                window.characters += prepared.characters
            if len(window.passages) >= self._window:
                self._encode(window)
                window = _Window()
        return window

    def _encode(self, window: _Window) -> None:
        texts = [passage.content for passage in window.passages]
        layout = self._index.manifest.layout

        def on_progress(done: int, total: int) -> None:
            self.tell(passages=done, characters=window.characters * done / max(total, 1))

        if is_plain(layout):
            window.encoding = self._encoder.encode_passages(texts, progress=on_progress)
        else:
            assert isinstance(self._encoder, MultiEncoder)
            window.encoding = self._encoder.encode_all(
                texts,
                "passage",
                lexical=layout.lexical,
                token_vectors=layout.token_dimension is not None,
                progress=on_progress,
            )
        self._encoded += len(texts)
        self._characters += window.characters
        while not self._encodings.put(window, 1, timeout=_TELL_S):
            self.tell()

    def _write_all(self) -> None:
        layout = self._index.manifest.layout
        while windows := self._encodings.take():
            for window in windows:
                encoding = window.encoding
                assert encoding is not None
                if window.leading:
                    self._index.clear_leftovers(window.leading, tenant=self._tenant)
                self._index.upsert(
                    window.passages,
                    encoding.vectors,
                    lexical=encoding.lexical if layout.lexical else None,
                    token_vectors=None
                    if layout.token_dimension is None
                    else encoding.token_vectors,
                    tenant=self._tenant,
                )
                if window.trailing:
                    self._index.delete_stale(window.stale, window.trailing, tenant=self._tenant)
                self.passages += len(window.passages)
                self.tokens += int(encoding.tokens.sum())
                self.truncated += int(encoding.truncated.sum())
                self.new += window.new
                self.changed += window.changed
        with self._flow.changed:
            self._all_written = True
            self._flow.changed.notify_all()


@contextlib.contextmanager
def _ends(channel: Channel[Any]) -> Iterator[None]:
    """End the channel with the block: with its error, which is raised once all before is written.

    Raises:
        Stopped, KeyboardInterrupt and the like, which end the run at once.
    """
    try:
        yield
    except Stopped:
        raise
    except Exception as error:  # noqa: BLE001  (handed on)
        channel.end(error)
    else:
        channel.end()


def _bounded(window: int, manifest: Manifest) -> int:
    """Passages a window: fewer where each brings a vector per token."""
    width = manifest.layout.token_dimension
    if width is None:
        return window
    tokens = manifest.splitter.max_tokens or manifest.encoder.max_length
    return min(window, max(_LEAST_WINDOW, WINDOW_BYTES // (4 * width * tokens)))
