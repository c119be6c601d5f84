"""Why a filter lets nothing through: a field that no passage has, a value of another kind.

Filters are strict: 2020 is not "2020". Where one lets nothing through, what the passages hold is
looked at, and a value of another kind is compared as the field's own kind: text as text, seconds
since 1970 as dates. A notice says so.
"""

from __future__ import annotations

import contextlib
import difflib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from retrieval.errors import InvalidFilter, RetrievalError
from retrieval.index.filter_syntax import written
from retrieval.index.filters import CONNECTIVES, OPERATORS
from retrieval.index.payload import METADATA, RESERVED
from retrieval.index.payload_paths import path_parts, payload_path, values_at
from retrieval.types import Index, Where

_SAMPLE = 1000
_BOUNDS = tuple(name for name in OPERATORS if name != "exists")
_LARGEST_EPOCH = 4_102_444_800  # 2100-01-01


@dataclass(frozen=True, slots=True)
class Explained:
    """Notices, in sentences, and the filter as it can be meant; None where that changes nothing."""

    notices: tuple[str, ...]
    where: Where | None


def explain(index: Index, where: Where, tenant: str | None) -> Explained | None:
    """Why a filter lets no passage through; None where it lets some through, or cannot be read.

    Args:
        index: the collection's.
        where: as searches take it. A Qdrant filter is not explained.
        tenant: whose passages.
    """
    if not isinstance(where, Mapping):
        return None
    with contextlib.suppress(InvalidFilter):  # of values that the field's index cannot compare
        if index.count(where, tenant=tenant) > 0:
            return None
    facts = _Facts(index, tenant)
    try:
        changed = _rewritten(where, facts)
    except (InvalidFilter, RetrievalError):
        return None
    same = json.dumps(changed, default=str) == json.dumps(dict(where), default=str)
    return Explained(tuple(dict.fromkeys(facts.notices)), None if same else changed)


@dataclass(slots=True)
class _Facts:
    """What passages hold: a sample of their metadata, read once."""

    index: Index
    tenant: str | None
    notices: list[str] = field(default_factory=list)
    _sample: list[Mapping[str, Any]] | None = None

    @property
    def sample(self) -> list[Mapping[str, Any]]:
        """Metadata of the first passages."""
        if self._sample is None:
            found = itertools.islice(self.index.passages(tenant=self.tenant), _SAMPLE)
            self._sample = [one.metadata for one in found]
        return self._sample

    def has(self, key: str) -> bool:
        """Whether any passage has a value there."""
        return self.index.count({key: {"exists": True}}, tenant=self.tenant) > 0

    def names(self) -> list[str]:
        """Fields as filters name them, the most frequent first."""
        seen: dict[str, int] = {}
        for metadata in self.sample:
            for name in _names(metadata, ""):
                seen[name] = seen.get(name, 0) + 1
        declared = dict.fromkeys(self.index.manifest.storage.fields, 0)
        return sorted({**declared, **seen}, key=lambda name: -seen.get(name, 0))

    def kinds(self, key: str) -> set[str]:
        """Kinds of the values that the sample has there: text, date, number, flag."""
        parts = path_parts(payload_path(key))[1:]  # below metadata
        values = itertools.chain.from_iterable(values_at(one, parts) for one in self.sample)
        return {_kind(value) for value in values if value is not None}


def _rewritten(where: Mapping[Any, Any], facts: _Facts) -> dict[Any, Any]:
    """The filter with each condition as the passages' fields are."""
    changed: dict[Any, Any] = {}
    for key, value in where.items():
        if key in ("and", "or"):
            changed[key] = [_rewritten(part, facts) for part in value]
        elif key == "not":
            changed[key] = _rewritten(value, facts)
        else:
            name, own = _condition(key, value, facts)
            changed[name] = own
    return changed


def _condition(key: str, value: Any, facts: _Facts) -> tuple[str, Any]:
    if key in RESERVED or (isinstance(value, Mapping) and "exists" in value) or value is None:
        return key, value
    if not facts.has(key):
        quoted = f'"{key}"'
        if "." in key and '"' not in key and facts.has(quoted):
            facts.notices.append(
                f"No passage has {_within(key)}; {key} was taken for one name. A name that has a "
                f"dot is written in quotes: {json.dumps(quoted)}."
            )
            return quoted, _as_held(quoted, value, facts)
        facts.notices.append(_unknown(key, facts))
        return key, value
    return key, _as_held(key, value, facts)


