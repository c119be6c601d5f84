"""`load_cases`: retrieval tests from a TOML file.

    collection = "handbook"              # the command line's --collection is stronger
    within = 5                           # these may stand here for every case, or in a case
    where = {lang = "en"}

    [[case]]
    question = "When do I get my travel costs back?"
    must_contain = ["travel.md", "text:ten days", {document = "faq.csv#7", text = "receipts"}]
    must_not_contain = ["travel-2019.md"]

    [[case]]
    name = "nothing on the weather"
    question = "Will it rain tomorrow?"
    nothing_relevant = true
    min_relevance = 0.4

    [quality]
    judgements = "questions.csv"         # or a BEIR folder, or …: what `retrieval eval` takes
    measure = "nDCG@10"
    at_least = 0.6

docs/evaluation.md says what each key means.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from datetime import date
from pathlib import Path
from typing import Any

from retrieval._validate import is_number
from retrieval.errors import CorpusError, InvalidInput
from retrieval.evaluation.cases import DEFAULT_WITHIN, Case, QualityCase, Wanted
from retrieval.evaluation.metrics import display_name
from retrieval.index.filter_syntax import parse_where
from retrieval.search.options import SearchOptions, search_options
from retrieval.types import Fusion

# A page further on, and what stands beside a hit, are no business of a test.
_OPTIONS = {one.name for one in search_options("cli")} - {"offset", "neighbours"}
_TEXT = "text:"


@dataclass(frozen=True, slots=True)
class CaseFile:
    """What a file of cases asks for.

    Attributes:
        path: the file.
        cases: in the file's order; at least one, or one of judged queries.
        quality: judged queries and the least figure that passes.
        collection, store: where to search; None where the file does not say.
    """

    path: Path
    cases: tuple[Case, ...]
    quality: tuple[QualityCase, ...] = ()
    collection: str | None = None
    store: str | None = None


def load_cases(path: str | os.PathLike[str], **options: Any) -> CaseFile:
    """Read a file of cases.

    Args:
        path: TOML in UTF-8; paths in it are relative to its folder.
        options: of searches; stronger than those of the whole file, weaker than a case's own.

    Raises:
        CorpusError: the file cannot be read or is not TOML, has no case, or a key, a type or a
            value in it cannot be used; the message names the case.
        InvalidInput: an option cannot be used.

    Example:
        >>> from pathlib import Path
        >>> from retrieval.api.case_file import load_cases
        >>> text = "[[case]]\\nquestion = 'Soup?'\\nmust_contain = ['menu.md']"
        >>> _ = Path("cases.toml").write_text(text)
        >>> [case.name for case in load_cases("cases.toml").cases]
        ['Soup?']
    """
    table = _Table(_read(Path(path)), str(path))
    folder = Path(path).parent
    store = table.text("store")
    collection = table.text("collection")
    own = table.tables("case")
    judged = table.tables("quality")
    shared = table.options({"top_k": DEFAULT_WITHIN}, within=True) | options
    _checked(shared)
    expected = table.numbers()
    table.end()
    if not own and not judged:
        raise CorpusError(
            f"{path} has no case",
            fix='Write at least one: [[case]], question = "…" and must_contain = ["…"].',
        )
    names = _Names()
    return CaseFile(
        path=Path(path),
        cases=tuple(_case(one, shared, expected, names) for one in own),
        quality=tuple(_quality(one, shared, folder, names) for one in judged),
        collection=collection,
        store=store if store is None or "://" in store else str(folder / store),
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise CorpusError(
            f"the cases in {path} cannot be read ({reason})", fix="Give a TOML file in UTF-8."
        ) from error
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise CorpusError(
            f"{path} is not TOML: {error}",
            fix="Correct the place; texts stand in quotation marks, and a \\ in '…' ones.",
        ) from error


class _Names:
    """Names, each once: reports, and build servers, tell cases apart by them."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def once(self, name: str) -> str:
        unique, number = name, 1
        while unique in self._taken:
            number += 1
            unique = f"{name} ({number})"
        self._taken.add(unique)
        return unique


