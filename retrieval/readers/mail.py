"""Mail as programs save it (eml): its text, and subject, people and date as metadata."""

from __future__ import annotations

import email
import email.policy
from email.message import EmailMessage
from email.utils import getaddresses, parsedate_to_datetime
from typing import Any

from retrieval.readers.blocks import clean
from retrieval.readers.files import Unreadable
from retrieval.readers.html import parse_html
from retrieval.readers.text import Content

_PEOPLE = ("from", "to", "cc")


def parse_mail(data: bytes, encoding: str | None) -> Content:
    """The message's plain text, else its HTML; messages within it follow.

    Attachments are named, not read.

    Raises:
        Unreadable: it has no header of a mail.
    """
    message = email.message_from_bytes(data, policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    if not any(message.get(name) for name in ("from", "subject", "date", "received")):
        raise Unreadable("is not a mail: it has no sender, subject or date")
    parts = [_body(message)]
    attached: list[str] = []
    for part in message.iter_attachments() if message.is_multipart() else ():
        if part.get_content_type() == "message/rfc822":
            inner = part.get_payload(0)
            if isinstance(inner, EmailMessage):
                subject = _header(inner, "subject")
                parts += [f"## {subject}" if subject else "", _body(inner)]
        else:
            attached.append(part.get_filename() or part.get_content_type())
    metadata: dict[str, Any] = {name: _people(message, name) for name in _PEOPLE}
    metadata["date"] = _date(message)
    metadata["attachments"] = [clean(name) for name in attached]
    notes = (f"has attachments that were not read: {', '.join(attached)}",) if attached else ()
    subject = _header(message, "subject")
    return Content(
        "\n\n".join(filter(None, parts)) or subject,
        subject,
        {name: value for name, value in metadata.items() if value},
        notes=notes,
    )


def _body(message: EmailMessage) -> str:
    part = message.get_body(("plain", "html"))
    if part is None:
        return ""
    try:
        text = str(part.get_content())
    except (LookupError, UnicodeError):  # an encoding that does not exist, or is not kept
        payload = part.get_payload(decode=True)
        text = payload.decode("utf-8", "replace") if isinstance(payload, bytes) else ""
    if part.get_content_type() == "text/html":
        return parse_html(text.encode(), "utf-8").text
    return clean(text.replace("\r\n", "\n")).strip()


def _header(message: EmailMessage, name: str) -> str:
    try:
        return " ".join(clean(str(message.get(name) or "")).split())
    except (ValueError, IndexError, AttributeError):  # the parser fails on some that are damaged
        return ""


def _people(message: EmailMessage, name: str) -> list[str]:
    try:
        found = getaddresses([str(one) for one in message.get_all(name, ())])
    except (ValueError, IndexError, AttributeError):
        return []
    return [clean(f"{who} <{where}>" if who else where) for who, where in found if where]


def _date(message: EmailMessage) -> str:
    try:
        return parsedate_to_datetime(str(message.get("date"))).isoformat()
    except (ValueError, TypeError, IndexError):
        return ""