def _unknown(key: str, facts: _Facts) -> str:
    known = facts.names()
    near = difflib.get_close_matches(key, known, n=3, cutoff=0.6)
    lower = [name for name in known if name.casefold() == key.casefold()]
    what = f"has {_within(key)}" if "." in key and '"' not in key else f"has the field {key}"
    said = f"No passage {what}"
    if near or lower:
        shown = " or ".join(dict.fromkeys([*lower, *near]))
        return f"{said}: did you mean {shown}?"
    if not known:
        return f"{said}; none has any metadata."
    more = ", …" if len(known) > 12 else ""
    return f"{said}; fields are {', '.join(known[:12])}{more}."


def _within(key: str) -> str:
    outer, _, inner = key.rpartition(".")
    return f"a field {inner} within {outer}"


def _as_held(key: str, value: Any, facts: _Facts) -> Any:
    """A condition's value or bounds in the kind that the field has."""
    kinds = facts.kinds(key)
    if len(kinds) != 1:
        return value
    (kind,) = kinds
    change = _CHANGES.get(kind)
    if change is None:
        return value
    if isinstance(value, Mapping) and kind in ("text", "flag"):
        facts.notices.append(f"{key} holds {_PLURALS[kind]}, which ranges do not compare.")
        return value
    if isinstance(value, Mapping):
        bounds = {name: change(one) if name in _BOUNDS else one for name, one in value.items()}
        changed: Any = bounds
    elif isinstance(value, (list, tuple, set, frozenset)):
        changed = [change(one) for one in value]
    else:
        changed = change(value)
    if repr(changed) != repr(list(value) if isinstance(value, (set, frozenset)) else value):
        facts.notices.append(
            f"{key} holds {_PLURALS[kind]}: the filter's {_said(value)} was compared as "
            f"{_said(changed)}."
        )
    return changed


def _to_text(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    return written(value) if isinstance(value, (int, float)) else value


def _to_number(value: Any) -> Any:
    """The number that a text is, where it is written as that number would be."""
    if not isinstance(value, str):
        return value
    try:
        number = json.loads(value)
    except (ValueError, RecursionError):
        return value
    is_number = isinstance(number, (int, float)) and not isinstance(number, bool)
    return number if is_number and json.dumps(number) == value.strip() else value


def _to_date(value: Any) -> Any:
    """Seconds since 1970, as some clients send dates; milliseconds where they are too many."""
    number = _to_number(value)
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        return value
    if number > _LARGEST_EPOCH:
        number /= 1000
    try:
        return datetime.fromtimestamp(number, UTC).isoformat().replace("+00:00", "Z")
    except (OverflowError, OSError, ValueError):
        return value


def _to_flag(value: Any) -> Any:
    return {"true": True, "false": False}.get(value.casefold(), value) if isinstance(
        value, str
    ) else value  # fmt: skip


_CHANGES: Mapping[str, Callable[[Any], Any]] = {
    "text": _to_text,
    "number": _to_number,
    "date": _to_date,
    "flag": _to_flag,
}
_PLURALS = {"text": "text", "number": "numbers", "date": "dates", "flag": "true and false"}


def _said(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_said(one)}" for name, one in value.items())
    if isinstance(value, (list, tuple, set, frozenset)):
        return ", ".join(_said(one) for one in value)
    if isinstance(value, float):
        return written(value)
    return json.dumps(value, ensure_ascii=False, default=str)


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "flag"
    if isinstance(value, (int, float)):
        return "number"
    if not isinstance(value, str):
        return "other"
    try:
        datetime.fromisoformat(value)
    except ValueError:
        return "text"
    return "date"


def _names(value: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for key, item in value.items():
        name = prefix + (f'"{key}"' if any(sign in key for sign in '.[]"') else key)
        if not prefix and key in (*RESERVED, *CONNECTIVES):
            name = f"{METADATA}.{name}"
        if isinstance(item, Mapping):
            yield from _names(item, f"{name}.")
        else:
            yield name
