"""PDF → text page by page, through pypdfium2 (extra `files`); nothing is rendered or run.

PDF has no paragraphs, only placed lines; pdf_layout.py finds paragraphs by the lines' positions.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, BinaryIO

from retrieval.errors import MissingExtra
from retrieval.readers import pdf_forms
from retrieval.readers.blocks import clean, join_pages
from retrieval.readers.files import Unreadable
from retrieval.readers.pdf_layout import HYPHEN, Line, first_word, paragraphs
from retrieval.readers.text import Content

_PDFIUM = threading.Lock()
"""PDFium may be called by one thread at a time, whatever the document."""
_REASONS = {
    4: "is encrypted with a password; save a copy that opens without one",
    5: "is encrypted in a way that PDFium does not know; save a copy that is not",
}
_XFA = 2  # FORMTYPE_XFA_FULL
_LEAST_TEXT = 80
"""Characters of a page that is more than a stamp on a scan."""
_SCAN = 0.6
"""Share of the page that a scan covers at least."""
_LINE_END = re.compile(f"\r\n?|\n|{HYPHEN}")
_COMPOUND = re.compile(r"([^\W\d_]+)-(?=([^\W\d_]+))")
_DIVIDED = re.compile(rf"(-?)([^\W\d_]+){HYPHEN}([^\W\d_]+)(-?)")
# What programs write as a title where nobody gave one.
_PROGRAM = re.compile(r"Microsoft (?:Office )?(?:Word|PowerPoint|Excel) ?- ?", re.IGNORECASE)
_NO_TITLE = re.compile(
    r"untitled|no ?title|title|document ?\d*|presentation ?\d*|\S{1,100}\.(?:docx?|pptx?|xlsx?|odt|"
    r"rtf|dvi|tex|indd|qxd|pdf|ps|eps|html?|txt)",
    re.IGNORECASE,
)


def parse_pdf(file: BinaryIO) -> Content:
    """The text of each page, wrapped lines joined; title and author where the file names them.

    Pages are loaded one at a time. One that cannot be read is among the failures; those that hold
    pictures and no text are noted.

    Raises:
        MissingExtra: pypdfium2 is not installed.
        Unreadable: the file is damaged, encrypted, or has no text.
    """
    try:
        import pypdfium2
    except ImportError as error:
        raise MissingExtra("pypdfium2", extra="files", purpose="Reading PDF files") from error
    with _PDFIUM:
        if not file.read(1):
            raise Unreadable("is empty")
        file.seek(0)
        try:
            document = pypdfium2.PdfDocument(file)
        except pypdfium2.PdfiumError as error:
            reason = _REASONS.get(error.err_code or 0, "is damaged, or not a PDF")
            raise Unreadable(reason) from error
        with document:
            if document.get_formtype() != pypdfium2.raw.FORMTYPE_NONE:
                document.init_forms()
            return _Reading(document, pypdfium2.PdfiumError).content()


@dataclass(slots=True)
class _Reading:
    """A PDF on its way into text. `bad` and `pictures` are numbers of pages, from 1."""

    document: Any
    failed: type[Exception]
    bad: list[int] = field(default_factory=list)
    pictures: list[int] = field(default_factory=list)

    def content(self) -> Content:
        count = len(self.document)
        pages: list[str] = []
        # Joined here already for the bound on length.
        text, _ = join_pages(_kept(self._pages(), pages))
        if not text and len(self.bad) == count:
            raise Unreadable(f"is damaged: of its pages ({count}) none can be read")
        if not text:
            raise Unreadable(
                f"has no text layer on any page ({count} in all); run OCR first (such as ocrmypdf)"
            )
        compounds = {(a.lower(), b.lower()) for a, b in _COMPOUND.findall(text)}
        text, offsets = join_pages(_undivided(page, compounds) for page in pages)
        failures, notes = [], []
        if self.bad:
            failures.append(f"{_named(self.bad)} of {count} cannot be read and is left out")
        if self.pictures:
            notes.append(
                f"{_named(self.pictures)} of {count}: pictures and hardly any text; "
                "if they are scans, run OCR first (such as ocrmypdf)"
            )
        if self.document.get_formtype() == _XFA:
            notes.append(
                "is a dynamic form (XFA), of which only the page for other programs can be read; "
                "print it to a PDF from Acrobat"
            )
        title = _title(self._information("Title"))
        author = self._information("Author")
        metadata = {"author": author} if author else {}
        return Content(text, title, metadata, offsets, tuple(failures), tuple(notes))

    def _pages(self) -> Iterator[str]:
        for number in range(1, len(self.document) + 1):
            text = ""
            try:
                page = self.document[number - 1]
                try:
                    text = _page_text(page, pdf_forms.said_on(page, self.document.formenv))
                    if len(text) < _LEAST_TEXT and _has_picture(page, alone=not text):
                        self.pictures.append(number)
                finally:
                    page.close()
            except self.failed:
                self.bad.append(number)
            yield text

    def _information(self, key: str) -> str:
        try:
            return " ".join(clean(self.document.get_metadata_value(key)).split())
        except UnicodeDecodeError:  # an entry that is not text
            return ""


def _kept(pages: Iterator[str], store: list[str]) -> Iterator[str]:
    for page in pages:
        store.append(page)
        yield page


# --- one page -------------------------------------------------------------------------------


def _page_text(page: Any, said: Sequence[pdf_forms.Said]) -> str:
    textpage = page.get_textpage()
    try:
        text = textpage.get_text_range(errors="surrogatepass")
        lines = list(_PlacedText(textpage, _units(text)).lines())
        lines, others = pdf_forms.placed(lines, said)
        return clean("\n\n".join(filter(None, (paragraphs(lines), "\n".join(others)))))
    finally:
        textpage.close()


def _units(text: str) -> str:
    """The text with a character for each unit of UTF-16, in which PDFium counts."""
    if text.isascii() or max(text) < "\U00010000":
        return text
    data = memoryview(text.encode("utf-16-le", "surrogatepass")).cast("H")
    return "".join(map(chr, data))


class _PlacedText:
    """The text of a page as PDFium gives it, with the position of each character."""

    def __init__(self, textpage: Any, units: str) -> None:
        from pypdfium2 import raw

        self._raw = raw
        self._textpage = textpage
        # PDFium uses its mark for hyphens also for glyphs without a name.
        self._units = re.sub(HYPHEN, self._mark, units)

    def lines(self) -> Iterator[Line]:
        units = self._units
        start = 0
        while start < len(units):
            found = _LINE_END.search(units, start)
            end = found.start() if found else len(units)
            text = units[start:end].strip()
            if text:
                first = units.index(text[0], start)
                divided = found is not None and found.group() == HYPHEN
                last = end if divided else first + len(text) - 1
                left, _, _, _ = self._box(first)
                _, _, right, _ = self._box(last)
                _, _, word, _ = self._box(first + len(first_word(text)) - 1)
                # Single letters may be of another font, or raised: the line's are in its middle.
                inner = [self._box(first + at) for at in _samples(text)]
                bottom = median(box[1] for box in inner)
                height = median(box[3] for box in inner) - bottom
                # Halves of a pair come together again.
                shown = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
                shown = " ".join(shown.split()) + (HYPHEN if divided else "")
                yield Line(shown, left, right, bottom, height, word - left)
            start = found.end() if found else len(units)

    def _mark(self, found: re.Match[str]) -> str:
        character = self._raw.FPDFText_GetCharIndexFromTextIndex(self._textpage, found.start())
        return HYPHEN if self._raw.FPDFText_IsHyphen(self._textpage, character) == 1 else "\0"

    def _box(self, index: int) -> tuple[float, float, float, float]:
        """(left, bottom, right, top) of the character at an index; zeros if it has none."""
        box = self._raw.FS_RECTF()
        character = self._raw.FPDFText_GetCharIndexFromTextIndex(self._textpage, index)
        if character >= 0:
            self._raw.FPDFText_GetLooseCharBox(self._textpage, character, box)
        return box.left, box.bottom, box.right, box.top


def _samples(text: str) -> Iterator[int]:
    """Positions of letters in a stripped text, five of them spread over it."""
    for part in (1, 3, 5, 7, 9):
        at = len(text) * part // 10
        while text[at].isspace():
            at += 1
        yield at


def _has_picture(page: Any, *, alone: bool) -> bool:
    """Whether a page shows a picture; unless `alone`, one that covers most of it, as scans do."""
    from pypdfium2 import raw

    whole = page.get_width() * page.get_height()
    for one in page.get_objects(filter=[raw.FPDF_PAGEOBJ_IMAGE]):
        left, bottom, right, top = one.get_bounds()
        if alone or (right - left) * (top - bottom) > _SCAN * whole:
            return True
    return False


# --- words and names ------------------------------------------------------------------------


def _undivided(page: str, compounds: set[tuple[str, str]]) -> str:
    """Words divided at line ends made whole; the hyphen stays in those that are written with one.

    Such are those that the document writes so within a line, those with a second hyphen
    (state-of-the-art), and those that go on with a capital (Anglo-Saxon).
    """

    def whole(found: re.Match[str]) -> str:
        before, first, second, after = found.groups()
        own = (first.lower(), second.lower()) in compounds
        keeps = own or before or after or second[0].isupper()
        return f"{before}{first}{'-' if keeps else ''}{second}{after}"

    return _DIVIDED.sub(whole, page).replace(HYPHEN, "-")


def _title(given: str) -> str:
    title = _PROGRAM.sub("", given, count=1)
    return "" if _NO_TITLE.fullmatch(title) else title


def _named(numbers: list[int]) -> str:
    """Such as "page 3" and "pages 1, 2, 5 and 9 more"."""
    if len(numbers) == 1:
        return f"page {numbers[0]}"
    more = len(numbers) - 10
    listed = ", ".join(map(str, numbers[:10]))
    return f"pages {listed} and {more} more" if more > 0 else f"pages {listed}"
