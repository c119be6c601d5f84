"""Mining from plain texts: what is left out and why; the same bytes again, after a kill, too."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hashing_encoder import HashingEncoder

from retrieval.api.mine import mine
from retrieval.cli.main import run
from retrieval.errors import CorpusError, InvalidInput, StoreLocked
from retrieval.training.data.flag_jsonl import read_flag_jsonl
from retrieval.training.examples import TrainingExample
from retrieval.training.mining.job import MiningJob
from retrieval.training.mining.report import MiningReport
from retrieval.training.mining.settings import MiningSettings

ROOT = Path(__file__).resolve().parents[2]
POSITIVE = "The garden gate closes every evening at ten, and on Sundays it closes at eight."
NEAR = "The garden gate closes every evening at ten, and on Sundays it closes at seven."
OTHER = "In winter the gate of the garden closes at five in the evening."


def texts_of(path: Path, key: str) -> list[list[str]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line)[key] for line in lines]


def corpus_file(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": one}) + "\n" for one in texts), encoding="utf-8")
    return path


def made(count: int, seed: int = 0) -> list[str]:
    """Texts of few words, so that a query finds many of them."""
    draw = random.Random(seed)
    words = [
        "gate",
        "garden",
        "evening",
        "soup",
        "noon",
        "wall",
        "tree",
        "river",
        "图书馆",
        "关门",
        "straße",
        "naïve",
    ]
    return [f"{' '.join(draw.choices(words, k=9))} {number}" for number in range(count)]


def examples(count: int) -> list[TrainingExample]:
    texts = made(count, seed=1)
    return [TrainingExample(f"when {one}?", (f"{one} at ten",)) for one in texts]


def test_copies_of_positives_and_answers_of_like_queries_are_left_out(tmp_path: Path) -> None:
    query = "when does the garden gate close in the evening?"
    pool = [
        POSITIVE,
        f"  {POSITIVE.replace(' ', '  ', 3)}\r\n",  # the same but for blanks
        NEAR,
        query,
        OTHER,
        "The garden wall is high in the evening.",
        "The gate is green.",
    ]
    given = [
        TrainingExample(query, (POSITIVE,)),
        TrainingExample("when does the garden gate close in the evening", (OTHER,)),
        TrainingExample("what colour has the gate", ("The gate is green.",)),
    ]
    output = tmp_path / "mined.jsonl"
    corpus = corpus_file(tmp_path / "pool.jsonl", pool)
    mine(given, output, corpus=corpus, encoder=HashingEncoder(), teacher="none")
    kept = texts_of(output, "neg")
    # green answers a query that is not like this one: it stays
    assert set(kept[0]) == {"The gate is green.", "The garden wall is high in the evening."}
    for rule, there in (("all", False), ("keep", True)):
        settings = MiningSettings(other_positives=rule)  # type: ignore[arg-type]
        mine(
            given, output, corpus=corpus, encoder=HashingEncoder(), teacher=None,
            settings=settings, restart=True,
        )  # fmt: skip
        kept = texts_of(output, "neg")
        assert ("The gate is green." in kept[0]) == (OTHER in kept[0]) == there


def test_passages_of_a_positives_document_are_left_out(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.jsonl"
    passages = {"a#passage=0": "gate ten", "a#passage=1": "gate nine", "b": "gate eight"}
    lines = [json.dumps({"_id": id_, "text": text}) for id_, text in passages.items()]
    corpus.write_text("\ufeff" + "\r\n".join(lines), encoding="utf-8")
    example = TrainingExample("gate?", ("gate ten",), positive_ids=("a#passage=0",))
    output = tmp_path / "out.jsonl"
    report = mine([example], output, corpus=corpus, encoder=HashingEncoder(), teacher="none")
    assert texts_of(output, "neg") == [["gate eight"]]
    assert texts_of(output, "neg_id") == [["b"]]
    assert report.dropped == {"of a relevant document": 1, "judged relevant": 1}


def test_a_copy_of_a_negative_is_taken_once(tmp_path: Path) -> None:
    words = "the green wall of the garden is high and very old and nobody knows who has built it"
    corpus = corpus_file(tmp_path / "c.jsonl", [words, f"{words} so long ago", "the red wall"])
    output = tmp_path / "out.jsonl"
    given = [TrainingExample("the wall", ("It is blue.",))]
    report = mine(given, output, corpus=corpus, encoder=HashingEncoder(), teacher="none")
    assert len(texts_of(output, "neg")[0]) == 2
    assert report.dropped == {"copy of a negative": 1}


@pytest.mark.parametrize("teacher", ["starter", "encoder", "bm25+maxsim"])
def test_trained_models_find_a_paraphrase(tmp_path: Path, teacher: str) -> None:
    given = [
        TrainingExample(
            "What is the capital of France?", ("Paris is the capital and largest city of France.",)
        )
    ]
    paraphrase = "The capital of France is the city of Paris."
    pool = [
        paraphrase,
        "Lyon is the third-largest city of France.",
        "Marseille is a port in the south of France.",
        "France exports wine and cheese.",
        "Berlin is a city on the river Spree.",
    ]
    output = tmp_path / "out.jsonl"
    report = mine(
        given, output, corpus=corpus_file(tmp_path / "pool.jsonl", pool), encoder="starter",
        teacher=teacher,
    )  # fmt: skip
    (kept,) = texts_of(output, "neg")
    assert paraphrase not in kept
    assert report.dropped == {"within relative_margin": 1}
    assert set(kept) == set(pool[1:])
    (example,) = read_flag_jsonl(output)
    assert example.positive_scores is not None
    assert example.negative_scores is not None
    assert max(example.negative_scores) < min(example.positive_scores)
    assert report.hardness["ratio"] is not None
    assert report.samples[0].negative_score is not None
    assert f"by {report.run['teacher'][0]}" in report.as_text()
    if teacher != "encoder":
        return
    # without a margin scores decide nothing
    settings = MiningSettings(relative_margin=-1)
    report = mine(
        given, output, corpus=tmp_path / "pool.jsonl", encoder="starter", teacher=teacher,
        settings=settings, restart=True,
    )  # fmt: skip
    assert paraphrase in texts_of(output, "neg")[0]
    assert report.dropped == {}


def test_ranks_and_draws_do_not_depend_on_the_place_of_a_query(tmp_path: Path) -> None:
    given = examples(40)
    corpus = corpus_file(tmp_path / "c.jsonl", made(300))
    settings = MiningSettings(negatives=5, rank_from=10, rank_to=60, sampling="random")

    def mined(name: str, some: list[TrainingExample], seed: int = 0) -> dict[str, list[str]]:
        output = tmp_path / name
        own = MiningSettings(**{**settings.as_dict(), "seed": seed})
        mine(some, output, corpus=corpus, encoder=HashingEncoder(), teacher="none", settings=own)
        found = zip(texts_of(output, "query"), texts_of(output, "neg"), strict=True)
        return {str(query): negatives for query, negatives in found}

    first = mined("a.jsonl", given)
    assert mined("b.jsonl", given[::-1]) == first
    assert mined("other.jsonl", given, seed=1) != first
    assert all(len(own) == 5 for own in first.values())
    # none of the ten best is taken
    best = tmp_path / "best.jsonl"
    top = MiningSettings(negatives=10, rank_to=10, near_duplicate=1.0, other_positives="keep")
    mine(given, best, corpus=corpus, encoder=HashingEncoder(), teacher="none", settings=top)
    for query, own in zip(texts_of(best, "query"), texts_of(best, "neg"), strict=True):
        assert set(own).isdisjoint(first[str(query)])


def test_the_examples_own_passages_are_the_pool_where_none_is_given(tmp_path: Path) -> None:
    source = tmp_path / "own.jsonl"
    source.write_text(
        '{"query": "when?", "pos": ["At ten."], "neg": ["It is green."], "prompt": "Ask: "}\n'
        '{"query": "who?", "pos": ["The porter."]}\n',
        encoding="utf-8",
    )
    output = tmp_path / "out.jsonl"
    mine(source, output, encoder=HashingEncoder(), teacher="none")
    first, second = (json.loads(line) for line in output.read_text().splitlines())
    assert sorted(first["neg"]) == ["It is green.", "The porter."]
    assert first["prompt"] == "Ask: "
    assert sorted(second["neg"]) == ["At ten.", "It is green."]
    kept = MiningSettings(keep_given=True, negatives=1)
    mine(source, output, encoder=HashingEncoder(), teacher="none", settings=kept, restart=True)
    assert texts_of(output, "neg")[0] == ["It is green."]


def test_a_judged_folder_keeps_what_was_judged_as_not_relevant(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    (folder / "qrels").mkdir(parents=True)
    texts = {"d1": "the gate at ten", "d2": "the gate at nine", "d3": "soup", "d4": "the gate"}
    corpus = [json.dumps({"_id": id_, "title": "", "text": text}) for id_, text in texts.items()]
    (folder / "corpus.jsonl").write_text("\n".join(corpus))
    (folder / "queries.jsonl").write_text('{"_id": "q", "text": "the gate at ten or nine"}\n')
    (folder / "qrels" / "train.tsv").write_text(
        "query-id\tcorpus-id\tscore\nq\td1\t2\nq\td2\t1\nq\td3\t0\n"
    )
    output = tmp_path / "out.jsonl"
    report = mine(folder, output, encoder=HashingEncoder(), teacher="encoder")
    (example,) = read_flag_jsonl(output)
    assert example.negative_ids == ("d3", "d4")
    assert report.sources == {"dense": 1, "judged": 1}
    assert example.query_id == "q"


def test_too_few_are_told(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    given = [TrainingExample("when?", ("At ten.",))]
    report = mine(given, output, encoder=HashingEncoder(), teacher="none")
    assert (report.short, report.without, report.negatives) == (1, 1, 0)
    assert texts_of(output, "neg") == [[]]
    assert "no negative" in report.notices[0]
    assert "1 queries got fewer, 1 of them none" in report.as_text()


def test_the_same_run_again_does_nothing_and_another_is_refused(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    given = examples(70)
    encoder = HashingEncoder()
    report = mine(given, output, encoder=encoder, teacher="none")
    content = output.read_bytes()
    names = {"out.jsonl", "out.report.json", "out.report.txt"}
    assert {path.name for path in tmp_path.iterdir()} == names
    saved = json.loads((tmp_path / "out.report.json").read_text(encoding="utf-8"))
    assert MiningReport.of_dict(saved).as_text() == report.as_text()
    assert len(report.samples) == 20
    encoder.encoded.clear()
    again = mine(given, output, encoder=encoder, teacher="none")
    assert (again.as_text(), encoder.encoded) == (report.as_text(), [])
    with pytest.raises(InvalidInput, match="seed was 0, is 4"):
        mine(given, output, encoder=encoder, teacher="none", settings=MiningSettings(seed=4))
    with pytest.raises(InvalidInput, match="input was"):
        mine(given[1:], output, encoder=encoder, teacher="none")
    assert output.read_bytes() == content
    assert {path.name for path in tmp_path.iterdir()} == names
    output.write_text("changed by hand\n")
    with pytest.raises(InvalidInput, match="not as mining wrote it"):
        mine(given, output, encoder=encoder, teacher="none")
    mine(given, output, encoder=encoder, teacher="none", restart=True)
    assert output.read_bytes() == content


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = [{root!r}, {tests!r}, {here!r}]
from hashing_encoder import HashingEncoder
from retrieval.api.mine import mine
from retrieval.training.data.reading import load_examples
what, at = sys.argv[1], int(sys.argv[2])

def progress(doing, done, total):
    if doing == what and done >= at:
        os.kill(os.getpid(), signal.SIGKILL)

mine(load_examples("in.jsonl"), "out.jsonl", corpus="pool.jsonl", encoder=HashingEncoder(),
     teacher="encoder", progress=progress)
"""


