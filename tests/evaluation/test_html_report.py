"""The page of an evaluation: whole, safe with any text, and readable on every screen."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bs4 import BeautifulSoup
from hypothesis import given
from hypothesis import strategies as st

from retrieval.evaluation.evaluate import EvaluationReport, GivenRun, evaluate, write_report
from retrieval.evaluation.html_report import best_pair, report_as_html
from retrieval.evaluation.svg_axes import Axis
from retrieval.evaluation.svg_plots import Point, differences, pareto, scatter
from retrieval.types import Candidate, Hit, Passage, SearchResult, Timings

HOSTILE = '</title><script>window.pwned=1</script><img src=x onerror="window.pwned=2">\x00\x1b[31m'
QUERIES = {f"q{n}": f"question {n} {HOSTILE}" for n in range(8)}
QRELS = {f"q{n}": {f"d{n}": 2, f"d{n + 1}": 1, "d0": 0} for n in range(8)}


class Known:
    """Finds documents in a known order; the second stage turns every second list around."""

    def search_batch(self, queries: Any, **options: Any) -> list[SearchResult]:
        results = []
        for text in queries:
            number = int(re.findall(r"\d+", text)[0])
            found = [
                Candidate(
                    Passage(f"p{d}", f"d{d}", 0, f"text {d} {HOSTILE}", 0, 5, title=HOSTILE),
                    1.0 - place / 10,
                    place + 1,
                )
                for place, d in enumerate([(number + step) % 9 for step in (3, 1, 0, 5)])
            ]
            order = found[::-1] if number % 2 else found
            hits = tuple(
                Hit(c.passage, rank, 1.0, 0.5, c.rank, c.score, rank, float(-rank))
                for rank, c in enumerate(order, start=1)
            )
            again = options["rerank"]
            results.append(
                SearchResult(
                    query=text, hits=hits if again else (), candidates=tuple(found),
                    mode=options["mode"], blend="none", encoder=f"enc {HOSTILE}",
                    reranker="rerank" if again else None, timings=Timings(1.0, 2.0, 9.0, 12.0),
                    notices=(f"said {HOSTILE}",),
                )
            )  # fmt: skip
        return results


@pytest.fixture(scope="module")
def report() -> EvaluationReport:
    other = {query: {"d1": 2.0, "d2": 1.0} for query in QUERIES}
    found = evaluate(
        Known(), QUERIES, QRELS, modes=["dense", "sparse"], runs=[GivenRun(HOSTILE[:20], other)]
    )
    origin = {
        "set": {"name": HOSTILE, "split": "test", "files": {}}, "parameters": {"x": HOSTILE},
        "created": "2026-01-02T03:04:05+00:00", "command": f"retrieval eval {HOSTILE}",
    }  # fmt: skip
    return replace(found, origin=origin)


def page(report: EvaluationReport) -> BeautifulSoup:
    return BeautifulSoup(report_as_html(report), "html.parser")


def test_every_text_is_escaped_and_nothing_is_fetched(report: EvaluationReport) -> None:
    text = report_as_html(report)
    found = page(report)
    assert not found.find_all(["script", "img", "link", "iframe", "object"])
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", text)
    assert not re.search(r"url\(|@import|https?://", text)
    assert not [tag for tag in found.find_all(True) if {"src", "href", "style"} & set(tag.attrs)]
    assert [one for tag in found.find_all(True) for one in tag.attrs if one.startswith("on")] == []
    assert found.title is not None
    assert found.title.get_text().startswith("</title><script>")
    for where in ("h1", "article", "td", "code", ".notice"):
        assert "<script>wind" in "".join(t.get_text() for t in found.select(where)), where


def test_the_table_has_every_row_with_means_and_intervals(report: EvaluationReport) -> None:
    lines = page(report).select("tbody tr")
    assert len(lines) == len(report.rows) == 5
    for line, row in zip(lines, report.rows, strict=True):
        cells = [cell.get_text(" ", strip=True) for cell in line.find_all("td")]
        assert cells[0].startswith(row.name.split("\x00")[0][:5])
        low, high = row.intervals["nDCG@10"]
        assert cells[1] == f"{row.measures['nDCG@10']:.4f} {low:.3f} – {high:.3f}"
        assert low <= row.measures["nDCG@10"] <= high
        assert cells[-1] == ("–" if row.ms_per_query is None else f"{row.ms_per_query:.1f}")


def test_every_plot_tells_what_it_is_and_has_numbers_with_units(report: EvaluationReport) -> None:
    plots = page(report).select("figure svg")
    assert len(plots) == 5  # time, recall, query by query, scores of two stages
    for plot in plots:
        assert plot["role"] == "img"
        assert len(str(plot["aria-label"])) > 20
        assert plot.title is not None
        assert len(plot.select(".tick")) >= 4
        assert len(plot.select(".label")) == 2
        for tag in plot.find_all(["circle", "rect", "line"]):
            numbers = [float(v) for k, v in tag.attrs.items() if k in ("x", "y", "cx", "cy", "x1")]
            assert all(-1 <= number <= 481 for number in numbers)


def test_gains_and_losses_are_those_of_the_best_first_stage(report: EvaluationReport) -> None:
    pair = best_pair(report)
    assert pair is not None
    before, after = (row.per_query["nDCG@10"] for row in pair)
    gained = [query for query in before if after[query] > before[query]]
    lost = [query for query in before if after[query] < before[query]]
    assert gained or lost
    found = page(report)
    assert f"{len(gained)} queries gained, {len(lost)} lost" in " ".join(
        found.get_text(" ").split()
    )
    assert len(found.select("article.gain")) == len(gained)
    assert len(found.select("article.loss")) == len(lost)
    assert len(found.select("svg rect")) == len(gained) + len(lost)


def test_a_report_of_a_run_alone_has_no_times_and_no_second_stage() -> None:
    run = {query: {} for query in QUERIES} | {"q1": {"d1": 1.0}}
    found = page(evaluate(Known(), QUERIES, QRELS, modes=(), runs=[GivenRun("other", run)]))
    assert [title.get_text() for title in found.select("figure h3")] == ["Recall by depth"]
    assert not found.select("article, details")


def test_one_query_that_finds_nothing_still_makes_a_page() -> None:
    class Empty(Known):
        def search_batch(self, queries: Any, **options: Any) -> list[SearchResult]:
            return [
                replace(one, hits=(), candidates=())
                for one in super().search_batch(queries, **options)
            ]

    report = evaluate(Empty(), {"q1": "x 1"}, {"q1": {"d": 1}}, modes=["dense"], measures=["P@1"])
    text = " ".join(page(report).get_text(" ").split())
    assert "0 queries gained, 0 lost and 1 stayed" in text
    assert "No row has any of the relevant documents" in text


def test_the_page_is_written_whole_or_not_at_all(
    report: EvaluationReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_report(report, html_file=tmp_path / "new" / "page.html")
    before = (tmp_path / "new" / "page.html").read_bytes()
    assert before.startswith(b"<!DOCTYPE html>")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("retrieval._files.os.fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_report(report, html_file=tmp_path / "new" / "page.html")
    assert [one.name for one in (tmp_path / "new").iterdir()] == ["page.html"]
    assert (tmp_path / "new" / "page.html").read_bytes() == before


finite = st.floats(-1e6, 1e6, allow_nan=False).map(lambda value: round(value, 6))


@given(st.lists(finite, min_size=1, max_size=20))
def test_an_axis_holds_its_values_and_has_a_few_round_numbers(values: list[float]) -> None:
    axis = Axis.over("x", values)
    assert all(-1e-9 <= axis.share(value) <= 1 + 1e-9 for value in values)
    assert 2 <= len(axis.ticks) <= 9
    assert list(axis.ticks) == sorted(set(axis.ticks))


@given(st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=20))
def test_a_logarithmic_axis_holds_its_values(values: list[float]) -> None:
    axis = Axis.logarithmic("ms", values)
    assert all(-1e-9 <= axis.share(value) <= 1 + 1e-9 for value in values)
    assert 1 <= len(axis.ticks) <= 12


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=12))
def test_the_front_is_what_nothing_else_beats(points: list[tuple[int, int]]) -> None:
    def beaten(one: tuple[int, int]) -> bool:
        return any(o != one and o[0] <= one[0] and o[1] >= one[1] for o in points)

    front = [points[row] for row in pareto(points)]
    assert sorted(set(front)) == sorted({one for one in points if not beaten(one)})
    assert len(front) == len(set(front))


def test_names_of_points_close_together_do_not_cover_each_other() -> None:
    points = [
        Point(f"mode-{n}+rerank", 10.0 + n / 4, 0.5 + n / 100, (0.4, 0.6), f"c{n}")
        for n in range(6)
    ]
    plot = BeautifulSoup(scatter("t", points, "ms", "nDCG"), "html.parser")
    places = [(float(str(t["x"])), float(str(t["y"]))) for t in plot.select(".name")]
    for n, (x, y) in enumerate(places):
        for left, base in places[n + 1 :]:
            assert abs(x - left) >= 90 or abs(y - base) >= 13


def test_differences_that_are_all_nothing_are_drawn() -> None:
    assert "0 queries gain, 0 lose, 3 equal" in differences("t", [0.0] * 3, "change")


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_sticks_out_on_any_screen(
    report: EvaluationReport, tmp_path: Path, width: int, scheme: Any
) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    write_report(report, html_file=tmp_path / "page.html")
    with playwright.sync_playwright() as driver:
        system = Path("/usr/bin/chromium")
        found = str(system) if system.exists() else driver.chromium.executable_path
        if not Path(found).exists():
            pytest.skip("there is no Chromium here")
        browser = driver.chromium.launch(
            executable_path=found, args=["--no-sandbox", "--disable-gpu"]
        )
        opened = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        opened.goto((tmp_path / "page.html").as_uri())
        assert opened.evaluate("document.documentElement.scrollWidth") <= width
        assert opened.evaluate("window.pwned") is None
        ground, ink = (
            opened.evaluate(f"getComputedStyle(document.body).{name}")
            for name in ("backgroundColor", "color")
        )
        dark = [sum(map(int, re.findall(r"\d+", one)[:3])) < 384 for one in (ground, ink)]
        assert dark == [scheme == "dark", scheme == "light"]
        browser.close()
