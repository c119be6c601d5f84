"""The benchmarks' own arithmetic: a wrong yardstick measures nothing.

`make bench` runs the scripts themselves with --quick.
"""

from __future__ import annotations

import ast
import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from backend_help import WordReranker
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from hashing_encoder import HashingEncoder
from service_help import running

ROOT = Path(__file__).resolve().parent.parent
BENCHMARKS = ROOT / "benchmarks"

# As when a script runs: its folder is the first on the path.
sys.path.insert(0, str(BENCHMARKS))
try:
    import _index_rows
    import _index_worker
    import _judged
    import _load
    import _machine
    import _made
    import _mixture
    import _report
    import _scale
    import _server_systems
    import _server_writing
    import _shapes
    import _systems
    import _texts
    import bm25
    import fusion
    import index
    import ingest
    import quality
    import rerank
    import scale_model
    import second_stage
    from _sets import Case
finally:
    sys.path.remove(str(BENCHMARKS))


@pytest.mark.parametrize("path", sorted(BENCHMARKS.glob("[a-z]*.py")), ids=lambda path: path.name)
def test_every_benchmark_takes_quick_and_json(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    options = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    if {"--quick", "--json"} <= options:
        return
    # or they come from a helper that several scripts share
    done = subprocess.run([sys.executable, path, "--help"], capture_output=True, text=True)
    assert "--quick" in done.stdout
    assert "--json" in done.stdout


# --- the report, texts and systems ------------------------------------------------------------


def test_systems_take_turns_and_may_time_themselves() -> None:
    order: list[str] = []

    def timed(name: str, seconds: float) -> float:
        order.append(name)
        return seconds

    times = _report.in_turns(
        {"a": lambda: timed("a", 2.0), "b": lambda: timed("b", 3.0)},
        2,
        before_round=lambda: order.append("round"),
    )
    assert order == ["round", "a", "b", "round", "a", "b"]
    assert times == {"a": [2.0, 2.0], "b": [3.0, 3.0]}


def test_a_slow_system_sits_out_but_has_one_turn() -> None:
    times = _report.in_turns({"fast": lambda: 1.0, "slow": lambda: 9.0}, 5, seconds_each=4.0)
    assert times == {"fast": [1.0] * 4, "slow": [9.0]}


def test_the_table_has_a_line_for_each_system_and_blanks_where_nothing_was_measured() -> None:
    rows = [
        _report.Row("case", "one", "speed", 2.0, "x/s"),
        _report.Row("case", "one", "error", 0.5, ""),
        _report.Row("case", "two", "error", 0.25, ""),
    ]
    lines = _report.table(rows).splitlines()
    assert lines[0] == "case"
    assert lines[1].split() == ["system", "speed", "[x/s]", "error"]
    assert lines[2].split() == ["one", "2", "0.5"]
    assert lines[3].split() == ["two", "0.25"]
    assert lines[3].index("0.25") == lines[2].index("0.5")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shapes")


@pytest.mark.parametrize("name", ["tiny", "tiny-reranker"])
def test_flops_are_those_that_torch_counts(name: str, shapes: Path) -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoModel

    shape = _shapes.SHAPES[name]
    model = AutoModel.from_pretrained(_shapes.make(shape, shapes), attn_implementation="eager")
    ids = torch.full((1, 40), 7)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model.encoder(model.embeddings(ids), None)
    assert _machine.model_flops(shape, [40]) == counter.get_total_flops()


@pytest.fixture(scope="module")
def docstrings() -> _texts.Source:
    return _texts.source(Path("/there/is/no/such/folder"))


@pytest.mark.parametrize(("mix", "least", "most"), [("short", 8, 32), ("long", 512, 600)])
def test_mixes_have_the_lengths_they_promise(
    mix: _texts.Mix, least: int, most: int, docstrings: _texts.Source
) -> None:
    found = _texts.texts(docstrings, mix, 50)
    lengths = [len(encoding.ids) for encoding in _texts.tokenizer().encode_batch(found)]
    # a cut inside a word may read as a token more or less
    assert min(lengths) >= least - 1
    assert max(lengths) <= most + 2
    if mix == "short":
        assert max(lengths) - min(lengths) > 12


def test_a_worker_encodes_counts_its_tokens_and_tells_its_memory(
    shapes: Path, tmp_path: Path
) -> None:
    shape = _shapes.SHAPES["tiny"]
    texts = ["a short text", "another text of somewhat more words than the first", ""]
    settings = {"task": "encode", "model": str(_shapes.make(shape, shapes)), "device": "cpu"}
    settings |= {"system": "retrieval", "dtype": "fp32", "cache": str(tmp_path)}
    system = _systems.System("retrieval", settings | {"dimension": shape.width})
    with (
        _systems.inputs_file(texts) as file,
        _systems.Worker(system, tmp_path / "log") as worker,
    ):
        worker.wait_until_ready()
        worker.ask("load", file=str(file))
        assert worker.run() > 0
        found = worker.output(tmp_path)
        assert worker.facts["dtype"] == "fp32"
        lengths = [5, 11, 2]
        assert worker.computed is not None
        assert sum(lengths) <= worker.computed <= 3 * max(lengths)
        assert len(worker.ask("latency", runs=4, most=60)["seconds"]) == 4
        memory = worker.ask("memory")
        assert memory["peak"] >= memory["now"] > 10 * 2**20
        with pytest.raises(RuntimeError, match="unknown order"):
            worker.ask("nonsense")
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), np.ones(3), atol=1e-5)


