"""Files that are one text each: plain text, markdown and HTML → title, text, metadata.

HTML becomes text with markdown's marks for headings, lists and code, which the splitter knows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from retrieval.readers.files import decode
from retrieval.splitting.markdown_structure import find_headings


@dataclass(frozen=True, slots=True)
class Content:
    """What a file says. `text` is blank where it says nothing; `pages` as in `Document`.

    `failures` are parts that could not be read, `notes` what a user should know of the rest.
    """

    text: str
    title: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    pages: tuple[int, ...] = ()
    failures: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def parse_text(data: bytes, encoding: str | None) -> Content:
    """Plain text: the text as it is; nothing is taken for a title."""
    return Content(decode(data, encoding))


# --- markdown -------------------------------------------------------------------------------

_FRONT_MATTER = re.compile(
    r"---[ \t]*\n(.*?)^(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL | re.MULTILINE
)
_FIELD = re.compile(r"([A-Za-z_][\w .-]*):(?:[ \t]+(.*))?")


def parse_markdown(data: bytes, encoding: str | None) -> Content:
    """Markdown: front matter to metadata; the title is its `title`, else the first `#` heading."""
    text = decode(data, encoding)
    metadata: dict[str, Any] = {}
    found = _FRONT_MATTER.match(text)
    if found:
        fields = _front_matter(found.group(1))
        if fields is not None:
            metadata, text = fields, text[found.end() :]
    title = metadata.pop("title", "")
    if not title:
        first = next(iter(find_headings(text)), None)
        title = first.text if first is not None and first.level == 1 else ""
    return Content(text, str(title), metadata)


def _front_matter(block: str) -> dict[str, Any] | None:
    """Its plain `key: value` fields and lists; None where the block is not front matter.

    A subset of YAML on purpose: values stay text, as written; nested fields are left out.
    """
    fields: dict[str, Any] = {}
    key = ""
    for line in block.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        item = re.fullmatch(r"[ \t]*-[ \t]+(.*)", line)
        if item and key:
            before = fields.get(key)
            fields[key] = [*(before if isinstance(before, list) else []), _scalar(item.group(1))]
        elif line[0] in " \t":
            continue
        elif found := _FIELD.fullmatch(line):
            key = found.group(1).strip()
            value = (found.group(2) or "").strip()
            if value.startswith("[") and value.endswith("]"):
                fields[key] = [_scalar(part) for part in value[1:-1].split(",") if part.strip()]
            else:
                fields[key] = _scalar(value)
        else:
            return None
    return {name: value for name, value in fields.items() if value not in ("", "|", ">", [])}


def _scalar(value: str) -> str:
    value = value.strip()
    if len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'":
        return value[1:-1]
    return value


# --- HTML -----------------------------------------------------------------------------------


def _names(words: str) -> frozenset[str]:
    return frozenset(words.split())


_DROPPED = _names(
    "title script style noscript template nav footer aside svg math head iframe object form button "
    "select textarea input dialog canvas audio video"
)
# Footnotes are asides; headings of chapters are in headers.
_KEPT_IN_BOOKS = _names("aside footer")
_BLOCKS = _names(
    "address article blockquote body center dd details div dl dt fieldset figcaption figure "
    "header hgroup hr li main ol p section summary table tbody tfoot thead tr ul"
)
_PARAGRAPHS = _names("p blockquote ul ol dl table figure section article div")
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_DECLARED = re.compile(
    rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([A-Za-z0-9_.:-]+)", re.IGNORECASE
)
_XML_ENCODING = re.compile(
    rb"\s*<\?xml[^>]{0,200}?encoding\s*=\s*[\"']([A-Za-z0-9_.:-]+)", re.IGNORECASE
)
_XML_DECLARATION = re.compile(r"\s*<\?xml[^>]{0,200}\?>")


def parse_html(data: bytes, encoding: str | None) -> Content:
    """HTML: the main part's text without scripts and navigation, headings kept as `#` lines."""
    from bs4.element import Tag

    markup = markup_text(data, encoding)
    soup = _soup(markup)
    if soup is None:
        return Content(markup)
    named = soup.title.get_text() if soup.title is not None else ""
    body = soup.body or soup
    mains = soup.select("main, [role=main]") or soup.select("article")
    main = mains[0] if len(mains) == 1 and isinstance(mains[0], Tag) else body
    text = _layout(main)
    if not text and main is not body:
        text = _layout(body)
    title = " ".join(named.split())
    if not title:
        first = next(iter(find_headings(text)), None)
        title = first.text if first is not None and first.level == 1 else ""
    language = soup.html.get("lang") if soup.html is not None else None
    return Content(text, title, {"language": language} if isinstance(language, str) else {})


