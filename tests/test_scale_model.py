"""benchmarks/scale_model.py: its arithmetic, its refusals, and that docs/scaling.md agrees."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
BENCHMARKS = ROOT / "benchmarks"

# As when a script runs: its folder is the first on the path.
sys.path.insert(0, str(BENCHMARKS))
try:
    import _scale
    import scale_model
    from _scale import Inputs, MissingInputError
finally:
    sys.path.remove(str(BENCHMARKS))

FILES = {
    "index": BENCHMARKS / "results" / "index.json",
    "encode": BENCHMARKS / "results" / "encode-bge-small-real.json",
    "assumptions": BENCHMARKS / "scale_assumptions.json",
}


@pytest.fixture(scope="module")
def committed() -> Inputs:
    return _scale.load(**FILES, assume=True)


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    """What index.py writes, in figures that are easily reckoned with."""
    rows = [
        (f"clustered {size}: build", system, metric, value)
        for size, scale in (("100,000", 9), ("1,000,000", 1))
        for system, metric, value in (
            ("retrieval", "upsert", 20_000.0 * scale),
            ("retrieval", "graph", 250.0),
            ("retrieval", "disk each", 4_000.0 * scale),
            ("retrieval int8", "disk each", 4_400.0 * scale),
            ("hnswlib", "disk each", 1.0),
        )
    ]
    rows.append(("real 40,000: build", "retrieval", "disk each", 1.0))
    path = tmp_path / "index.json"
    keys = ("case", "system", "metric", "value")
    content = {
        "machine": {"cores": 4},
        "rows": [{**dict(zip(keys, row, strict=True)), "unit": ""} for row in rows],
    }
    path.write_text(json.dumps(content))
    return path


def test_the_document_has_the_tables_that_the_committed_files_give(committed: Inputs) -> None:
    """After new measurements: python benchmarks/scale_model.py --write docs/scaling.md"""
    text = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    assert scale_model.written(text, scale_model.tables(committed)) == text


def test_measurements_go_before_assumptions(measured: Path) -> None:
    inputs = _scale.load(**{**FILES, "index": measured}, assume=True)
    assert inputs.index == "results/index.json, clustered 1,000,000"
    assert (inputs.disk_bytes, inputs.disk_bytes_int8) == (4_000, 4_400)
    assert inputs.upsert == 20_000
    assert inputs.graph == 1_000_000 / 250
    assert inputs.build_cores == 4
    table = scale_model.tables(inputs)["inputs"]
    assert "| with int8: measured, and by the model | 4,400, 4,384 |" in table
    rate = json.loads(FILES["encode"].read_text())
    [tokens] = [
        row["value"]
        for row in rate["rows"]
        if (row["system"], row["metric"]) == ("retrieval", "tokens")
    ]
    assert inputs.tokens_per_core == tokens / rate["machine"]["cores"]


@pytest.mark.parametrize("name", ["index", "encode", "assumptions"])
def test_a_missing_input_is_named_with_the_way_to_make_it(name: str, tmp_path: Path) -> None:
    missing = tmp_path / f"{name}.json"
    with pytest.raises(MissingInputError, match=r"There is no .*json\. Make it with"):
        _scale.load(**{**FILES, name: missing})


def test_a_file_without_the_rows_is_named(measured: Path) -> None:
    content = json.loads(measured.read_text())
    content["rows"] = [row for row in content["rows"] if row["metric"] != "graph"]
    measured.write_text(json.dumps(content))
    with pytest.raises(MissingInputError, match="has no 'graph' of 'retrieval'"):
        _scale.load(**{**FILES, "index": measured})
    content["rows"] = []
    measured.write_text(json.dumps(content))
    with pytest.raises(MissingInputError, match="no build of clustered passages"):
        _scale.load(**{**FILES, "index": measured})


def test_bytes_are_those_of_the_formulas(committed: Inputs) -> None:
    assert _scale.graph_bytes(16) == pytest.approx(4 * (32 + 16 / 15))
    assert _scale.short_bytes(1024, "int8") == 1024
    assert _scale.short_bytes(1024, "binary") == 128
    plain = _scale.servers(committed, 10**6, 1024, "none")
    a = committed.assumed
    own = (4 * 1024 + _scale.graph_bytes(16) + _scale.terms_and_ids(a)) * a["headroom"]
    assert plain.ram == pytest.approx(10**6 * max(own, 1024 * 4 * 1.5))
    whole = 4 * 1024 + _scale.graph_bytes(16) + committed.other_bytes
    assert plain.disk == pytest.approx(10**6 * whole * a["disk_headroom"])
    same = _scale.servers(committed, 10**6, committed.dimension, "none")
    assert same.disk == pytest.approx(10**6 * committed.disk_bytes * a["disk_headroom"])


def test_qdrants_rule_of_thumb_is_the_least_of_memory(committed: Inputs) -> None:
    lean = replace(committed, assumed={**committed.assumed, "headroom": 0.1})
    assert _scale.servers(lean, 10**6, 768, "none").ram == 10**6 * 768 * 4 * 1.5


@pytest.mark.parametrize("passages", list(scale_model.SIZES.values()))
@pytest.mark.parametrize("dimension", scale_model.DIMENSIONS)
@pytest.mark.parametrize("quantization", scale_model.QUANTIZATIONS)
def test_the_nodes_hold_what_they_must(
    committed: Inputs, passages: int, dimension: int, quantization: str
) -> None:
    s = _scale.servers(committed, passages, dimension, quantization)
    [machine] = [one for one in committed.assumed["machines"] if one["name"] == s.machine]
    room = s.nodes * machine["ram_gib"] * 2**30 * committed.assumed["ram_share"]
    assert s.copies * s.ram <= room
    if s.nodes > 3:
        assert s.copies * s.ram > room * (s.nodes - 1) / s.nodes, "not a node too many"
    assert s.copies == 1 or s.nodes >= 3
    assert s.shards % s.nodes == 0
    assert s.month > s.nodes * machine["month"]


def test_more_of_anything_costs_more_and_shorter_vectors_less(committed: Inputs) -> None:
    def month(*shape: Any) -> float:
        return _scale.servers(committed, *shape).month

    sizes = [month(n, 768, "int8") for n in scale_model.SIZES.values()]
    assert sizes == sorted(sizes)
    widths = [month(10**9, d, "none") for d in scale_model.DIMENSIONS]
    assert widths == sorted(widths)
    forms = [month(10**9, 768, q) for q in ("binary", "int8", "none")]
    assert forms == sorted(forms)


def test_flops_are_those_of_the_layers() -> None:
    """Of bge-small: 12 layers of 4 products h × h and 2 of h × i, and attention over 100 tokens."""
    shape = {"layers": 12, "hidden": 384, "intermediate": 1536}
    weights = 12 * (4 * 384**2 + 2 * 384 * 1536)
    attention = 12 * 2 * 100 * 384
    assert _scale.flop_per_token(shape, 100) == 2 * (weights + attention)


def test_encoding_takes_tokens_over_the_rate(committed: Inputs) -> None:
    e = _scale.embedding(committed, 10**6, 384)
    length = committed.assumed["tokens_per_passage"]
    assert e.core_hours == pytest.approx(10**6 * length / committed.tokens_per_core / 3600)
    assert e.core_money == pytest.approx(e.core_hours * committed.assumed["core_hour"])
    shape = committed.assumed["encoders"]["384"]
    [gpu] = [one for one in committed.assumed["gpus"] if one["name"] == "L4"]
    rate = gpu["bf16_tflops"] * 1e12 * shape["gpu_share"] / _scale.flop_per_token(shape, length)
    assert e.gpu_hours["L4"] == pytest.approx(10**6 * length / rate / 3600)
    twice = _scale.embedding(committed, 2 * 10**6, 384)
    assert twice.gpu_money["L4"] == pytest.approx(2 * e.gpu_money["L4"])
    large = _scale.embedding(committed, 10**6, 1024)
    assert large.core_hours > 10 * e.core_hours


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.34, "0.3"), (3.04, "3.0"), (9.97, "10"), (12.4, "12"), (104, "100"), (15_549, "16,000")],
)
def test_two_figures_are_shown(value: float, shown: str) -> None:
    assert scale_model._short(value) == shown


def test_tables_are_written_between_marks_and_nowhere_else() -> None:
    text = "before\n<!-- scale_model begin one -->\nold\n<!-- scale_model end one -->\nafter\n"
    new = scale_model.written(text, {"one": "| new |"})
    assert new == text.replace("\nold\n", "\n\n| new |\n\n")
    assert scale_model.written(new, {"one": "| new |"}) == new
    with pytest.raises(SystemExit, match="no marks <!-- scale_model begin two -->"):
        scale_model.written(text, {"two": "x"})


def test_the_script_prints_and_writes_what_it_worked_out(tmp_path: Path, measured: Path) -> None:
    out, document = tmp_path / "out.json", tmp_path / "doc.md"
    names = ("inputs", "servers", "embedding")
    marks = [scale_model.MARK.format(edge=e, name=name) for name in names for e in ("begin", "end")]
    document.write_text("\n".join(marks))
    script = [sys.executable, str(BENCHMARKS / "scale_model.py")]
    done = subprocess.run(
        [*script, "--index", measured, "--json", out, "--write", document],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    inputs = _scale.load(**{**FILES, "index": measured})
    for table in scale_model.tables(inputs).values():
        assert table in done.stdout
        assert table in document.read_text(encoding="utf-8")
    content = json.loads(out.read_text())
    assert content["notes"]["assumptions"] == inputs.assumed
    [row] = [
        row
        for row in content["rows"]
        if (row["case"], row["metric"]) == ("1 B × 768, int8", "nodes")
    ]
    assert row["value"] == _scale.servers(inputs, 10**9, 768, "int8").nodes
    refused = subprocess.run(
        [*script, "--index", tmp_path / "none.json"], capture_output=True, text=True
    )
    assert refused.returncode == 1
    assert "index.py --json" in refused.stderr
