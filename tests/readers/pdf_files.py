"""PDF files written by hand, for the tests of the reader: pages of placed lines of text."""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

# The padding of passwords, from the PDF specification (ISO 32000-1, algorithm 2).
_PADDING = bytes.fromhex("28bf4e5e4e758a4164004e56fffa01082e2e00b6d0683e802f0ca9fe6453697a")
_FILE_ID = b"0123456789abcdef"


@dataclass(frozen=True)
class Line:
    """One line of text with its left end at (x, y), in points from the lower left corner."""

    text: str
    x: float = 72
    y: float = 720
    size: float = 12


IMAGE = "q 200 0 0 200 100 300 cm /Im0 Do Q"
"""What to give as a page for one that shows a picture and no text."""


def lines(*texts: str, top: float = 720, pitch: float = 14.4, x: float = 72) -> list[Line]:
    """Lines of one paragraph, one below the other."""
    return [Line(text, x, top - pitch * number) for number, text in enumerate(texts)]


def pdf(
    pages: Sequence[Sequence[Line] | str],
    *,
    info: dict[str, str] | None = None,
    password: str | None = None,
    to_unicode: dict[int, str] | None = None,
    annotations: Sequence[str] = (),
) -> bytes:
    """The bytes of a valid file; a page that is a string is its content stream.

    Args:
        info: entries of the document information, such as Title.
        password: needed to open it; "" encrypts so that it opens without one (RC4, 40 bits).
        annotations: entries of fields and notes on the first page.
        to_unicode: what character codes of the font stand for, in place of Windows-1252.
    """
    key = None if password is None else _key(password)
    count = len(pages)
    font, image, cmap, first = 3, 4, 5, 6
    objects: dict[int, bytes] = {
        1: b"<< /Type /Catalog /Pages 2 0 R >>",
        2: b"<< /Type /Pages /Count %d /Kids [%s] >>"
        % (count, b" ".join(b"%d 0 R" % (first + 2 * n) for n in range(count))),
        font: b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding"
        + (b" /ToUnicode %d 0 R >>" % cmap if to_unicode else b" >>"),
        image: _stream(
            _crypt(key, image, b"\x80" * 16),
            b"/Type /XObject /Subtype /Image /Width 4 /Height 4 /ColorSpace /DeviceGray "
            b"/BitsPerComponent 8",
        ),
        cmap: _stream(_crypt(key, cmap, _cmap(to_unicode or {}))),
    }
    for number, page in enumerate(pages):
        at = first + 2 * number
        objects[at] = (
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents %d 0 R /Resources "
            b"<< /Font << /F1 %d 0 R >> /XObject << /Im0 %d 0 R >> >> >>" % (at + 1, font, image)
        )
        drawn = page.encode() if isinstance(page, str) else _drawn(page)
        objects[at + 1] = _stream(
            _crypt(key, at + 1, zlib.compress(drawn)), b"/Filter /FlateDecode"
        )
    last = first + 2 * count
    entries = b"".join(
        b"/%s <%s> "
        % (name.encode(), _crypt(key, last, b"\xfe\xff" + text.encode("utf-16-be")).hex().encode())
        for name, text in (info or {}).items()
    )
    objects[last] = b"<< %s>>" % entries
    if annotations:
        for number, own in enumerate(annotations, start=last + 1):
            objects[number] = b"<< /Type /Annot /P %d 0 R %s >>" % (first, own.encode())
        listed = b" ".join(b"%d 0 R" % (last + 1 + n) for n in range(len(annotations)))
        objects[first] = objects[first].replace(b" >> >> >>", b" >> >> /Annots [%s] >>" % listed)
        objects[1] = (
            b"<< /Type /Catalog /Pages 2 0 R /AcroForm << /Fields [%s] /NeedAppearances true "
            b"/DA (/F1 12 Tf 0 g) /DR << /Font << /F1 %d 0 R >> >> >> >>" % (listed, font)
        )
    trailer = b"/Size %d /Root 1 0 R /Info %d 0 R" % (len(objects) + 1, last)
    if key is not None:
        owner = _owner_entry(password or "")
        trailer += b" /ID [<%s> <%s>]" % ((_FILE_ID.hex().encode(),) * 2)
        trailer += b" /Encrypt << /Filter /Standard /V 1 /R 2 /P -4 /O <%s> /U <%s> >>" % (
            owner.hex().encode(),
            _rc4(key, _PADDING).hex().encode(),
        )
    return _file(objects, trailer)


def _file(objects: dict[int, bytes], trailer: bytes) -> bytes:
    out = bytearray(b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n")
    table = [b"0000000000 65535 f \n"]
    for number in sorted(objects):
        table.append(b"%010d 00000 n \n" % len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, objects[number])
    start = len(out)
    out += b"xref\n0 %d\n%s" % (len(table), b"".join(table))
    out += b"trailer\n<< %s >>\nstartxref\n%d\n%%%%EOF\n" % (trailer, start)
    return bytes(out)


def _drawn(page: Sequence[Line]) -> bytes:
    shown = []
    for line in page:
        text = line.text.encode("cp1252", "strict")
        for special in (b"\\", b"(", b")"):
            text = text.replace(special, b"\\" + special)
        shown.append(
            b"BT /F1 %g Tf 1 0 0 1 %g %g Tm (%s) Tj ET" % (line.size, line.x, line.y, text)
        )
    return b"\n".join(shown)


def _stream(data: bytes, entries: bytes = b"") -> bytes:
    return b"<< /Length %d %s >>\nstream\n%s\nendstream" % (len(data), entries, data)


def _cmap(codes: dict[int, str]) -> bytes:
    rows = "\n".join(
        f"<{code:02x}> <{text.encode('utf-16-be').hex()}>" for code, text in codes.items()
    )
    return (
        "/CIDInit /ProcSet findresource begin 12 dict begin begincmap "
        "1 begincodespacerange <00> <ff> endcodespacerange\n"
        f"{len(codes)} beginbfchar\n{rows}\nendbfchar endcmap end end"
    ).encode()


# --- encryption: RC4 of 40 bits, revision 2 -------------------------------------------------


def _key(password: str) -> bytes:
    padded = (password.encode() + _PADDING)[:32]
    return hashlib.md5(padded + _owner_entry(password) + struct.pack("<i", -4) + _FILE_ID).digest()[
        :5
    ]


def _owner_entry(password: str) -> bytes:
    padded = (password.encode() + _PADDING)[:32]
    return _rc4(hashlib.md5(padded).digest()[:5], padded)


def _crypt(key: bytes | None, number: int, data: bytes) -> bytes:
    """An object's stream or string under the document's key; as it is without one."""
    if key is None:
        return data
    own = hashlib.md5(key + struct.pack("<I", number)[:3] + b"\0\0").digest()[:10]
    return _rc4(own, data)


def _rc4(key: bytes, data: bytes) -> bytes:
    state = list(range(256))
    j = 0
    for i in range(256):
        j = (j + state[i] + key[i % len(key)]) % 256
        state[i], state[j] = state[j], state[i]
    out = bytearray()
    i = j = 0
    for byte in data:
        i = (i + 1) % 256
        j = (j + state[i]) % 256
        state[i], state[j] = state[j], state[i]
        out.append(byte ^ state[(state[i] + state[j]) % 256])
    return bytes(out)
