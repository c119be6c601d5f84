import gzip
import json
from pathlib import Path

import pytest

from retrieval.errors import CorpusError, InvalidInput
from retrieval.training.data.flag_jsonl import read_flag_jsonl, write_flag_jsonl
from retrieval.training.examples import TrainingExample

FULL = TrainingExample(
    query="几点关门？",
    positives=("十点。", "Ten o’clock\u2028sharp"),
    negatives=("Ouvert le matin.",),
    positive_scores=(0.9, 1.0),
    negative_scores=(-3.5,),
    prompt="",
    query_id="q1",
    positive_ids=("a", "b"),
    negative_ids=("c",),
)
PLAIN = TrainingExample("when?", ("At ten.",))


def _read(path: Path, text: str | bytes) -> list[TrainingExample]:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return list(read_flag_jsonl(path))


def test_what_is_written_is_read_and_written_again_the_same(tmp_path: Path) -> None:
    first, second = tmp_path / "one.jsonl", tmp_path / "two.json"
    assert write_flag_jsonl(first, [FULL, PLAIN]) == 2
    read = list(read_flag_jsonl(first))
    assert read == [
        TrainingExample(**{name: getattr(FULL, name) for name in FULL.__slots__[:-1]}, where=where)
        if one is FULL
        else TrainingExample("when?", ("At ten.",), where=where)
        for one, where in ((FULL, f"{first}:1"), (PLAIN, f"{first}:2"))
    ]
    write_flag_jsonl(second, read)
    assert second.read_bytes() == first.read_bytes()
    assert b'"neg": []' in first.read_bytes()
    assert list(json.loads(first.read_text().splitlines()[-1])) == ["query", "pos", "neg"]


def test_files_as_others_write_them(tmp_path: Path) -> None:
    plain = b'\xef\xbb\xbf{"query": "a", "pos": ["b"], "neg": null, "pos_scores": null}\r\n\r\n'
    (one,) = _read(tmp_path / "windows.jsonl", plain)
    assert (one.negatives, one.positive_scores, one.where) == (
        (),
        None,
        f"{tmp_path}/windows.jsonl:1",
    )
    ids = '{"query": "a", "pos": ["b"], "query_id": 7, "pos_id": [0], "neg_id": []}'
    (one,) = _read(tmp_path / "ids.jsonl", ids)
    assert (one.query_id, one.positive_ids) == ("7", ("0",))


def test_a_folder_and_compressed_files(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_text('{"query": "2", "pos": ["x"]}\n')
    (tmp_path / "c.json").write_text('{"query": "3", "pos": ["x"]}')
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"query": "1", "pos": ["x"]}\n'))
    (tmp_path / "readme.md").write_text("no data")
    assert [one.query for one in read_flag_jsonl(tmp_path)] == ["1", "2", "3"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorpusError, match=r"holds no \.jsonl file"):
        list(read_flag_jsonl(tmp_path / "empty"))


def test_keys_that_are_not_used_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    rows = [{"query": "a", "pos": ["b"]}, {"query": "c", "pos": ["d"], "type": "symmetric_sts"}]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in [*rows, rows[1]]))
    notices: list[str] = []
    assert len(list(read_flag_jsonl(path, on_notice=notices.append))) == 3
    assert notices == [f"{path}: the key 'type' is not used (2 ×, first at {path}:2)."]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"pos": ["b"]}', '"query" is missing; the line has the keys pos'),
        ('{"query": 3, "pos": ["b"]}', '"query" is 3, expected a text'),
        ('{"query": " ", "pos": ["b"]}', '"query" is blank'),
        ('{"query": "a"}', '"pos" is missing'),
        ('{"query": "a", "pos": []}', '"pos" is an empty list'),
        ('{"query": "a", "pos": "b"}', '"pos" is a str, expected a list'),
        ('{"query": "a", "pos": ["b", "\\u3000"]}', '"pos"[1] is blank'),
        ('{"query": "a", "pos": ["b"], "neg": [null]}', '"neg"[0] is null, expected a text'),
        ('{"query": "a", "pos": ["b"], "neg": {"c": 1}}', '"neg" is a dict'),
        (
            '{"query": "a", "pos": ["b"], "pos_scores": [1, 2]}',
            '"pos_scores" has 2 values for 1 texts in "pos"',
        ),
        ('{"query": "a", "pos": ["b"], "neg": ["c"], "neg_scores": []}', '"neg_scores" has 0'),
        ('{"query": "a", "pos": ["b"], "pos_scores": 1}', '"pos_scores" is 1, expected a list'),
        ('{"query": "a", "pos": ["b"], "pos_scores": [NaN]}', '"pos_scores"[0] is NaN'),
        ('{"query": "a", "pos": ["b"], "pos_scores": [1e999]}', '"pos_scores"[0] is Infinity'),
        ('{"query": "a", "pos": ["b"], "pos_scores": [true]}', '"pos_scores"[0] is true'),
        ('{"query": "a", "pos": ["b"], "prompt": ["x"]}', '"prompt" is ["x"], expected a text'),
        ('{"query": "a", "pos": ["b"], "query_id": ""}', '"query_id" is blank'),
        ('{"query": "a", "pos": ["b"], "pos_id": [1.5]}', '"pos_id"[0] is 1.5'),
        ('{"query": "a\\ud800", "pos": ["b"]}', '"query" has a lone surrogate at character 1'),
        ('{"query": "a", "query": "b", "pos": ["b"]}', "the key 'query' is there twice"),
        ('{"query": "a", "pos": ["b"]', "the line is not JSON"),
        ('["a", "b"]', "the line is a JSON list, expected an object"),
        ("[" * 200_000, "the line is not JSON"),
    ],
)
def test_mistakes_name_line_and_field(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "x.jsonl"
    with pytest.raises(CorpusError) as caught:
        _read(path, f'{{"query": "a", "pos": ["b"]}}\n{line}\n')
    assert caught.value.problem.startswith(f"{path}:2: {said}")
    assert caught.value.fix


def test_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"x\.jsonl:1: the line is not UTF-8"):
        _read(tmp_path / "x.jsonl", '{"query": "für", "pos": ["b"]}'.encode("latin-1"))


def test_writing_leaves_an_older_file_where_it_fails(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    write_flag_jsonl(path, [PLAIN])
    before = path.read_bytes()
    with pytest.raises(InvalidInput, match="example 2 has a lone surrogate"):
        write_flag_jsonl(path, [PLAIN, TrainingExample("a", ("\udc80",))])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(InvalidInput, match="FlagEmbedding would pass over it"):
        write_flag_jsonl(tmp_path / "x.jsonl.gz", [PLAIN])
    with pytest.raises(InvalidInput, match="no folder"):
        write_flag_jsonl(tmp_path / "none" / "x.jsonl", [PLAIN])
