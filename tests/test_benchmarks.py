"""The benchmarks' own arithmetic, and one real run of a worker: a wrong yardstick measures nothing.

Whole scripts run too long for the suite; `make bench` runs them with --quick.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from retrieval.models.model_folder import read_folder

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"

# As when a script runs: its folder is the first on the path.
sys.path.insert(0, str(BENCHMARKS))
try:
    import _index_rows
    import _index_worker
    import _judged
    import _machine
    import _made
    import _mixture
    import _report
    import _shapes
    import _systems
    import _texts
    import _vectors
    import bm25
    import encode
    import fusion
    import index
    import ingest
    import rerank
    import starter_blend
finally:
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shapes")


# --- turns and tables -----------------------------------------------------------------------


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


def test_the_spread_is_a_share_of_the_median() -> None:
    assert _report.spread([1.0, 2.0, 3.0]) == pytest.approx(1.0)
    assert _report.spread([5.0]) == 0.0


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


def test_the_cases_of_a_single_system_share_a_table() -> None:
    rows = [_report.Row(case, "one", "speed", 2.0, "") for case in ("first", "second")]
    rows.append(_report.Row("third", "one", "error", 0.5, ""))
    assert [line.split() for line in _report.table(rows).splitlines()] == [
        ["case", "speed"], ["first", "2"], ["second", "2"], [], ["case", "error"], ["third", "0.5"],
    ]  # fmt: skip


# --- models ---------------------------------------------------------------------------------


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


def test_flops_of_the_first_token_only_leave_out_most_of_the_last_layer() -> None:
    shape = _shapes.SHAPES["bge-small"]
    whole = _machine.model_flops(shape, [200, 100])
    first = _machine.model_flops(shape, [200, 100], first_only=True)
    # of the last of 12 layers a sixth (keys and values) is left
    assert 1 - 1 / 12 < first / whole < 1 - 0.8 / 12
    assert _machine.model_flops(shape, [200]) + _machine.model_flops(shape, [100]) == whole


def test_shapes_have_the_sizes_of_the_models_they_are_named_for() -> None:
    def layers_only(name: str) -> float:
        shape = _shapes.SHAPES[name]
        return shape.layers * (4 * shape.width**2 + 2 * shape.width * shape.inner) / 1e6

    sizes = {"bge-small": 21, "bge-base": 85, "bge-large": 302}
    sizes |= {"reranker-base": 85, "reranker-v2-m3": 302, "bge-m3": 302}
    assert {name: round(layers_only(name)) for name in sizes} == sizes


def test_an_xlm_roberta_shape_reads_pairs_as_xlm_roberta_does(shapes: Path) -> None:
    from transformers import AutoTokenizer

    folder = _write_only_tokenizer(shapes / "xlmr")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("who wrote it", "the author")["input_ids"]
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (1, 0, 2)
    assert [ids[0], ids[4], ids[5], ids[-1]] == [0, 2, 2, 2]
    assert tokenizer.decode(ids[1:4]) == "who wrote it"
    assert "token_type_ids" not in tokenizer("a")
    # words that BERT has are words here; only the special tokens' ids differ
    bert = _texts.tokenizer().encode("who wrote it", "the author")
    assert len(ids) == len(bert.ids) + 1
    assert tokenizer.convert_ids_to_tokens(ids[1:4]) == bert.tokens[1:4]


def _write_only_tokenizer(folder: Path) -> Path:
    folder.mkdir()
    _shapes._write_tokenizer(_shapes.SHAPES["reranker-base"], folder)
    config = {"model_type": "xlm-roberta"}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def test_a_shape_is_made_once_and_declares_its_pooling(shapes: Path) -> None:
    folder = _shapes.make(_shapes.SHAPES["tiny"], shapes)
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert _shapes.make(_shapes.SHAPES["tiny"], shapes) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    declared = read_folder(folder)
    assert declared.pooling == "cls"
    assert declared.modules == ("Transformer", "Pooling", "Normalize")
    assert not list(shapes.glob("*.draft"))


# --- texts ----------------------------------------------------------------------------------


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


def test_texts_are_the_same_in_every_run_and_name_their_source(docstrings: _texts.Source) -> None:
    assert docstrings.name == "docstrings"
    again = _texts.source(Path("/there/is/no/such/folder"))
    assert _texts.texts(again, "real", 20) == _texts.texts(docstrings, "real", 20)
    assert len(_texts.texts(docstrings, "real", len(docstrings.passages) + 5)) == (
        len(docstrings.passages) + 5
    )


def test_pairs_share_the_queries_evenly(docstrings: _texts.Source) -> None:
    many = _texts.pairs(docstrings, "short", 100, queries=20)
    counts = [sum(query == asked for query, _ in many) for asked in {query for query, _ in many}]
    assert counts == [5] * 20
    assert len({query for query, _ in _texts.pairs(docstrings, "short", 10, queries=1)}) == 1


@pytest.mark.shared_data
def test_real_texts_come_from_scifact(shared_data: Path) -> None:
    found = _texts.source(shared_data)
    assert found.name == "SciFact"
    assert (len(found.passages), len(found.queries)) == (5183, 1109)


# --- systems --------------------------------------------------------------------------------


def arguments(*given: str) -> argparse.Namespace:
    return encode.options().parse_args(list(given))


def test_peers_run_in_their_own_interpreter_and_are_named_where_absent() -> None:
    choice = _systems.choose(arguments("--peer", f"onnx={sys.executable}"))
    pythons = {system.name: system.python for system in choice.systems}
    assert pythons["ONNX Runtime int8"] == sys.executable
    assert "sentence-transformers OpenVINO" not in pythons
    assert "--peer openvino" in choice.left_out["sentence-transformers OpenVINO"]


@pytest.mark.parametrize("value", ["onnx", "onnx=/no/python", f"torch={sys.executable}"])
def test_a_peer_that_does_not_exist_is_refused(value: str) -> None:
    with pytest.raises(SystemExit, match="NAME=PYTHON"):
        _systems.choose(arguments("--peer", value))


def test_a_system_that_cannot_run_is_refused_with_its_reason() -> None:
    with pytest.raises(SystemExit, match="no --peer onnx"):
        _systems.choose(arguments("--systems", "ONNX Runtime int8"))
    with pytest.raises(SystemExit, match="there are: retrieval"):
        _systems.choose(arguments("--systems", "nobody"))


def test_options_of_this_library_go_to_this_library_only() -> None:
    names = ["retrieval", "sentence-transformers"]
    given = arguments("--dtype", "fp32", "--token-budget", "512", "--systems", *names)
    ours, theirs = _systems.choose(given).systems
    assert (ours.settings["dtype"], ours.settings["token_budget"]) == ("fp32", 512)
    assert theirs.settings == {"system": "sentence-transformers"}


def test_a_worker_encodes_counts_its_tokens_and_tells_its_memory(
    shapes: Path, tmp_path: Path
) -> None:
    shape = _shapes.SHAPES["tiny"]
    texts = ["a short text", "another text of somewhat more words than the first", ""]
    settings = {"task": "encode", "model": str(_shapes.make(shape, shapes)), "device": "cpu"}
    settings |= {"system": "retrieval", "dtype": "fp32", "cache": str(tmp_path)}
    system = _systems.System("retrieval", settings | {"dimension": shape.width})
    reference = _systems.System("reference", settings | {"system": "reference"})
    outputs = []
    for one in (system, reference):
        with (
            _systems.inputs_file(texts) as file,
            _systems.Worker(one, tmp_path / "log") as worker,
        ):
            worker.wait_until_ready()
            worker.ask("load", file=str(file))
            assert worker.run() > 0
            outputs.append(worker.output(tmp_path))
            if one is system:
                assert worker.facts["dtype"] == "fp32"
                lengths = [5, 11, 2]
                assert worker.computed is not None
                assert sum(lengths) <= worker.computed <= 3 * max(lengths)
                assert len(worker.ask("latency", runs=4, most=60)["seconds"]) == 4
                found = worker.ask("memory")
                assert found["peak"] >= found["now"] > 10 * 2**20
                with pytest.raises(RuntimeError, match="unknown order"):
                    worker.ask("nonsense")
    ours, theirs = outputs
    assert ours.shape == (3, shape.width)
    np.testing.assert_allclose((ours * theirs).sum(1), 1.0, atol=1e-5)


def test_a_system_that_does_not_load_says_why(tmp_path: Path) -> None:
    settings = {"system": "reference", "task": "encode", "model": str(tmp_path), "device": "cpu"}
    with (
        _systems.Worker(_systems.System("reference", settings), tmp_path / "log") as worker,
        pytest.raises(RuntimeError, match=r"reference: .*Error"),
    ):
        worker.wait_until_ready()


# --- single scripts -------------------------------------------------------------------------


def test_long_texts_are_fewer_and_short_ones_more() -> None:
    shape = _shapes.SHAPES["bge-small"]
    counts = [encode.how_many(shape, mix, gpu=False, quick=False) for mix in _texts.MIXES]
    assert counts[0] > counts[1] > counts[2] >= 16


def test_the_share_of_kept_orders() -> None:
    same = rerank.same_order(np.array([1.0, 2.0, 3.0]), np.array([5.0, 6.0, 7.0]))
    one_of_three = rerank.same_order(np.array([1.0, 3.0, 2.0]), np.array([5.0, 6.0, 7.0]))
    assert same == 1.0
    assert one_of_three == pytest.approx(2 / 3)
    close = np.array([1.0, 2.1, 2.0]), np.array([5.0, 6.0, 6.1])
    assert rerank.same_order(*close) == pytest.approx(2 / 3)
    assert rerank.same_order(*close, apart=0.5) == 1.0


def test_a_run_of_sets_is_continued_only_with_the_same_settings(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    case = starter_blend.CASES[0]
    row = _report.Row("case", "retrieval", "nDCG@10", 0.5, "")
    first = starter_blend.Measured(file, {"queries": 2}, resume=False)
    first.add(case, [row])
    second = starter_blend.Measured(file, {"queries": 2}, resume=True)
    assert (second.rows, second.done) == ([row], [case.name])
    with pytest.raises(SystemExit, match="--resume"):
        starter_blend.Measured(file, {"queries": 3}, resume=True)
    assert starter_blend.Measured(file, {"queries": 3}, resume=False).done == []


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


def test_settings_are_compared_with_the_default(judged_folder: Path, tmp_path: Path) -> None:
    from hashing_encoder import HashingEncoder

    judged = _judged.load(judged_folder, "animals", "test")
    vectors = _vectors.Vectors(tmp_path / "kept", HashingEncoder, "hashing")
    tried = fusion.settings([(1, 1)], [20])
    found = fusion.per_query(judged, vectors, tried)
    assert vectors.encoded == 3 + 3
    again = _vectors.Vectors(tmp_path / "kept", HashingEncoder, "hashing")
    assert fusion.per_query(judged, again, tried)["dense"]["nDCG@10"].tolist() == (
        found["dense"]["nDCG@10"].tolist()
    )
    assert again.encoded == 0
    assert _vectors.Vectors(tmp_path / "kept", HashingEncoder, "other").queries(["x"]).shape == (
        1, 64,
    )  # fmt: skip
    rows = fusion.summary({"animals": found}, "RRF k=20 1:1")
    own = [row.value for row in rows if row.system == "RRF k=20 1:1" and "less" in row.metric]
    assert own == [0.0, 0.0]


# --- passages for the index -----------------------------------------------------------------


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


def test_made_passages_are_taken_again_and_made_anew_for_other_wishes(
    clustered: _made.Made,
) -> None:
    file = clustered.folder / "vectors.npy"
    before = file.stat().st_mtime_ns
    assert _made.clustered(clustered.folder, 3_000, 12).facts == clustered.facts
    assert file.stat().st_mtime_ns == before
    assert not _made._is_made(clustered.folder, {"size": 3_000, "queries": 13})


def test_made_words_are_zipfian_and_the_same_in_every_run() -> None:
    texts = _mixture.zipf_texts(3, 2_000)
    assert texts == _mixture.zipf_texts(3, 2_000)
    assert texts != _mixture.zipf_texts(4, 2_000)
    words = [word for text in texts for word in text.split()]
    assert len(words) / len(texts) == pytest.approx(_mixture.MEAN_TERMS, rel=0.1)
    counts = np.bincount([int(word[1:]) for word in words], minlength=1_000)
    # 1 / (rank + 50): the first hundred against ranks 900 to 999
    expected = np.log(150 / 50) / np.log(1_050 / 950)
    assert counts[:100].sum() / counts[900:1_000].sum() == pytest.approx(expected, rel=0.2)


def test_the_local_dimension_is_that_of_the_space() -> None:
    random = np.random.default_rng(5)
    flat = random.uniform(-1, 1, (20_000, 3))
    distances = np.sort(np.linalg.norm(flat[:30, None] * 0.3 - flat[None], axis=2), axis=1)[:, :100]
    # cosines of points so far from each other, kept small for the circle to be flat
    assert _made.local_dimension(1 - (0.01 * distances) ** 2 / 2) == pytest.approx(3.0, rel=0.15)


# --- the index and ingestion ----------------------------------------------------------------


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


def test_a_system_of_the_index_that_fails_says_why(tmp_path: Path) -> None:
    made = _made.clustered(tmp_path / "made", 100, 1)
    with pytest.raises(RuntimeError, match=r"retrieval, build: .*exist"):
        index.ask(do="build", system="retrieval", made=made.folder, folder=tmp_path)


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