def test_the_share_of_kept_orders() -> None:
    same = rerank.same_order(np.array([1.0, 2.0, 3.0]), np.array([5.0, 6.0, 7.0]))
    one_of_three = rerank.same_order(np.array([1.0, 3.0, 2.0]), np.array([5.0, 6.0, 7.0]))
    assert same == 1.0
    assert one_of_three == pytest.approx(2 / 3)
    close = np.array([1.0, 2.1, 2.0]), np.array([5.0, 6.0, 6.1])
    assert rerank.same_order(*close) == pytest.approx(2 / 3)
    assert rerank.same_order(*close, apart=0.5) == 1.0


# --- judged sets, fusion and BM25 -----------------------------------------------------------

ANIMALS = {
    "d1": ("Otters", "Otters swim in rivers and eat fish."),
    "d2": ("Eagles", "Eagles fly over mountains and eat mice."),
    "d3": ("", "Bears sleep all winter in caves, otters do not."),
    "d4": ("", ""),
}
ASKED = {"q1": ("swimming otters", "d1"), "q2": ("eagle", "d2"), "q3": ("winter sleep", "d3")}


@pytest.fixture
def judged_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "data" / "animals"
    (folder / "qrels").mkdir(parents=True)
    with (folder / "corpus.jsonl").open("w", encoding="utf-8") as file:
        for key, (title, text) in ANIMALS.items():
            file.write(json.dumps({"_id": key, "title": title, "text": text}) + "\n")
    with (folder / "queries.jsonl").open("w", encoding="utf-8") as file:
        for key, (text, _) in ASKED.items():
            file.write(json.dumps({"_id": key, "text": text}) + "\n")
    lines = [f"{key}\t{document}\t1\n" for key, (_, document) in ASKED.items()]
    (folder / "qrels" / "test.tsv").write_text(
        "query-id\tcorpus-id\tscore\n" + "".join(lines), encoding="utf-8"
    )
    return folder.parent


