"""A grid of search settings: what can vary, how it is written, what is the same, what it is called.

Written on a command line as lists joined by commas, or in a TOML file as lists

    modes = ["dense", "hybrid"]
    rerankers = ["none", "starter"]

whose combinations are all measured, or as single settings:

    [[setting]]
    mode = "dense"

    [[setting]]
    mode = "hybrid"
    reranker = "starter"
    blend = "scores:0.5"

What is not said is as a search has it that says nothing. The first value of every list, or the
first setting of a file, is the baseline that the others are compared with.
"""

from __future__ import annotations

import itertools
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from retrieval.errors import InvalidInput
from retrieval.evaluation.settings import DIMENSIONS, NONE, OWN, Dimension, Setting


def product(lists: Mapping[str, Sequence[str]], base: Setting | None = None) -> list[Setting]:
    """All combinations of the values of some dimensions, each effect once, in order.

    Args:
        lists: dimension's plural name → values as written.
        base: of what is not said.

    Raises:
        InvalidInput: a dimension or value that there is not, or an empty list.

    Example:
        >>> grid = product({"modes": ["sparse", "dense"], "rerankers": ["none", "starter"]})
        >>> list(names(grid).values())
        ['sparse · no rerank', 'sparse · starter rerank', 'dense · no rerank', 'dense · starter rerank']
    """  # noqa: E501
    base = base or Setting()
    by_plural = {one.plural: one for one in DIMENSIONS.values()}
    for name, values in lists.items():
        if name not in by_plural:
            raise InvalidInput(
                f"there is no dimension {name!r} to vary; there are {', '.join(by_plural)}",
                fix="Correct its name, or leave it out.",
            )
        if not values:
            raise InvalidInput(
                f"the list of {name} is empty", fix="Give it a value or more, or leave it out."
            )
    given = [
        [_read_value(one, value) for value in lists[one.plural]]
        for one in DIMENSIONS.values()
        if one.plural in lists
    ]
    combined = (
        replace(base, **{name: value for part in chosen for name, value in part.items()})
        for chosen in itertools.product(*given)
    )
    return joined(combined)


def read_grid(path: Path, base: Setting | None = None) -> list[Setting]:
    """The settings of a TOML file, see the module.

    Raises:
        InvalidInput: the file cannot be read, or says what there is not; it is named.
    """
    try:
        written = tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InvalidInput(
            f"the grid {str(path)!r} cannot be read: {reason}",
            fix='Write a TOML file such as: modes = ["dense", "hybrid"]',
        ) from error
    tables = written.pop("setting", None)
    if (tables is None) == (not written):
        problem = "says nothing" if tables is None else "has both lists and [[setting]] tables"
        raise InvalidInput(
            f"the grid {str(path)!r} {problem}",
            fix='Write lists such as modes = ["dense", "hybrid"], or a [[setting]] table for each '
            "setting.",
        )
    try:
        if tables is None:
            return product({name: _as_list(name, value) for name, value in written.items()}, base)
        return joined(_table(one, base or Setting()) for one in _tables(tables))
    except InvalidInput as error:
        raise InvalidInput(f"{path}: {error.problem}", fix=error.fix) from error


def joined(settings: Iterable[Setting]) -> list[Setting]:
    """The settings without those that have the effect of one before."""
    found: dict[Setting, Setting] = {}
    for setting in settings:
        found.setdefault(setting.effect(), setting)
    return list(found.values())


def names(settings: Sequence[Setting]) -> dict[Setting, str]:
    """Short names, which say what varies among these settings and nothing else."""
    effects = [setting.effect() for setting in settings]
    for short in (True, False):
        shown = [_shown(effect, effects, short) for effect in effects]
        if max(Counter(shown).values(), default=1) == 1:
            break
    return dict(zip(settings, shown, strict=True))


def _shown(effect: Setting, effects: Sequence[Setting], short: bool) -> str:
    varies = {name for name in DIMENSIONS if len(_values(name, effects)) > 1}

    def named(model: str) -> str:
        return model.rstrip("/").rpartition("/")[2] if short else model

    parts: list[str] = []
    for name in ("encoder", "instruction", "passages", "dtype", "mode", "fusion"):
        value = DIMENSIONS[name].write(effect)
        if name not in varies or not _matters(name, effect):
            continue
        if name == "instruction":
            value = _short_instruction(value, short)
        parts.append(named(value) if name == "encoder" else value)
    if effect.reranker is None:
        parts += ["no rerank"] if "reranker" in varies else []
        return " · ".join(parts) or effect.mode
    second = [named(effect.reranker)] if "reranker" in varies else []
    if second or "candidates" in varies:
        second.append("rerank")
    second += [str(effect.candidates)] if "candidates" in varies else []
    parts += [" ".join(second)] if second else []
    parts += [DIMENSIONS[name].write(effect) for name in ("blend", "read") if name in varies]
    return " · ".join(parts) or effect.mode


def _values(name: str, effects: Sequence[Setting]) -> set[str]:
    """What a dimension is among the settings that it matters to."""
    return {DIMENSIONS[name].write(one) for one in effects if _matters(name, one)}


def _matters(name: str, effect: Setting) -> bool:
    if name in ("candidates", "blend", "read"):
        return effect.reranker is not None
    if name == "fusion":
        return effect.mode == "hybrid"
    if effect.mode != "sparse":
        return True
    if name == "encoder":
        return effect.passages.max_tokens is not None
    return name != "instruction" and (name != "dtype" or effect.reranker is not None)


def _short_instruction(instruction: str, short: bool) -> str:
    if instruction == OWN:
        return "instruction"
    if instruction == NONE:
        return "no instruction"
    text = instruction.strip()
    return f"“{text[:20].rstrip()}…”" if short and len(text) > 20 else f"“{text}”"


def _read_value(dimension: Dimension, value: str) -> Mapping[str, Any]:
    try:
        return dimension.read(value)
    except ValueError:
        raise InvalidInput(
            f"{dimension.plural} has {value!r}, expected {dimension.expected}",
            fix="Correct it, or leave it out.",
        ) from None


def _as_list(name: str, value: object) -> list[str]:
    items = value if isinstance(value, list) else [value]
    return [_as_text(name, one) for one in items]


def _as_text(name: str, value: object) -> str:
    """A value of a file; a number is one as it is written."""
    if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
        return str(value)
    raise InvalidInput(
        f"{name} has {value!r}, expected text or a whole number", fix="Put it into quotes."
    )


def _tables(value: object) -> list[Mapping[str, object]]:
    if isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
        return value
    raise InvalidInput(
        "`setting` is no list of tables", fix="Write each setting below a line [[setting]]."
    )


def _table(table: Mapping[str, object], base: Setting) -> Setting:
    values: dict[str, Any] = {}
    for name, value in table.items():
        if name not in DIMENSIONS:
            raise InvalidInput(
                f"a setting has {name!r}; there are {', '.join(DIMENSIONS)}",
                fix="Correct its name, or leave it out.",
            )
        values.update(_read_value(DIMENSIONS[name], _as_text(name, value)))
    return replace(base, **values)
