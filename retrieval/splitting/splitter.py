"""Document → passages that the encoder reads whole, divided where the text itself divides.

Lengths are counted in the encoder's own tokens. A passage ends, in this order of preference, at a
heading, a paragraph, a sentence or list item, a line, a clause, a word, a token.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from bisect import bisect_right
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from retrieval._validate import VISIBLE, is_whole_number, whole_number
from retrieval.errors import InvalidInput
from retrieval.splitting.boundaries import Division, Slice, count_tokens, end_of_text
from retrieval.types import Document, Passage, SplitterInfo, TokenCounter

DEFAULT_MAX_TOKENS = 256
DEFAULT_OVERLAP_TOKENS = 32

_PASSAGE_NAMESPACE = uuid.UUID("6f6b3f0a-0d7c-5c39-9a53-2f1f5d0c8e41")


def passage_id(document_id: str, position: int) -> str:
    """The uuid5 of document id and position: the same passage is the same point on every run.

    Raises:
        InvalidInput: the id holds half of a surrogate pair, which is not text.
    """
    try:
        return str(uuid.uuid5(_PASSAGE_NAMESPACE, f"{document_id}\0{position}"))
    except UnicodeEncodeError as error:
        raise InvalidInput(
            f"the document id {document_id!r} is not text that can be stored",
            fix="Give the document an id of valid Unicode.",
        ) from error


def document_hash(document: Document) -> str:
    """sha256 (hex) over text, title, metadata and pages: whether to encode a document again.

    Id and source are not part of it: moving a folder changes no vector.

    Raises:
        InvalidInput: the metadata are not JSON.
    """
    content: list[Any] = [document.text, document.title, dict(document.metadata)]
    if document.pages:
        # Appended, so that documents without pages keep the hashes they have in collections.
        content.append(list(document.pages))
    try:
        canonical = json.dumps(
            content,
            ensure_ascii=True,
            allow_nan=False,
            sort_keys=True,
            separators=(",", ":"),
        )
    except (TypeError, ValueError) as error:
        raise InvalidInput(
            f"the metadata of document {document.id!r} are not JSON: {error}",
            fix="Use str, int, float, bool, None, lists and dicts with str keys only.",
        ) from error
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()


class Splitter:
    """Divides documents into passages of at most `max_tokens` tokens.

    `max_tokens` counts what the encoder reads: special tokens, title, headings and text. Title and
    headings take at most half; a longer title is cut and ends in "…", and of more headings the
    innermost are kept. With `max_tokens=None` each document is one passage, as in BEIR; the
    encoder cuts and reports what is too long. `overlap_tokens` of a passage's end are repeated in
    the next, from a sentence's beginning where one is near; at most half of `max_tokens` is, and
    nothing across a heading.

    Raises:
        InvalidInput: `max_tokens` leaves no room for text, or `overlap_tokens` is negative.
    """

    def __init__(
        self,
        token_counter: TokenCounter,
        *,
        max_tokens: int | None = DEFAULT_MAX_TOKENS,
        overlap_tokens: int = DEFAULT_OVERLAP_TOKENS,
    ) -> None:
        least = token_counter.special_tokens + 4
        if max_tokens is not None and (not is_whole_number(max_tokens, least)):
            raise InvalidInput(
                f"max_tokens is {max_tokens!r}, expected None or a whole number of at least "
                f"{least} ({token_counter.special_tokens} of them are special tokens)",
                fix=f"Choose a larger one; {DEFAULT_MAX_TOKENS} suits most encoders.",
            )
        whole_number(
            overlap_tokens,
            "overlap_tokens",
            least=0,
            fix=f"Use 0 for none; {DEFAULT_OVERLAP_TOKENS} is usual.",
        )
        self._counter = token_counter
        self._max_tokens = max_tokens
        self._overlap = 0 if max_tokens is None else min(overlap_tokens, max_tokens // 2)

    @property
    def info(self) -> SplitterInfo:
        """What the manifest remembers; `overlap_tokens` as it is used, after the bound by half."""
        return SplitterInfo(max_tokens=self._max_tokens, overlap_tokens=self._overlap)

    def split(self, document: Document) -> list[Passage]:
        """The passages of a document, in order; none where its text is blank.

        `passage.text == document.text[passage.start:passage.end]`; all text that is not blank is
        in some passage. A passage's `headings` are those above its start; a heading that its text
        begins with is in the text. Of a document with pages, a passage's metadata say on which
        `page` it starts, from 1, and on which `last_page` it ends if that is another.

        Raises:
            InvalidInput: the metadata are not JSON, or the pages are not rising offsets from 0.
        """
        _check_pages(document)
        first = VISIBLE.search(document.text)
        if first is None:
            return []
        whole = Slice(first.start(), end_of_text(document.text, 0, len(document.text)))
        if self._max_tokens is None:
            title, slices = document.title, [whole]
        else:
            room = self._max_tokens - self._counter.special_tokens
            title = self._fitting_title(document.title, room)
            if self._fits(title, document.text, whole, room):
                slices = [whole]
            else:
                slices = list(
                    Division(document.text, title, self._counter, room, self._overlap).slices()
                )
        content_hash = document_hash(document)
        return [
            Passage(
                id=passage_id(document.id, position),
                document_id=document.id,
                position=position,
                text=document.text[part.start : part.end],
                start=part.start,
                end=part.end,
                title=title,
                headings=part.headings,
                metadata=_with_pages(document, part),
                source=document.source,
                document_hash=content_hash,
                document_passages=len(slices),
            )
            for position, part in enumerate(slices)
        ]

    def _fitting_title(self, title: str, room: int) -> str:
        if not title:
            return ""
        offsets = self._counter.token_offsets(title)
        keep = room // 2
        if len(offsets) <= keep:
            return title
        # One token is left for the ellipsis; should it need more, another word goes.
        for count in range(keep - 1, 0, -1):
            cut = title[: int(offsets[count][0])].rstrip() + "…"
            if len(self._counter.token_offsets(cut)) <= keep:
                return cut
        return ""

    def _fits(self, title: str, text: str, whole: Slice, room: int) -> bool:
        if whole.end - whole.start > room * 16:  # far more than tokens are long
            return False
        content = f"{title} {text[whole.start : whole.end]}"
        return count_tokens(self._counter, content) <= room


def _check_pages(document: Document) -> None:
    pages = document.pages
    # What precedes the first page, or follows the text, would be on no page.
    rising = all(before <= after for before, after in pairwise((0, *pages, len(document.text))))
    if pages and (pages[0] != 0 or not rising):
        raise InvalidInput(
            f"the pages of document {document.id!r} do not begin at 0 and rise to at most the "
            f"length of its text, {len(document.text)}",
            fix="Give, for each page in order, the offset in characters at which its text starts.",
        )


def _with_pages(document: Document, part: Slice) -> Mapping[str, Any]:
    """The metadata of a passage: those of its document, and the pages it is on."""
    if not document.pages:
        return document.metadata
    page = bisect_right(document.pages, part.start)
    last = bisect_right(document.pages, max(part.start, part.end - 1))
    pages = {"page": page} if last == page else {"page": page, "last_page": last}
    return {**document.metadata, **pages}
