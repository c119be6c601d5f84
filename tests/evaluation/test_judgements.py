"""Judged queries in the formats that people bring, and how every bad file is named."""

from __future__ import annotations

import gzip
import importlib.util
import json
from pathlib import Path

import pytest

from retrieval.errors import CorpusError, InvalidInput
from retrieval.evaluation.judgements import load_judgements

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def write(path: Path, *lines: str, end: str = "\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes((end.join(lines) + end).encode())
    return path


# --- FlagEmbedding --------------------------------------------------------------------------


@pytest.fixture
def flag(tmp_path: Path) -> Path:
    root = tmp_path / "custom" / "en"
    write(
        root / "corpus.jsonl",
        '{"id": "d1", "title": "", "text": "one"}',
        '{"id": 2, "text": "two"}',
    )
    write(
        root / "test_queries.jsonl", '{"id": "q1", "text": "erste"}', '{"id": "q2", "text": "二"}'
    )
    write(
        root / "test_qrels.jsonl",
        '{"qid": "q2", "docid": 2, "relevance": 1}',
        '{"qid": "q2", "docid": "d1", "relevance": 0}',
    )
    return root


def test_flag_embeddings_layout_is_read(flag: Path) -> None:
    judged = load_judgements(flag)
    assert (judged.name, judged.split) == ("en", "test")
    assert judged.queries == {"q2": "二"}
    assert judged.qrels == {"q2": {"2": 1, "d1": 0}}
    documents = judged.documents()
    assert documents is not None
    assert [(one.id, one.title, one.text) for one in documents] == [
        ("d1", "", "one"), ("2", "", "two"),
    ]  # fmt: skip
    assert [file.name for file in judged.files] == ["test_queries.jsonl", "test_qrels.jsonl"]


def test_a_folder_with_one_set_inside_is_that_set_and_of_several_one_must_be_named(
    flag: Path,
) -> None:
    assert load_judgements(flag.parent) == load_judgements(flag)
    write(flag.parent / "de" / "test_queries.jsonl", '{"id": "q", "text": "x"}')
    with pytest.raises(CorpusError, match="several judged sets: de, en"):
        load_judgements(flag.parent)


def test_compressed_files_and_crlf_do_not_matter(flag: Path) -> None:
    expected = load_judgements(flag)
    for name in ("test_queries.jsonl", "test_qrels.jsonl"):
        data = b"\xef\xbb\xbf" + (flag / name).read_bytes().replace(b"\n", b"\r\n\r\n")
        (flag / name).unlink()
        (flag / f"{name}.gz").write_bytes(gzip.compress(data))
    assert load_judgements(flag) == expected


def test_a_split_that_is_not_there_or_half_there_is_named(flag: Path) -> None:
    with pytest.raises(CorpusError, match=r"no split 'dev' .* it has test"):
        load_judgements(flag, "dev")
    (flag / "test_qrels.jsonl").unlink()
    with pytest.raises(CorpusError, match="none that has both"):
        load_judgements(flag)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('{"qid": "q1", "docid": "d1", "relevance": "high"}', ":3: the \"relevance\" is 'high'"),
        ('{"qid": "q1", "docid": "d1", "relevance": null}', ':3: the "relevance" is None'),
        ('{"qid": "q1", "relevance": 1}', ':3: "docid" is None'),
        ('{"qid": "q2", "docid": 2, "relevance": 3}', ":3: document '2' has two different grades"),
        ('{"qid": "q9", "docid": "d1", "relevance": 1}', "query 'q9' is judged in .* no text"),
        ("[]", ":3: the line is a JSON list"),
    ],
)
def test_bad_judgements_of_flag_embedding_are_named(flag: Path, line: str, complaint: str) -> None:
    with (flag / "test_qrels.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(CorpusError, match=complaint):
        load_judgements(flag)


def test_an_empty_split_is_an_error(flag: Path) -> None:
    write(flag / "test_qrels.jsonl", "")
    with pytest.raises(CorpusError, match="has no judgements"):
        load_judgements(flag)


def test_flag_embeddings_own_loader_reads_the_same(flag: Path) -> None:
    pytest.importorskip("datasets")
    package = importlib.util.find_spec("FlagEmbedding")
    if package is None or package.origin is None:
        pytest.skip("FlagEmbedding is not installed")
    # Its file alone: what stands around it imports faiss.
    file = Path(package.origin).parent / "abc" / "evaluation" / "data_loader.py"
    spec = importlib.util.spec_from_file_location("flag_data_loader", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    class Loader(module.AbsEvalDataLoader):  # type: ignore[misc, name-defined]
        def available_splits(self, dataset_name: str | None = None) -> list[str]:
            return ["test"]

    rows = {"q2": {"d1": 0, "d2": 1}}
    write(flag / "corpus.jsonl", *(f'{{"id": "d{n}", "title": "", "text": "x"}}' for n in (1, 2)))
    write(
        flag / "test_qrels.jsonl",
        *(
            json.dumps({"qid": query, "docid": id_, "relevance": grade})
            for query, own in rows.items()
            for id_, grade in own.items()
        ),
    )
    theirs = Loader("custom", dataset_dir=str(flag), cache_dir=str(flag.parent / "cache"))
    judged = load_judgements(flag)
    assert dict(theirs.load_qrels(split="test")) == judged.qrels == rows
    assert theirs.load_queries(split="test")["q2"] == judged.queries["q2"]
    corpus = theirs.load_corpus()
    documents = judged.documents()
    assert documents is not None
    assert {one.id: {"title": one.title, "text": one.text} for one in documents} == dict(corpus)


# --- TREC -----------------------------------------------------------------------------------

SGML = """
<top>
<num> Number: 301
<title> International Organized Crime
<desc> Description:
Identify organizations.
</top>

<top>
<num> Number: 051
<dom> Domain: International Economics
<title> Topic:  Airbus
   Subsidies &amp; Boeing
<desc> Description:
Document will discuss.
</top>
"""
XML = """<?xml version="1.0"?>
<topics task="web"><topic number="301" type="faceted"><query>a & b</query>
<description>x</description></topic>
<topic number='51'>
  <title>second</title></topic></topics>
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (SGML, {"301": "International Organized Crime", "51": "Airbus Subsidies & Boeing"}),
        (XML, {"301": "a & b", "51": "second"}),
        ("301\terste Frage\r\n\r\n51\t第二\r\n", {"301": "erste Frage", "51": "第二"}),
        (
            '{"qid": 301, "query": "one"}\n{"_id": "51", "text": "two"}\n',
            {"301": "one", "51": "two"},
        ),
    ],
)
def test_topics_of_every_kind_are_read(tmp_path: Path, text: str, expected: dict[str, str]) -> None:
    topics = tmp_path / "topics.robust04.txt"
    topics.write_bytes(text.encode())
    qrels = write(
        tmp_path / "qrels.txt",
        "301 0 FBIS3-1 1",
        "301 0 FBIS3-2 -2",
        "51\t0\tx\t0".replace("\t", " "),
    )
    judged = load_judgements(topics, qrels=qrels)
    assert judged.queries == expected
    assert judged.qrels == {"301": {"FBIS3-1": 1, "FBIS3-2": -2}, "51": {"x": 0}}
    assert judged.name == "topics.robust04"
    assert judged.documents() is None


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("301 no tab\n", ":1: expected an id, a tab"),
        ("\n\n", "holds no topics"),
        ("<topics></topics>\n", "has no <top> or <topic>"),
        ("<top>\n<title> x\n</top>\n", ":1: the topic has no number"),
        ("\n<top>\n<num> 301\n<desc> x\n</top>\n", ":2: the text of query '301' is empty"),
        ("51\tanother\n", "query '301' is judged in .* but has no text"),
        ("301\ta\n301\tb\n", ":2: query '301' was given before with another text"),
    ],
)
def test_bad_topics_are_named(tmp_path: Path, text: str, complaint: str) -> None:
    topics = tmp_path / "topics.tsv"
    topics.write_text(text)
    qrels = write(tmp_path / "qrels.txt", "301 0 a 1")
    with pytest.raises(CorpusError, match=complaint):
        load_judgements(topics, qrels=qrels)


def test_judgements_may_take_the_place_of_a_beir_folders_own(tmp_path: Path) -> None:
    write(tmp_path / "set" / "queries.jsonl", '{"_id": "q1", "text": "x"}')
    qrels = write(tmp_path / "mine.txt", "q1 0 d 3")
    assert load_judgements(tmp_path / "set", qrels=qrels).qrels == {"q1": {"d": 3}}
    with pytest.raises(InvalidInput, match="Give one of the two"):
        load_judgements(tmp_path / "set", "dev", qrels=qrels)


# --- a file of one's own --------------------------------------------------------------------


def test_a_table_of_ones_own_is_read(tmp_path: Path) -> None:
    path = write(
        tmp_path / "mine.csv",
        "\ufeffQuery,Relevant,Grade,note",
        "when does the gate close?,rules.md,,",
        "",
        '"who pays, and when?",handbook.pdf#page=3; rules.md#Travel costs ,2,hm',
        "when does  the gate close?,times.md|days.md,1.0,another row of the first",
        end="\r\n",
    )
    judged = load_judgements(path)
    assert judged.queries == {"2": "when does the gate close?", "4": "who pays, and when?"}
    assert judged.qrels == {
        "2": {"rules.md": 1, "times.md": 1, "days.md": 1},
        "4": {"handbook.pdf#page=3": 2, "rules.md#Travel costs": 2},
    }
    assert judged.typed["days.md"] == f"{path}:5"
    assert judged.name == "mine"


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("a.csv", ["question;source;query_id", "什么时候关门？;a b.md|c.md;q1"]),
        ("a.tsv", ["qid\ttext\tdocs", "q1\t什么时候关门？\ta b.md;c.md"]),
        ("a.csv", ["id,query,documents", 'q1,什么时候关门？,"[""a b.md"", ""c.md""]"']),
        (
            "a.jsonl",
            [
                '{"id": "q1", "query": "什么时候关门？", "relevant": ["a b.md", "c.md"], '
                '"grade": null}'
            ],
        ),
        ("a.jsonl.gz", ['{"qid": "q1", "Question": "什么时候关门？", "ids": "a b.md;c.md"}']),
    ],
)  # fmt: skip
def test_columns_have_many_names_and_answers_many_forms(
    tmp_path: Path, name: str, lines: list[str]
) -> None:
    path = write(tmp_path / name, *lines)
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(path.read_bytes()))
    judged = load_judgements(path)
    assert judged.queries == {"q1": "什么时候关门？"}
    assert judged.qrels == {"q1": {"a b.md": 1, "c.md": 1}}


def test_ids_alone_are_what_is_relevant_where_nothing_else_says_it(tmp_path: Path) -> None:
    judged = load_judgements(write(tmp_path / "a.csv", "text,id", "x,7", "y,8"))
    assert judged.qrels == {"2": {"7": 1}, "3": {"8": 1}}


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        (["query,answer", "x,y"], "no column 'relevant'; found query, answer"),
        (["q1\twhat is it"], "no column 'query'"),
        (["query,relevant"], "has no questions"),
        ([""], "is empty"),
        (["query,relevant", "x,"], ":2: nothing is named as relevant"),
        (["query,relevant", "x, ; "], ":2: nothing is named as relevant"),
        (["query,relevant", ",a"], ":2: the row has no query"),
        (["query,relevant", "x,[a"], r":2: '\[a' begins as a JSON list"),
        (["query,relevant", 'x,"[1.5]"'], r":2: 'relevant' is \[1.5\]"),
        (["query,relevant,grade", "x,a,much"], ":2: the grade is 'much'"),
        (["query,relevant,grade", "x,a,1", "x,a,2"], ":3: document 'a' has two different grades"),
        (["query,relevant,query_id", "x,a,1", "y,a,1"], ":3: query '1' was given before with"),
        (["query,relevant", "x,a,b"], ":2: the row has 3 cells, the header 2"),
        (["query,relevant", "y,b", 'x,"a'], ":3: the row is not valid CSV"),
        (["query,relevant,query", "x,a,b"], "two columns are named 'query'"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, lines: list[str], complaint: str) -> None:
    with pytest.raises(CorpusError, match=complaint):
        load_judgements(write(tmp_path / "a.csv", *lines))


def test_a_row_of_several_lines_does_not_shift_the_numbers_after_it(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "query,relevant", '"two', "", 'lines",a', "x,")
    with pytest.raises(CorpusError, match=":5: nothing is named"):
        load_judgements(path)


def test_lines_of_json_need_their_columns_each(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.jsonl",
        '{"query": "x", "relevant": ["a"]}',
        '{"query": "y", "id": "q", "relevant": null}',
    )
    with pytest.raises(CorpusError, match=":2: nothing is named as relevant"):
        load_judgements(path)


# --- none of them ---------------------------------------------------------------------------


def test_what_is_not_understood_is_listed_beside_what_is(tmp_path: Path) -> None:
    write(tmp_path / "x" / "readme.md", "hello")
    with pytest.raises(CorpusError, match=r"found readme\.md") as caught:
        load_judgements(tmp_path / "x")
    for one in ("BEIR", "FlagEmbedding", "TREC topics", "CSV"):
        assert one in str(caught.value)
    with pytest.raises(CorpusError, match="is not there"):
        load_judgements(tmp_path / "nowhere")
    with pytest.raises(CorpusError, match="a file without judgements"):
        load_judgements(write(tmp_path / "topics.txt", "1\tx"))
    with pytest.raises(InvalidInput, match="'dev' was asked for"):
        load_judgements(write(tmp_path / "a.csv", "query,relevant", "x,y"), "dev")


def test_flag_embeddings_folder_takes_no_judgements_beside_its_own(flag: Path) -> None:
    with pytest.raises(InvalidInput, match="which has its own"):
        load_judgements(flag, qrels="other.txt")


@pytest.mark.shared_data
def test_the_sets_at_hand_are_read_as_before() -> None:
    if not SHARED.is_dir():
        pytest.skip("../shared/data is absent")
    judged = load_judgements(SHARED / "scifact")
    assert (len(judged.queries), sum(map(len, judged.qrels.values()))) == (300, 339)
    assert not judged.typed
