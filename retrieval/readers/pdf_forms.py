"""What stands in the fields and notes of a PDF page, which is no part of the page's own text.

A field's value goes into the line that stands before it, a tick before the line that follows its
box; what has no line beside it is said behind the page's text, with the field's name.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from retrieval.readers.pdf_layout import Line

_PASSWORD = 1 << 13
"""The flag of a field whose value is not to be shown (ISO 32000-1, table 228)."""
_NEAR = 40.0
"""Points between a box and the line that it belongs to."""
_TICKED, _EMPTY = "[x]", "[ ]"


@dataclass(frozen=True, slots=True)
class Said:
    """What a field or note says, and where.

    name: the field's, for people; empty of a note. is_box: to be ticked; it has no value where it
    is not.
    """

    name: str
    value: str
    is_box: bool
    left: float
    bottom: float
    right: float
    top: float


def said_on(page: Any, form: Any) -> list[Said]:
    """What a page's fields and notes say, from left to right and top to bottom.

    Args:
        page: as pypdfium2 has it. form: the document's form environment; None where it has none.
    """
    from pypdfium2 import raw

    found = []
    for place in range(raw.FPDFPage_GetAnnotCount(page)):
        annotation = raw.FPDFPage_GetAnnot(page, place)
        try:
            own = _said(annotation, form)
        finally:
            raw.FPDFPage_CloseAnnot(annotation)
        if own is not None and (own.is_box or own.value.strip()):
            found.append(own)
    return sorted(found, key=lambda one: (-one.top, one.left))


def placed(lines: Sequence[Line], said: Sequence[Said]) -> tuple[list[Line], list[str]]:
    """The page's lines with what stands beside them, and lines of what stands beside none."""
    own = list(lines)
    others = []
    for one in said:
        at = _beside(own, one)
        value = " ".join(one.value.split())
        if at is None:
            others += [f"{one.name}: {value}" if one.name else value] if value else []
        elif one.is_box:
            own[at] = replace(own[at], text=f"{_TICKED if value else _EMPTY} {own[at].text}")
        else:
            text = f"{own[at].text} {value}"
            own[at] = replace(own[at], text=text, right=max(own[at].right, one.right))
    return own, others


def _beside(lines: Sequence[Line], one: Said) -> int | None:
    """The line that names a field: the nearest before it, or of a box, the one behind it."""
    middle = (one.bottom + one.top) / 2
    near = {}
    for at, line in enumerate(lines):
        if line.bottom - line.height / 2 <= middle <= line.bottom + 1.5 * line.height:
            gap = line.left - one.left
            if one.is_box and 0 < gap < one.right - one.left + _NEAR:
                near[at] = gap
            elif not one.is_box and gap <= 0:
                near[at] = -gap
    return min(near, key=lambda at: near[at], default=None)


def _said(annotation: Any, form: Any) -> Said | None:
    from pypdfium2 import raw

    kind = raw.FPDFAnnot_GetSubtype(annotation)
    if raw.FPDFAnnot_GetFlags(annotation) & raw.FPDF_ANNOT_FLAG_HIDDEN:
        return None
    name, is_box = "", False
    if kind == raw.FPDF_ANNOT_WIDGET:
        name, value, is_box = _field(annotation, form)
    elif kind in (raw.FPDF_ANNOT_FREETEXT, raw.FPDF_ANNOT_STAMP):
        value = _text(raw.FPDFAnnot_GetStringValue, annotation, b"Contents")
    else:
        return None
    box = raw.FS_RECTF()
    raw.FPDFAnnot_GetRect(annotation, box)
    return Said(name, value, is_box, box.left, box.bottom, box.right, box.top)


def _field(annotation: Any, form: Any) -> tuple[str, str, bool]:
    """A field's name and value, and whether it is a box; no value where none is to be shown."""
    from pypdfium2 import raw

    if form is None:
        name = _text(raw.FPDFAnnot_GetStringValue, annotation, b"T")
        return name, _text(raw.FPDFAnnot_GetStringValue, annotation, b"V"), False
    kind = raw.FPDFAnnot_GetFormFieldType(form, annotation)
    name = _text(raw.FPDFAnnot_GetFormFieldAlternateName, form, annotation) or _text(
        raw.FPDFAnnot_GetFormFieldName, form, annotation
    )
    if kind in (raw.FPDF_FORMFIELD_CHECKBOX, raw.FPDF_FORMFIELD_RADIOBUTTON):
        ticked = raw.FPDFAnnot_IsChecked(form, annotation)
        value = _text(raw.FPDFAnnot_GetFormFieldExportValue, form, annotation) or _TICKED
        return name, value if ticked else "", True
    hidden = raw.FPDFAnnot_GetFormFieldFlags(form, annotation) & _PASSWORD
    if kind == raw.FPDF_FORMFIELD_PUSHBUTTON or hidden:
        return name, "", False
    return name, _text(raw.FPDFAnnot_GetFormFieldValue, form, annotation), False


def _text(read: Callable[..., int], *where: Any) -> str:
    """What one of PDFium's functions writes into a buffer: UTF-16 up to a zero."""
    from pypdfium2 import raw

    size = read(*where, None, 0)
    if size <= 2:
        return ""
    buffer = ctypes.create_string_buffer(size)
    read(*where, ctypes.cast(buffer, ctypes.POINTER(raw.FPDF_WCHAR)), size)
    return buffer.raw[:size].decode("utf-16-le", "replace").rstrip("\0")
