"""Log lines on standard error: JSON for machines, text on a terminal, secrets in neither."""

from __future__ import annotations

import json
import logging
import re
import sys
from typing import TYPE_CHECKING, Any, TextIO

import structlog
from structlog.typing import EventDict, WrappedLogger

if TYPE_CHECKING:
    from app.settings.settings import Settings

MASK = "[secret]"

# Everything that looks like a key, wherever it is: also in tracebacks, and in what libraries log.
_LOOKS = re.compile(
    r"""
      (?P<key>\btsr_[A-Za-z0-9_-]{16,})
    | (?P<model_key>\bsk-[A-Za-z0-9_-]{16,})
    | (?P<scheme>\b(?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{8,}
    | (?P<header>\b(?:authorization|x-api-key|api[-_]key|password|cookie)["']?\s*[:=,]\s*(?:b?["'])?
        (?:(?:bearer|basic)\s+)?)
      (?!\[secret\])[^\s"',}\]]+
    | (?P<url>\b[a-z][a-z0-9+.-]*://)[^\s/@"']+@
    """,
    re.IGNORECASE | re.VERBOSE,
)


class Redactor:
    """Takes secrets out of a finished line.

    Args:
        secrets: texts that must never be shown; those under 4 characters are left, since masking
            them would tear other words apart.
    """

    def __init__(self, secrets: tuple[str, ...] = ()) -> None:
        forms = {
            form
            for secret in secrets
            if len(secret) >= 4
            for form in (secret, json.dumps(secret)[1:-1], repr(secret)[1:-1])
        }
        ordered = sorted(forms, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, ordered))) if ordered else None

    def __call__(self, logger: WrappedLogger, name: str, line: str) -> str:
        """The line without secrets; structlog's last processor."""
        return self.clean(line)

    def clean(self, text: str) -> str:
        """The text with each secret replaced by `[secret]`."""
        if self._known is not None:
            text = self._known.sub(MASK, text)
        return _LOOKS.sub(_masked, text)


def _masked(found: re.Match[str]) -> str:
    kept = found["scheme"] or found["header"] or found["url"] or ""
    return f"{kept}{MASK}" + ("@" if found["url"] else "")


class _Handler(logging.StreamHandler[TextIO]):
    """Writes to what standard error is when a line is written; one of ours per process."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def setup(settings: Settings) -> None:
    """Write the log as the settings say; may be called again.

    `app` and `retrieval` log from `log_level` on, other libraries from warnings on: what they say
    below that can hold whole requests.
    """
    level = settings.log_level.upper()
    as_json = settings.log_format == "json" or (
        settings.log_format == "auto" and not sys.stderr.isatty()
    )
    secrets = tuple(
        value.get_secret_value()
        for value in (settings.api_key, settings.llm_key)
        if value is not None
    )
    handler = _Handler(sys.stderr)
    handler.setFormatter(formatter(as_json=as_json, redactor=Redactor(secrets)))
    root = logging.getLogger()
    for old in [one for one in root.handlers if isinstance(one, _Handler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    for name in ("app", "retrieval"):
        logging.getLogger(name).setLevel(level)


def formatter(*, as_json: bool, redactor: Redactor) -> logging.Formatter:
    """What makes a line of a record, of structlog's or of the standard library's."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
    ]
    form: Any = (
        structlog.processors.JSONRenderer(ensure_ascii=False, default=str)
        if as_json
        else structlog.dev.ConsoleRenderer(
            colors=False,
            # a plain traceback: the others show the values of local variables
            exception_formatter=structlog.dev.plain_traceback,
        )
    )
    last: list[Any] = [form, *([_one_line] if as_json else []), redactor]
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _in_order, *last],
    )


def _in_order(logger: WrappedLogger, name: str, event: EventDict) -> EventDict:
    event.pop("message", None)  # another handler's formatting leaves it in the record
    first = {key: event.pop(key) for key in ("timestamp", "level", "event") if key in event}
    return {**first, **event}


def _one_line(logger: WrappedLogger, name: str, line: str) -> str:
    # JSON strings are escaped except for these two, at which some readers break lines.
    return line.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
