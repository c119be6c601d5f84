"""Which setting is taken, what is said of it, and what is kept on disk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from retrieval.errors import InvalidInput
from retrieval.evaluation.comparison import ComparisonReport, SettingResult, compared
from retrieval.evaluation.comparison_folder import ComparisonFolder
from retrieval.evaluation.comparison_report import (
    CAUTION,
    advice,
    comparison_as_dict,
    comparison_as_text,
)
from retrieval.evaluation.settings import Setting

RANDOM = np.random.default_rng(3)
EASY = RANDOM.uniform(0.2, 0.8, 100)
NOISE = RANDOM.normal(0, 0.05, 100)


def result(name: str, values: Sequence[float], ms: float, **more: object) -> SettingResult:
    return SettingResult(
        name=name, setting=Setting(encoder=name), run={"q0": ["d1", "d2"]},
        values={f"q{at}": float(value) for at, value in enumerate(values)},
        milliseconds=(ms, ms, 2 * ms), **more,  # type: ignore[arg-type]
    )  # fmt: skip


def report(*results: SettingResult) -> ComparisonReport:
    return compared(results, judged="set", split="test", measure="nDCG@10", depth=100)


def choice(*results: SettingResult) -> tuple[str, str]:
    chosen, why = report(*results).choice
    return chosen.name, why


def test_a_better_setting_is_taken_whatever_it_costs() -> None:
    assert choice(result("base", EASY, 10), result("good", EASY + 0.1, 500)) == ("good", "better")


def test_of_equally_good_ones_the_cheapest_is_taken() -> None:
    settings = (
        result("base", EASY, 470),
        result("best", EASY + 0.101, 400),
        result("cheap", EASY + 0.1 + NOISE - NOISE.mean(), 180),
        result("bad", EASY - 0.1, 5),
    )
    assert choice(*settings) == ("cheap", "better")
    text = advice(report(*settings))
    assert text.startswith("Take cheap: its nDCG@10 is better than that of the baseline (base) by")
    assert "(p < 0.001 after Holm over 6 comparisons)" in text or "p = 0.00" in text
    assert "a search takes 180 ms instead of 470." in text
    assert "best has the best mean, and these data cannot tell the two apart" in text


def test_the_baseline_is_kept_where_nothing_shows_more() -> None:
    noisy = EASY + 0.002 + NOISE - NOISE.mean()
    assert choice(result("base", EASY, 100), result("new", noisy, 300)) == ("base", "baseline")
    # nor for a few milliseconds that nobody notices, nor for a few in a hundred
    assert choice(result("base", EASY, 6), result("new", noisy, 1)) == ("base", "baseline")
    assert choice(result("base", EASY, 500), result("new", noisy, 470)) == ("base", "baseline")
    text = advice(report(result("base", EASY, 100), result("new", noisy, 300)))
    assert text.startswith("These data cannot tell new from the baseline (base): the difference")
    assert "100 queries show differences from 0.0" in text
    assert "more queries to show this one. Keep the baseline: its searches take 100 ms" in text


def test_an_equal_and_cheaper_one_is_taken_and_its_risk_is_said() -> None:
    noisy = EASY - 0.002 + NOISE - NOISE.mean()
    settings = (result("base", EASY, 470), result("new", noisy, 180))
    assert choice(*settings) == ("new", "cheaper")
    text = advice(report(*settings))
    assert "Take new, the cheaper one: a search takes 180 ms instead of 470." in text
    assert "It may be worse by up to 0.0" in text


def test_what_seems_worse_is_not_taken_for_its_price() -> None:
    """Many comparisons must not make a loss disappear: Holm's correction is for gains."""
    worse = EASY - 0.011 + NOISE - NOISE.mean()
    others = [result(f"same{at}", EASY, 500) for at in range(12)]
    made = report(result("base", EASY, 500), result("worse", worse, 20), *others)
    found = made.difference(made.results[1], made.baseline)
    assert found.p < 0.05
    assert not found.significant
    assert made.choice[0].name == "base"


def test_the_same_on_every_query() -> None:
    settings = (result("base", EASY, 300), result("same", EASY, 20))
    assert choice(*settings) == ("same", "cheaper")
    assert "have the same nDCG@10 on every query. Take same" in advice(report(*settings))
    slower = (result("base", EASY, 20), result("same", EASY, 300))
    assert advice(report(*slower)).startswith("Keep the baseline (base): no setting has a better")


def test_a_few_queries_are_no_reason_to_take_what_is_cheaper() -> None:
    few = EASY[:20]
    settings = (result("base", few, 300), result("same", few, 20))
    assert choice(*settings) == ("base", "baseline")
    assert "20 queries are too few to tell that another setting is as good" in advice(
        report(*settings)
    )
    assert choice(result("base", few, 20), result("better", few + 0.2, 300)) == ("better", "better")


def test_a_worse_baseline_is_not_kept_and_a_worse_setting_not_taken() -> None:
    made = report(result("base", EASY - 0.1, 20), result("good", EASY, 400))
    assert made.choice[0].name == "good"
    assert made.best.name == "good"


