"""EPUB books → text chapter by chapter, in the order in which they are read; needs no extra.

A book is a zip package of XHTML: container.xml names the OPF package document, its manifest the
files, and its spine their order. Only what the spine names is unpacked, and nothing is ever looked
up outside of the package.
"""

from __future__ import annotations

import posixpath
import zipfile
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree

from retrieval.readers import zip_limits
from retrieval.readers.blocks import clean, join_pages
from retrieval.readers.files import Unreadable
from retrieval.readers.html import html_body_text, markup_text
from retrieval.readers.text import Content

_CONTAINER = "META-INF/container.xml"
_ENCRYPTION = "META-INF/encryption.xml"
_KIND = "an EPUB book"
_CHAPTERS = (
    "application/xhtml+xml",
    "text/html",
    "application/x-dtbook+xml",
    "text/x-oeb1-document",
)


def parse_epub(file: BinaryIO) -> Content:
    """Chapters in spine order with their headings; title, author and language as the book says.

    A chapter that cannot be read is among the failures.

    Raises:
        Unreadable: the file is damaged, protected, too large, or names no chapters.
    """
    with zip_limits.opened(file, _KIND) as package:
        present = {part.filename: part for part in package.infolist()}
        zip_limits.check(
            package,
            [present[n] for n in (_CONTAINER, _ENCRYPTION) if n in present],
            all_markup=True,
        )
        root = _package_document(package)
        zip_limits.check(package, [present[root]] if root in present else [], all_markup=True)
        book = _xml(package, root)
        chapters, failures = _spine(book, root, present)
        protected = _protected(package, present)
        if protected & set(chapters):
            raise Unreadable("is protected (DRM): its chapters are encrypted")
        zip_limits.check(package, [present[name] for name in chapters], all_markup=True)
        texts = []
        for name in chapters:
            try:
                texts.append(clean(html_body_text(zip_limits.read_part(package, name))))
            except Unreadable as bad:
                failures.append(f"the chapter {name!r} {_brief(bad)}")
        text, _ = join_pages(texts)
    if not text and failures:
        raise Unreadable(f"has no chapter that can be read: {failures[0]}")
    if not chapters:
        raise Unreadable("names no chapters in its spine")
    title = _said(book, "title")
    authors = _said_all(book, "creator")
    metadata: dict[str, Any] = {}
    if authors:
        metadata["author"] = authors[0] if len(authors) == 1 else authors
    if language := _said(book, "language"):
        metadata["language"] = language
    return Content(text, title, metadata, failures=tuple(failures))


def _package_document(package: zipfile.ZipFile) -> str:
    container = _xml(package, _CONTAINER)
    for element in container.iter():
        if _name(element) == "rootfile" and element.get("full-path"):
            return str(element.get("full-path"))
    raise Unreadable(f"is damaged: {_CONTAINER} names no package document")


def _spine(
    book: ElementTree.Element, root: str, present: dict[str, zipfile.ZipInfo]
) -> tuple[list[str], list[str]]:
    """Names of the chapters' parts in order, and what is wrong with others."""
    items = {e.get("id", ""): e for e in book.iter() if _name(e) == "item"}
    chapters: list[str] = []
    wrong: list[str] = []
    for reference in (e for e in book.iter() if _name(e) == "itemref"):
        identity = reference.get("idref", "")
        item = items.get(identity)
        if item is None:
            wrong.append(f"the chapter {identity!r} of its spine is not in its manifest")
            continue
        # The table of contents repeats headings; pages that are pictures hold no text.
        is_chapter = item.get("media-type", _CHAPTERS[0]) in _CHAPTERS
        if not is_chapter or "nav" in item.get("properties", "").split():
            continue
        href = item.get("href", "")
        name = _inside(href, root)
        if name is None:
            wrong.append(f"the chapter {href!r} is outside the book, and is not read")
        elif name not in present:
            wrong.append(f"the chapter {href!r} is not in the file")
        elif name not in chapters:
            chapters.append(name)
    return chapters, wrong


def _inside(href: str, root: str) -> str | None:
    """The name of the part that `href` means, seen from the part `root`; None if it is none."""
    try:
        address = urlsplit(href)
    except ValueError:
        return None
    if address.scheme or address.netloc or not address.path or "\\" in unquote(address.path):
        return None
    name = posixpath.normpath(posixpath.join(posixpath.dirname(root), unquote(address.path)))
    return None if name.startswith(("/", "..")) else name


def _protected(package: zipfile.ZipFile, present: dict[str, zipfile.ZipInfo]) -> set[str]:
    """Parts that are encrypted; of books without protection, fonts at most."""
    if _ENCRYPTION not in present:
        return set()
    listed = (e for e in _xml(package, _ENCRYPTION).iter() if _name(e) == "CipherReference")
    return {unquote(element.get("URI", "")) for element in listed}


def _xml(package: zipfile.ZipFile, name: str) -> ElementTree.Element:
    data = zip_limits.read_part(package, name)
    try:
        markup = markup_text(data, None).text
    except Unreadable as bad:
        raise Unreadable(f"is damaged: {name!r} {_brief(bad)}") from bad
    # The parser fetches nothing, but would expand entities, each a thousandfold the last.
    if "<!ENTITY" in markup:
        raise Unreadable(f"declares entities in {name!r}, which no book needs; it is not read")
    try:
        return ElementTree.fromstring(markup)
    except (ElementTree.ParseError, ValueError) as error:
        raise Unreadable(f"is damaged: {name!r} is not XML: {error}") from error


def _brief(bad: Unreadable) -> str:
    """Without the advice, which is for separate files."""
    return bad.reason.split("; ")[0]


def _name(element: ElementTree.Element) -> str:
    """Without its namespace, which older books lack."""
    return str(element.tag).rpartition("}")[2]


def _said(book: ElementTree.Element, name: str) -> str:
    return next(iter(_said_all(book, name)), "")


def _said_all(book: ElementTree.Element, name: str) -> list[str]:
    """What the metadata say under a Dublin Core name."""
    found = (e for e in book.iter(f"{{http://purl.org/dc/elements/1.1/}}{name}"))
    return [text for e in found if (text := " ".join(clean("".join(e.itertext())).split()))]
