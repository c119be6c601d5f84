"""The options of a search: their names, types, defaults, bounds and help, declared once.

`TwoStageRetriever`, the command line, the service's protocols and the adapters all take them from
`SearchOptions`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from types import NoneType
from typing import (
    Any,
    Literal,
    TypeAlias,
    TypedDict,
    TypeVar,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from retrieval._validate import number, one_of, true_or_false, whole_number
from retrieval.errors import InvalidInput
from retrieval.types import BlendChoice, Fusion, Mode, Reading, Where

T = TypeVar("T")

DEFAULT_CANDIDATES = 50
DEFAULT_MODE: Mode = "hybrid"

THRESHOLD = float | str
"""The type of an option that is a number or names a threshold of the collection's calibration."""

Surface: TypeAlias = Literal["python", "cli", "http", "answers", "mcp"]
"""Where searches are asked for: library and adapters, `retrieval search`, `/v1/search`,
`/v1/answer` with its chat form, and the tool `search` of MCP."""

_SERVICE = ("http", "answers", "mcp")
_EVALUATION_ONLY = ("cli", *_SERVICE)
# A language model chooses better among few arguments; how a search is tuned is not its business.
_NO_TUNING = ("mcp",)
# An answer is written from the best hits; there is no second page of it.
_NO_PAGES = ("answers",)


@dataclass(frozen=True, slots=True)
class Option:
    """What a field of `SearchOptions` declares of an option, and how a surface offers it.

    Attributes:
        help: what it does; the command line shows its first sentence alone.
        fix: of the error for a value that cannot be used.
        expected: of the error for a number that cannot be used.
        least, above, most: bounds of the value on this surface.
        limits: the largest value that a surface takes, in absolute value where there is no least.
        defaults: of the surfaces that have another default.
        hidden: the surfaces that do not offer it.
        panel: its part of the command line's help.
        name, type, default: of the field; the type without None.
        choices: the values of a Literal type; empty for another type.
        optional: whether None is one of its values.
    """

    help: str
    fix: str = ""
    expected: str = "a finite number"
    least: float | None = None
    above: float | None = None
    most: float | None = None
    limits: Mapping[Surface, float] = field(default_factory=dict)
    defaults: Mapping[Surface, Any] = field(default_factory=dict)
    hidden: Collection[Surface] = ()
    panel: str | None = None
    name: str = ""
    type: Any = None
    choices: tuple[str, ...] = ()
    optional: bool = False
    default: Any = None

    @property
    def summary(self) -> str:
        """The first sentence of the help."""
        return self.help.partition(". ")[0].rstrip(".") + "."

    def check(self, value: Any) -> None:
        """Raise InvalidInput unless it is a value of this option."""
        if value is None and self.optional:
            return
        if self.choices:
            one_of(value, self.choices, self.name)
        elif self.type is int:
            whole_number(value, self.name, least=int(self.least or 0))
        elif self.type is bool:
            fix = self.fix or f"Give {self.name} as True or False, or leave it out."
            true_or_false(value, self.name, fix=fix)
        elif self.type == THRESHOLD and isinstance(value, str):
            if not value.strip():
                raise InvalidInput(f"{self.name} is an empty text", fix=self.fix)
        elif self.type in (float, THRESHOLD):
            number(
                value,
                self.name,
                least=-math.inf if self.least is None else self.least,
                most=math.inf if self.most is None else self.most,
                above=-math.inf if self.above is None else self.above,
                expected=self.expected,
                fix=self.fix,
            )


def _option(default: T, help_: str, **declared: Any) -> T:
    return field(default=default, metadata={"option": Option(help_, **declared)})