def test_the_text_has_every_setting_and_says_what_the_choice_is_worth() -> None:
    made = report(
        result("base", EASY, 470, model_bytes=500_000_000),
        result("good", EASY + 0.1, 180, model_bytes=None, index_bytes=2_000_000, notices=("Cut.",)),
        result("bad", EASY - 0.1, 20),
    )
    text = comparison_as_text(made)
    lines = text.splitlines()
    assert lines[0] == "set test: 100 queries, 3 settings, 3 comparisons"
    order = [line.split()[1] for line in lines[4:7] if line.startswith(("→", "b"))]
    assert order == ["good", "base"]
    assert "500 MB" in text
    assert "note: Cut." in text
    assert "Against the best, good:" in text
    assert "Against the baseline, base:" in text
    assert lines[-1] == CAUTION
    assert max(map(len, lines[:7])) < 100


def test_json_has_all_pairs_and_how_they_were_measured() -> None:
    made = report(result("base", EASY, 470), result("good", EASY + 0.1, 180), result("x", EASY, 9))
    found = json.loads(json.dumps(comparison_as_dict(made), allow_nan=False))
    assert (found["baseline"], found["choice"], found["why"]) == ("base", "good", "better")
    assert [one["name"] for one in found["settings"]] == ["good", "base", "x"]
    assert [(one["first"], one["second"]) for one in found["comparisons"]] == [
        ("base", "good"), ("base", "x"), ("good", "x"),
    ]  # fmt: skip
    same = found["comparisons"][1]
    assert (same["equal"], same["queries_needed"], same["p_holm"]) == (100, None, 1.0)
    assert found["settings"][0]["low"] < found["settings"][0]["mean"] < found["settings"][0]["high"]
    assert found["settings"][0]["ms_median"] == 180
    assert set(found["how"]) >= {"ms", "model_bytes", "p", "smallest"}


def test_times_are_a_median_and_what_nine_of_ten_stay_within() -> None:
    timed = SettingResult("a", Setting(), {"q": 1.0}, {}, tuple(map(float, range(10, 0, -1))))
    assert (timed.ms, timed.ms_p90) == (5.5, 9.0)
    assert SettingResult("a", Setting(), {"q": 1.0}, {}, (7.0,)).ms_p90 == 7.0


def test_one_query_can_be_compared() -> None:
    made = report(result("base", [0.5], 100), result("new", [1.0], 100))
    assert made.choice[0].name == "base"
    text = comparison_as_text(made)
    assert "1 query is too few to tell that another setting is as good; judge 25" in text
    json.dumps(comparison_as_dict(made), allow_nan=False)


# --- the folder -----------------------------------------------------------------------------

PARAMETERS = {"judged": "set", "limit": 5, "settings": ["mode=dense", "mode=sparse"]}


def test_what_was_saved_is_found_again(tmp_path: Path) -> None:
    first, second = result("a", EASY, 5, notices=("One.",)), result("b", EASY, 6, model_bytes=3)
    settings = {first.setting: "a", second.setting: "b"}
    folder = ComparisonFolder(tmp_path / "new" / "out")
    folder.start(PARAMETERS, resume=False)
    folder.save(1, second)
    again = ComparisonFolder(folder.path)
    again.start(PARAMETERS, resume=True)
    assert again.done(settings) == {second.setting: second}
    again.save(0, first)
    assert list(again.done(settings).values()) == [first, second]
    assert sorted(path.name for path in folder.path.iterdir()) == [
        "001.json", "002.json", "comparison.json",
    ]  # fmt: skip


def test_other_parameters_are_named(tmp_path: Path) -> None:
    ComparisonFolder(tmp_path / "out").start(PARAMETERS, resume=False)
    other = {**PARAMETERS, "limit": None, "settings": ["mode=dense", "mode=hybrid"]}
    with pytest.raises(InvalidInput) as error:
        ComparisonFolder(tmp_path / "out").start(other, resume=True)
    assert "limit was 5, and is null" in str(error.value)
    assert "the settings are without mode=sparse, with mode=hybrid" in str(error.value)


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InvalidInput, match="holds something else than a comparison"):
        ComparisonFolder(tmp_path)
    with pytest.raises(InvalidInput, match="is a file, expected a folder"):
        ComparisonFolder(tmp_path / "thesis.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_begin_and_resume_are_not_confused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="there is no comparison"):
        ComparisonFolder(tmp_path / "out").start(PARAMETERS, resume=True)
    assert not (tmp_path / "out").exists()
    ComparisonFolder(tmp_path / "out").start(PARAMETERS, resume=False)
    with pytest.raises(InvalidInput, match="holds a comparison already"):
        ComparisonFolder(tmp_path / "out").start(PARAMETERS, resume=False)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    one = result("a", EASY, 5)
    folder = ComparisonFolder(tmp_path / "out")
    folder.start(PARAMETERS, resume=False)
    for text in ('{"name": "a"', '["a"]', '{"name": "a"}'):
        (folder.path / "001.json").write_text(text)
        with pytest.raises(InvalidInput, match=r"001\.json cannot be read"):
            folder.done({one.setting: "a"})
