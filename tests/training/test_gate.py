"""The gate's rule on given values: what passes, what is refused and why, what is recommended."""

from __future__ import annotations

import json
from typing import Any, cast

import numpy as np
import pytest

from retrieval.errors import InvalidInput
from retrieval.evaluation.gate import BeforeAfter, GateReport, GateRule, New, gate_report
from retrieval.evaluation.gate_report import advice, gate_as_dict, gate_as_text
from retrieval.evaluation.significance import compare_all, compare_pairs

QUERIES = 80


def pair(
    set_: str,
    change: float,
    *,
    task: bool = False,
    new: New = "encoder",
    noise: float = 0.05,
    system: str = "two-stage",
    queries: int = QUERIES,
) -> BeforeAfter:
    """Before and after, whose means differ by `change` exactly."""
    random = np.random.default_rng(sum(set_.encode()))
    moves = random.normal(0, noise, queries) if noise else np.zeros(queries)
    moves += change - moves.mean()
    before = {f"q{n}": 0.5 + 0.1 * (n % 3) for n in range(queries)}
    after = {id_: value + moves[n] for n, (id_, value) in enumerate(before.items())}
    return BeforeAfter(set_, "dev" if task else "test", task, system, new, before, after)


def report(*pairs: BeforeAfter, changed: New = "encoder", **rule: Any) -> GateReport:
    return gate_report(
        pairs, measure="nDCG@10", before=("old-e", "old-r"), after=("new-e", "new-r"),
        changed=changed, system="two-stage", rule=GateRule(**rule),
    )  # fmt: skip


def texts(found: GateReport) -> list[str]:
    verdicts = cast(Any, gate_as_dict(found)["verdicts"])
    return [reason["text"] for verdict in verdicts for reason in verdict["reasons"]]


def test_better_on_the_task_and_no_loss_elsewhere_passes() -> None:
    found = report(pair("own", 0.05, task=True), pair("news", 0.001), pair("law", -0.009))
    assert found.passed
    assert found.recommended == "encoder"
    assert [row.outcome for row in found.rows] == ["won", "open", "open"]
    assert texts(found)[0].startswith("two-stage on own dev (the task) is better: +0.0500 [")
    assert "after Holm over 3 comparisons" in texts(found)[0]
    assert advice(found).startswith("Take the new encoder. two-stage on own dev goes from 0.59")


def test_a_loss_elsewhere_refuses() -> None:
    found = report(pair("own", 0.05, task=True), pair("news", 0.01), pair("law", -0.02))
    assert not found.passed
    assert found.recommended is None
    assert [found.holds(row) for row in found.deciding("encoder")] == [True, True, False]
    assert "two-stage on law test loses more than 0.01: -0.0200 [" in texts(found)[2]
    assert advice(found) == "Keep the models before: nothing that is new passes."


def test_a_loss_that_may_be_chance_refuses_by_the_rule_alone() -> None:
    pairs = [pair("own", 0.05, task=True), pair("law", -0.02, noise=0.3)]
    assert not report(*pairs).passed
    assert report(*pairs, most_loss=0.03).passed
    assert report(*pairs, losses="significant").passed
    assert not report(*pairs, most_loss=0.03, losses="possible").passed
    certain = [pair("own", 0.05, task=True), pair("law", -0.02, noise=0.01)]
    assert not report(*certain, losses="significant").passed
    assert report(*certain, most_loss=0.03, losses="possible").passed
    possible = texts(report(*pairs, most_loss=0.03))[1]
    assert "loses no more than 0.03" in possible
    assert "A loss of up to 0.0" in possible
    assert "more queries would show such a difference" in possible
    may = texts(report(*pairs, most_loss=0.03, losses="possible"))[1]
    assert "may lose more than 0.03" in may


def test_a_gain_that_may_be_chance_does_not_pass_but_is_not_worse() -> None:
    pairs = [pair("own", 0.01, task=True, noise=0.3), pair("law", 0.0)]
    found = report(*pairs)
    assert not found.passed
    assert "is not shown to be better" in texts(found)[0]
    assert found.rows[0].more_queries > 1000
    assert report(*pairs, need="not-worse").passed
    worse = [pair("own", -0.03, task=True), pair("law", 0.0)]
    assert not report(*worse, need="not-worse").passed
    assert "(the task) is worse: -0.0300" in texts(report(*worse))[0]


def test_the_same_on_every_query_is_said_so() -> None:
    found = report(pair("own", 0.0, task=True, noise=0), pair("law", 0.0, noise=0))
    assert not found.passed
    assert texts(found)[0] == "two-stage on own dev (the task) is the same on every query."
    assert report(pair("own", 0.0, task=True, noise=0), need="not-worse").passed