def _limits(http: float, answers: float, mcp: float) -> dict[str, float]:
    return {"http": http, "answers": answers, "mcp": mcp}


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchOptions:
    """The options of a search, each value checked by itself.

    They act in this order:

        first stage    mode, where, tenant, fusion, exact: candidates, best first
        min_score      candidates below it are left out
        refine         MaxSim over stored token vectors puts them in order
        cascade        candidates that their score settles are kept or left out unread
        re-rank        the second stage reads the best `candidates` of them, whole or the part of
                       each that fits the query best (read), as far as budget_ms allows
        blend          the final order, and with it `Hit.score`
        min_relevance  hits below it are left out
        diversity      the order of those that were re-ranked, by maximal marginal relevance
        per_document   further passages of a document are left out
        offset, top_k  one page of what is left; ranks are those of the whole
        neighbours     the passages before and after each hit of the page

    All but the last two steps are the same for every page, so pages continue one another exactly.
    Where they leave fewer hits than a page needs, the first stage goes deeper. What it finds
    beyond the `candidates` follows in its order, but with a reranker's min_relevance: what was
    not read has no relevance and is left out.

    Raises:
        InvalidInput: a value cannot be used.

    Example:
        >>> from retrieval import SearchOptions
        >>> SearchOptions(top_k=3, mode="dense").top_k
        3
    """

    top_k: int = _option(
        10,
        "The largest number of hits.",
        least=1,
        limits=_limits(1000, 50, 50),
        defaults={"cli": 5, "answers": 8, "mcp": 5},
    )
    candidates: int | None = _option(
        None,
        "How many first-stage passages are re-ranked, at least `top_k`. Left out, 50; where `read` "
        "and `budget_ms` are left out, too, a cross-encoder on a CPU reads as many of them as take "
        "about half a second.",
        least=1,
        limits=_limits(5000, 10_000, 5000),
        hidden=_NO_TUNING,
    )
    fetch: int | None = _option(
        None,
        "How deep the first stage goes, where that is deeper than the `candidates`. Passages "
        "between the two follow in first-stage order.",
        least=1,
        hidden=_EVALUATION_ONLY,
    )
    mode: Mode | None = _option(
        None,
        "First stage: dense (vectors, by meaning), sparse (BM25, for exact words and codes), "
        "lexical (the encoder's own term weights) or hybrid (all joined). Left out, it is the "
        "collection's default, else hybrid.",
    )
    where: Where | None = _option(
        None,
        "Filter over passages. Keys are metadata fields (`author.name` goes into objects, "
        "`authors[].name` into lists of them) or `document_id`, `source`, `title`, `position`. A "
        "value is equal (a list in the metadata matches by any element); a list means any of; "
        '`{"gte": 2000, "lt": 2010}` (gt, gte, lt, lte) is a range of numbers or ISO dates; '
        '`{"exists": true}` requires a value, null requires none. Several keys must all '
        "hold; `and`, "
        "`or` take lists of filters, `not` takes one.",
    )
    rerank: bool | None = _option(
        None,
        "Second stage; without it the first stage's order stays. Left out, there is one unless the "
        "collection's defaults say otherwise.",
        hidden=_NO_TUNING,
    )
    read: Reading | None = _option(
        None,
        "What is read of a candidate: all of it (full), or of a long one the part that fits the "
        "query best (excerpts; the best 5 are read whole). Left out, it is excerpts for a "
        "cross-encoder on a CPU, where that is several times as fast, else full.",
        hidden=_NO_TUNING,
    )
    blend: BlendChoice | None = _option(
        None,
        "Final order: the reranker's (none), or joined with the first stage's by ranks (rrf) or by "
        "scores. Left out or auto: what was measured to be best for this reranker.",
        hidden=_NO_TUNING,
    )
    blend_weight: float | None = _option(
        None,
        "What the reranker's scores weigh in the blend `scores`, the first stage's weighing 1. "
        "Left out: what was measured to be best for this kind of reranker and first stage.",
        fix="0 leaves the first stage's order, 1 weighs both alike, 8 is nearly the reranker's.",
        least=0,
        most=1000,
        expected="a number from 0 to 1000",
        hidden=_NO_TUNING,
    )
    min_relevance: float | str | None = _option(
        None,
        "Leave out hits below this relevance, from 0 to 1; 0 leaves out none. Of a calibrated "
        "collection also "
        "`recall:0.95` (keeps 95% of the relevant hits), `precision:0.9` (of the hits 90% are "
        "relevant), or a name given to one of them.",
        fix="Without a calibration, relevance is the sigmoid of the reranker's score: try 0.3 and "
        "see the `relevance` of your own hits. With one: recall:0.95, precision:0.9 or a name.",
        least=0,
        most=1,
        expected="a number from 0 to 1, or the text of a calibrated threshold",
    )
    cascade: bool = _option(
        False,
        "Let the reranker read only candidates that their first-stage score does not settle. Needs "
        "a calibration with a cascade; those that are kept unread come first.",
        hidden=_NO_TUNING,
    )
    budget_ms: float | None = _option(
        None,
        "Milliseconds for re-ranking: as many candidates as fit, best first. At least one is "
        "read; the others follow in first-stage order, and the result says how many were read "
        "(`reranked`). The queries of a batch share it.",
        fix="Give budget_ms as 50, 200 …, or leave it out to re-rank all candidates.",
        above=0,
        expected="a positive number of milliseconds",
        limits=_limits(600_000, 600_000, 600_000),
        hidden=_NO_TUNING,
    )
    offset: int = _option(
        0,
        "How many hits to skip: the next page. Pages of one `top_k` continue one another exactly "
        "(with a time budget: as far as it re-ranks equally deep); passages beyond the "
        "`candidates` "
        "follow in first-stage order.",
        least=0,
        limits=_limits(10_000, 0, 1000),
        hidden=_NO_PAGES,
        panel="Results",
    )
    per_document: int | None = _option(
        None,
        "The largest number of hits from one document; its best ones are kept. The first "
        "stage goes deeper until "
        "there are enough hits.",
        least=1,
        limits=_limits(1000, 50, 50),
        panel="Results",
    )
    diversity: float | None = _option(
        None,
        "Less repetition (MMR): from 0, by relevance alone, to 1, by difference alone.",
        fix="0 orders by relevance alone, 1 by difference alone; try 0.3.",
        least=0,
        most=1,
        expected="a number from 0 to 1",
        hidden=_NO_TUNING,
        panel="Results",
    )
    neighbours: int = _option(
        0,
        "How many passages before and after each hit come with it, from the same document.",
        least=0,
        limits=_limits(20, 10, 5),
        panel="Results",
    )
    min_score: float | None = _option(
        None,
        "Leave out candidates below this first-stage score. It is on the mode's own scale: "
        "cosine for dense, BM25 score for sparse, product of term weights for lexical, sum of "
        "the fusion for hybrid.",
        fix="It is on the scale of the hits' `stage1_score`: cosines for mode dense, BM25 for "
        "sparse, sums of the fusion for hybrid.",
        limits=_limits(1e9, 1e9, 1e9),
        hidden=_NO_TUNING,
        panel="First stage",
    )
    fusion: Fusion | None = _option(
        None,
        "How the legs of a hybrid search are joined.",
        hidden=_NO_TUNING,
        panel="First stage",
    )
    refine: int | None = _option(
        None,
        "Order this many first-stage results by MaxSim over stored token vectors. The reranker "
        "then reads the best of them.",
        least=1,
        limits=_limits(5000, 5000, 5000),
        hidden=_NO_TUNING,
        panel="First stage",
    )
    exact: bool = _option(
        False,
        "Compare with every vector instead of the approximate index; slower.",
        fix="True compares the query with every vector; leave it out otherwise.",
        hidden=_NO_TUNING,
        panel="First stage",
    )
    tenant: str | None = _option(
        None, "Tenant of the passages, where the collection keeps tenants apart."
    )

    def __post_init__(self) -> None:
        for option in search_options():
            option.check(getattr(self, option.name))

    def arguments(self) -> SearchArguments:
        """The fields as keyword arguments of `TwoStageRetriever.search`."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return cast(SearchArguments, values)


class SearchArguments(TypedDict, total=False):
    """The fields of `SearchOptions`, for signatures that take them as keyword arguments."""

    top_k: int
    candidates: int | None
    fetch: int | None
    mode: Mode | None
    where: Where | None
    rerank: bool | None
    read: Reading | None
    blend: BlendChoice | None
    blend_weight: float | None
    min_relevance: float | str | None
    cascade: bool
    budget_ms: float | None
    offset: int
    per_document: int | None
    diversity: float | None
    neighbours: int
    min_score: float | None
    fusion: Fusion | None
    refine: int | None
    exact: bool
    tenant: str | None


def search_options(surface: Surface = "python") -> tuple[Option, ...]:
    """The options that a surface offers, in the order of `SearchOptions`."""
    return declared_options(SearchOptions, surface)


@cache
def declared_options(options: type[Any], surface: Surface = "python") -> tuple[Option, ...]:
    """What the fields of a dataclass declare in their metadata's `option`, for a surface."""
    types = get_type_hints(options, localns={"Where": dict[str, Any]})
    offered = []
    for one in fields(options):
        option: Option = one.metadata["option"]
        if surface in option.hidden:
            continue
        kinds = get_args(types[one.name])
        optional = NoneType in kinds
        kind = kinds[0] if optional else types[one.name]
        if str in kinds and float in kinds:
            kind = THRESHOLD
        offered.append(
            replace(
                option,
                name=one.name,
                type=kind,
                choices=get_args(kind) if get_origin(kind) is Literal else (),
                optional=optional,
                default=option.defaults.get(surface, one.default),
                most=option.limits.get(surface, option.most),
            )
        )
    return tuple(offered)


def check_option_names(names: Iterable[str]) -> None:
    """Raise InvalidInput where a search has no option of such a name; it says which it has."""
    known = {option.name for option in search_options()}
    for name in names:
        if name not in known:
            raise InvalidInput(
                f"there is no search option {name!r}; expected one of {', '.join(sorted(known))}",
                fix="Correct its name, or leave it out.",
            )


# `help(SearchOptions)` and the reference of public names show what the fields declare.
_ATTRIBUTES = "".join(f"        {one.name}: {one.help}\n" for one in search_options())
SearchOptions.__doc__ = (SearchOptions.__doc__ or "").replace(
    "    Raises:\n", f"    Attributes:\n{_ATTRIBUTES}\n    Raises:\n"
)
