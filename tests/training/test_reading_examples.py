"""`load_examples` on files as other tools write them."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from retrieval.errors import CorpusError, InvalidInput
from retrieval.evaluation.pool import Pool
from retrieval.evaluation.pool_files import ShownPassage, StoredItem
from retrieval.training.data.reading import load_examples
from retrieval.training.data.tables import Columns
from retrieval.training.examples import TrainingExample

datasets: Any = pytest.importorskip("datasets")


def _write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def _triple(one: TrainingExample) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    return one.query, one.positives, one.negatives


def test_flag_embedding_keeps_its_lines(tmp_path: Path) -> None:
    line = '{"query": "何时?", "pos": ["十点"], "neg": ["中午"], "prompt": "为句子生成表示"}\n'
    path = _write(tmp_path / "x.jsonl", line * 2)
    assert [one.prompt for one in load_examples(path)] == ["为句子生成表示"] * 2


@pytest.mark.parametrize("kind", ["pair", "triplet", "n-tuple"])
def test_parquet_of_sentence_transformers(tmp_path: Path, kind: str) -> None:
    rows = {"anchor": ["when?", "when?", "谁？"], "positive": ["At ten.", "At 10.", "馆长"]}
    if kind == "triplet":
        rows["negative"] = ["Never.", "Never.", "读者"]
    if kind == "n-tuple":
        rows |= {"negative_1": ["Never.", "No.", "读者"], "negative_2": ["Why?", "No.", "我"]}
        rows["scores"] = [[0.9, 0.1, 0.2], [0.8, 0.3, 0.4], [1, 0, 0]]  # type: ignore[list-item]
    path = tmp_path / "train-00000-of-00001.parquet"
    datasets.Dataset.from_dict(rows).to_parquet(path)
    when, who = load_examples(path)
    assert when.positives == ("At ten.", "At 10.")
    assert (who.query, who.positives) == ("谁？", ("馆长",))
    assert when.where == f"{path}, row 1"
    negatives = {"pair": (), "triplet": ("Never.",), "n-tuple": ("Never.", "Why?", "No.")}
    assert when.negatives == negatives[kind]
    if kind == "n-tuple":
        assert (when.positive_scores, when.negative_scores) == ((0.9, 0.8), (0.1, 0.2, 0.3))
    else:
        assert when.positive_scores is None


def test_labelled_pairs_and_lists(tmp_path: Path) -> None:
    pairs = {"sentence1": ["a", "a", "b"], "sentence2": ["x", "y", "z"], "label": [1, 0, 0]}
    path, notices = tmp_path / "pairs.parquet", list[str]()
    datasets.Dataset.from_dict(pairs).to_parquet(path)
    assert list(map(_triple, load_examples(path, on_notice=notices.append))) == [
        ("a", ("x",), ("y",))
    ]
    assert notices == [f"{path}: dropped 1 queries without a positive."]
    lists = {"anchor": ["a"], "docs": [["x", "y", "z"]], "labels": [[1, 0, 1]]}
    path = tmp_path / "lists.parquet"
    datasets.Dataset.from_dict(lists).to_parquet(path)
    assert list(map(_triple, load_examples(path))) == [("a", ("x", "z"), ("y",))]


def test_scores_are_refused_until_it_is_said_what_they_mean(tmp_path: Path) -> None:
    text = "sentence1,sentence2,score\na,x,0.8\na,y,0.3\n"
    path = _write(tmp_path / "sts.csv", text)
    with pytest.raises(CorpusError, match=r"sts\.csv:2: the column 'score' is '0\.8'") as caught:
        load_examples(path)
    assert "--least-score" in caught.value.fix
    (one,) = load_examples(path, columns=Columns(least_score=0.5))
    assert (_triple(one), one.positive_scores, one.negative_scores) == (
        ("a", ("x",), ("y",)), (0.8,), (0.3,)
    )  # fmt: skip
    margins = _write(tmp_path / "margins.csv", "query,positive,negative,score\na,x,y,3.1\n")
    with pytest.raises(CorpusError, match="margins alone") as caught:
        load_examples(margins)
    assert caught.value.problem.startswith(f"{margins}:2: the column 'score'")


def test_labels_of_inference_are_refused(tmp_path: Path) -> None:
    path = _write(tmp_path / "nli.tsv", "sentence1\tsentence2\tlabel\na\tx\t0\nb\ty\t2\n")
    with pytest.raises(CorpusError, match=r"nli\.tsv:3: the column 'label' is '2', expected 0 or"):
        load_examples(path)


def test_ms_marco_triples_have_no_header_and_quotes_are_letters(tmp_path: Path) -> None:
    lines = 'who said "no\t"No" was said by him.\tYes.\nwhy?\tBecause "\t"\n'
    path = _write(tmp_path / "triples.train.small.tsv", lines)
    with pytest.raises(CorpusError, match=r"small\.tsv:1: the row is not valid") as caught:
        load_examples(path)
    assert "--columns" in caught.value.fix
    header = Columns(header=("query", "positive", "negative"))
    assert list(map(_triple, load_examples(path, columns=header))) == [
        ('who said "no', ('"No" was said by him.',), ("Yes.",)),
        ("why?", ('Because "',), ('"',)),
    ]
    with pytest.raises(CorpusError, match="has 3 cells, and there are 2 columns"):
        load_examples(path, columns=Columns(header=("query", "positive")))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-8", "utf-16"])
def test_a_table_of_excel(tmp_path: Path, encoding: str) -> None:
    text = 'Frage-Nr;Question;Answer\r\n1;"Wann schließt es?";"Um zehn;\r\nspät, ""abends"""\r\n'
    text += "2;几点关门？; 十点 \r\n;;\r\n3;Wer?;Ich\r\n"
    path, notices = _write(tmp_path / "Mappe1.csv", text.encode(encoding)), list[str]()
    found = load_examples(path, on_notice=notices.append)
    assert list(map(_triple, found)) == [
        ("Wann schließt es?", ('Um zehn;\r\nspät, "abends"',), ()),
        ("几点关门？", ("十点",), ()),
        ("Wer?", ("Ich",), ()),
    ]
    assert [one.where.rpartition(":")[2] for one in found] == ["2", "4", "6"]
    assert notices == [f"{path}: the column 'Frage-Nr' is not used (3 ×, first at {path}:2)."]


