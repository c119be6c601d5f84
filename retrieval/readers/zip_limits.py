"""Zip packages (docx, pptx, epub), opened within bounds: a small file cannot fill the memory."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import BinaryIO

from retrieval.readers.files import MAX_FILE_BYTES, Unreadable

MAX_UNPACKED_BYTES = 1024 * 1024 * 1024
MAX_MARKUP_BYTES = MAX_FILE_BYTES
"""Of XML and HTML, which becomes trees many times as large."""
MAX_RATIO = 200
"""Unpacked to packed size. Markup packs 10 to 50 times, and no more than 1,032 are possible."""
RATIO_FREE_BYTES = 16 * 1024 * 1024
"""Packages that unpack to less are harmless at any ratio."""

_HEAD_BYTES = 4096
_MARKUP = (".xml", ".rels", ".opf", ".ncx", ".xhtml", ".html", ".htm")
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_DAMAGES = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError)


@contextmanager
def opened(file: BinaryIO, kind: str) -> Iterator[zipfile.ZipFile]:
    """The package in a file, which is at its start again.

    Args:
        kind: what it should be, for messages, such as "a Word document (docx)".

    Raises:
        Unreadable: it is not a zip package.
    """
    head = file.read(len(_OLE))
    if not head:
        raise Unreadable("is empty")
    if head == _OLE:
        raise Unreadable(
            "is encrypted with a password, or in the binary format of Office before 2007; "
            f"save it as {kind} without a password"
        )
    try:
        package = zipfile.ZipFile(file)
    except _DAMAGES as error:
        raise Unreadable(damaged(kind, error)) from error
    with package:
        file.seek(0)
        yield package


def check(
    package: zipfile.ZipFile, parts: Iterable[zipfile.ZipInfo], *, all_markup: bool = False
) -> None:
    """Refuse what would unpack to more than it may; the parts' declared sizes bound the reading.

    Args:
        parts: those that will be read.
        all_markup: they are XML or HTML, whatever their names.

    Raises:
        Unreadable: too large, encrypted, or packed by a method that cannot be bounded.
    """
    total = markup = 0
    for part in parts:
        if part.flag_bits & 1:
            raise Unreadable("is encrypted with a password; save a copy without one")
        # The unpackers of other methods take no bound; no writer of these formats uses them.
        if part.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise Unreadable(
                f"packs {part.filename!r} by method {part.compress_type}, expected deflate or none"
            )
        total += part.file_size
        if all_markup or part.filename.lower().endswith(_MARKUP):
            markup += part.file_size
    if total > MAX_UNPACKED_BYTES or markup > MAX_MARKUP_BYTES:
        size, most, what = (
            (markup, MAX_MARKUP_BYTES, "markup")
            if markup > MAX_MARKUP_BYTES
            else (total, MAX_UNPACKED_BYTES, "data")
        )
        raise Unreadable(
            f"unpacks to {size // 2**20} MiB of {what}, more than the {most // 2**20} MiB that "
            "are read as one document; split it"
        )
    file = package.fp
    assert file is not None
    packed = file.seek(0, 2)
    file.seek(0)
    if total > max(RATIO_FREE_BYTES, MAX_RATIO * packed):
        raise Unreadable(
            f"unpacks to {total // max(packed, 1)} times its size; more than {MAX_RATIO} times is "
            "taken for an attack (a zip bomb)"
        )


def refuse_document_types(package: zipfile.ZipFile) -> None:
    """Refuse parts with a DOCTYPE: Office writes none, and what it declares may be an attack.

    Raises:
        Unreadable: a part has one, or is damaged.
    """
    for part in package.infolist():
        if part.filename.lower().endswith(_MARKUP):
            try:
                with package.open(part) as opened_part:
                    head = opened_part.read(_HEAD_BYTES)
            except _DAMAGES as error:
                raise Unreadable(f"has a damaged part {part.filename!r}: {error}") from error
            if b"<!DOCTYPE" in head:
                raise Unreadable(
                    f"declares a document type in {part.filename!r}, which Office files never do; "
                    "it is taken for an attack"
                )


def read_part(package: zipfile.ZipFile, name: str) -> bytes:
    """One part of a package whose size was checked.

    Raises:
        Unreadable: it is not there, or damaged.
    """
    try:
        return package.read(name)
    except KeyError:
        raise Unreadable(f"has no part {name!r}") from None
    except _DAMAGES as error:
        raise Unreadable(f"has a damaged part {name!r}: {error}") from error


def damaged(kind: str, error: Exception) -> str:
    """A sentence on what a library could not read, in one short line."""
    # A KeyError shows its message in quotes.
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    lines = text.strip().splitlines()
    said = lines[0][:200] if lines else type(error).__name__
    return f"is damaged, or not {kind}: {said}"