def test_a_judged_set_is_read_whole_or_with_the_judged_documents_first(judged_folder: Path) -> None:
    whole = _judged.load(judged_folder, "animals", "test")
    assert [passage.document_id for passage in whole.passages] == ["d1", "d2", "d3"]
    assert whole.passages[0].content == "Otters Otters swim in rivers and eat fish."
    few = _judged.load(judged_folder, "animals", "test", documents=2, queries=2)
    assert [passage.document_id for passage in few.passages] == ["d1", "d2"]
    assert list(few.beir.queries) == list(few.beir.qrels) == ["q1", "q2"]
    one = _judged.load(judged_folder, "animals", "test", documents=1)
    assert one.beir.qrels == {"q1": {"d1": 1}}
    assert _judged.missing(judged_folder, ["animals", "plants"]) == ["plants"]


def test_bm25_is_measured_beside_what_is_installed(judged_folder: Path) -> None:
    judged = _judged.load(judged_folder, "animals", "test")
    left_out: dict[str, str] = {}
    rows, language = bm25.measure_set(judged, bm25.ENGLISH, left_out)
    assert language == "english"
    own = {row.metric: row.value for row in rows if row.system == "retrieval"}
    assert own["nDCG@10"] == own["recall@100"] == 1.0
    peers = {row.system for row in rows} - {"retrieval"}
    assert peers | set(left_out) == {"bm25s, defaults", "bm25s, stemmed"}
    for peer in peers:
        found = {row.metric: row.value for row in rows if row.system == peer}
        better, low, high = (found[f"nDCG@10, {m}"] for m in ("better by", "95% from", "95% to"))
        assert better == pytest.approx(1.0 - found["nDCG@10"])
        assert low <= better <= high


def test_settings_join_the_same_two_lists_each_in_its_way() -> None:
    tried = fusion.settings([(1, 1), (3, 1)], [2, 60])
    dense, words = [("a", 0.9), ("b", 0.8)], [("b", 9.0), ("c", 1.0)]
    orders = {name: [key for key, _ in join(dense, words)] for name, join in tried.items()}
    assert orders["dense"] == ["a", "b"]
    assert orders["BM25"] == ["b", "c"]
    assert orders["RRF k=2 1:1"] == ["b", "a", "c"]
    assert orders["RRF k=2 3:1"] == ["a", "b", "c"]  # a tie, by id
    assert orders["RRF k=60 3:1"] == ["b", "a", "c"]
    assert dict(tried["RRF k=2 3:1"](dense, words))["a"] == pytest.approx(3 / 2)
    assert orders["DBSF 1:1"][0] == "b"
    assert len(tried) == 2 + 2 * 2 + 2
    # the default is one of the settings that are measured
    assert fusion.default_setting() in fusion.settings(fusion.WEIGHTS, fusion.KS)


def test_the_interval_of_a_mean_over_sets_draws_queries_within_each() -> None:
    random = np.random.default_rng(3)
    small, large = random.normal(0.1, 0.1, (40, 1)), random.normal(0.3, 0.1, (400, 1))
    point, low, high = fusion.mean_differences([small, large])
    assert point[0] == pytest.approx((small.mean() + large.mean()) / 2)
    error = np.sqrt(small.var() / 40 + large.var() / 400) / 2
    assert (high - low)[0] == pytest.approx(2 * 1.96 * error, rel=0.05)
    same = fusion.mean_differences([np.zeros((9, 2)), np.ones((5, 2))])
    assert [part.tolist() for part in same] == [[0.5, 0.5]] * 3


# --- both stages ------------------------------------------------------------------------------


def test_ways_of_joining_are_those_of_a_search() -> None:
    first, second = np.array([0.9, 0.8, 0.1]), np.array([-2.0, 3.0, 2.9])
    tried = second_stage.ways()
    assert tried["none"](first, second).argmax() == 1
    # standardised: first .688, .459, -1.147; second -1.155, .595, .560
    assert tried["scores 2"](first, second).tolist() == pytest.approx(
        [3 * 0.5 + (0.688 - 2 * 1.1545) / 6, 3 * 0.5 + (0.459 + 2 * 0.5947) / 6,
         3 * 0.5 + (-1.147 + 2 * 0.5598) / 6], abs=1e-3
    )  # fmt: skip
    assert tried["rrf k=2"](first, second).tolist() == pytest.approx(
        [1 / 2 + 1 / 4, 1 / 3 + 1 / 2, 1 / 4 + 1 / 3]
    )
    assert set(second_stage.CHOSEN) <= set(tried)