def test_json_lines_of_pairs_and_of_arrays(tmp_path: Path) -> None:
    rows = [
        {"question": "a", "context": "x", "negatives": ["y", "z"]},
        {"context": "w", "question": "a", "negatives": None},
    ]
    path = tmp_path / "pairs.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    assert list(map(_triple, load_examples(path))) == [("a", ("x", "w"), ("y", "z"))]
    arrays = _write(tmp_path / "arrays.jsonl", '["a", "x", "y"]\n["b", "z"]\n')
    header = Columns(header=("query", "positive", "negative"))
    assert list(map(_triple, load_examples(arrays, columns=header))) == [
        ("a", ("x",), ("y",)),
        ("b", ("z",), ()),
    ]


def test_columns_that_may_be_either_are_asked_for(tmp_path: Path) -> None:
    text = "question,context,answer,title\nwhen?,The gate closes at ten.,ten,Gate\n"
    path = _write(tmp_path / "squad.csv", text)
    with pytest.raises(CorpusError, match="columns context, answer may all hold the positive"):
        load_examples(path)
    chosen = Columns(positive="context", negatives=("title",))
    assert list(map(_triple, load_examples(path, columns=chosen))) == [
        ("when?", ("The gate closes at ten.",), ("Gate",))
    ]
    with pytest.raises(CorpusError, match="there is no column 'body'; found question, context"):
        load_examples(path, columns=Columns(positive="body"))


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.csv", "query,positive\n,x\n", ":2: the column 'query' is empty"),
        ("a.csv", "query,positive\na\n", ":2: the column 'positive' is empty"),
        ("a.csv", "query,positive\na,x,y\n", ":2: the row has 3 cells"),
        ("a.csv", 'query,positive\nb,y\na,"x\n', ":3: the row is not valid CSV"),
        ("a.csv", "query,query\na,x\n", ":1: two columns are named 'query'"),
        ("a.csv", b"query,positive\na,f\xfcr\n", ":2: the column 'positive' has bytes that"),
        ("a.csv", b"query,positive\na,\0\0\n", ": looks binary"),
        ("a.csv", "query,positive\n", ": the table has no rows with a positive"),
        ("a.jsonl", '{"anchor": "a", "positive": 3}', ":1: the column 'positive' holds '3'"),
        ("a.jsonl", '{"anchor": "a"}', ':1: "query" is missing; the line has the keys anchor'),
        ("a.jsonl", "", " holds no examples"),
        ("a.parquet", "PAR1", ": cannot be read as parquet after row 0"),
        ("a.arrow", "", " has the suffix '.arrow', expected one of"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, name: str, text: str | bytes, said: str) -> None:
    path = _write(tmp_path / name, text)
    with pytest.raises(CorpusError) as caught:
        load_examples(path)
    assert caught.value.problem.startswith(f"{path}{said}")


