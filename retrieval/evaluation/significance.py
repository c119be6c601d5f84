"""Whether settings differ that were measured on the same queries, and what so few can show.

Everything starts from paired differences: of each query, one setting's value minus the other's.
How a test or an interval is made does not depend on the measure.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import NormalDist
from typing import TYPE_CHECKING, TypeAlias

from retrieval.errors import InvalidInput

if TYPE_CHECKING:  # the command line's help must not wait for numpy
    import numpy as np
    from numpy.typing import NDArray

    Floats: TypeAlias = NDArray[np.float64]

LEAST_FLIPS = 10_000
FLIPS_PER_TEST = 400
"""Of many tests each needs more flips: the smallest p that flips can show, times the tests, must
stay far below 0.05."""

EXACT = 13
"""So many queries, or fewer, have fewer ways to flip their signs than a test draws: all are
looked at."""

SAMPLES = 10_000
"""Resamples of a bootstrap interval."""

ALPHA = 0.05
POWER = 0.8

_NOISE = 1e-10
"""Share of the sum of absolute differences up to which two sums are the same: what remains of
adding floats in another order."""

_AT_ONCE = 4_000_000
"""Numbers held at once while signs are flipped or queries drawn: 32 MB."""


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """How two settings differ on the same queries; differences are `first` minus `second`.

    Attributes:
        first, second: names of the settings.
        difference: of their means.
        low, high: its 95% interval, see `bootstrap_interval`.
        p: of a randomisation test, see `randomisation_test`.
        p_holm: the same after Holm's correction for all comparisons that were made together.
        smallest: the smallest true difference that so many queries show with 80% probability at
            Bonferroni's level for these comparisons, the strictest of Holm's; None where they are
            too few to show any.
        queries_needed: how many queries it would take to show a true difference as large as the
            one observed; None where nothing was observed.
        better, worse, equal: queries on which `first` is so.
    """

    first: str
    second: str
    difference: float
    low: float
    high: float
    p: float
    p_holm: float
    smallest: float | None
    queries_needed: int | None
    better: int
    worse: int
    equal: int

    @property
    def significant(self) -> bool:
        """Whether the difference is there at 5%, all comparisons considered."""
        return self.p_holm <= ALPHA

    def reversed(self) -> PairedDifference:
        """The same comparison, seen from `second`."""
        return PairedDifference(
            self.second, self.first, -self.difference, -self.high, -self.low, self.p, self.p_holm,
            self.smallest, self.queries_needed, self.worse, self.better, self.equal,
        )  # fmt: skip


def compare_all(
    values: Mapping[str, Sequence[float]], *, seed: int = 0
) -> tuple[PairedDifference, ...]:
    """Every pair of settings compared, all as one family of tests.

    Args:
        values: setting → its value on each query; all in the same order of queries.
        seed: of flips and resamples; the same one gives the same figures.

    Returns:
        One comparison for each pair, in the order of `itertools.combinations(values, 2)`.

    Raises:
        InvalidInput: fewer than two settings, no query, or lists that are not equally long.

    Example:
        >>> import numpy as np
        >>> random = np.random.default_rng(0)
        >>> good = random.uniform(0.4, 1.0, 50)
        >>> settings = {"a": good, "b": good - 0.1, "c": good + random.normal(0, 0.01, 50)}
        >>> [(one.first, one.second, one.significant) for one in compare_all(settings)]
        [('a', 'b', True), ('a', 'c', False), ('b', 'c', True)]
    """
    import numpy as np

    lengths = {len(own) for own in values.values()}
    if len(values) < 2 or len(lengths) != 1 or 0 in lengths:
        raise InvalidInput(
            f"{len(values)} settings with {sorted(lengths)} values were given to be compared, "
            "expected two settings or more, each with a value for every query",
            fix="Measure all settings on the same queries.",
        )
    table = {name: np.asarray(own, dtype=np.float64) for name, own in values.items()}
    pairs = [(one, other, table[one] - table[other]) for one, other in combinations(table, 2)]
    return compare_pairs(pairs, seed=seed)


def compare_pairs(
    pairs: Sequence[tuple[str, str, Floats]], *, seed: int = 0
) -> tuple[PairedDifference, ...]:
    """Pairs of settings compared, each on queries of its own, all as one family of tests.

    Args:
        pairs: names of both, and (queries,) differences, first minus second, of one query or more.
        seed: see `compare_all`.

    Returns:
        One comparison for each pair, in their order.
    """
    import numpy as np

    flips = max(LEAST_FLIPS, FLIPS_PER_TEST * len(pairs))
    p, low, high = np.ones(len(pairs)), np.zeros(len(pairs)), np.zeros(len(pairs))
    for length in {len(own) for _, _, own in pairs}:
        rows = [row for row, (_, _, own) in enumerate(pairs) if len(own) == length]
        differences = np.array([pairs[row][2] for row in rows])
        p[rows] = randomisation_test(differences, flips=flips, seed=seed)
        low[rows], high[rows] = bootstrap_interval(differences, seed=seed)
    adjusted = holm(p.tolist())
    compared = []
    for row, (first, second, own) in enumerate(pairs):
        deviation = float(own.std(ddof=1)) if len(own) > 1 else math.nan
        mean, level = float(own.mean()), ALPHA / len(pairs)
        one = PairedDifference(
            first=first, second=second, difference=mean,
            low=float(low[row]), high=float(high[row]),
            p=float(p[row]), p_holm=adjusted[row],
            smallest=smallest_difference(deviation, len(own), alpha=level),
            queries_needed=queries_needed(mean, deviation, alpha=level),
            better=int((own > 0).sum()), worse=int((own < 0).sum()), equal=int((own == 0).sum()),
        )  # fmt: skip
        compared.append(one)
    return tuple(compared)


def randomisation_test(differences: Floats, *, flips: int = LEAST_FLIPS, seed: int = 0) -> Floats:
    """Two-sided p-values: how often chance alone gives a mean difference as large as was seen.

    If two settings are equally good, each query's difference could as well have the other sign.
    Signs are flipped at random, and the means that result are compared with the observed one
    (Smucker, Allan and Carterette, CIKM 2007). p counts the observed signs as one of the flips, so
    it is valid with any number of them (Phipson and Smyth 2010). With few differences that are not
    0, all flips are looked at, and p is exact.

    Args:
        differences: (tests, queries); queries whose difference is 0 change nothing.
        flips: how many are drawn; all tests share them.
        seed: of the flips.

    Returns:
        One p a test.

    Example:
        >>> import numpy as np
        >>> randomisation_test(np.array([[0.3, 0.1, 0.2, 0.1], [0.3, -0.3, 0.1, -0.1]])).tolist()
        [0.125, 1.0]
    """
    import numpy as np

    tests, queries = differences.shape
    observed = np.abs(differences.sum(axis=1))
    limit = observed - _NOISE * np.abs(differences).sum(axis=1)
    few = (differences != 0).sum(axis=1) <= EXACT
    p = np.ones(tests)
    for row in np.flatnonzero(few):
        own = differences[row][differences[row] != 0]
        sums = np.abs(_all_signs(len(own)) @ own)
        p[row] = np.mean(sums >= limit[row])
    many = np.flatnonzero(~few)
    if not len(many):
        return p
    drawn, at_least = differences[many].T, np.zeros(len(many))
    random = np.random.default_rng(seed)
    for size in _slices(flips, max(1, _AT_ONCE // (queries + len(many)))):
        signs = random.integers(0, 2, (size, queries), dtype=np.int8) * 2.0 - 1.0
        at_least += (np.abs(signs @ drawn) >= limit[many]).sum(axis=0)
    p[many] = (1.0 + at_least) / (1.0 + flips)
    return p


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for having made so many tests, in their order.

    Calling those up to 0.05 significant makes any false discovery at all among the tests with at
    most 5% probability, whatever depends on what (Holm, Scandinavian Journal of Statistics 1979).

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    adjusted = [0.0] * len(p_values)
    worst = 0.0
    for done, place in enumerate(sorted(range(len(p_values)), key=lambda one: p_values[one])):
        worst = max(worst, (len(p_values) - done) * p_values[place])
        adjusted[place] = min(1.0, worst)
    return adjusted


def bootstrap_interval(
    differences: Floats, *, confidence: float = 0.95, samples: int = SAMPLES, seed: int = 0
) -> tuple[Floats, Floats]:
    """Lower and upper bounds of mean differences: paired bootstrap, percentile intervals.

    Queries are drawn with replacement and the mean difference is taken each time (Efron and
    Tibshirani 1993, ch. 13; for retrieval measures Sakai, SIGIR 2006).

    Args:
        differences: (rows, queries); also values of one setting each, for an interval of its mean.
        confidence, samples, seed: the same seed gives the same interval, row by row.
    """
    import numpy as np

    rows, queries = differences.shape
    tail = (1.0 - confidence) / 2.0
    bounds = [
        np.quantile(_resampled(part, samples, seed) / queries, [tail, 1.0 - tail], axis=0)
        for part in np.array_split(differences, max(1, -(-rows * samples // _AT_ONCE)))
    ]
    low, high = np.concatenate(bounds, axis=1)
    return low, high


def smallest_difference(
    deviation: float, queries: int, *, alpha: float = ALPHA, power: float = POWER
) -> float | None:
    """The smallest true difference that a two-sided paired t-test of so many queries would show.

    Args:
        deviation: standard deviation of the paired differences over queries.
        queries: how many.
        alpha: level of the test.
        power: probability to show it.

    Returns:
        None where so few queries show nothing, however large. By the normal approximation with
        Guenther's correction (The American Statistician 1981); Sakai (Information Retrieval
        Journal 2016) plans sizes of test collections likewise.

    Example:
        >>> round(smallest_difference(0.2, 300), 4)
        0.0325
    """
    normal = NormalDist()
    level = normal.inv_cdf(1.0 - alpha / 2.0)
    left = queries - level**2 / 2.0
    if left <= 0 or math.isnan(deviation):
        return None
    return (level + normal.inv_cdf(power)) * deviation / math.sqrt(left)


def queries_needed(
    difference: float, deviation: float, *, alpha: float = ALPHA, power: float = POWER
) -> int | None:
    """How many queries show such a true difference; None where it is 0, or nothing is known.

    The inverse of `smallest_difference`.

    Example:
        >>> queries_needed(0.0325, 0.2)
        300
    """
    if difference == 0 or math.isnan(deviation):
        return None
    normal = NormalDist()
    level = normal.inv_cdf(1.0 - alpha / 2.0)
    ratio = (level + normal.inv_cdf(power)) * deviation / abs(difference)
    return max(2, math.ceil(ratio**2 + level**2 / 2.0))


def _resampled(differences: Floats, samples: int, seed: int) -> Floats:
    """(samples, rows): sums of the differences of queries drawn with replacement."""
    import numpy as np

    queries = differences.shape[1]
    random = np.random.default_rng(seed)
    # How often each query is drawn; in slices, so that many queries fit in memory.
    even = np.full(queries, 1.0 / queries)
    sums = [
        random.multinomial(queries, even, size=size) @ differences.T
        for size in _slices(samples, 500)
    ]
    return np.concatenate(sums)


def _all_signs(count: int) -> Floats:
    """(2 ** count, count): every way to choose signs."""
    import numpy as np

    bits = np.arange(2**count)[:, None] >> np.arange(count)
    return (2 * (bits & 1) - 1).astype(np.float64)


def _slices(total: int, size: int) -> Iterator[int]:
    return (min(size, total - start) for start in range(0, total, size))
