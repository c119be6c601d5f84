"""Whole tasks of mteb, made here without a network, beside mteb's wrapper of the same weights."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

mteb = pytest.importorskip("mteb")

import retrieval  # noqa: E402
from retrieval.cli.main import run  # noqa: E402
from retrieval.errors import Fault, InvalidInput  # noqa: E402
from retrieval.evaluation.judged import JudgedQueries  # noqa: E402
from retrieval.integrations.mteb import MtebEncoder, TaskScore, run_tasks  # noqa: E402
from retrieval.types import Passage  # noqa: E402

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
try:
    import _mteb_tasks
    from _judged import Judged
finally:
    sys.path.remove(str(BENCHMARKS))

TEXTS = {
    "office": [
        "Travel costs are paid back within ten days after the receipts were handed in.",
        "Hotels are booked through the travel desk, which also pays for them.",
        "Whoever has lost a password follows the link on the sign-in page.",
        "Keys of the building are handed out at the front office.",
        "Copies of the database are made every night and kept for thirty days.",
        "When the printer is out of toner, there is more in the cupboard.",
        "Holidays are asked for two weeks ahead and approved by the team lead.",
        "Visitors park behind the building, where four places are kept for them.",
    ],
    "animals": [
        "Bees dance to tell the way to flowers.",
        "Jays hide acorns in autumn and forget where some of them are.",
        "Otters sleep on their backs and hold each other's paws.",
        "Swifts spend most of their lives in the air.",
        "Moles dig tunnels and eat the worms that fall into them.",
        "Hedgehogs sleep through the winter under heaps of leaves.",
        "Salmon swim up the river in which they were born.",
        "Wolves hunt in packs and share what they catch.",
    ],
}
QUESTIONS = {
    "how do I get my expenses back?": [0, 1],
    "I cannot get into my account": [2, 3],
    "where is the data saved?": [4, 5],
    "may I stay at home in August?": [6],
    "where can guests leave their car?": [7, 1],
    "which bird loses its food?": [9],
    "which animal is found in the air all day?": [11, 8],
    "who rests in the cold months?": [13, 10],
}


@pytest.fixture(scope="module")
def made() -> dict[str, Callable[[], Any]]:
    texts = [text for group in TEXTS.values() for text in group]
    passages = [Passage(f"p{n}", f"d{n}", 0, text, 0, len(text)) for n, text in enumerate(texts)]
    queries = {f"q{n}": text for n, text in enumerate(QUESTIONS)}
    qrels = {
        f"q{n}": {f"d{place}": 2 - rank for rank, place in enumerate(places)}
        for n, places in enumerate(QUESTIONS.values())
    }
    judged = Judged(JudgedQueries("made", "test", queries, qrels), passages)
    return _mteb_tasks.tasks(judged, {"office": passages[:8], "animals": passages[8:]})


def peer_score(folder: Path, max_length: int, task: Any) -> float:
    """What mteb finds with sentence-transformers' own reading of the folder."""
    sentence_transformers = pytest.importorskip("sentence_transformers")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
        model.max_seq_length = max_length
        result = mteb.evaluate(model, task, cache=None, co2_tracker=False, show_progress_bar=False)
    (scores,) = result.task_results[0].scores["test"]
    return float(scores["main_score"])


KINDS = ["retrieval", "reranking", "STS", "pair classification", "clustering"]


@pytest.mark.parametrize("kind", KINDS)
def test_tasks_come_to_what_sentence_transformers_comes_to(
    kind: str, made: dict[str, Callable[[], Any]], starter_path: Path
) -> None:
    (score,) = run_tasks([made[kind]()], encoder="all-MiniLM-L6-v2", dtype="fp32", device="cpu")
    assert score.first == pytest.approx(peer_score(starter_path, 256, made[kind]()), abs=1e-4)
    assert 0 < score.first < 1 or kind in ("clustering", "pair classification")
    assert (score.second, score.second_seconds) == (None, None)


@pytest.mark.parametrize("kind", ["retrieval", "STS"])
def test_instructions_stand_where_bge_wants_them(
    kind: str, made: dict[str, Callable[[], Any]], bge_small_folder: Path
) -> None:
    def ours(instruction: str) -> float:
        (score,) = run_tasks(
            [made[kind]()], encoder="starter", instruction=instruction, dtype="fp32", device="cpu"
        )
        return score.first

    own = ours("model")
    assert own == pytest.approx(peer_score(bge_small_folder, 512, made[kind]()), abs=1e-4)
    # of retrieval they matter; pairs of sentences never get one
    other = ours("apples, pears, trees and rivers: ")
    assert (other == own) == (kind == "STS")


@pytest.fixture(scope="module")
def encoder() -> Any:
    return retrieval.BiEncoder("all-MiniLM-L6-v2", threads=2)