def test_both_stages_of_a_set_are_measured(judged_folder: Path) -> None:
    case = Case("animals", "test")
    found = quality.both_stages(judged_folder, case, HashingEncoder(), WordReranker(), quick=False)
    assert list(found) == [
        f"animals/test, {mode}, {stage}"
        for mode in ("dense", "hybrid")
        for stage in ("first stage", "re-ranked")
    ]
    for values in found.values():
        assert list(values) == ["q1", "q2", "q3"]
        assert all(0.0 <= value <= 1.0 for value in values.values())
    assert found["animals/test, hybrid, re-ranked"]["q1"] == 1.0


def test_quality_that_fell_is_told_from_noise() -> None:
    random = np.random.default_rng(5)

    def values(change: float, noise: float, count: int = 60) -> quality.PerQuery:
        moved = 0.5 + change + random.normal(0.0, noise, count)
        return {f"q{number}": float(value) for number, value in enumerate(moved)}

    flat = dict.fromkeys(map("q{}".format, range(60)), 0.5)
    names = [f"set {number}, dense, re-ranked" for number in range(6)]
    stored = dict.fromkeys(names, flat)

    def worse(change: float, noise: float) -> list[str]:
        return quality.compared({name: values(change, noise) for name in names}, stored)[1]

    assert worse(-0.05, 0.02) == [*names, "all sets, re-ranked"]
    assert worse(0.05, 0.02) == []
    assert worse(-0.002, 0.0) == []  # everywhere, and too little to matter
    # in no set alone beyond chance, but in all together
    assert worse(-0.015, 0.08)[-1:] == ["all sets, re-ranked"]
    # other questions, or a set that is new, are not compared
    rows, found = quality.compared({"new, dense, re-ranked": flat, names[0]: {"q0": 0.0}}, stored)
    assert found == []
    assert {row.metric for row in rows} == {"nDCG@10"}


def test_a_fall_is_an_exit_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row = "set, dense, re-ranked"
    measured = {row: {f"q{number}": 0.5 for number in range(9)}}
    monkeypatch.setattr(quality, "measure_all", lambda arguments: iter([measured]))
    stored, again = tmp_path / "stored.json", tmp_path / "again.json"
    command = ["quality.py", "--against", str(stored), "--json", str(again)]
    monkeypatch.setattr(sys, "argv", command)
    assert quality.main() == 0
    assert "1 of them have no stored figures" in capsys.readouterr().out
    content = json.loads(again.read_text(encoding="utf-8"))
    assert content["queries"] == measured
    assert content["means"] == {row: 0.5}
    content["queries"][row] = dict.fromkeys(measured[row], 0.6)
    stored.write_text(json.dumps(content), encoding="utf-8")
    assert quality.main() == 1
    assert f"worse beyond noise: {row}" in capsys.readouterr().out


@pytest.mark.shared_data
@pytest.mark.usefixtures("shared_data", "bge_small_folder", "minilm_reranker_folder")
def test_the_defaults_find_what_they_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["quality.py", "--quick"])
    assert quality.main() == 0
    assert "0 of them have no stored figures" in capsys.readouterr().out


# --- the index and ingestion ------------------------------------------------------------------


@pytest.fixture(scope="module")
def clustered(tmp_path_factory: pytest.TempPathFactory) -> _made.Made:
    return _made.clustered(tmp_path_factory.mktemp("made") / "clustered", 3_000, 12)


