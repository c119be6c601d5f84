"""EPUB books: chapters in reading order, what the book says of itself, and what is refused."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import pytest

from retrieval.errors import CorpusError
from retrieval.readers import zip_limits
from retrieval.readers.read import read
from retrieval.types import Document, Problem

CONTAINER = (
    '<?xml version="1.0"?><container xmlns="urn:oasis:names:tc:opendocument:xmlns:container">'
    '<rootfiles><rootfile full-path="{root}" media-type="application/oebps-package+xml"/>'
    "</rootfiles></container>"
)
DUBLIN_CORE = "http://purl.org/dc/elements/1.1/"


def chapter(body: str, declaration: str = '<?xml version="1.0" encoding="utf-8"?>') -> str:
    return (
        f'{declaration}<!DOCTYPE html><html xmlns="http://www.w3.org/1999/xhtml"><head>'
        f"<title>The book</title></head><body>{body}</body></html>"
    )


def book(
    path: Path,
    hrefs: list[str],
    parts: dict[str, str | bytes],
    *,
    root: str = "OEBPS/content.opf",
    metadata: str = "<dc:title>A Title</dc:title>",
    items: str = "",
    spine: str = "",
) -> Path:
    """A book whose spine has these chapters, and a package of these parts."""
    manifest = "".join(
        f'<item id="c{n}" href="{href}" media-type="application/xhtml+xml"/>'
        for n, href in enumerate(hrefs)
    )
    references = "".join(f'<itemref idref="c{n}"/>' for n in range(len(hrefs)))
    package = (
        f'<?xml version="1.0"?><package xmlns="http://www.idpf.org/2007/opf" xmlns:dc='
        f'"{DUBLIN_CORE}" version="3.0"><metadata>{metadata}</metadata><manifest>{manifest}{items}'
        f"</manifest><spine>{references}{spine}</spine></package>"
    )
    named: dict[str, str | bytes] = {
        "mimetype": "application/epub+zip",
        "META-INF/container.xml": CONTAINER.format(root=root),
        root: package,
        **parts,
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in named.items():
            file.writestr(name, content)
    return path


def read_one(path: Path) -> tuple[Document, list[str]]:
    problems: list[Problem] = []
    (document,) = read(path, on_problem=problems.append)
    return document, [problem.reason for problem in problems]


def reason(path: Path) -> str:
    problems: list[Problem] = []
    assert list(read(path, on_problem=problems.append)) == []
    (problem,) = problems
    with pytest.raises(CorpusError, match=re.escape(problem.reason)):
        list(read(path, on_error="raise"))
    return problem.reason


def test_a_book(tmp_path: Path) -> None:
    path = book(
        tmp_path / "a.epub",
        ["text/two%20words.xhtml", "text/one.xhtml#part", "../cover.xhtml"],
        {
            "OEBPS/text/one.xhtml": chapter("<h1>One</h1><p>First &amp; last.</p><h2>In it</h2>é"),
            "OEBPS/text/two words.xhtml": chapter(
                "<header><h1>Two</h1></header><article><p>Read ﬁrst.</p></article><ul><li>a</li>"
                "</ul><p>More.</p><aside epub:type='footnote'>A note.</aside>"
            ),
            "cover.xhtml": chapter("<img src='cover.png'/>"),
            "nav.xhtml": chapter("<p>never a chapter</p>"),
            "OEBPS/unnamed.xhtml": chapter("<p>not in the spine</p>"),
        },
        metadata=(
            "<dc:title> The  Book </dc:title><dc:title>A second</dc:title><dc:language>en"
            "</dc:language><dc:creator>A. One</dc:creator><dc:creator>B. Two</dc:creator>"
        ),
        items=(
            '<item id="nav" href="../nav.xhtml" properties="nav" '
            'media-type="application/xhtml+xml"/>'
            '<item id="picture" href="p.svg" media-type="image/svg+xml"/>'
        ),
        spine='<itemref idref="nav"/><itemref idref="picture"/>',
    )
    document, problems = read_one(path)
    assert not problems
    assert document == Document(
        id="a.epub",
        text=(
            "# Two\n\nRead first.\n\n- a\n\nMore.\n\nA note.\n\n"
            "# One\n\nFirst & last.\n\n## In it\n\né"
        ),
        title="The Book",
        metadata={
            "author": ["A. One", "B. Two"],
            "language": "en",
            "path": "a.epub",
            "format": "epub",
        },
        source=str(path),
    )


def test_books_that_say_less_and_older_ones(tmp_path: Path) -> None:
    path = tmp_path / "a.epub"
    latin = chapter("<p>café</p>", '<?xml version="1.0" encoding="iso-8859-1"?>').encode("latin-1")
    utf16 = chapter("<p>café</p>", '<?xml version="1.0"?>').encode("utf-16")
    book(path, ["a.html", "b.html"], {"a.html": latin, "b.html": utf16}, root="o.opf", metadata="")
    document, problems = read_one(path)
    assert (document.text, document.title, problems) == ("café\n\ncafé", "", [])
    assert document.metadata == {"path": "a.epub", "format": "epub"}


def test_chapters_that_cannot_be_read_cost_themselves_alone(tmp_path: Path) -> None:
    path = book(
        tmp_path / "a.epub",
        [
            "good.xhtml",
            "missing.xhtml",
            "../../../etc/passwd",
            "/etc/passwd",
            "file:///etc/passwd",
            "https://example.org/a.xhtml",
            "..\\..\\secret.xhtml",
            "bad.xhtml",
        ],
        {
            "OEBPS/good.xhtml": chapter("<p>Good.</p>"),
            "OEBPS/bad.xhtml": b"\xff\x00\xff",
            # Names that would lead out of a folder are never looked up, though they are here.
            "../../etc/passwd": chapter("<p>secret</p>"),
            "/etc/passwd": chapter("<p>secret</p>"),
        },
        spine='<itemref idref="nowhere"/>',
    )
    document, problems = read_one(path)
    assert document.text == "Good."
    outside = [p.split("'")[1] for p in problems if "is outside the book" in p]
    assert outside == [
        "../../../etc/passwd",
        "/etc/passwd",
        "file:///etc/passwd",
        "https://example.org/a.xhtml",
        "..\\\\..\\\\secret.xhtml",
    ]
    assert [p for p in problems if "is outside" not in p] == [
        "the chapter 'missing.xhtml' is not in the file",
        "the chapter 'nowhere' of its spine is not in its manifest",
        "the chapter 'OEBPS/bad.xhtml' looks binary: a NUL byte at offset 1",
    ]
    with pytest.raises(CorpusError, match=r"missing\.xhtml"):
        list(read(path, on_error="raise"))


def test_files_that_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.epub"
    path.write_bytes(b"")
    assert reason(path) == "is empty"
    path.write_bytes(b"PK no book")
    assert reason(path) == "is damaged, or not an EPUB book: File is not a zip file"
    with zipfile.ZipFile(path, "w") as package:
        package.writestr("a.txt", "")
    assert reason(path) == "has no part 'META-INF/container.xml'"
    with zipfile.ZipFile(path, "w") as package:
        package.writestr("META-INF/container.xml", "<container>")
    assert "'META-INF/container.xml' is not XML" in reason(path)
    with zipfile.ZipFile(path, "w") as package:
        package.writestr("META-INF/container.xml", "<container/>")
    assert "names no package document" in reason(path)
    assert reason(book(path, [], {})) == "names no chapters in its spine"
    assert reason(book(path, ["a"], {"OEBPS/a": chapter("")})) == "has no text in its chapters"
    assert "no chapter that can be read: the chapter 'a'" in reason(book(path, ["a"], {}))
    with zipfile.ZipFile(path, "w") as package:
        package.writestr("META-INF/container.xml", CONTAINER.format(root="../../x.opf"))
    assert reason(path) == "has no part '../../x.opf'"


def test_protected_books_are_refused_and_those_with_hidden_fonts_read(tmp_path: Path) -> None:
    listed = (
        '<encryption xmlns:e="http://www.w3.org/2001/04/xmlenc#"><e:EncryptedData><e:CipherData>'
        '<e:CipherReference URI="{uri}"/></e:CipherData></e:EncryptedData></encryption>'
    )
    for uri, protected in (("OEBPS/a%20b.xhtml", True), ("OEBPS/font.otf", False)):
        parts: dict[str, str | bytes] = {
            "OEBPS/a b.xhtml": chapter("<p>Text.</p>"),
            "META-INF/encryption.xml": listed.format(uri=uri),
        }
        path = book(tmp_path / "a.epub", ["a%20b.xhtml"], parts)
        if protected:
            assert reason(path) == "is protected (DRM): its chapters are encrypted"
        else:
            assert read_one(path)[0].text == "Text."


def test_entities_and_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.epub"
    laughs = '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]>'
    book(path, ["a"], {"OEBPS/content.opf": f"{laughs}<package>&b;</package>"})
    assert "declares entities in 'OEBPS/content.opf'" in reason(path)
    # A chapter is read as HTML, which knows no declared entities.
    book(path, ["a"], {"OEBPS/a": chapter("<p>x &b; y</p>", laughs)})
    assert read_one(path)[0].text == "x &b y"
    # Parts that are not read count for nothing; chapters do.
    book(path, ["a"], {"OEBPS/film.mp4": bytes(40 * 2**20), "OEBPS/a": chapter("<p>x</p>")})
    assert read_one(path)[0].text == "x"
    book(path, ["a"], {"OEBPS/a": b" " * (20 * 2**20)})
    assert "taken for an attack (a zip bomb)" in reason(path)
    monkeypatch.setattr(zip_limits, "MAX_MARKUP_BYTES", 2**20)
    book(path, ["a"], {"OEBPS/a": b" " * (2 * 2**20)})
    assert "unpacks to 2 MiB of markup, more than the 1 MiB" in reason(path)