def test_both_stages_and_results_in_mtebs_folders(
    encoder: Any, made: dict[str, Callable[[], Any]], tmp_path: Path
) -> None:
    reranker = retrieval.LateInteractionReranker(encoder)
    seen: list[TaskScore] = []

    def both() -> list[TaskScore]:
        tasks = [made["retrieval"](), made["STS"]()]
        return run_tasks(
            tasks, encoder=encoder, reranker=reranker, candidates=4, output=tmp_path,
            on_score=seen.append,
        )  # fmt: skip

    first, pairs = both()
    assert seen == [first, pairs]
    assert first.second is not None
    assert first.second != first.first
    assert pairs.second is None
    cache = mteb.ResultCache(tmp_path)
    kept = cache.load_task_result("LocalRetrieval", MtebEncoder(encoder).mteb_model_meta)
    assert kept is not None
    assert kept.main_score == pytest.approx(first.first, abs=1e-6)
    files = sorted(path.name for path in tmp_path.glob("results/*/*/*.json"))
    assert files.count("LocalRetrieval.json") == 1
    assert "LocalSTS.json" in files
    (second,) = tmp_path.glob("results/*/*/experiments/*/LocalRetrieval.json")
    assert "candidates_4" in second.parent.name
    # mteb's own reader finds both
    loaded = cache.load_results()
    assert {result.model_name for result in loaded.model_results} >= {kept_name(encoder)}
    # what is there is not run again: figures cannot change, whatever the file says
    for path in (second, *tmp_path.glob("results/*/*/LocalRetrieval.json")):
        value = json.loads(path.read_text())
        value["scores"]["test"][0]["main_score"] = 0.125
        path.write_text(json.dumps(value))
    again = both()
    assert (again[0].first, again[0].second) == (0.125, 0.125)
    # with other candidates the second stage is another experiment
    other = run_tasks(
        [made["retrieval"]()], encoder=encoder, reranker=reranker, candidates=2, output=tmp_path
    )
    assert other[0].second != 0.125


def kept_name(encoder: Any) -> str:
    return str(MtebEncoder(encoder).mteb_model_meta.name)


def test_candidates_that_a_task_brings_are_re_ranked_as_they_are(
    encoder: Any, made: dict[str, Callable[[], Any]]
) -> None:
    reranker = retrieval.LateInteractionReranker(encoder)
    scores = [
        run_tasks([made["reranking"]()], encoder=encoder, reranker=reranker, candidates=n)[0]
        for n in (1, 100)
    ]
    assert scores[0].second == scores[1].second
    task = made["retrieval"]()
    run_tasks([task], encoder=encoder, reranker=reranker, candidates=3)
    assert task.data_loaded
    assert task.dataset["default"]["test"]["top_ranked"] is None


def test_names_that_mteb_does_not_know(encoder: Any) -> None:
    with pytest.raises(InvalidInput, match="nearest names are SciFact"):
        run_tasks(["scifct"], encoder=encoder)
    with pytest.raises(InvalidInput, match=r"STS22\.v2 has no subset in jpn"):
        run_tasks(["STS22.v2"], encoder=encoder, languages=["jpn"])
    with pytest.raises(InvalidInput, match="no split 'dev'; it has test"):
        run_tasks(["SciFact"], encoder=encoder, splits=["dev"])
    with pytest.raises(InvalidInput, match="no task was named"):
        run_tasks([], encoder=encoder)
    with pytest.raises(InvalidInput, match="long_passages"):
        run_tasks(["SciFact"], encoder="all-MiniLM-L6-v2", long_passages="windows")
    with pytest.raises(InvalidInput, match="query_instruction was given besides"):
        run_tasks(["SciFact"], encoder=encoder, instruction="none")


def test_data_that_cannot_be_fetched(
    encoder: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    with pytest.raises(Fault, match=r"data of SciFact \(mteb/scifact\) could not be fetched"):
        run_tasks(["SciFact"], encoder=encoder)


def test_the_command(
    made: dict[str, Callable[[], Any]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    from mteb.get_tasks import _TASKS_REGISTRY

    monkeypatch.setitem(_TASKS_REGISTRY, "LocalRetrieval", made["retrieval"])
    monkeypatch.setitem(_TASKS_REGISTRY, "LocalSTS", made["STS"])
    command = ["mteb", "LocalRetrieval", "LocalSTS", "--encoder", "all-MiniLM-L6-v2"]
    more = ["--languages", "eng", "--split", "test", "--instruction", "none", "--dtype", "fp32"]
    stage = ["--reranker", "maxsim", "--candidates", "5", "--output", str(tmp_path / "a folder")]
    assert run([*command, *more, *stage]) == 0
    head, _, first, second = (line.split() for line in capsys.readouterr().out.splitlines())
    assert head[:6] == ["task", "type", "split", "measure", "encoder", "re-ranked"]
    assert first[:4] == ["LocalRetrieval", "Retrieval", "test", "ndcg_at_10"]
    assert 0 < float(first[4]) < 1
    assert 0 < float(first[5]) < 1
    assert second[:4] == ["LocalSTS", "STS", "test", "cosine_spearman"]
    assert second[5] == "-"
    kept = [path.parent.name for path in tmp_path.glob("**/LocalRetrieval.json")]
    assert "dtype_fp32__query_instruction_none" in kept  # not beside the model's own results
    assert run(["mteb", "SciFac", "--encoder", "all-MiniLM-L6-v2"]) == 2
    assert "nearest names are SciFact" in capsys.readouterr().err


def test_the_command_without_mteb(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.startswith("retrieval.integrations.mteb")]:
        monkeypatch.delitem(sys.modules, name)
    for name in [name for name in sys.modules if f"{name}.".startswith("mteb.")]:
        monkeypatch.setitem(sys.modules, name, None)
    assert run(["mteb", "SciFact"]) == 2
    assert "two-stage-retrieval[mteb]" in capsys.readouterr().err