def _case(
    table: _Table, shared: Mapping[str, Any], expected: Mapping[str, float], names: _Names
) -> Case:
    question = table.text("question")
    name = table.text("name")
    if question is None or not question.strip():
        raise table.error("it has no question", 'Give it one: question = "…".')
    numbers = {**expected, **table.numbers()}
    case = Case(
        name=names.once(" ".join((name or question).split())),
        question=question,
        must_contain=table.wanted("must_contain"),
        must_not_contain=table.wanted("must_not_contain"),
        min_recall=numbers.get("min_recall", 1.0),
        max_ms=numbers.get("max_ms"),
        nothing_relevant=table.flag("nothing_relevant"),
        options=table.options(shared, within=True),
    )
    table.end()
    if case.nothing_relevant and (case.must_contain or case.must_not_contain):
        raise table.error(
            "it says nothing_relevant and what it must contain or not",
            "Keep one of them; an empty answer contains nothing.",
        )
    if not (case.must_contain or case.must_not_contain or case.nothing_relevant or case.max_ms):
        raise table.error(
            "it asks for nothing that could fail",
            'Give it must_contain = ["…"], must_not_contain, nothing_relevant or max_ms.',
        )
    return case


def _quality(table: _Table, shared: Mapping[str, Any], folder: Path, names: _Names) -> QualityCase:
    judgements = table.text("judgements")
    if judgements is None:
        raise table.error("it has no judgements", 'Name their place: judgements = "…".')
    at_least = table.number("at_least", least=0, most=1)
    if at_least is None:
        raise table.error("it has no at_least", "Give the smallest figure that passes: 0.6.")
    split = table.text("split") or "test"
    try:
        measure = display_name(table.text("measure") or "nDCG@10")
    except InvalidInput as error:
        raise table.error(error.problem, error.fix) from error
    name = table.text("name") or f"{measure} of {judgements}"
    qrels = table.text("qrels")
    # how many hits count, and how deep to search for them, follows from the measure
    options = {k: v for k, v in table.options(shared, within=False).items() if k != "top_k"}
    table.end()
    return QualityCase(
        name=names.once(name),
        judgements=folder / judgements,
        split=split,
        measure=measure,
        at_least=at_least,
        qrels=None if qrels is None else folder / qrels,
        options=options,
    )