def test_made_passages_know_their_true_neighbours(clustered: _made.Made) -> None:
    queries, texts = clustered.queries
    vectors = np.asarray(clustered.vectors)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    assert len(texts) == 12
    assert all(len(text.split()) <= _mixture.QUERY_TERMS for text in texts)
    cosines = queries @ vectors.T
    expected = -np.sort(-cosines, axis=1)[:, : _made.DEPTH]
    np.testing.assert_allclose(clustered.exact(), expected, atol=1e-5)
    passages = [passage for block, _ in clustered.blocks() for passage in block]
    for share, count in _made.SHARES.items():
        value = _made.where(share)[share]
        there = np.array([passage.metadata[share] == value for passage in passages])
        assert there.sum() == pytest.approx(3_000 / count, rel=0.35)
        true = -np.sort(-cosines[:, there], axis=1)[:, : _made.DEPTH]
        kept = clustered.exact(share)[:, : true.shape[1]]
        np.testing.assert_allclose(kept, true, atol=1e-5)
        assert (clustered.exact(share)[:, true.shape[1] :] == -1.0).all()


def test_recall_counts_neighbours_that_are_as_near_as_the_true_ones(clustered: _made.Made) -> None:
    queries, _ = clustered.queries
    order = np.argsort(-(queries @ np.asarray(clustered.vectors).T), axis=1)
    best = order[:, : _made.DEPTH].astype(np.int64)
    assert _index_rows.recalls(clustered, "dense", best) == (1.0, 1.0)
    half = best.copy()
    half[:, 5:10] = order[:, -5:]
    assert _index_rows.recalls(clustered, "dense", half) == (0.5, pytest.approx(0.95))
    gone = np.full_like(best, -1)
    gone[:, :10] = best[:, :10]
    assert _index_rows.recalls(clustered, "dense", gone) == (1.0, pytest.approx(0.1))
    allowed = _made.allowed("hundredth", 0, clustered.size)
    few = np.full_like(best, -1)
    for row, own in zip(few, order, strict=True):
        found = own[allowed[own]][: _made.DEPTH]
        row[: len(found)] = found
    assert _index_rows.recalls(clustered, "dense, hundredth allowed", few) == (1.0, 1.0)


def test_an_index_is_built_once_searched_in_rounds_and_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "index.json"
    given = ["index.py", "--quick", "--vectors", "clustered", "--sizes", "400", "--queries", "4"]
    given += ["--efs", "100", "--keep", str(tmp_path / "kept"), "--json", str(out)]
    known = [name for name in _index_worker.SYSTEMS if name in ("retrieval", "faiss scan")]
    monkeypatch.setattr(sys, "argv", [*given, "--systems", *known])
    assert index.main() == 0
    rows = json.loads(out.read_text(encoding="utf-8"))["rows"]
    own = {(r["case"], r["metric"]): r["value"] for r in rows if r["system"] == "retrieval"}
    name = "clustered 400"
    for case in ("dense", "dense, exact", "dense, tenth allowed", "dense, ef 100"):
        assert own[f"{name}: search, {case}", "recall@10"] == 1.0
        assert own[f"{name}: search, {case}", "p95"] >= own[f"{name}: search, {case}", "p50"] > 0
    assert own[f"{name}: search, hybrid", "p50"] > 0
    assert own[f"{name}: recall@10 of at least 0.95, best 100", "ef"] == 100
    assert own[f"{name}: build", "disk"] > 0.5
    text = out.read_text(encoding="utf-8")
    assert str(tmp_path) not in text.replace(json.dumps(json.loads(text)["command"]), "")
    built = tmp_path / "kept" / "clustered-400" / "retrieval" / "built.json"
    before = built.stat().st_mtime_ns
    assert index.built("retrieval", _made.read(tmp_path / "kept" / "made-clustered-400"),
                       built.parent)["disk"] > 0  # fmt: skip
    assert built.stat().st_mtime_ns == before


