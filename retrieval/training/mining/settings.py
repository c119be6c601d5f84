"""What is mined: options, their bounds and help, declared once; the command line follows."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeVar, get_args

from retrieval._validate import is_whole_number
from retrieval.errors import InvalidInput
from retrieval.search.options import Option, declared_options
from retrieval.types import Mode

T = TypeVar("T")

_PANEL = "Mining"


def _option(default: T, help_: str, **declared: Any) -> T:
    return field(default=default, metadata={"option": Option(help_, panel=_PANEL, **declared)})


@dataclass(frozen=True, slots=True, kw_only=True)
class MiningSettings:
    """Which passages become hard negatives.

    A teacher's scores are compared as its `relevance`, from 0 to 1: the sigmoid of a
    cross-encoder's logit, the cosine of vectors or of late interaction. So a relative margin means
    the same for logits, which may be negative, as for cosines. The files get raw scores.

    Method of the margins: Moreira et al., "NV-Retriever: Improving text embedding models with
    effective hard-negative mining", 2024 (its TopK-PercPos with 95% is `relative_margin` 0.05).

    Raises:
        InvalidInput: a value cannot be used.

    Example:
        >>> from retrieval.training.mining.settings import MiningSettings
        >>> MiningSettings(negatives=7, rank_from=10, rank_to=210).shares()
        {'dense': 1}
    """

    negatives: int = _option(15, "How many negatives a query gets, at most.", least=1)
    rank_from: int = _option(
        0, "How many of the best candidates of each source are passed over.", least=0
    )
    rank_to: int = _option(
        100, "The last rank of each source that is looked at; FlagEmbedding's range 10-210 is "
        "rank_from 10, rank_to 210.", least=1,
    )  # fmt: skip
    sources: str = _option(
        "dense",
        "First stages that candidates come from, joined by commas: dense, sparse (BM25), lexical, "
        "hybrid. Candidates are taken from them in turn, from `dense:2,sparse:1` in these shares.",
    )
    sampling: Literal["top", "random"] = _option(
        "top", "Candidates in the first stage's order (top), or drawn from the ranks (random)."
    )
    relative_margin: float | None = _option(
        0.05,
        "Leave out what the teacher finds more relevant than the positive's relevance less this "
        "share of it. 0.05 keeps what is below 95% of the least relevant positive; a negative "
        "number switches it off.",
        fix="Give a share such as 0.05, or -1 to switch it off.",
        expected="a number from -1 to 1",
        least=-1,
        most=1,
    )
    absolute_margin: float | None = _option(
        None,
        "Leave out what the teacher finds more relevant than the positive's relevance less this.",
        fix="Give a number such as 0.1, or leave it out.",
        expected="a number from 0 to 1",
        least=0,
        most=1,
    )
    max_score: float | None = _option(
        None,
        "Leave out what the teacher finds more relevant than this, from 0 to 1.",
        fix="Give a number such as 0.9, or leave it out.",
        expected="a number from 0 to 1",
        least=0,
        most=1,
    )
    min_score: float | None = _option(
        None,
        "Leave out what the teacher finds less relevant than this, as too easy.",
        fix="Give a number such as 0.01, or leave it out.",
        expected="a number from 0 to 1",
        least=0,
        most=1,
    )
    near_duplicate: float = _option(
        0.8,
        "Share of word triples in common from which a passage counts as a copy of a positive, or "
        "of a negative that was taken. 1: only with all of them in common.",
        fix="Try 0.8.",
        expected="a number above 0, up to 1",
        above=0,
        most=1,
    )
    other_positives: Literal["similar", "all", "keep"] = _option(
        "similar",
        "Leave out passages that answer other queries: of queries that are alike or share a "
        "positive with this one (similar), of any query (all), or none (keep).",
    )
    similar_queries: float = _option(
        0.9,
        "Cosine of two queries' vectors from which they are alike.",
        fix="Try 0.9.",
        expected="a number from 0 to 1",
        least=0,
        most=1,
    )
    grade: int = _option(1, "From which grade on a judged document is a positive.", least=1)
    keep_given: bool = _option(False, "Keep the negatives that the input has, before mined ones.")
    seed: int = _option(0, "Of the draws; each query has its own, whatever its place.", least=0)

    def __post_init__(self) -> None:
        for option in declared_options(MiningSettings):
            if option.type is not str:
                option.check(getattr(self, option.name))
        self.shares()
        if self.rank_from >= self.rank_to:
            raise InvalidInput(
                f"rank_from is {self.rank_from} and rank_to {self.rank_to}, so that no candidate "
                "is left",
                fix="Give a larger rank_to; FlagEmbedding's range 10-210 is rank_from 10, rank_to "
                "210.",
            )

    def shares(self) -> dict[str, int]:
        """The sources, and how many candidates are taken of each in turn."""
        shares: dict[str, int] = {}
        for part in self.sources.split(","):
            name, colon, written = part.strip().partition(":")
            share = int(written) if written.isascii() and written.isdigit() else 0
            if not colon:
                share = 1
            if name not in get_args(Mode) or name in shares or not is_whole_number(share, 1):
                raise InvalidInput(
                    f"sources is {self.sources!r}, expected names among "
                    f"{', '.join(get_args(Mode))}, each once, with or without a share",
                    fix="Write, for example, dense,sparse or dense:2,sparse:1.",
                )
            shares[name] = share
        return shares

    @property
    def judges(self) -> bool:
        """Whether anything is decided by a teacher's scores."""
        bounds = (self.absolute_margin, self.max_score, self.min_score)
        return self.margin is not None or any(bound is not None for bound in bounds)

    @property
    def margin(self) -> float | None:
        """The relative margin; None where it is switched off."""
        margin = self.relative_margin
        return None if margin is None or margin < 0 else margin

    def as_dict(self) -> dict[str, Any]:
        """The values by name."""
        return asdict(self)


_ATTRIBUTES = "".join(
    f"        {one.name}: {one.help}\n" for one in declared_options(MiningSettings)
)
MiningSettings.__doc__ = (MiningSettings.__doc__ or "").replace(
    "    Raises:\n", f"    Attributes:\n{_ATTRIBUTES}\n    Raises:\n", 1
)