def test_a_folder_as_on_the_hub(tmp_path: Path) -> None:
    for split in ("train", "test"):
        line = json.dumps({"query": split, "pos": ["x"]})
        _write(tmp_path / "data" / f"{split}-00000-of-00001.jsonl", line)
    _write(tmp_path / "README.md", "---\n")
    assert [one.query for one in load_examples(tmp_path)] == ["train"]
    assert [one.query for one in load_examples(tmp_path, split="test")] == ["test"]
    with pytest.raises(CorpusError, match="no files of the split 'dev'; it has test, train"):
        load_examples(tmp_path, split="dev")
    with pytest.raises(InvalidInput, match="is a file, which has no splits"):
        load_examples(tmp_path / "README.md", split="test")


@pytest.mark.parametrize("layout", ["beir", "flag"])
def test_judged_folders(tmp_path: Path, layout: str) -> None:
    id_ = "_id" if layout == "beir" else "id"
    documents = [("d1", "Gate", "Closes at ten."), ("d2", "", "中午"), ("d3", "Only a title", "")]
    rows = [{id_: one, "title": title, "text": text} for one, title, text in documents]
    _write(tmp_path / "corpus.jsonl", "\n".join(map(json.dumps, rows)))
    queries = "\n".join(json.dumps({id_: f"q{n}", "text": f"query {n}"}) for n in range(4))
    grades = [("q1", "d1", 2), ("q1", "d2", 0), ("q1", "gone", 1), ("q2", "d3", 1), ("q3", "d1", 0)]
    if layout == "beir":
        _write(tmp_path / "queries.jsonl", queries)
        lines = "".join(f"{q}\t{d}\t{g}\n" for q, d, g in grades)
        _write(tmp_path / "qrels" / "train.tsv", f"query-id\tcorpus-id\tscore\n{lines}")
    else:
        _write(tmp_path / "train_queries.jsonl", queries)
        judged = [json.dumps({"qid": q, "docid": d, "relevance": g}) for q, d, g in grades]
        _write(tmp_path / "train_qrels.jsonl", "\n".join(judged))
    notices: list[str] = []
    first, second = load_examples(tmp_path, on_notice=notices.append)
    assert first == TrainingExample(
        "query 1", ("Gate Closes at ten.",), ("中午",), query_id="q1", positive_ids=("d1",),
        negative_ids=("d2",), where=f"{tmp_path} (train), query q1",
    )  # fmt: skip
    assert second.positives == ("Only a title",)
    assert [one.partition("dropped ")[2] for one in notices] == [
        "1 judged documents whose text is not there.",
        "1 queries without a positive.",
    ]
    (tmp_path / "corpus.jsonl").unlink()
    with pytest.raises(CorpusError, match=r"judgements and no documents \(corpus\.jsonl\)"):
        load_examples(tmp_path)


def test_what_a_judge_has_said(tmp_path: Path) -> None:
    folder = tmp_path / "pool"
    with Pool.make(folder, "docs", "0a1b", depth=10) as pool:
        pool.add_queries([("q1", "when is lunch?")], "file")
        pool.add_queries([("s1", "wann?")], "synthetic", answered_by="menu.md")
        soup = ShownPassage("p1", "Soup at noon.", ("Lunch",))
        pool.put_items(
            [
                StoredItem("q1", "menu.md", "Menu", (soup, ShownPassage("p2", "Tea at four."))),
                StoredItem("q1", "rules.md", "", (ShownPassage("p3", "No dogs."),)),
                StoredItem("s1", "menu.md", "Menu", (soup,)),
            ]
        )
        while (item := pool.next_item()) is not None and item.query.id == "q1":
            pool.judge(item, 2 if item.key == "menu.md" else 0)
    (one,) = load_examples(folder, split="test")
    assert _triple(one) == (
        "when is lunch?", ("Menu Lunch Soup at noon. Tea at four.",), ("No dogs.",)
    )  # fmt: skip
    (one,) = load_examples(folder, split="synthetic")
    assert _triple(one) == ("wann?", ("Menu Lunch Soup at noon.",), ())
    with pytest.raises(CorpusError, match="it has synthetic, test"):
        load_examples(folder)


def test_what_is_not_understood(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="is not there"):
        load_examples(tmp_path / "none")
    _write(tmp_path / "notes.md", "# Notes")
    with pytest.raises(CorpusError, match=r"holds no training data .* found notes\.md") as caught:
        load_examples(tmp_path)
    assert "FlagEmbedding's JSONL" in caught.value.fix


@pytest.mark.shared_data
def test_a_training_split(shared_data: Path) -> None:
    examples = load_examples(shared_data / "scifact")
    assert len(examples) > 800
    assert all(len(one.positive_ids) == len(one.positives) > 0 for one in examples)