def test_a_second_ingestion_is_measured_with_the_passages_it_encodes(tmp_path: Path) -> None:
    from hashing_encoder import HashingEncoder

    from retrieval import ingest as ingest_corpus

    texts = [f"document {number} says something of its own" for number in range(20)]
    corpus = ingest.write_corpus(tmp_path / "corpus.jsonl", texts)
    counting = ingest.Counting(HashingEncoder())
    ingest_corpus(corpus, "docs", store=tmp_path / "store", encoder=counting)
    assert counting.passages == 20
    rows = ingest.second(corpus, tmp_path / "store", HashingEncoder(), 2.0, "case")
    found = {row.metric: row.value for row in rows}
    assert found["passages encoded"] == 0
    assert found["documents unchanged"] == 20
    assert found["of the first"] == pytest.approx(50 * found["time"])
    changed = ingest.write_corpus(corpus, [*texts[:-1], "another text"])
    rows = ingest.second(changed, tmp_path / "store", HashingEncoder(), 2.0, "case")
    assert {row.metric: row.value for row in rows}["passages encoded"] == 1


# --- the model of a fleet's size --------------------------------------------------------------

FILES = {
    "index": BENCHMARKS / "results" / "index.json",
    "encode": BENCHMARKS / "results" / "encode-bge-small-real.json",
    "assumptions": BENCHMARKS / "scale_assumptions.json",
}


def test_the_document_has_the_tables_that_the_committed_files_give() -> None:
    """After new measurements: python benchmarks/scale_model.py --write docs/scaling.md"""
    tables = scale_model.tables(_scale.load(**FILES, assume=True))
    text = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    assert scale_model.written(text, tables) == text


@pytest.mark.parametrize("quantization", scale_model.QUANTIZATIONS)
def test_the_nodes_hold_what_they_must(quantization: str) -> None:
    inputs = _scale.load(**FILES, assume=True)
    months = []
    for passages in scale_model.SIZES.values():
        s = _scale.servers(inputs, passages, 768, quantization)
        [machine] = [one for one in inputs.assumed["machines"] if one["name"] == s.machine]
        room = s.nodes * machine["ram_gib"] * 2**30 * inputs.assumed["ram_share"]
        assert s.copies * s.ram <= room
        if s.nodes > 3:
            assert s.copies * s.ram > room * (s.nodes - 1) / s.nodes, "not a node too many"
        assert s.copies == 1 or s.nodes >= 3
        assert s.shards % s.nodes == 0
        months.append(s.month)
    assert months == sorted(months)


@pytest.mark.parametrize("name", ["index", "encode", "assumptions"])
def test_a_missing_input_is_named_with_the_way_to_make_it(name: str, tmp_path: Path) -> None:
    with pytest.raises(_scale.MissingInputError, match=r"There is no .*json\. Make it with"):
        _scale.load(**{**FILES, name: tmp_path / f"{name}.json"})


# --- the load generator ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    app = FastAPI()

    @app.post("/echo")
    async def echo(request: Request) -> Response:
        number = (await request.json())["number"]
        if number % 4 == 3:
            return JSONResponse({}, 429, {"retry-after": "2"})
        await asyncio.sleep(0.02)
        return JSONResponse({"number": number})

    with running(app) as address:
        yield address


def make(number: int) -> dict[str, int]:
    return {"number": number}


def test_clients_wait_for_their_answers_and_each_request_is_counted_once(url: str) -> None:
    outcome = asyncio.run(_load.closed_loop(url, "/echo", make, clients=4, seconds=0.5, keep=True))
    assert sorted(one.number for one in outcome.answers) == list(range(len(outcome.answers)))
    for one in outcome.of(200):
        assert one.body == b'{"number":%d}' % one.number
        assert one.seconds >= 0.015
    assert {one.number % 4 for one in outcome.of(429)} == {3}
    assert all(one.retry_after == "2" for one in outcome.of(429))
    assert outcome.throughput() == pytest.approx(len(outcome.of(200)) / outcome.seconds)


