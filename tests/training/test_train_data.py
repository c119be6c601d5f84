"""`retrieval train data`, and that what it writes is what other trainers read."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from retrieval.cli.main import run
from retrieval.errors import CorpusError, InvalidInput
from retrieval.training.data.flag_jsonl import read_flag_jsonl
from retrieval.training.data.prepare import prepare_data

LINES = [
    {"query": "when does it close?", "pos": ["At ten."], "neg": ["Never.", "At noon."]},
    {"query": "when does it close?", "pos": ["At noon."], "neg": []},
    {"query": "谁付钱？", "pos": ["公司付。", "公司付。"], "neg": ["没有人。"]},
]


@pytest.fixture
def sources(tmp_path: Path) -> list[Path]:
    flag, table = tmp_path / "flag.jsonl", tmp_path / "faq.csv"
    flag.write_text("".join(f"{json.dumps(line)}\n" for line in LINES), "utf-8")
    rows = "".join(f"{n};how many seats has room {n}?;Room {n} has {n + 9}.\r\n" for n in range(20))
    table.write_bytes(f"\ufeffNr;Question;Answer\r\n{rows}".encode())
    return [flag, table]


@pytest.fixture
def judged(tmp_path: Path) -> Path:
    folder = tmp_path / "exam"
    (folder / "qrels").mkdir(parents=True)
    (folder / "queries.jsonl").write_text('{"_id": "q1", "text": "When does it close"}\n')
    (folder / "corpus.jsonl").write_text('{"_id": "d1", "title": "", "text": "at ten"}\n')
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\n")
    return folder


def test_sources_become_one_file(sources: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "train.jsonl"
    report = prepare_data(sources, out, dev=0.2, seed=3)
    assert report.sources == {str(sources[0]): 3, str(sources[1]): 20}
    assert report.dropped == {
        "passages that the same query has already": 1,
        "negatives that are positives of the same query": 1,
    }
    assert report.notices[0].startswith(f"{sources[1]}: the column 'Nr' is not used (20 ×")
    assert "FlagEmbedding stops" in report.notices[1]
    assert report.dev is not None
    train, dev = list(read_flag_jsonl(out)), list(read_flag_jsonl(tmp_path / "train.dev.jsonl"))
    assert (len(train), len(dev)) == (report.train.examples, report.dev.examples) == (18, 4)
    assert report.train.negatives + report.dev.negatives == 2
    assert report.train.queries.longest == max(len(one.query) for one in train)
    before = out.read_bytes()
    prepare_data(sources, out, dev=0.2, seed=3)
    assert out.read_bytes() == before
    prepare_data([out], tmp_path / "again.jsonl")
    assert (tmp_path / "again.jsonl").read_bytes() == before


def test_the_command(
    sources: list[Path], judged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "train.jsonl"
    command = ["train", "data", *map(str, sources), "--out", str(out), "--eval", str(judged)]
    assert run(command) == 2
    assert "'when does it close?' is 'When does it close' (exam test, q" in capsys.readouterr().err
    assert not out.exists()
    assert run([*command, "--drop-leaks", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["train"]["examples"] == 21
    assert report["dropped"]["examples whose query is one of the evaluation's, or nearly"] == 1
    assert report["leaks"]["shared_passages"] == 1
    assert report["leaks"]["pairs"] == [
        {
            "query": "when does it close?",
            "where": f"{sources[0]}:1",
            "other": "When does it close",
            "other_where": "exam test, query q1",
            "exact": True,
        }
    ]
    assert run([*command, "--allow-leaks", "--dev", "0.1"]) == 0
    shown = capsys.readouterr()
    assert "leaks: training queries that are the evaluation's, or nearly: 1\n" in shown.out
    assert f"{out}: 20 queries" in shown.out
    assert f"{tmp_path / 'train.dev.jsonl'}: 2 queries" in shown.out
    assert "note: " in shown.err
    assert run([*command, "--allow-leaks", "--drop-leaks"]) == 2
    assert run(["train", "data", str(sources[0]), "--out", str(out), "--drop-leaks"]) == 2


def test_columns_and_pairs_of_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, out = tmp_path / "table.tsv", tmp_path / "train.jsonl"
    table.write_text('a\t"x\ty\n')
    names = "--columns=query,positive,negative"
    assert run(["train", "data", str(table), "--out", str(out), names]) == 0
    assert [(one.query, one.positives, one.negatives) for one in read_flag_jsonl(out)] == [
        ("a", ('"x',), ("y",))
    ]
    page = tmp_path / "page.md"
    page.write_text("# Opening hours\n\n" + "The northern gate closes at ten. " * 4)
    assert run(["train", "data", str(page), "--out", str(out), "--pairs", "titles,headings"]) == 0
    assert [one.query for one in read_flag_jsonl(out)] == ["Opening hours"]
    capsys.readouterr()
    assert run(["train", "data", str(page), "--out", str(out), "--pairs", "columns"]) == 2
    assert "expected one of titles, headings" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"out": "train.parquet"}, r"does not end in \.jsonl"),
        ({"out": "none/train.jsonl"}, "would lie in .*none, no folder"),
        ({"out": "flag.jsonl"}, "is to be written, and is the source"),
        ({"dev": 0.1, "dev_out": "train.jsonl"}, "both parts are to be written to"),
        ({"dev_out": "dev.jsonl"}, "no share of it"),
        ({"dev": 2.0}, "share is 2.0"),
        ({"with_leaks": "ignore"}, "with_leaks is 'ignore'"),
    ],
)
def test_arguments_are_refused_before_the_work(
    sources: list[Path], tmp_path: Path, changed: dict[str, Any], said: str
) -> None:
    given = {"out": "train.jsonl"} | changed
    for name in ("out", "dev_out"):
        if name in given:
            given[name] = tmp_path / given[name]
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InvalidInput, match=said):
        prepare_data(sources, **given)
    assert sorted(tmp_path.iterdir()) == before


def test_nothing_is_left(tmp_path: Path, judged: Path) -> None:
    from retrieval.evaluation.judgements import load_judgements

    source = tmp_path / "x.jsonl"
    source.write_text(json.dumps(LINES[0]))
    with pytest.raises(CorpusError, match="no example is left after the checks: 1 examples whose"):
        prepare_data(
            [source], tmp_path / "o.jsonl", evaluation=[load_judgements(judged)], with_leaks="drop"
        )


def test_mixed_prompts_and_scores_are_said(tmp_path: Path) -> None:
    source = tmp_path / "x.jsonl"
    scored = {"pos_scores": [1.0], "neg_scores": [0.0, 0.1], "prompt": "Frage: "}
    source.write_text("\n".join(json.dumps(one) for one in (LINES[0] | scored, LINES[2])))
    notices = prepare_data([source], tmp_path / "o.jsonl").notices
    assert [one.split(" examples ")[1][:24] for one in notices] == [
        "have a prompt of their o", "have a teacher's scores;"
    ]  # fmt: skip


@pytest.mark.skipif(
    importlib.util.find_spec("FlagEmbedding") is None, reason="FlagEmbedding is not installed"
)
@pytest.mark.filterwarnings("ignore")  # what it imports warns of its own age
@pytest.mark.parametrize("scored", [False, True])
def test_flag_embeddings_own_data_set_reads_it(tmp_path: Path, scored: bool) -> None:
    from FlagEmbedding.abc.finetune.embedder import (
        AbsEmbedderDataArguments,
        AbsEmbedderTrainDataset,
    )

    source, out = tmp_path / "x.jsonl", tmp_path / "train.jsonl"
    extra = {"prompt": "为这个句子生成表示：", "query_id": 7, "pos_id": ["d1"], "neg_id": [2, 3]}
    if scored:
        extra |= {"pos_scores": [1], "neg_scores": [0.25, -1.5]}
    lines = [LINES[0] | extra, LINES[0] | extra | {"query": "几点关门？", "query_id": 8}]
    source.write_text("".join(f"{json.dumps(line)}\n" for line in lines), "utf-8")
    prepare_data([source], out)
    arguments = AbsEmbedderDataArguments(
        train_data=[str(out)],
        cache_path=str(tmp_path / "cache"),
        train_group_size=3,
        query_instruction_for_retrieval="unused",
        query_instruction_format="{}{}",
        knowledge_distillation=scored,
    )
    data = AbsEmbedderTrainDataset(arguments, tokenizer=None)
    assert len(data) == 2
    query, passages, scores = data[1]
    assert query == "为这个句子生成表示：几点关门？"
    assert (passages[0], sorted(passages[1:])) == ("At ten.", ["At noon.", "Never."])
    if scored:
        assert (scores[0], sorted(scores[1:])) == (1.0, [-1.5, 0.25])


def test_datasets_read_it_as_sentence_transformers_wants(tmp_path: Path) -> None:
    datasets: Any = pytest.importorskip("datasets")
    source, out = tmp_path / "x.csv", tmp_path / "train.jsonl"
    source.write_text("anchor,positive,negative\na,x,y\n几点？,十点,\n", "utf-8")
    prepare_data([source], out)
    rows = datasets.load_dataset(
        "json", data_files=str(out), split="train", cache_dir=str(tmp_path / "cache")
    )
    triplets = rows.filter(lambda row: row["neg"]).map(
        lambda row: {
            "anchor": row["query"], "positive": row["pos"][0], "negative": row["neg"][0]
        },
        remove_columns=rows.column_names,
    )  # fmt: skip
    assert triplets.to_list() == [{"anchor": "a", "positive": "x", "negative": "y"}]
    path = tmp_path / "triplets.parquet"
    triplets.to_parquet(path)
    prepare_data([path], tmp_path / "back.jsonl")
    assert (tmp_path / "back.jsonl").read_text() == out.read_text().splitlines(True)[0]
