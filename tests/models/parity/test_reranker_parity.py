"""Logits are those of FlagReranker, CrossEncoder and plain transformers, on any engine."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest
from reference.peers import FlagRun, cross_encoder_scores, plain_logits
from reference.texts import long_pairs, mixed_pairs
from reference.variants import EXACT, ROUNDED, Variant, name

from retrieval.models.rerankers.cross_encoder import CrossEncoderReranker
from retrieval.models.tokenization.tokenizer import Tokenizer
from retrieval.types import FloatArray, ModelSpec, ResolvedModel, Scores

MAX_LENGTH = 128
SHORT = mixed_pairs(longest=MAX_LENGTH, count=40)
LONG = long_pairs(longest=MAX_LENGTH)
PAIRS = SHORT + LONG
FAMILIES = ["bert", "xlmr"]

Ours: TypeAlias = Callable[[str, Variant], Scores]
Reference: TypeAlias = Callable[[str], FloatArray]


@pytest.fixture(scope="module")
def ours(deep_model: Callable[..., Path]) -> Ours:
    @functools.cache
    def score(family: str, variant: Variant) -> Scores:
        engine, dtype = variant
        reranker = CrossEncoderReranker(
            resolved(deep_model(family, "reranker")), engine=engine, device="cpu", dtype=dtype
        )
        assert reranker.engine == f"{engine} {dtype} on cpu"
        return reranker.score(PAIRS)

    return score


@pytest.fixture(scope="module")
def plain(deep_model: Callable[..., Path]) -> Reference:
    @functools.cache
    def score(family: str) -> FloatArray:
        return plain_logits(deep_model(family, "reranker"), PAIRS, MAX_LENGTH)

    return score


@pytest.fixture(scope="module")
def rounding(deep_model: Callable[..., Path], plain: Reference) -> Callable[[str, str], float]:
    """How far a number format moves a logit where plain transformers computes in it."""

    @functools.cache
    def of_bf16(family: str) -> float:
        theirs = plain_logits(deep_model(family, "reranker"), PAIRS, MAX_LENGTH, "bfloat16")
        return float(np.abs(theirs - plain(family)).max())

    # fp16 has three bits more than bf16; the fourth part leaves room for chance. (It is not
    # measured itself, as torch is slow at it on CPUs.)
    return lambda family, dtype: of_bf16(family) / (4 if dtype == "fp16" else 1)


def resolved(path: Path) -> ResolvedModel:
    spec = ModelSpec(
        name=path.name, kind="reranker", max_length=MAX_LENGTH, score_head="classification"
    )
    return ResolvedModel(spec=spec, path=path, fingerprint="sha256:test")


@pytest.mark.parametrize("variant", EXACT, ids=name)
@pytest.mark.parametrize("family", FAMILIES)
class TestExact:
    def test_plain_transformers(
        self, ours: Ours, plain: Reference, family: str, variant: Variant
    ) -> None:
        expected = plain(family)
        assert np.std(expected) > 0.03, "the logits must differ to show anything"
        np.testing.assert_allclose(ours(family, variant).values, expected, atol=1e-4, rtol=0)

    def test_flag_reranker(
        self, ours: Ours, flag: Callable[[str], FlagRun], family: str, variant: Variant
    ) -> None:
        """Truncated pairs among them, wherever FlagReranker reads what it means to read."""
        run = flag(family)
        values = ours(family, variant).values
        np.testing.assert_allclose(values[run.same], run.scores[run.same], atol=1e-4, rtol=0)
        assert ours(family, variant).truncated[run.same].sum() >= 5

    def test_cross_encoder(
        self, ours: Ours, deep_model: Callable[..., Path], family: str, variant: Variant
    ) -> None:
        """CrossEncoder cuts the longer text first, so the comparison is of pairs that fit."""
        theirs = _cross_encoder(deep_model(family, "reranker"))
        scores = ours(family, variant)
        np.testing.assert_allclose(scores.values[: len(SHORT)], theirs, atol=1e-4, rtol=0)
        assert not scores.truncated[: len(SHORT)].any()
        assert scores.truncated[len(SHORT) :].sum() >= len(LONG) - 1


@functools.cache
def _cross_encoder(path: Path) -> FloatArray:
    return cross_encoder_scores(path, SHORT, MAX_LENGTH)


@pytest.fixture(scope="module")
def flag(deep_model: Callable[..., Path]) -> Callable[[str], FlagRun]:
    return functools.cache(
        lambda family: FlagRun(deep_model(family, "reranker"), PAIRS, MAX_LENGTH)
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_pairs_are_cut_as_flag_reranker_cuts_them(
    deep_model: Callable[..., Path], flag: Callable[[str], FlagRun], family: str
) -> None:
    run = flag(family)
    tokenized = Tokenizer(deep_model(family, "reranker"), MAX_LENGTH).encode_pairs(PAIRS)
    rows = [tokenized.row(index).tolist() for index in range(len(PAIRS))]
    assert rows == run.meant
    assert run.same.mean() >= 0.9
    longest = [len(row) == MAX_LENGTH for row in rows]
    assert (run.same & longest & tokenized.truncated).sum() >= 5


@pytest.mark.parametrize("variant", ROUNDED, ids=name)
@pytest.mark.parametrize("family", FAMILIES)
def test_rounded_keeps_the_order_of_what_is_further_apart_than_the_rounding(
    ours: Ours,
    plain: Reference,
    rounding: Callable[[str, str], float],
    family: str,
    variant: Variant,
) -> None:
    """The rounding is not ours but plain transformers' in the same number format.

    Two logits that are further apart than twice the largest error of plain transformers must keep
    their order, on 99.9% of all pairs of pairs.
    """
    exact = plain(family).astype(np.float64)
    rounded = ours(family, variant).values
    bound = 2 * rounding(family, variant[1])
    apart = exact[:, None] - exact[None, :] > bound
    assert apart.sum() > 300, "too few are far enough apart to show anything"
    kept = (rounded[:, None] - rounded[None, :])[apart] > 0
    assert kept.mean() >= 0.999
    # Nor is a single logit moved much further than plain transformers moves it.
    assert np.abs(rounded - exact).max() <= bound
    assert np.abs(rounded - exact).max() > 1e-6  # it is rounded indeed