def html_body_text(data: bytes) -> str:
    """All text of a page of a book, notes in its margin included, headings kept as `#` lines."""
    markup = markup_text(data, None)
    soup = _soup(markup)
    return markup if soup is None else _layout(soup.body or soup, _DROPPED - _KEPT_IN_BOOKS)


def markup_text(data: bytes, encoding: str | None) -> str:
    """HTML or XML decoded, also by what it declares of itself; without its XML declaration."""
    declared = _DECLARED.search(data[:4096]) or _XML_ENCODING.match(data[:4096])
    markup = decode(data, encoding, declared.group(1).decode("ascii") if declared else None)
    # The parser for HTML warns at it.
    return _XML_DECLARATION.sub("", markup, count=1)


def _soup(markup: str) -> Any:
    """The parsed page; None where there is no markup: the parser warns at mere file names."""
    from bs4 import BeautifulSoup

    return BeautifulSoup(markup, "html.parser") if "<" in markup else None


def _layout(root: Any, dropped: frozenset[str] = _DROPPED) -> str:
    """Text of an element, one block after the other."""
    writer = _Writer()
    for event, name, text in _events(root, dropped):
        if event == "text":
            writer.write(text)
        elif name in _HEADINGS:
            writer.heading(_HEADINGS[name], opens=event == "open")
        elif name == "pre":
            writer.code(opens=event == "open")
        elif name == "br":
            writer.newline()
        elif name in ("td", "th"):
            writer.cell(opens=event == "open")
        elif name in _BLOCKS:
            writer.block(blank_line=name in _PARAGRAPHS)
            if name == "li" and event == "open":
                writer.item()
    return writer.text()


def _events(root: Any, dropped: frozenset[str]) -> Iterator[tuple[str, str, str]]:
    """(open | close | text, tag name, text), walked without recursion, dropped parts left out."""
    from bs4.element import Comment, NavigableString, PreformattedString, Tag

    stack: list[tuple[Any, bool]] = [(root, False)]
    while stack:
        node, closing = stack.pop()
        if isinstance(node, Tag):
            if closing:
                yield "close", node.name, ""
            elif not _is_dropped(node, dropped):
                yield "open", node.name, ""
                stack.append((node, True))
                stack += [(child, False) for child in reversed(node.contents)]
        elif isinstance(node, NavigableString) and not isinstance(
            node, (Comment, PreformattedString)
        ):
            yield "text", "", str(node)


def _is_dropped(tag: Any, dropped: frozenset[str]) -> bool:
    classes = tag.get("class") or []
    return (
        tag.name in dropped
        or tag.has_attr("hidden")
        or tag.get("aria-hidden") == "true"
        or tag.get("role") in ("navigation", "search", "banner", "contentinfo")
        # the ¶ beside headings in Sphinx, MkDocs and others
        or (tag.name == "a" and not {"headerlink", "anchor", "hash-link"}.isdisjoint(classes))
    )


class _Writer:
    """Joins inline text into lines and lines into blocks."""

    def __init__(self) -> None:
        self._done: list[str] = []
        self._line: list[str] = []
        self._prefix = ""
        self._in_code = False
        self._in_heading = False

    def write(self, text: str) -> None:
        self._line.append(text)

    def newline(self) -> None:
        if self._in_code:
            self._line.append("\n")
        elif self._in_heading:
            self._line.append(" ")
        else:
            self._end_line()

    def block(self, *, blank_line: bool) -> None:
        if self._in_code or self._in_heading:
            self._line.append(" " if self._in_heading else "")
            return
        self._end_line()
        if blank_line:
            self._blank()

    def item(self) -> None:
        self._prefix = "- "

    def cell(self, *, opens: bool) -> None:
        if not opens:
            self._line.append(" ")
        elif any(part.strip() for part in self._line):
            self._line.append("| ")

    def heading(self, level: int, *, opens: bool) -> None:
        if self._in_code:
            return
        self._end_line()
        self._blank()
        self._in_heading = opens
        self._prefix = "#" * level + " " if opens else ""

    def code(self, *, opens: bool) -> None:
        if opens:
            self._end_line()
            self._blank()
            self._in_code = True
            return
        lines = "".join(self._line).strip("\n").rstrip()
        self._line.clear()
        self._in_code = False
        if lines.strip():
            longest = max((len(run) for run in re.findall("`{3,}", lines)), default=2)
            fence = "`" * (longest + 1)
            self._done += [f"{fence}\n{lines}\n{fence}", ""]

    def text(self) -> str:
        self.code(opens=False) if self._in_code else self._end_line()
        return "\n".join(self._done).strip("\n")

    def _end_line(self) -> None:
        line = " ".join("".join(self._line).split())
        self._line.clear()
        if line:
            self._done.append(self._prefix + line)
            self._prefix = ""

    def _blank(self) -> None:
        if self._done and self._done[-1]:
            self._done.append("")
