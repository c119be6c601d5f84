"""Measures are trec_eval's, for any names, ties and queries without results."""

from __future__ import annotations

import math
from typing import Any

import pytest
import pytrec_eval
from hypothesis import given
from hypothesis import strategies as st

from retrieval.errors import InvalidInput
from retrieval.evaluation.metrics import compare, display_name, measure, measure_per_query

QRELS = {
    "q1": {"a": 3, "b": 2, "c": 0, "d": 1},
    "q2": {"x": 1},
    "q3": {"y": 1, "z": 1},
}
RUN = {
    "q1": {"c": 4.0, "a": 3.0, "other": 2.0, "b": 1.0},  # a at 2, b at 4, d not found
    "q2": {"n1": 2.0, "x": 1.0},  # x at 2
    # q3: nothing found
    "unjudged": {"a": 1.0},
}


def test_figures_are_those_worked_out_by_hand() -> None:
    dcg = 3 / math.log2(3) + 2 / math.log2(5)
    ideal = 3 / math.log2(2) + 2 / math.log2(3) + 1 / math.log2(4)
    values = measure_per_query(QRELS, RUN, ["nDCG@10", "MRR@10", "recall@100", "P@2", "MAP"])
    assert values["nDCG@10"] == pytest.approx({"q1": dcg / ideal, "q2": 1 / math.log2(3), "q3": 0})
    assert values["MRR@10"] == {"q1": 0.5, "q2": 0.5, "q3": 0.0}
    assert values["recall@100"] == pytest.approx({"q1": 2 / 3, "q2": 1.0, "q3": 0.0})
    assert values["P@2"] == {"q1": 0.5, "q2": 0.5, "q3": 0.0}
    assert values["MAP"] == pytest.approx({"q1": (1 / 2 + 2 / 4) / 3, "q2": 0.5, "q3": 0.0})


def test_means_are_over_every_judged_query_and_no_other() -> None:
    means = measure(QRELS, RUN, ["MRR@10", "recall@100"])
    assert means == pytest.approx({"MRR@10": 1 / 3, "recall@100": (2 / 3 + 1) / 3})


def test_a_run_without_any_result_is_zero_not_an_error() -> None:
    runs: list[dict[str, dict[str, float]]] = [{}, {"q1": {}, "q2": {}}]
    for run in runs:
        assert measure(QRELS, run) == {"nDCG@10": 0.0, "MRR@10": 0.0, "recall@100": 0.0}


def test_cutoffs_cut() -> None:
    run = {"q2": {**{f"n{i:02}": 100.0 - i for i in range(10)}, "x": 1.0}}
    values = measure({"q2": {"x": 1}}, run, ["MRR@10", "MRR@11", "recall@10", "recall@11"])
    assert values == pytest.approx(
        {"MRR@10": 0.0, "MRR@11": 1 / 11, "recall@10": 0.0, "recall@11": 1.0}
    )


def test_ties_are_broken_by_ascending_id_in_every_measure() -> None:
    run = {"q": {"b": 1.0, "a": 1.0, "c": 1.0}}
    assert measure({"q": {"a": 1}}, run, ["MRR@10", "MRR", "nDCG@1", "P@1"]) == {
        "MRR@10": 1.0,
        "MRR": 1.0,
        "nDCG@1": 1.0,
        "P@1": 1.0,
    }


def test_scores_too_close_for_32_bits_keep_their_order() -> None:
    run = {"q": {"a": 1.0, "b": 1.0 + 1e-12}}
    assert measure({"q": {"b": 1}}, run, ["MRR@10", "nDCG@1"]) == {"MRR@10": 1.0, "nDCG@1": 1.0}


def test_negative_grades_gain_nothing_and_are_not_relevant() -> None:
    qrels = {"q": {"bad": -1, "good": 1}, "none": {"bad": -1}}
    run = {"q": {"bad": 2.0, "good": 1.0}, "none": {"bad": 1.0}}
    values = measure_per_query(qrels, run, ["nDCG@10", "recall@10", "MRR@10"])
    assert values["nDCG@10"] == pytest.approx({"q": 1 / math.log2(3), "none": 0.0})
    assert values["recall@10"] == {"q": 1.0, "none": 0.0}
    assert values["MRR@10"] == {"q": 0.5, "none": 0.0}


