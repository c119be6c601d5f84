"""Front matter: the fields above a text, in YAML between `---` or in TOML between `+++`.

YAML is read by the core schema of YAML 1.2: `no` and `on` are words, `12:30` is no number, and
`1.10`, which as a number would be 1.1, stays what was written. Dates stay text in ISO form, by
which filters compare them.
"""

from __future__ import annotations

import datetime
import math
import re
import tomllib
from collections.abc import Mapping
from functools import cache
from typing import Any

_YAML = re.compile(r"---[ \t]*\n(.*?)^(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL | re.MULTILINE)
_TOML = re.compile(r"\+\+\+[ \t]*\n(.*?)^\+\+\+[ \t]*(?:\n|\Z)", re.DOTALL | re.MULTILINE)
_MOST = 64 * 1024
"""Characters of fields; more is a text between two rules."""


class NotFrontMatter(Exception):
    """What stands there and looks like fields is none; says why."""


def split_front_matter(text: str) -> tuple[dict[str, Any], str]:
    """The fields above a text, and the text below them; no fields where there are none.

    Raises:
        NotFrontMatter: the block can be nothing else, and cannot be read.

    Example:
        >>> split_front_matter("---\\nyear: 2024\\nversion: 1.10\\n---\\nText")
        ({'year': 2024, 'version': '1.10'}, 'Text')
    """
    found = _YAML.match(text)
    if found and len(found.group(1)) <= _MOST:
        fields = _yaml_fields(found.group(1))
        return ({}, text) if fields is None else (fields, text[found.end() :])
    found = _TOML.match(text)
    if found and len(found.group(1)) <= _MOST:
        try:
            return _plain_fields(tomllib.loads(found.group(1))), text[found.end() :]
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise NotFrontMatter(f"is not valid TOML: {error}") from error
    return {}, text


def _yaml_fields(block: str) -> dict[str, Any] | None:
    """None where the block is prose between two rules."""
    import yaml

    if not re.search(r"^[^\s#-][^\n]*?:(?:\s|$)", block, re.MULTILINE):
        return None
    try:
        value = yaml.load(block, Loader=_loader())
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f" in line {mark.line + 2}"
        reason = getattr(error, "problem", None) or "it cannot be read"
        raise NotFrontMatter(f"is not valid YAML{where}: {reason}") from error
    except (RecursionError, ValueError) as error:
        raise NotFrontMatter(f"is not YAML that can be used: {error}") from error
    return _plain_fields(value) if isinstance(value, dict) else None


@cache
def _loader() -> Any:
    """PyYAML's safe loader with YAML 1.2's core schema, and without references, which can make a
    few lines gigabytes."""
    import yaml

    class Loader(yaml.SafeLoader):
        yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
                raise yaml.composer.ComposerError(None, None, "references are not followed", mark)
            return super().compose_node(parent, index)

    for kind, pattern, first in (
        ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
        ("null", r"~|null|Null|NULL|", "~nN\0"),
        ("int", r"[-+]?(?:0|[1-9][0-9]*)", "-+0123456789"),
    ):
        own = re.compile(f"(?:{pattern})$")
        Loader.add_implicit_resolver(
            f"tag:yaml.org,2002:{kind}", own, ["" if one == "\0" else one for one in first]
        )
    Loader.add_implicit_resolver("!number", re.compile(r"[-+]?[0-9]+\.[0-9]+$"), [*"-+0123456789"])
    Loader.add_constructor("!number", lambda _, node: _number(str(node.value)))
    return Loader


def _number(written: str) -> float | str:
    """A number that is written as it would be shown; 1.10 is a version."""
    value = float(written)
    return value if repr(value) == written else written


def _plain_fields(fields: Mapping[Any, Any]) -> dict[str, Any]:
    """Fields that say something, as JSON has them."""
    plain = {str(name).strip(): _plain(value) for name, value in fields.items()}
    return {name: value for name, value in plain.items() if name and not _is_empty(value)}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return _plain_fields(value)
    if isinstance(value, (list, tuple, set)):
        return [_plain(one) for one in value if not _is_empty(one)]
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, str):
        return value.strip()
    return value if value is None or isinstance(value, (bool, int, float)) else str(value)


def _is_empty(value: Any) -> bool:
    return value is None or value in ("", [], {})
