"""What can be asked of mining, and how what cannot is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from retrieval.errors import InvalidInput
from retrieval.training.mining import false_negatives as reasons
from retrieval.training.mining.false_negatives import score_reason
from retrieval.training.mining.settings import MiningSettings
from retrieval.training.mining.teachers import Bm25Teacher, EnsembleTeacher


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"negatives": 0}, "negatives is 0"),
        ({"negatives": True}, "negatives is True"),
        ({"rank_from": -1}, "rank_from is -1"),
        ({"rank_from": 100}, "no candidate is left"),
        ({"sampling": "best"}, "sampling is 'best'"),
        ({"relative_margin": 2}, "relative_margin is 2"),
        ({"max_score": float("nan")}, "max_score is nan"),
        ({"near_duplicate": 0}, "near_duplicate is 0"),
        ({"sources": ""}, "sources is ''"),
        ({"sources": "dense,bm42"}, "sources is 'dense,bm42'"),
        ({"sources": "dense:0"}, "sources is 'dense:0'"),
        ({"sources": "dense:x"}, "sources is 'dense:x'"),
        ({"sources": "dense,dense"}, "each once"),
    ],
)
def test_a_value_that_cannot_be_used_is_named(given: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput, match=words) as told:
        MiningSettings(**given)
    assert told.value.fix


def test_shares_of_sources() -> None:
    assert MiningSettings(sources=" dense:2, sparse ").shares() == {"dense": 2, "sparse": 1}


@pytest.mark.parametrize(
    ("relevance", "positive", "settings", "reason"),
    [
        (0.95, 1.0, {}, None),
        (0.951, 1.0, {}, reasons.RELATIVE),
        (0.99, 1.0, {"relative_margin": -1}, None),
        (0.99, 1.0, {"relative_margin": None}, None),
        (1.0, 1.0, {"relative_margin": 0.0}, None),
        # a cosine below 0: the margin lies below the positive all the same
        (-0.2, -0.2, {}, reasons.RELATIVE),
        (-0.22, -0.2, {}, None),
        (0.5, 0.6, {"absolute_margin": 0.2}, reasons.ABSOLUTE),
        (0.5, 0.9, {"max_score": 0.4}, reasons.MAX_SCORE),
        (0.01, 0.9, {"min_score": 0.02}, reasons.MIN_SCORE),
    ],
)
def test_margins(
    relevance: float, positive: float, settings: dict[str, Any], reason: str | None
) -> None:
    assert score_reason(relevance, positive, MiningSettings(**settings)) == reason


def test_bm25_as_a_teacher_prefers_rare_words() -> None:
    corpus = ["the gate closes", "the soup is hot", "the soup is cold", "the soup is served"]
    teacher = Bm25Teacher(corpus)
    (scores,) = teacher.score([("gate soup", ["the gate closes", "the soup is hot", "nothing"])])
    assert scores[0] > scores[1] > scores[2] == 0.0
    assert Bm25Teacher(corpus).fingerprint == teacher.fingerprint
    assert Bm25Teacher(corpus[:2]).fingerprint != teacher.fingerprint


def test_an_ensemble_weighs_its_members_alike_whatever_their_scale() -> None:
    class Scaled(Bm25Teacher):
        def score(self, groups: Any) -> Any:
            return [own * 1000.0 + 5.0 for own in super().score(groups)]

    corpus = ["the gate closes", "the soup is hot", "noon"]
    plain, scaled = Bm25Teacher(corpus), Scaled(corpus)
    groups = [("gate soup noon", corpus), ("nothing of it", corpus)]
    alone = EnsembleTeacher([plain]).score(groups)
    both = EnsembleTeacher([plain, scaled]).score(groups)
    for one, other in zip(alone, both, strict=True):
        assert np.allclose(one, other, atol=1e-5)
        assert abs(one.mean()) < 1e-5
    assert both[1].tolist() == [0.0, 0.0, 0.0]  # equal scores have no deviation
