"""The encoding of text that is not UTF-8 and does not say what it is."""

from __future__ import annotations

import codecs
import re
from typing import BinaryIO

_SAMPLE = 256 * 1024
_LEAST = 8
"""Bytes beyond ASCII from which their frequencies say anything."""
_BEYOND = re.compile(rb"[\x80-\xff]")
_WESTERN = "àáâãäåæçèéêëìíîïñòóôõöøùúûüýœšžßðþ"
_LETTERS = f"{_WESTERN}{_WESTERN.upper().replace('SS', '')}ªº"
_MARKS = "‘’‚“”„‹›«»–—…•€°§\u00a0\u00ad"
_SIGNS = "£¥©®™±×·¹²³½¼¾µ¡¿¢¶†‡"
_ODD = re.compile(f"[^\x00-\x7f{_LETTERS}{_MARKS}{_SIGNS}]")
_SIGN = re.compile(f"[{_SIGNS}]")
_USUAL = re.compile(f"[{_LETTERS}{_MARKS}]")
# Letters of other scripts, read as Western ones, stand beside each other, or around signs.
_RUN = re.compile(f"[{_LETTERS}]{{3}}|[A-Za-z{_LETTERS}][£¥§©®±¹½¼¾¡¿¢¶†‡][A-Za-z{_LETTERS}]")
_MULTIBYTE = re.compile(rb"[\xc2-\xf4][\x80-\xbf]+")


def guess(data: bytes) -> str | None:
    """The likely encoding of text that is not UTF-8; None where too little speaks for any.

    Western text is looked for first: it has few letters that could say so, and those are taken for
    Hebrew, Chinese or Polish.

    Example:
        >>> guess("Grüße aus Köln".encode("cp1252"))
        'cp1252'
        >>> guess("大门在十点关闭，报销在十天内完成。".encode("gb18030"))
        'gb18030'
    """
    sample = data[:_SAMPLE]
    if _is_western(sample):
        return "cp1252"
    if len(_BEYOND.findall(sample)) < _LEAST:
        return None
    import chardet

    name = chardet.detect(sample)["encoding"]
    try:
        return None if name is None else codecs.lookup(name).name
    except LookupError:
        return None


def guess_file(file: BinaryIO) -> str | None:
    """The likely encoding of a file that is not UTF-8; None where it is, damaged or not.

    What is UTF-8 but for some bytes is damaged UTF-8. The file is left at its beginning.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    sample = b""
    try:
        while block := file.read(1 << 20):
            sample = _around(sample, block)
            decoder.decode(block)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return None if has_utf8(sample) else guess(_beyond_ascii(sample))
    finally:
        file.seek(0)
    return None


def has_utf8(data: bytes) -> bool:
    """Whether characters beyond ASCII are there in UTF-8; chance makes few."""
    found = 0
    for match in _MULTIBYTE.finditer(data):
        try:
            match.group().decode("utf-8")
        except UnicodeDecodeError:
            continue
        found += 1
    return found > 0 and 5 * found >= len(_BEYOND.findall(data))


def _around(sample: bytes, block: bytes) -> bytes:
    """The last of what was read, so that the bytes that are not UTF-8 are in it."""
    return (sample if not sample.isascii() else b"")[-_SAMPLE:] + block


def _beyond_ascii(data: bytes) -> bytes:
    """From shortly before the first byte beyond ASCII."""
    found = _BEYOND.search(data)
    return data if found is None else data[max(0, found.start() - 1024) :]


def _is_western(data: bytes) -> bool:
    try:
        text = data.decode("cp1252")
    except UnicodeDecodeError:
        return False
    if _ODD.search(text) or _RUN.search(text):
        return False
    return len(_USUAL.findall(text)) > len(_SIGN.findall(text))
