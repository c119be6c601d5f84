"""`retrieval questions`, with a real collection, a log, and a language model behind real HTTP."""

from __future__ import annotations

import io
import json
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from language_model_peer import Peer, language_model_peer

from app.commands.questions import questions
from retrieval.cli import commands, main
from retrieval.evaluation.judgements import load_judgements

ROOT = Path(__file__).resolve().parents[2]
TEXTS = {
    "rules.md": "# Rules\n\nTravel expenses are paid back within ten days, where the head of the "
    "department has signed the form and every receipt is attached to it.",
    "bees.md": "# Bees\n\nBees dance in the hive to tell the others the way to flowers that are "
    "rich in nectar, and how far away from the hive they stand.",
    "oak.md": "# Oak\n\nThe oak is a slow growing tree whose fruit, the acorn, is eaten by jays, "
    "which forget where they have hidden some of them in autumn.",
    "中文.md": "# 橡树\n\n橡树是一种生长缓慢的树，它的果实叫橡子。",
}

Command = Callable[..., str]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("documents")
    for name, text in TEXTS.items():
        (root / name).write_text(text, encoding="utf-8")
    place = str(tmp_path_factory.mktemp("store") / "retrieval")
    command = ["index", str(root), "--store", place, "--encoder", "all-MiniLM-L6-v2"]
    assert main.run(command) == 0
    return place


@pytest.fixture
def command(
    store: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Command:
    """Runs a command on the store; what it wrote to both streams."""
    # as the entry point does it, which needs the package installed anew
    own = commands.Command("app.commands.questions:questions", "", commands.MEASURE)
    monkeypatch.setattr(main, "_plugins", lambda: {"questions": own})
    for name in ("RETRIEVAL_LLM_URL", "RETRIEVAL_LLM_MODEL", "RETRIEVAL_CONFIG"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: str, code: int = 0) -> str:
        capsys.readouterr()
        more = [] if arguments[0] == "judge" else ["--store", store]
        assert main.run([*arguments, *more]) == code
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return captured.out + captured.err

    return run


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Peer]:
    with language_model_peer() as peer:
        yield peer


@pytest.fixture
def peer(endpoint: Peer, monkeypatch: pytest.MonkeyPatch) -> Peer:
    monkeypatch.setenv("RETRIEVAL_LLM_URL", endpoint.url)
    monkeypatch.setenv("RETRIEVAL_LLM_MODEL", "a-model")
    return endpoint.reset()


def test_the_entry_point_is_this_command() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    entry = project["entry-points"]["retrieval.commands"]["questions"]
    assert entry == f"{questions.__module__}:{questions.__name__}"


