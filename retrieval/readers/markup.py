"""reStructuredText and TeX → text with markdown's marks for headings and code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from retrieval.errors import MissingExtra
from retrieval.readers.code import fenced
from retrieval.readers.files import decode
from retrieval.readers.text import Content
from retrieval.splitting.markdown_structure import find_headings

# --- reStructuredText -----------------------------------------------------------------------

_LINE = re.compile(r"([!-/:-@[-`{-~])\1*")
_CODE = re.compile(r"( *)\.\. (?:code|code-block|sourcecode|highlight|literalinclude)::[ \t]*(\S*)")
_OPTION = re.compile(r" +:[\w-]+:")
_COMMENT = re.compile(r"\.\. (?!\S+::|\[|_|\|)")


def parse_rst(data: bytes, encoding: str | None) -> Content:
    """reStructuredText: titles become headings by the order of their underlines, code is fenced."""
    found = decode(data, encoding)
    text = "\n".join(_rst_lines(found.text.split("\n"))).strip("\n")
    return Content(text, _first_heading(text), notes=found.notes)


def _rst_lines(lines: list[str]) -> Iterator[str]:
    levels: list[str] = []
    place = 0
    while place < len(lines):
        line = lines[place]
        over = _adornment(line)
        title = lines[place + 1] if place + 1 < len(lines) else ""
        under = lines[place + 2] if place + 2 < len(lines) else ""
        if over and title.strip() and under.rstrip() == line.rstrip():
            yield from ("", f"{_mark(levels, over * 2)} {title.strip()}", "")
            place += 3
        elif (
            _is_title(line)
            and (under_ := _adornment(title))
            and (len(title.rstrip()) >= len(line.rstrip()))
        ):
            yield from ("", f"{_mark(levels, under_)} {line.strip()}", "")
            place += 2
        elif (code := _CODE.fullmatch(line.rstrip())) or line.rstrip().endswith("::"):
            if code is None:
                shown = line.rstrip()
                shown = shown[:-2].rstrip() if shown.endswith(" ::") else shown[:-1]
                yield from [shown] if shown.strip(" :.") else []
            own = len(code.group(1)) if code else len(line) - len(line.lstrip())
            block, place = _indented(lines, place + 1, own)
            yield from ("", fenced("\n".join(block), code.group(2) if code else ""), "")
        else:
            yield line
            place += 1


def _is_title(line: str) -> bool:
    return bool(line.strip()) and not line[0].isspace() and not _adornment(line)


def _adornment(line: str) -> str:
    """The sign that a line repeats at least three times; empty for others."""
    own = line.rstrip()
    return own[0] if len(own) >= 3 and _LINE.fullmatch(own) else ""


def _mark(levels: list[str], own: str) -> str:
    if own not in levels:
        levels.append(own)
    return "#" * min(levels.index(own) + 1, 6)


def _indented(lines: list[str], place: int, outer: int) -> tuple[list[str], int]:
    """The block of lines that stand further right, without options, and where it ends."""
    block: list[str] = []
    while place < len(lines):
        line = lines[place]
        if line.strip() and len(line) - len(line.lstrip()) <= outer:
            break
        if block or (line.strip() and not _OPTION.match(line)):
            block.append(line)
        place += 1
    while block and not block[-1].strip():
        block.pop()
    least = min((len(one) - len(one.lstrip()) for one in block if one.strip()), default=0)
    return [one[least:] for one in block], place


# --- TeX ------------------------------------------------------------------------------------

_SECTIONS = {
    "part": 1, "chapter": 1, "section": 2, "subsection": 3, "subsubsection": 4, "paragraph": 5,
}  # fmt: skip


_VERBATIM = re.compile(
    r"\\begin\{(verbatim\*?|lstlisting|minted|Verbatim)\}(?:\[[^\]]*\])?(?:\{\w+\})?(.*?)\\end\{\1\}",
    re.DOTALL,
)
_PLACE = "\ue000"  # of private use: in no text
_SAID_ELSEWHERE = ("maketitle", "cite", "citep", "citet", "tableofcontents", "nocite")


def parse_tex(data: bytes, encoding: str | None) -> Content:
    """TeX: its text without commands and comments, sections as headings, formulas as typed.

    Raises:
        MissingExtra: pylatexenc is not installed.
    """
    found = decode(data, encoding)
    title = re.search(r"\\title\s*\{((?:[^{}]|\{[^{}]*\})*)\}", found.text)
    body = re.search(r"\\begin\{document\}(.*?)(?:\\end\{document\}|\Z)", found.text, re.DOTALL)
    text = _tex_text(body.group(1) if body else found.text)
    named = " ".join(_tex_text(title.group(1)).split()) if title else ""
    return Content(text, named or _first_heading(text), notes=found.notes)


def _tex_text(source: str) -> str:
    code: list[str] = []

    def taken_out(found: re.Match[str]) -> str:
        code.append(fenced(found.group(2)))
        return f"\n\n{_PLACE}{len(code) - 1}{_PLACE}\n\n"

    text = _tex().latex_to_text(_VERBATIM.sub(taken_out, source))
    text = re.sub(f"{_PLACE}(\\d+){_PLACE}", lambda found: code[int(found.group(1))], text)
    return re.sub(r"\n[ \t]*(?:\n[ \t]*)+", "\n\n", text).strip()


@cache
def _tex() -> Any:
    try:
        from pylatexenc import latex2text
    except ImportError as error:
        raise MissingExtra("pylatexenc", extra="files", purpose="Reading TeX files") from error
    context = latex2text.get_default_latex_context_db()
    context.add_context_category(
        "headings",
        prepend=True,
        macros=[
            latex2text.MacroTextSpec(name, simplify_repl=f"\n\n{'#' * level} %(3)s\n\n")
            for name, level in _SECTIONS.items()
        ]
        + [latex2text.MacroTextSpec(name, discard=True) for name in _SAID_ELSEWHERE],
    )
    return latex2text.LatexNodes2Text(
        latex_context=context, math_mode="verbatim", keep_comments=False
    )


def _first_heading(text: str) -> str:
    first = next(iter(find_headings(text)), None)
    return first.text if first is not None else ""
