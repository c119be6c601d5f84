"""BEIR folders: what is read, and how every bad file is named."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from retrieval.errors import CorpusError
from retrieval.evaluation.beir import load_beir, splits

QUERIES = (
    '{"_id": "q1", "text": "one"}\n{"_id": "q2", "text": "two"}\n{"_id": 3, "text": "three"}\n'
)
QRELS = "query-id\tcorpus-id\tscore\nq2\ta\t1\n3\tb\t0\n3\tc\t-1\n"
CORPUS = '{"_id": "a", "title": "A", "text": "alpha"}\n{"_id": "b", "text": "beta"}\n'

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "tiny"
    (root / "qrels").mkdir(parents=True)
    (root / "queries.jsonl").write_text(QUERIES)
    (root / "qrels" / "test.tsv").write_text(QRELS)
    (root / "corpus.jsonl").write_text(CORPUS)
    return root


def test_judged_queries_are_kept_and_grades_are_as_written(folder: Path) -> None:
    beir = load_beir(folder)
    assert (beir.name, beir.split) == ("tiny", "test")
    assert beir.queries == {"q2": "two", "3": "three"}  # q1 has no judgements
    assert beir.qrels == {"q2": {"a": 1}, "3": {"b": 0, "c": -1}}


def test_documents_are_read_with_title_and_place(folder: Path) -> None:
    documents = load_beir(folder).documents()
    assert documents is not None
    found = list(documents)
    assert [(d.id, d.title, d.text) for d in found] == [("a", "A", "alpha"), ("b", "", "beta")]
    assert found[1].source == f"{folder / 'corpus.jsonl'}:2"


def test_a_folder_without_a_corpus_can_be_read(folder: Path) -> None:
    (folder / "corpus.jsonl").unlink()
    beir = load_beir(folder)
    assert beir.corpus is None
    assert beir.documents() is None


def test_header_blank_lines_byte_order_mark_and_crlf_do_not_matter(folder: Path) -> None:
    expected = load_beir(folder)
    (folder / "qrels" / "test.tsv").write_bytes(
        b"\xef\xbb\xbf" + QRELS.split("\n", 1)[1].replace("\n", "\r\n\r\n").encode()
    )
    (folder / "queries.jsonl").write_bytes(b"\xef\xbb\xbf" + QUERIES.encode())
    assert load_beir(folder) == expected


def test_compressed_files_are_read(folder: Path) -> None:
    expected = load_beir(folder)
    for path in [folder / "queries.jsonl", folder / "corpus.jsonl", folder / "qrels" / "test.tsv"]:
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    beir = load_beir(folder)
    assert (beir.queries, beir.qrels) == (expected.queries, expected.qrels)
    documents = beir.documents()
    assert documents is not None
    assert [d.id for d in documents] == ["a", "b"]
    assert splits(folder) == ["test"]


def test_a_damaged_archive_is_named(folder: Path) -> None:
    whole = gzip.compress(QUERIES.encode() * 200)
    (folder / "queries.jsonl").unlink()
    for damaged in (whole[: len(whole) // 2], b"not gzip", whole[:12] + b"\xff" * 30):
        (folder / "queries.jsonl.gz").write_bytes(damaged)
        with pytest.raises(CorpusError, match=r"queries\.jsonl\.gz"):
            load_beir(folder)


def test_an_unknown_split_lists_the_existing_ones(folder: Path) -> None:
    (folder / "qrels" / "dev.tsv").write_text(QRELS)
    for split in ("train", "../queries", ""):
        with pytest.raises(CorpusError, match="it has dev, test"):
            load_beir(folder, split=split)


def test_missing_parts_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="nowhere is not there"):
        load_beir(tmp_path / "nowhere")
    with pytest.raises(CorpusError, match="is a file"):
        load_beir(folder / "queries.jsonl")
    (folder / "qrels" / "test.tsv").unlink()
    with pytest.raises(CorpusError, match=r"no qrels/\*\.tsv"):
        load_beir(folder)
    (folder / "queries.jsonl").unlink()
    with pytest.raises(CorpusError, match=r"no queries\.jsonl"):
        load_beir(folder)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('{"_id": "q9", "text": ', "not JSON"),
        ('["q9", "nine"]', "a JSON list, expected an object"),
        ('{"text": "nine"}', '"_id" is None'),
        ('{"_id": "", "text": "nine"}', "\"_id\" is ''"),
        ('{"_id": "q9"}', '"text" is missing'),
        ('{"_id": "q9", "text": 9}', '"text" is 9'),
        ('{"_id": "q9", "text": "  "}', "is empty"),
        ('{"_id": "q1", "text": "another"}', "given before with another text"),
    ],
)
def test_bad_query_lines_are_named(folder: Path, line: str, complaint: str) -> None:
    with (folder / "queries.jsonl").open("a") as file:
        file.write(f"\n{line}\n")
    with pytest.raises(CorpusError, match=complaint) as caught:
        load_beir(folder)
    assert f"{folder / 'queries.jsonl'}:5: " in str(caught.value)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("q2 d 1", "three fields separated by tabs"),
        ("q2\td", "found 2"),
        ("q2\td\thigh", "score is 'high'"),
        ("q2\td\t1.5", "score is '1.5'"),
        ("q2\ta\t2", "two different grades"),
    ],
)
def test_bad_judgements_are_named(folder: Path, line: str, complaint: str) -> None:
    with (folder / "qrels" / "test.tsv").open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(CorpusError, match=complaint) as caught:
        load_beir(folder)
    assert f"{folder / 'qrels' / 'test.tsv'}:5: " in str(caught.value)


def test_a_bad_first_judgement_is_not_taken_for_a_header(folder: Path) -> None:
    (folder / "qrels" / "test.tsv").write_text("q2\ta\thigh\nq2\tb\t1\n")
    with pytest.raises(CorpusError, match=r"test\.tsv:1: the score is 'high'"):
        load_beir(folder)


def test_a_split_without_judgements_is_an_error(folder: Path) -> None:
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n")
    with pytest.raises(CorpusError, match="has no judgements"):
        load_beir(folder)


def test_a_judged_query_without_text_is_an_error(folder: Path) -> None:
    with (folder / "qrels" / "test.tsv").open("a") as file:
        file.write("lost\ta\t1\ngone\ta\t1\n")
    with pytest.raises(CorpusError, match="'lost' and 1 more is judged"):
        load_beir(folder)


def test_a_wrong_encoding_is_named_with_its_line(folder: Path) -> None:
    (folder / "queries.jsonl").write_bytes(QUERIES.encode() + '{"_id": "é"}'.encode("latin-1"))
    with pytest.raises(CorpusError, match=r"queries\.jsonl:4: the line is not UTF-8.*0xe9"):
        load_beir(folder)


def test_a_bad_document_is_named_when_it_is_reached(folder: Path) -> None:
    with (folder / "corpus.jsonl").open("a") as file:
        file.write('{"_id": "c", "title": "no text"}\n')
    documents = load_beir(folder).documents()
    assert documents is not None
    assert [next(documents).id, next(documents).id] == ["a", "b"]
    with pytest.raises(CorpusError, match=r"corpus\.jsonl:3: \"text\" is missing"):
        next(documents)


@pytest.mark.shared_data
@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not there")
def test_real_collections_are_read() -> None:
    scifact = load_beir(SHARED / "scifact")
    assert len(scifact.queries) == 300
    assert sum(len(grades) for grades in scifact.qrels.values()) == 339
    assert splits(SHARED / "scifact") == ["test", "train"]
    for root in sorted(path for path in SHARED.iterdir() if (path / "qrels").is_dir()):
        for split in splits(root):
            beir = load_beir(root, split=split)
            assert list(beir.queries) == list(beir.qrels)
    negative = load_beir(SHARED / "cranfield", split="test_with_minus1")
    assert -1 in {grade for grades in negative.qrels.values() for grade in grades.values()}
