"""PowerPoint presentations (pptx) → text slide by slide, each a page; extra `files`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

from retrieval.errors import MissingExtra
from retrieval.readers import zip_limits
from retrieval.readers.blocks import Block, clean, join_blocks, join_pages, table_lines
from retrieval.readers.docx import properties
from retrieval.readers.files import Unreadable
from retrieval.readers.text import Content

_A = "{http://schemas.openxmlformats.org/drawingml/2006/main}"
_DIAGRAM = "{http://schemas.openxmlformats.org/drawingml/2006/diagram}"
_R = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}"


def parse_pptx(file: BinaryIO) -> Content:
    """For each slide, its title as a heading, texts and tables in their order, diagrams, and notes.

    The title is the presentation's own, else the first slide's. Dates, footers, slide numbers and
    comments are left out.

    Raises:
        MissingExtra: python-pptx is not installed.
        Unreadable: the file is damaged, encrypted, or too large.
    """
    try:
        import pptx
    except ImportError as error:
        purpose = "Reading PowerPoint files"
        raise MissingExtra("python-pptx", extra="files", purpose=purpose) from error
    with zip_limits.opened(file, "a PowerPoint presentation (pptx)") as package:
        zip_limits.check(package, package.infolist())
        zip_limits.refuse_document_types(package)
        file.seek(0)
        try:
            presentation = pptx.Presentation(file)
            slides = list(presentation.slides)
            text, pages = join_pages(join_blocks(_slide(slide)) for slide in slides)
            title, metadata = properties(presentation.part.package, "PowerPoint Presentation")
            if not title and slides:
                title = _title(slides[0])
            return Content(text, title, metadata, pages)
        except Unreadable:
            raise
        except Exception as error:  # the one boundary: a part may lack, or hold, anything
            reason = zip_limits.damaged("a PowerPoint presentation", error)
            raise Unreadable(f"{reason}; if PowerPoint opens it, save it anew") from error


def _slide(slide: Any) -> Iterator[Block]:
    title = _title(slide)
    if title:
        yield Block(f"# {title}")
    named = slide.shapes.title
    skipped = None if named is None else named.shape_id
    yield from _shapes(each for each in slide.shapes if each.shape_id != skipped)
    notes = slide.notes_slide.notes_text_frame if slide.has_notes_slide else None
    if notes is not None and notes.text.strip():
        yield Block("Notes:")
        yield from _paragraphs(notes.paragraphs)


def _title(slide: Any) -> str:
    named = slide.shapes.title
    return (
        "" if named is None else " ".join(clean(named.text_frame.text.replace("\v", " ")).split())
    )


def _shapes(shapes: Iterable[Any]) -> Iterator[Block]:
    """Texts of shapes from top to bottom and left to right, whatever was drawn first."""
    for shape in sorted(shapes, key=lambda each: (each.top or 0, each.left or 0)):
        if hasattr(shape, "shapes"):
            yield from _shapes(shape.shapes)
        elif shape.has_text_frame:
            if not _is_furniture(shape):
                yield from _paragraphs(shape.text_frame.paragraphs)
        elif shape.has_table:
            yield from _table(shape.table)
        elif shape.has_chart:
            chart = shape.chart
            if chart.has_title and chart.chart_title.has_text_frame:
                yield from _paragraphs(chart.chart_title.text_frame.paragraphs)
        else:
            yield from _diagram(shape)


def _is_furniture(shape: Any) -> bool:
    """Whether it is what every slide carries: date, footer, header, number."""
    from pptx.enum.shapes import PP_PLACEHOLDER

    return shape.is_placeholder and shape.placeholder_format.type in (
        PP_PLACEHOLDER.DATE,
        PP_PLACEHOLDER.FOOTER,
        PP_PLACEHOLDER.HEADER,
        PP_PLACEHOLDER.SLIDE_NUMBER,
    )


def _paragraphs(paragraphs: Iterable[Any]) -> Iterator[Block]:
    """Text as it is where it is one paragraph, else a list: slides have points."""
    texts = [
        (" ".join(clean(paragraph.text.replace("\v", " ")).split()), paragraph.level)
        for paragraph in paragraphs
    ]
    texts = [(text, level) for text, level in texts if text]
    for text, level in texts:
        if len(texts) == 1:
            yield Block(text)
        else:
            yield Block(f"{'  ' * min(level, 5)}- {text}", is_item=True)


def _table(table: Any) -> Iterator[Block]:
    rows: list[list[str]] = []
    for row in table.rows:
        above = rows[-1] if rows else []
        cells = [_cell(cell, above[place : place + 1]) for place, cell in enumerate(row.cells)]
        if any(cells):
            rows.append(cells)
    if rows:
        yield Block("\n".join(table_lines(rows, has_head=bool(table.first_row))))


def _cell(cell: Any, above: list[str]) -> str:
    """A cell's text; one that is merged with those above says what they say."""
    if cell.is_spanned:
        return above[0] if above and cell._tc.vMerge else ""
    return " ".join(clean(cell.text).split())


def _diagram(shape: Any) -> Iterator[Block]:
    """The points of SmartArt, whose text is in a separate part."""
    from pptx.oxml import parse_xml

    for relations in shape._element.iter(f"{_DIAGRAM}relIds"):
        data = parse_xml(shape.part.related_part(relations.get(f"{_R}dm")).blob)
        for point in data.iter(f"{_DIAGRAM}pt"):
            text = " ".join(clean("".join(t.text or "" for t in point.iter(f"{_A}t"))).split())
            if text:
                yield Block(f"- {text}", is_item=True)