class _Table:
    """A table of the file, whose keys are taken one by one; what is left at the end is unknown."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self._left = dict(values)
        self._where = where

    def error(self, problem: str, fix: str) -> CorpusError:
        return CorpusError(f"{self._where}: {problem}", fix=fix)

    def end(self) -> None:
        if self._left:
            name = next(iter(self._left))
            known = ", ".join(sorted(_OPTIONS - {"top_k"}))
            raise self.error(
                f"there is no key {name!r} here",
                "Correct its name, or leave it out. Options of searches may stand here: "
                f"{known}; docs/evaluation.md lists all keys.",
            )

    def _take(self, name: str, kind: type, expected: str) -> Any:
        value = self._left.pop(name, None)
        if value is not None and not isinstance(value, kind):
            raise self.error(f"{name} is {value!r}, expected {expected}", "Correct it.")
        return value

    def text(self, name: str) -> str | None:
        value = self._take(name, str, "a text in quotation marks")
        if value is not None and not value.strip():
            raise self.error(f"{name} is empty", "Write it, or leave the key out.")
        return None if value is None else str(value)

    def flag(self, name: str) -> bool:
        return bool(self._take(name, bool, "true or false"))

    def number(
        self, name: str, *, least: float, most: float, above: float | None = None
    ) -> float | None:
        value = self._left.pop(name, None)
        if value is None:
            return None
        if not is_number(value, least, most) or (above is not None and value <= above):
            bounds = f"from {least} to {most}" if above is None else f"above {above}"
            bounds += "" if above is None or most == float("inf") else f", at most {most}"
            raise self.error(f"{name} is {value!r}, expected a number {bounds}", "Correct it.")
        return float(value)

    def numbers(self) -> dict[str, float]:
        """What is asked of each case, where it is given."""
        recall = self.number("min_recall", least=0, most=1, above=0)
        slowest = self.number("max_ms", least=0, most=float("inf"), above=0)
        found = {"min_recall": recall, "max_ms": slowest}
        return {name: value for name, value in found.items() if value is not None}

    def tables(self, name: str) -> list[_Table]:
        """`[[name]]` tables, each called by its name, its question or its number."""
        value = self._left.pop(name, [])
        listed = [value] if isinstance(value, dict) else value
        if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
            raise self.error(f"{name} is {value!r}, expected tables", f"Write them as [[{name}]].")
        return [
            _Table(one, f"{self._where}: {name} {one.get('name') or one.get('question') or number}")
            for number, one in enumerate(listed, start=1)
        ]

    def wanted(self, name: str) -> tuple[Wanted, ...]:
        value = self._left.pop(name, [])
        listed = value if isinstance(value, list) else [value]  # one alone needs no list
        return tuple(self._wanted(name, one) for one in listed)

    def _wanted(self, name: str, value: Any) -> Wanted:
        if isinstance(value, str):
            text = value.removeprefix(_TEXT)
            value = {"document": text} if text == value else {"text": text}
        good = isinstance(value, dict) and value and value.keys() <= {"document", "text"}
        if not good or not all(isinstance(v, str) and v.strip() for v in value.values()):
            raise self.error(
                f"{name} has {value!r}, expected a document's id or path, 'text:…', or a table of "
                "document and text",
                'Write, for example, must_contain = ["travel.md", "text:ten days"].',
            )
        return Wanted(**{key: text.strip() for key, text in value.items()})

    def options(self, shared: Mapping[str, Any], *, within: bool) -> dict[str, Any]:
        """The options of a search that stand here, over those that all searches share."""
        own = {name: self._left.pop(name) for name in list(self._left) if name in _OPTIONS}
        said = within and "within" in self._left
        if said:
            if "top_k" in own:
                raise self.error("within and top_k are the same", "Keep one of them.")
            own["top_k"] = self._left.pop("within")
        try:
            if "where" in own:
                own["where"] = _where(own["where"])
            if "fusion" in own:
                own["fusion"] = _fusion(own["fusion"])
            _checked(own)
        except InvalidInput as error:
            problem = error.problem.replace("top_k", "within") if said else error.problem
            raise self.error(problem, error.fix) from error
        return {**shared, **own}


def _checked(options: Mapping[str, Any]) -> None:
    """Refuse what no search takes; what a collection does not take, its own searches say."""
    SearchOptions(**options)
    tenant = options.get("tenant")
    if tenant is not None and not isinstance(tenant, str):
        raise InvalidInput(f"tenant is {tenant!r}, expected a text", fix="Put it in quotes.")


def _where(value: Any) -> Any:
    """A filter from a table or a text; dates, which TOML has and JSON has not, as texts."""
    if isinstance(value, str):
        return parse_where(value)
    if not isinstance(value, dict):
        raise InvalidInput(
            f"where is {value!r}, expected a table or a text",
            fix='Write where = {lang = "en"}, or where = "lang=en,year=2020".',
        )
    return _without_dates(value)


def _without_dates(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_dates(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_without_dates(one) for one in value]
    return value.isoformat() if isinstance(value, date) else value


def _fusion(value: Any) -> Fusion:
    made = {"method": value} if isinstance(value, str) else value
    known: Iterable[str] = [one.name for one in fields(Fusion)]
    if not isinstance(made, dict) or not made.keys() <= set(known):
        raise InvalidInput(
            f"fusion is {value!r}, expected rrf, dbsf, or a table of {', '.join(known)}",
            fix='Write fusion = "rrf", or fusion = {method = "rrf", k = 60}.',
        )
    weights = made.get("weights")
    if isinstance(weights, list):  # of three legs, of which most collections have two
        made = {**made, "weights": (*weights, 1.0)[:3]}
    return Fusion(**made)