def test_from_zero_to_figures(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, file = tmp_path / "pool", tmp_path / "queries.txt"
    file.write_text("\ufeffwhen do I get my money back?\r\n\r\n橡树的果实叫什么?\r\n", "utf-8")
    said = command("questions", str(pool), "--queries", str(file), "--reranker", "maxsim")
    assert "2 new queries, 8 new documents to judge" in said
    assert json.loads((pool / "pool.json").read_text())["systems"] == [
        "dense", "sparse", "hybrid", "hybrid+rerank",
    ]  # fmt: skip
    right = {"1": "rules.md", "3": "中文.md"}
    keys = judged_by(pool, right)
    monkeypatch.setattr(sys, "stdin", io.StringIO(keys))
    assert "8 of 8 documents judged" in command("judge", str(pool))
    figures = tmp_path / "figures.json"
    command(
        "eval", str(pool), "--collection", "docs", "--no-rerank", "--modes", "sparse",
        "--measures", "nDCG@10,judged@4", "--json", str(figures),
    )  # fmt: skip
    (row,) = json.loads(figures.read_text())["rows"]
    assert row["measures"] == {"nDCG@10": 1.0, "judged@4": 1.0}


def test_the_commands_of_the_docs_run(
    command: Command, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From documents to figures, as docs/evaluation.md has it, with models that are here."""
    page = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    section = page.partition("## Few or no judgements")[2].partition("## ")[0]
    lines = section.split("```")[1].strip().splitlines()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    (tmp_path / "questions.txt").write_text("who pays for travel?\nwhen does the office open?\n")
    more = {
        "index": ["--encoder", "all-MiniLM-L6-v2"], "questions": ["--reranker", "maxsim"],
        "judge": [], "eval": ["--reranker", "maxsim"],
    }  # fmt: skip
    monkeypatch.setattr(sys, "stdin", io.StringIO("2100" * 20))
    shown = ""
    for line in lines:
        program, name, *arguments = line.split()
        assert program == "retrieval"
        shown = command(name, *arguments, *more[name])
    assert "judged@10" in shown
    assert "hybrid" in shown
    code = section.partition("```python\n")[2].partition("```")[0]
    code = code.replace('"pool"', '"other"').replace(
        '"handbook",', f'"handbook", store={store!r}, reranker=None,'
    )
    exec(compile(code, "docs", "exec"), {})


def judged_by(pool: Path, right: dict[str, str]) -> str:
    """The keys by which a person who knows the answers judges this pool."""
    from retrieval.evaluation.pool import Pool

    keys = ""
    with Pool(pool) as opened:
        while (item := opened.next_item()) is not None:
            keys += "2" if right[item.query.id] == item.key else "0"
            opened.judge(item, 0)
        for _ in keys:
            opened.undo()
    return keys


def test_a_log_and_another_systems_run_join_the_pool(command: Command, tmp_path: Path) -> None:
    pool, log = tmp_path / "pool", tmp_path / "searches.jsonl"
    asked = ["how do bees talk?", None, "How do  bees talk?", "rare", "acorn", "acorn"]
    lines = [json.dumps({"collection": "docs", "query": text, "hits": 5}) for text in asked]
    log.write_text("\n".join(lines) + "\n", encoding="utf-8")
    arguments = ["--log", str(log), "--most", "2", "--modes", "sparse", "--depth", "1"]
    said = command("questions", str(pool), *arguments)
    assert "2 new queries, 2 new documents to judge" in said
    assert "1 searches in" in said, "the one without a text"
    assert "(2 from a log)" in said
    run = tmp_path / "other.run"
    run.write_text("log-1 Q0 rules.md 1 9.0 x\nlog-2 Q0 gone.md 1 9.0 x\n")
    said = command("questions", str(pool), "--run", str(run), "--modes", "sparse", "--depth", "1")
    assert "0 new queries, 1 new documents" in said
    assert "1 documents of the run 'other.run' are not in the collection" in said
    said = command("questions", str(pool), "--run", str(run), "--run", str(run), code=2)
    assert "two runs are called 'other.run'" in said


def test_a_language_model_writes_questions_into_a_split_of_their_own(
    command: Command, peer: Peer, tmp_path: Path
) -> None:
    pool = tmp_path / "pool"
    arguments = ["questions", str(pool), "--synthetic", "10", "--reranker", "none"]
    said = command(*arguments)
    assert len(peer.asked) == 3, "one document is too short to be asked about"
    assert "3 questions written, 3 kept" in said
    assert "(3 from a language model)" in said
    made = load_judgements(pool, "synthetic")
    assert sorted(key for grades in made.qrels.values() for key in grades) == [
        "bees.md", "oak.md", "rules.md",
    ]  # fmt: skip
    peer.reset()
    assert "0 questions written, 0 kept" in command(*arguments)
    assert peer.asked == [], "no passage is asked for twice"


def test_a_model_that_is_down_loses_nothing(command: Command, peer: Peer, tmp_path: Path) -> None:
    pool, file = tmp_path / "pool", tmp_path / "queries.txt"
    file.write_text("acorn\n")
    arguments = ["questions", str(pool), "--queries", str(file), "--synthetic", "3"]
    peer.reset("status:500")
    said = command(*arguments, "--reranker", "none", code=1)
    assert "The language model failed after 0 of 3 questions" in said
    assert "failed (HTTP 500" in said
    state = command("judge", str(pool), "--status")
    assert "1 queries (1 from a file), 0 of 4 documents judged" in state
    peer.reset()
    said = command("questions", str(pool), "--synthetic", "3", "--reranker", "none")
    assert "3 questions written, 3 kept" in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "no query was given to make one of"),
        (["--most", "3"], "--most was given without --log"),
        (["--synthetic", "3"], "needs a language model, and none is configured"),
        (["--queries", "nowhere.txt"], "the queries in nowhere.txt cannot be read"),
        (["--log", "nowhere.jsonl"], "cannot read nowhere.jsonl"),
        (["--queries", "-", "--run", "nowhere.run"], "cannot read nowhere.run"),
        (["--queries", "-", "--modes", "bm25"], "there is no system 'bm25'"),
        (["--queries", "-", "--collection", "nowhere"], "nowhere"),
        (["--depth", "0"], "depth"),
    ],
)
def test_what_cannot_be_done_is_a_sentence_and_leaves_nothing(
    arguments: list[str],
    words: str,
    command: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("acorn\n"))
    assert words in command("questions", str(tmp_path / "pool"), *arguments, code=2)
    assert not (tmp_path / "pool").exists()


def test_the_key_of_the_model_is_never_shown(
    command: Command, peer: Peer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RETRIEVAL_LLM_KEY", "sk-secret")
    peer.reset("status:500")
    options: Any = ["--synthetic", "1", "--reranker", "none"]
    assert "sk-secret" not in command("questions", str(tmp_path / "pool"), *options, code=1)
    assert peer.headers[-1]["authorization"] == "Bearer sk-secret"