@pytest.mark.parametrize(("what", "at"), [("encoding passages", 2048), ("mining", 64)])
def test_a_killed_run_goes_on_and_gives_the_same_bytes(
    tmp_path: Path, what: str, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [{"query": one.query, "pos": list(one.positives)} for one in examples(100)]
    Path("in.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    corpus_file(Path("pool.jsonl"), made(2500))
    program = KILLED.format(root=str(ROOT), tests=str(ROOT / "tests"), here=str(tmp_path))
    killed = subprocess.run([sys.executable, "-c", program, what, str(at)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not Path("out.jsonl").exists()
    folder = Path("out.jsonl.mining")
    if what == "mining":  # a line that was half written when the machine stopped
        with (folder / "done.jsonl").open("ab") as file:
            file.write(b'{"positives": [{"te')
    encoder = HashingEncoder()
    options: dict[str, Any] = {"corpus": "pool.jsonl", "encoder": encoder, "teacher": "encoder"}
    with pytest.raises(InvalidInput, match=r"was begun by another run: negatives was 15, is 3"):
        mine("in.jsonl", "out.jsonl", **options, settings=MiningSettings(negatives=3))
    seen: Counter[str] = Counter()
    mine("in.jsonl", "out.jsonl", **options, progress=lambda what, done, total: seen.update([what]))
    assert not folder.exists()
    if what == "mining":
        assert seen == {"mining": 2}
    mine("in.jsonl", "whole.jsonl", **options)
    for ending in (".jsonl", ".report.json", ".report.txt"):
        assert Path(f"out{ending}").read_bytes() == Path(f"whole{ending}").read_bytes()


def test_two_processes_do_not_mine_to_one_file(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    with MiningJob(output), pytest.raises(StoreLocked, match="another process"):
        mine(examples(2), output, encoder=HashingEncoder(), teacher="none")
    mine(examples(2), output, encoder=HashingEncoder(), teacher="none")


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"settings": MiningSettings(sources="sparse")}, InvalidInput, "by vectors alone"),
        ({"settings": MiningSettings(max_score=0.5)}, InvalidInput, "max_score was given"),
        ({"collection": "docs", "corpus": "c.jsonl"}, InvalidInput, "both given"),
        ({"collection": "docs"}, InvalidInput, "has its own"),
        ({"corpus": "absent.jsonl"}, CorpusError, "absent.jsonl"),
    ],
)
def test_what_does_not_fit_is_refused(
    tmp_path: Path, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        mine(examples(2), tmp_path / "o.jsonl", encoder=HashingEncoder(), teacher="none", **options)
    assert list(tmp_path.iterdir()) == []


def test_the_output_is_not_what_is_read(tmp_path: Path) -> None:
    pool = corpus_file(tmp_path / "pool.jsonl", ["The gate is green."])
    with pytest.raises(InvalidInput, match="would overwrite"):
        mine(examples(2), pool, corpus=pool, encoder=HashingEncoder(), restart=True)
    with pytest.raises(InvalidInput, match="would overwrite"):
        mine(pool, f"{tmp_path}/../{tmp_path.name}/pool.jsonl", encoder=HashingEncoder())
    assert [path.name for path in tmp_path.iterdir()] == ["pool.jsonl"]


@pytest.mark.parametrize("name", ["out.txt", "no/out.jsonl"])
def test_an_output_that_cannot_be_is_refused_before_the_work(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInput, match="the output"):
        mine(examples(2), tmp_path / name, encoder=HashingEncoder(), teacher="none")


def test_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("pairs.csv").write_text(
        "question,answer\nwhen does the gate close?,The gate closes at ten.\n"
        "when is lunch?,Soup is served at noon.\n"
    )
    corpus_file(Path("pool.jsonl"), ["The gate closes at ten.", "The gate is green.", "Rain."])
    line = ["mine", "pairs.csv", "out.jsonl", "--corpus", "pool.jsonl", "--encoder", "starter"]
    assert run([*line, "--teacher", "none", "--negatives", "1", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["run"]["settings"]["negatives"] == 1
    assert shown["negatives"] == 2
    assert texts_of(Path("out.jsonl"), "neg")[0] == ["The gate is green."]
    assert run([*line, "--teacher", "none"]) == 2
    assert "--restart" in capsys.readouterr().err
    assert run([*line, "--teacher", "none", "--restart"]) == 0
    assert "2 queries, 2 positives" in capsys.readouterr().out
    assert run([*line, "--sources", "dense:x"]) == 2
    assert "sources is 'dense:x'" in capsys.readouterr().err