def test_arrivals_wait_for_nobody_and_count_from_when_they_were_due(url: str) -> None:
    outcome = asyncio.run(_load.open_loop(url, "/echo", make, rate=200, seconds=1.0))
    assert 130 <= len(outcome.answers) <= 280  # a Poisson process of 200 a second
    assert sorted(one.number for one in outcome.answers) == list(range(len(outcome.answers)))


def test_nobody_there_is_no_answer() -> None:
    outcome = asyncio.run(
        _load.closed_loop("http://127.0.0.1:9", "/", make, clients=1, seconds=0.05)
    )
    assert {one.status for one in outcome.answers} == {0}


# --- a server ---------------------------------------------------------------------------------


def test_the_cost_of_a_search_is_what_a_server_counts() -> None:
    """Conditions, nested ones too, ids and the searches of a batch, against the double's count."""
    from doubles.qdrant_http import qdrant_http
    from qdrant_client import QdrantClient, models

    nested = models.Filter(
        must=[models.FieldCondition(key="a", match=models.MatchValue(value="x"))],
        should=[
            models.Filter(must_not=[models.IsEmptyCondition(is_empty=models.PayloadField(key="b"))])
        ],
    )
    with qdrant_http() as server:
        client = QdrantClient(server.url, check_compatibility=False)
        client.create_collection(
            "c", {"v": models.VectorParams(size=2, distance=models.Distance.COSINE)}
        )
        points = [models.PointStruct(id=n, vector={"v": [1.0, float(n)]}) for n in range(3)]
        client.upsert("c", points)
        one = models.QueryRequest(query=[1.0, 0.0], using="v", limit=2, filter=nested)
        calls = [
            lambda: client.query_points("c", query=[1.0, 0.0], using="v", query_filter=nested),
            lambda: client.query_batch_points("c", [one, one]),
            lambda: client.retrieve("c", [0, 1, 2]),
            lambda: client.scroll("c", scroll_filter=nested),
        ]
        for call, tokens in zip(calls, [3, 6, 3, 3], strict=True):
            before = server.backend.rates.spent.get("read", 0)
            with _server_systems.counted() as cost:
                call()
            told = server.backend.rates.spent["read"] - before
            assert (cost.requests, cost.tokens, told) == (1, tokens, tokens)
        client.close()


def test_a_run_deletes_its_collections_whatever_happens() -> None:
    from _server_place import Place
    from doubles.qdrant_http import qdrant_http

    import retrieval

    with qdrant_http() as server:
        place = Place(server.url, 1, None, True)
        store = retrieval.Store(server.url)

        def cut_short() -> None:
            with _server_writing.Bench(place) as bench:
                _, index = bench.create()
                index.close()
                bench.name()  # of a collection that was not made yet
                assert len(store.names()) == 1
                raise RuntimeError("cut short")

        with pytest.raises(RuntimeError, match="cut short"):
            cut_short()
        assert store.names() == []


def test_every_system_that_is_installed_finds_what_was_written(tmp_path: Path) -> None:
    from _server_place import Place
    from doubles.qdrant_http import qdrant_http

    made = _made.clustered(tmp_path / "made", 60, 2)
    vectors, texts = made.queries
    asked = _server_systems.Asked(vectors, [one.tolist() for one in vectors], texts)
    with qdrant_http() as server:
        place = Place(server.url, 1, None, True)
        with _server_writing.Bench(place) as bench:
            name, index = _server_writing.filled(bench, made)
            found = _server_systems.systems(place, name, index, asked, grpc=False, left_out={})
            for system, searching in found.items():
                assert (searching.dense(0, 10), searching.hybrid(1, 10)) == (10, 10), system
                searching.close()
            rows = _server_writing.reading_rows(bench, "REST", index, name, 1)
            rows += _server_writing.writing_rows(bench, "REST", made, index, 40, 1)
            index.close()
    systems = {row.system for row in rows}
    assert {_report.OURS, _server_systems.RAW} == systems
    assert all(row.value > 0 for row in rows)
