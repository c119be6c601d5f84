"""Web pages → their main part's text, title and language.

What is left out is what stands around a text or works it: navigation, page footers, scripts,
controls, what is hidden for good. What is only folded up is read: panels of tabs and accordions,
`<details>`, what `until-found` hides.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

from retrieval.readers.files import Decoded, decode
from retrieval.readers.html_layout import inline, layout
from retrieval.readers.html_tables import part_cells
from retrieval.readers.text import Content
from retrieval.splitting.markdown_structure import find_headings


def _names(words: str) -> frozenset[str]:
    return frozenset(words.split())


_SILENT = _names("title script style svg head iframe canvas audio video map")
_CONTROLS = _names("input select datalist meter progress output")
_HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6")
_ROLES = _names("navigation search banner contentinfo")
_AROUND = re.compile(
    r"(?:^|[-_])(?:sidebar|toc|menu|nav|navbar|breadcrumbs?|related|share|social|promo|advert|ads?|"
    r"newsletter|cookies?)(?:$|[-_])",
    re.IGNORECASE,
)
_LINKS = 0.5  # of an aside's text: more is a list of links
_SEARCH = re.compile("search", re.IGNORECASE)
_MOST_SEARCH = 200  # characters in a form that searches
_TOGGLES = ("aria-controls", "aria-expanded", "data-target", "data-bs-target")
_LEAST_TOGGLE = 12  # letters: what is shorter says "Menu" or "Show more"
_PERMALINKS = _names("headerlink anchor hash-link header-anchor anchor-link permalink")
_LINE_NUMBERS = _names("linenos linenodiv lineno gutter blob-num")
_HALF = 0.5
_LEAST_DROPPED = 1000
"""Characters left out of which a notice is made."""
_DECLARED = re.compile(
    rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([A-Za-z0-9_.:-]+)", re.IGNORECASE
)
_XML_ENCODING = re.compile(
    rb"\s*<\?xml[^>]{0,200}?encoding\s*=\s*[\"']([A-Za-z0-9_.:-]+)", re.IGNORECASE
)
_XML_DECLARATION = re.compile(r"\s*<\?xml[^>]{0,200}\?>")


def parse_html(data: bytes, encoding: str | None) -> Content:
    """HTML: the main part's text, headings, lists, code and tables marked as in markdown."""
    decoded = markup_text(data, encoding)
    soup = _soup(decoded.text)
    if soup is None:
        return Content(decoded.text, notes=decoded.notes)
    named = soup.title.get_text() if soup.title is not None else ""
    body = soup.body or soup
    page = _Page.of(soup)
    mains = soup.select("main, [role=main]") or soup.select("article")
    main = mains[0] if len(mains) == 1 else body
    text = page.text(main)
    if not text and main is not body:
        text = page.text(body)
    title = " ".join(named.split())
    if not title:
        first = next(iter(find_headings(text)), None)
        title = first.text if first is not None and first.level == 1 else ""
    language = soup.html.get("lang") if soup.html is not None else None
    metadata = {"language": language} if isinstance(language, str) else {}
    return Content(text, title, metadata, notes=(*decoded.notes, *_left_out(body, text)))


def html_body_text(data: bytes) -> str:
    """All text of a page of a book, notes in its margin included."""
    markup = markup_text(data, None).text
    soup = _soup(markup)
    return markup if soup is None else _Page.of(soup, is_book=True).text(soup.body or soup)


def markup_text(data: bytes, encoding: str | None) -> Decoded:
    """HTML or XML decoded, also by what it declares of itself; without its XML declaration."""
    declared = _DECLARED.search(data[:4096]) or _XML_ENCODING.match(data[:4096])
    found = decode(data, encoding, declared.group(1).decode("ascii") if declared else None)
    # The parser for HTML warns at it.
    return replace(found, text=_XML_DECLARATION.sub("", found.text, count=1))


def _soup(markup: str) -> Any:
    """The parsed page; None where there is no markup: the parser warns at mere file names."""
    from bs4 import BeautifulSoup

    if "<" not in markup:
        return None
    soup = BeautifulSoup(markup, "html.parser")
    part_cells(soup)
    return soup