def test_the_smallest_relevant_grade_can_be_raised() -> None:
    values = measure_per_query(QRELS, RUN, ["recall(rel=2)@100", "recall@100"])
    assert values["recall(rel=2)@100"]["q1"] == 1.0
    assert values["recall@100"]["q1"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("nDCG@10", "nDCG@10"),
        ("ndcg@10", "nDCG@10"),
        ("RR@10", "MRR@10"),
        ("mrr", "MRR"),
        ("R@100", "recall@100"),
        (" Recall@5 ", "recall@5"),
        ("AP@100", "MAP@100"),
        ("success(rel=2)@5", "success(rel=2)@5"),
        ("P(rel=1)@5", "P@5"),
        ("Rprec", "Rprec"),
        ("judged@10", "judged@10"),
    ],
)
def test_names_have_one_display_form_and_can_be_measured(written: str, shown: str) -> None:
    assert display_name(written) == shown
    assert list(measure(QRELS, RUN, [written])) == [shown]


@pytest.mark.parametrize(
    "bad",
    ["", "accuracy", "nDCG@", "nDCG@0", "nDCG@-1", "nDCG@10x", "recall", "P", "Rprec@5",
     "nDCG(rel=2)@10", "__import__('os')@1", None, 10],
)  # fmt: skip
def test_a_name_that_means_nothing_is_refused_with_examples(bad: Any) -> None:
    with pytest.raises(InvalidInput, match=r"Write ") as caught:
        measure(QRELS, RUN, [bad])
    assert caught.value.exit_code == 2


def test_no_measures_no_judgements_and_bad_scores_are_refused() -> None:
    with pytest.raises(InvalidInput, match="no measure"):
        measure(QRELS, RUN, [])
    with pytest.raises(InvalidInput, match="no judgements"):
        measure({"q": {}}, RUN)
    with pytest.raises(InvalidInput, match="'q1', document 'a': the score is nan"):
        measure(QRELS, {"q1": {"a": math.nan}})


ids = st.sampled_from([f"d{i}" for i in range(12)])
qrels_strategy = st.dictionaries(
    st.sampled_from(["q1", "q2", "q3"]),
    st.dictionaries(ids, st.integers(0, 3), min_size=1),
    min_size=1,
)


@given(
    qrels=qrels_strategy,
    rankings=st.lists(st.permutations([f"d{i}" for i in range(12)]), min_size=3, max_size=3),
)
def test_figures_agree_with_pytrec_eval(
    qrels: dict[str, dict[str, int]], rankings: list[list[str]]
) -> None:
    run = {
        query: {id_: float(len(order) - rank) for rank, id_ in enumerate(order)}
        for query, order in zip(("q1", "q2", "q3"), rankings, strict=True)
    }
    names = {"nDCG@10": "ndcg_cut_10", "MRR": "recip_rank", "recall@5": "recall_5", "MAP": "map"}
    expected = pytrec_eval.RelevanceEvaluator(qrels, set(names.values())).evaluate(run)
    found = measure_per_query(qrels, run, list(names))
    for ours, theirs in names.items():
        assert found[ours] == pytest.approx({q: expected[q][theirs] for q in qrels})


# Few distinct scores, so that ties are the rule.
tied_runs = st.dictionaries(
    st.sampled_from(["q1", "q2", "q3", "q4"]),
    st.dictionaries(ids, st.sampled_from([-1.5, 0.0, 0.25, 2.0, 1e30])),
)
graded = st.dictionaries(
    st.sampled_from(["q1", "q2", "q3"]),
    st.dictionaries(ids, st.integers(-2, 4), min_size=1),
    min_size=1,
)
THEIRS = {
    "nDCG": "ndcg", "nDCG@1": "ndcg_cut_1", "nDCG@5": "ndcg_cut_5", "nDCG@10": "ndcg_cut_10",
    "MRR": "recip_rank", "MAP": "map", "MAP@5": "map_cut_5", "P@1": "P_1", "P@10": "P_10",
    "recall@3": "recall_3", "recall@10": "recall_10", "recall@100": "recall_100",
    "success@1": "success_1", "success@5": "success_5", "Rprec": "Rprec", "Bpref": "bpref",
}  # fmt: skip