def test_of_two_new_models_the_one_that_does_no_harm_is_recommended() -> None:
    both = (
        pair("own", 0.06, task=True, new="both"), pair("law", -0.04, new="both"),
        pair("own", 0.05, task=True, new="encoder"), pair("law", -0.03, new="encoder"),
        pair("own", 0.03, task=True, new="reranker"), pair("law", 0.0, new="reranker"),
    )  # fmt: skip
    found = report(*both, changed="both")
    assert not found.passed
    assert found.variants == ("reranker", "encoder", "both")
    assert [found.passes(new) for new in found.variants] == [True, False, False]
    assert found.recommended == "reranker"
    assert advice(found).startswith("Take the new reranker with the encoder before.")


def test_of_equal_gains_the_smaller_change_is_recommended() -> None:
    pairs = [pair("own", 0.05, task=True, new=new) for new in ("both", "encoder", "reranker")]
    assert report(*pairs, changed="both").recommended == "reranker"
    better = [*pairs[1:], pair("own", 0.06, task=True, new="both")]
    assert report(*better, changed="both").recommended == "both"


def test_stages_alone_are_shown_and_do_not_decide() -> None:
    dense = pair("law", -0.2, system="dense")
    found = report(pair("own", 0.05, task=True), pair("law", 0.0), dense)
    assert found.passed
    assert found.rows[2].outcome == "lost"
    text = gate_as_text(found)
    assert "dense" in text
    assert "lost" in text


def test_chance_is_corrected_for_the_whole_table() -> None:
    alone = report(pair("own", 0.012, task=True))
    many = report(pair("own", 0.012, task=True), *(pair(f"g{n}", 0.0) for n in range(20)))
    assert alone.rows[0].found.p == many.rows[0].found.p
    assert alone.rows[0].found.p_holm < many.rows[0].found.p_holm
    assert many.rows[0].found.p_holm == pytest.approx(21 * many.rows[0].found.p, rel=0.01)


def test_pairs_of_sets_of_any_size_are_tested_as_pairs_alone() -> None:
    random = np.random.default_rng(1)
    short, long = random.normal(0.05, 0.1, 30), random.normal(0.0, 0.1, 200)
    found = compare_pairs([("a", "b", short), ("c", "d", long), ("e", "f", short)])
    assert found[0].p == found[2].p
    assert (found[0].low, found[0].high) == (found[2].low, found[2].high)
    [alone] = compare_all({"c": (0.5 + long).tolist(), "d": [0.5] * 200})
    assert (found[1].low, found[1].high) == pytest.approx((alone.low, alone.high))
    assert found[1].better + found[1].worse == 200


def test_the_json_says_what_the_text_says() -> None:
    found = report(pair("东京", 0.05, task=True), pair("law", -0.02))
    value = json.loads(json.dumps(gate_as_dict(found), ensure_ascii=False))
    assert (value["passed"], value["recommended"], value["changed"]) == (False, None, "encoder")
    assert value["before"] == {"encoder": "old-e", "reranker": "old-r"}
    assert value["rule"] == {"need": "better", "most_loss": 0.01, "losses": "observed"}
    [verdict] = value["verdicts"]
    assert [one["holds"] for one in verdict["reasons"]] == [True, False]
    row = value["rows"][0]
    assert (row["set"], row["split"], row["outcome"], row["queries"]) == ("东京", "dev", "won", 80)
    assert row["low"] < row["difference"] < row["high"]
    text = gate_as_text(found)
    assert "FAILED  two-stage on law test loses more than 0.01" in text
    assert "ok      two-stage on 东京 dev (the task) is better" in text
    assert text.endswith(value["advice"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"need": "best"}, "need is 'best'"),
        ({"losses": "none"}, "losses is 'none'"),
        ({"most_loss": -0.01}, "most_loss is -0.01"),
        ({"most_loss": float("nan")}, "most_loss is nan"),
    ],
)
def test_a_rule_that_means_nothing_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        GateRule(**given)


def test_what_was_not_measured_alike_is_refused() -> None:
    one = pair("own", 0.05, task=True)
    other = BeforeAfter("law", "test", False, "two-stage", "encoder", one.before, {"q0": 1.0})
    with pytest.raises(InvalidInput, match="80 queries before and 1 after"):
        report(one, other)
    with pytest.raises(InvalidInput, match="not measured on the task"):
        report(pair("law", 0.0))