@dataclass(slots=True)
class _Page:
    """What decides whether a part of a page is text.

    folded: ids of what a button, tab or link of the page shows. is_book: footnotes are asides
    there, and nothing stands around the text.
    """

    folded: frozenset[str]
    is_book: bool = False
    with_noscript: bool = False

    @classmethod
    def of(cls, soup: Any, *, is_book: bool = False) -> _Page:
        folded = set()
        for toggle in soup.find_all(lambda tag: any(tag.has_attr(one) for one in _TOGGLES)):
            for name in ("aria-controls", "data-target", "data-bs-target"):
                folded |= {one.removeprefix("#") for one in str(toggle.get(name) or "").split()}
        return cls(frozenset(folded), is_book)

    def text(self, root: Any) -> str:
        """The text of a part; of a page that only speaks where scripts do not run, that."""
        text = layout(root, self.is_dropped)
        if root.find("noscript") is not None:
            self.with_noscript = True
            whole = layout(root, self.is_dropped)
            self.with_noscript = False
            if len(whole) > 2 * len(text):
                return whole
        return text

    def is_dropped(self, tag: Any) -> bool:
        """Whether an element, with all in it, says nothing."""
        name = tag.name
        if name in _SILENT or name in _CONTROLS:
            return True
        if name == "template":
            return not tag.has_attr("shadowrootmode")
        if name == "noscript":
            return not self.with_noscript
        if name == "dialog":
            return not tag.has_attr("open")
        if name == "button":
            return not _is_heading_button(tag)
        if name == "a":
            return _is_permalink(tag)
        if name in ("td", "div", "span") and not _LINE_NUMBERS.isdisjoint(tag.get("class") or ()):
            return True
        return self._is_hidden(tag) or self._is_around(tag)

    def _is_hidden(self, tag: Any) -> bool:
        hidden = tag.get("hidden")
        if hidden is None and tag.get("aria-hidden") != "true":
            return False
        is_folded = (
            hidden == "until-found"
            or tag.get("role") == "tabpanel"
            or str(tag.get("id") or "") in self.folded - {""}
        )
        return not is_folded

    def _is_around(self, tag: Any) -> bool:
        """Whether it stands around the text: navigation, footers, searches, lists of links."""
        name = tag.name
        if tag.get("role") in _ROLES or name in ("nav", "search"):
            return True
        if name == "form":
            return _is_search(tag)
        if self.is_book:
            return False
        if name == "footer":
            return tag.find_parent(["blockquote", "figure"]) is None
        if name == "aside":
            return _is_list_of_links(tag)
        return False


def _is_heading_button(tag: Any) -> bool:
    """Whether a button's words head what it shows, as in accordions and tabs."""
    if tag.get("role") == "tab" or tag.find_parent([*_HEADINGS, "summary", "dt"]) is not None:
        return True
    words = tag.get_text(" ").strip()
    shows = any(tag.has_attr(one) for one in _TOGGLES)
    return shows and (words[-1:] in ("?", "？", "؟", ";") or len(words) >= _LEAST_TOGGLE)


def _is_permalink(tag: Any) -> bool:
    """The ¶ beside headings in Sphinx, MkDocs and others; an anchor around the words is none."""
    text = tag.get_text().strip()
    if not text or _PERMALINKS.isdisjoint(tag.get("class") or ()):
        return False
    if not any(letter.isalnum() for letter in text):
        return True
    heading = tag.find_parent(_HEADINGS)
    return heading is not None and heading.get_text().strip() != text


def _is_search(form: Any) -> bool:
    named = (form.get(one) for one in ("class", "id", "name", "action"))
    said = " ".join(" ".join(one) if isinstance(one, list) else str(one) for one in named if one)
    return _SEARCH.search(said) is not None and len(form.get_text().strip()) < _MOST_SEARCH


def _is_list_of_links(aside: Any) -> bool:
    words = [*(aside.get("class") or ()), str(aside.get("id") or "")]
    if any(_AROUND.search(word) for word in words):
        return True
    whole = len("".join(aside.get_text().split()))
    links = sum(len("".join(one.get_text().split())) for one in aside.find_all("a"))
    return links > _LINKS * whole


def _left_out(body: Any, text: str) -> tuple[str, ...]:
    """A note where most of what a page says was taken for what stands around its text."""
    letters = len("".join(inline(body, lambda tag: tag.name in _SILENT).split()))
    kept = len("".join(text.split()))
    if letters - kept < _LEAST_DROPPED or kept >= _HALF * letters:
        return ()
    return (
        f"has {letters:,} characters of text, of which {kept:,} were read: the rest is navigation, "
        "controls or hidden, or stands outside of its main part",
    )