@given(qrels=graded, run=tied_runs, cutoff=st.integers(1, 15))
def test_every_measure_agrees_with_pytrec_eval_to_a_billionth(
    qrels: dict[str, dict[str, int]], run: dict[str, dict[str, float]], cutoff: int
) -> None:
    """With ties, queries that lack results, empty results, grades and negative judgements."""
    orders = {query: sorted(own, key=lambda id_: (-own[id_], id_)) for query, own in run.items()}
    # What removes ties: strictly falling scores in our order, ties by id ascending.
    plain = {
        query: {id_: float(len(order) - place) for place, id_ in enumerate(order)}
        for query, order in orders.items()
        if order
    }
    cut = {query: dict(list(own.items())[:cutoff]) for query, own in plain.items()}
    found = measure_per_query(
        qrels, run, [*THEIRS, f"MRR@{cutoff}", f"judged@{cutoff}", "recall(rel=2)@5"]
    )
    # Where all of a query's grades are negative, trec_eval writes outside of its memory.
    safe = {
        query: grades if max(grades.values()) >= 0 else dict.fromkeys(grades, 0)
        for query, grades in qrels.items()
    }
    whole = pytrec_eval.RelevanceEvaluator(safe, set(THEIRS.values())).evaluate(plain)
    strict = pytrec_eval.RelevanceEvaluator(safe, {"recall_5"}, relevance_level=2).evaluate(plain)
    firsts = pytrec_eval.RelevanceEvaluator(safe, {"recip_rank"}).evaluate(cut)
    for query, grades in qrels.items():
        expected = {ours: whole.get(query, {}).get(name, 0.0) for ours, name in THEIRS.items()}
        expected[f"MRR@{cutoff}"] = firsts.get(query, {}).get("recip_rank", 0.0)
        expected["recall(rel=2)@5"] = strict.get(query, {}).get("recall_5", 0.0)
        top = orders.get(query, [])[:cutoff]
        expected[f"judged@{cutoff}"] = sum(id_ in grades for id_ in top) / max(len(top), 1)
        for name, value in expected.items():
            assert found[name][query] == pytest.approx(value, abs=1e-9), name


def test_comparison_counts_queries_and_bounds_the_difference() -> None:
    qrels = {f"q{i}": {"good": 1} for i in range(40)}
    baseline = {q: {"bad": 2.0, "good": 1.0} for q in qrels}
    # 30 queries better (rank 1), 10 as before
    better = {
        q: {"good": 1.0} if i < 30 else {"bad": 2.0, "good": 1.0} for i, q in enumerate(qrels)
    }
    found = compare(qrels, baseline, better, ["RR@10"])["MRR@10"]
    assert found.baseline == 0.5
    assert found.run == pytest.approx(0.875)
    assert found.difference == pytest.approx(0.375)
    assert (found.better, found.worse, found.equal) == (30, 0, 10)
    # the standard error of the mean is sqrt(.75 * .25 / 40) / 2; 1.96 of them either way
    error = math.sqrt(0.75 * 0.25 / 40) / 2
    assert found.low == pytest.approx(0.375 - 1.96 * error, abs=0.01)
    assert found.high == pytest.approx(0.375 + 1.96 * error, abs=0.01)
    assert compare(qrels, baseline, better, ["RR@10"])["MRR@10"] == found


def test_a_run_does_not_differ_from_itself() -> None:
    found = compare(QRELS, RUN, RUN, ["nDCG@10"])["nDCG@10"]
    assert (found.low, found.difference, found.high, found.equal) == (0.0, 0.0, 0.0, 3)


@pytest.mark.parametrize("wrong", [{"confidence": 95.0}, {"confidence": 0.0}, {"samples": 10}])
def test_comparison_refuses_settings_that_mean_nothing(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match=next(iter(wrong))):
        compare(QRELS, RUN, RUN, **wrong)


def test_judgements_that_are_all_negative_do_no_harm() -> None:
    """trec_eval's own code ends the process, or never ends, on such a query."""
    qrels = {"q1": {"a": -2}, "q2": {"a": -1, "b": -3}, "q3": {"a": 3, "b": -2}}
    run = {query: {"a": 2.0, "b": 1.0} for query in qrels}
    for _ in range(50):
        found = measure_per_query(qrels, run, ["nDCG@10", "Bpref", "Rprec", "judged@10"])
    assert found["nDCG@10"] == {"q1": 0.0, "q2": 0.0, "q3": 1.0}
    assert found["judged@10"] == {"q1": 0.5, "q2": 1.0, "q3": 1.0}
