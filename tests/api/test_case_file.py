"""Files of cases as people write them, and what is refused in them."""

from __future__ import annotations

from pathlib import Path

import pytest

from retrieval.api.case_file import load_cases
from retrieval.errors import CorpusError, InvalidInput
from retrieval.evaluation.cases import Wanted
from retrieval.types import Fusion

ONE = '[[case]]\nquestion = "soup?"\nmust_contain = ["menu.md"]\n'


def write(folder: Path, text: str, *, encoding: str = "utf-8") -> Path:
    path = folder / "my cases.toml"
    path.write_bytes(text.encode(encoding))
    return path


def refused(folder: Path, text: str) -> str:
    path = write(folder, text)
    with pytest.raises(CorpusError) as caught:
        load_cases(path)
    assert str(path) in str(caught.value)
    return str(caught.value).replace(str(path), "FILE")


def test_every_key(tmp_path: Path) -> None:
    text = """
    collection = "handbook"
    store = "a store"
    within = 3
    min_recall = 0.5
    max_ms = 900
    mode = "dense"
    rerank = false
    where = {lang = "en", date = {gte = 2024-01-31}}
    fusion = {method = "rrf", k = 60, weights = [2, 1]}

    [[case]]
    name = "one"
    question = "soup?"
    must_contain = ["menu.md", "text: of the day ", {document = "a b.md", text = "bread"}]
    must_not_contain = {document = "text:odd id"}

    [[case]]
    question = "  rain\\n tomorrow? "
    nothing_relevant = true
    min_relevance = 0.4
    within = 1
    mode = "sparse"
    where = "team=finance"
    min_recall = 1
    tenant = "acme"

    [quality]
    judgements = "judged set"
    split = "dev"
    measure = "MRR@10"
    at_least = 0.6
    mode = "hybrid"
    """
    file = load_cases(write(tmp_path, text))
    assert (file.collection, file.store) == ("handbook", str(tmp_path / "a store"))
    one, two = file.cases
    assert one.must_contain == (
        Wanted("menu.md"), Wanted(text="of the day"), Wanted("a b.md", "bread"),
    )  # fmt: skip
    assert one.must_not_contain == (Wanted("text:odd id"),)
    assert (one.within, one.min_recall, one.max_ms) == (3, 0.5, 900)
    assert one.options == {
        "top_k": 3, "mode": "dense", "rerank": False,
        "where": {"lang": "en", "date": {"gte": "2024-01-31"}},
        "fusion": Fusion("rrf", 60, (2, 1, 1.0)),
    }  # fmt: skip
    assert (two.name, two.within, two.min_recall) == ("rain tomorrow?", 1, 1)
    assert two.options["where"] == {"team": "finance"}
    assert (two.options["mode"], two.options["tenant"]) == ("sparse", "acme")
    (quality,) = file.quality
    assert quality.judgements == tmp_path / "judged set"
    assert (quality.split, quality.measure, quality.at_least) == ("dev", "MRR@10", 0.6)
    assert quality.options["mode"] == "hybrid"
    assert "top_k" not in quality.options


def test_a_file_from_windows(tmp_path: Path) -> None:
    text = (
        "[[case]]\nquestion = 'Wie beantrage ich Urlaub für Müller?'\n"
        "must_contain = ['handbuch\\urlaub.md']\n\n"
        "[[case]]\nquestion = '差旅费多久报销？'\nmust_contain = ['text:十天内']\n"
    )
    file = load_cases(write(tmp_path, "\ufeff" + text.replace("\n", "\r\n")))
    assert [case.question for case in file.cases] == [
        "Wie beantrage ich Urlaub für Müller?", "差旅费多久报销？",
    ]  # fmt: skip
    assert file.cases[0].must_contain == (Wanted("handbuch\\urlaub.md"),)


def test_names_are_made_different(tmp_path: Path) -> None:
    two = ONE + ONE + ONE.replace("[[case]]", '[[case]]\nname = "soup? (2)"')
    names = [case.name for case in load_cases(write(tmp_path, two)).cases]
    assert names == ["soup?", "soup? (2)", "soup? (2) (2)"]


def test_options_given_are_between_the_files_and_a_cases_own(tmp_path: Path) -> None:
    path = write(tmp_path, 'mode = "dense"\n' + ONE + ONE + 'mode = "sparse"\nwithin = 2\n')
    file = load_cases(path, mode="hybrid", top_k=9)
    assert [(c.options["mode"], c.within) for c in file.cases] == [("hybrid", 9), ("sparse", 2)]
    with pytest.raises(InvalidInput, match="mode is 'best'"):
        load_cases(path, mode="best")


def test_a_server_is_no_path(tmp_path: Path) -> None:
    path = write(tmp_path, 'store = "http://localhost:6333"\n' + ONE)
    assert load_cases(path).store == "http://localhost:6333"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "FILE has no case"),
        ("within = 3", "FILE has no case"),
        ("[[case]]\nquestion = 'x", "FILE is not TOML: "),
        ("case = 3", "FILE: case is 3, expected tables"),
        ("case = [1]", "FILE: case is [1], expected tables"),
        (ONE + "colour = 1", "FILE: case soup?: there is no key 'colour'"),
        ("colour = 1\n" + ONE, "FILE: there is no key 'colour'"),
        ("offset = 1\n" + ONE, "FILE: there is no key 'offset'"),
        (ONE + "name = 3", "FILE: case 3: name is 3, expected a text"),
        ("[[case]]\nname = 'a'\nmust_contain = ['x']", "FILE: case a: it has no question"),
        ("[[case]]\nquestion = 'a'", "case a: it asks for nothing that could fail"),
        ("[[case]]\nquestion = 'a'\nmust_contain = []", "it asks for nothing that could fail"),
        ("[[case]]\nquestion = 'a'\nmust_contain = [3]", "case a: must_contain has 3, expected"),
        ("[[case]]\nquestion = 'a'\nmust_contain = ['text: ']", "must_contain has {'text': ' '}"),
        ("[[case]]\nquestion = 'a'\nmust_contain = [{id = 'x'}]", "must_contain has {'id': 'x'}"),
        (ONE + "within = 0", "case soup?: within is 0"),
        (ONE + "within = '5'", "case soup?: within is '5'"),
        (ONE + "within = 5\ntop_k = 5", "within and top_k are the same"),
        (ONE + "min_recall = 0", "min_recall is 0, expected a number above 0, at most 1"),
        (ONE + "min_recall = true", "min_recall is True, expected a number"),
        (ONE + "max_ms = -1", "max_ms is -1, expected a number above 0."),
        (ONE + "mode = 'best'", "case soup?: mode is 'best', expected one of dense"),
        (ONE + "where = 3", "case soup?: where is 3, expected a table"),
        (ONE + "where = 'lang'", "case soup?: the filter part 'lang' has no key=value form"),
        (ONE + "tenant = 3", "case soup?: tenant is 3"),
        (ONE + "fusion = {method = 'rrf', depth = 3}", "case soup?: fusion is {'method'"),
        (ONE + "nothing_relevant = 'yes'", "nothing_relevant is 'yes', expected true or false"),
        (ONE + "nothing_relevant = true", "it says nothing_relevant and what it must contain"),
        ("[quality]\nat_least = 0.5", "FILE: quality 1: it has no judgements"),
        ("[quality]\njudgements = 'x'", "FILE: quality 1: it has no at_least"),
        ("[quality]\njudgements = 'x'\nat_least = 60", "at_least is 60, expected a number from 0"),
        ("[quality]\njudgements = 'x'\nat_least = 1\nmeasure = 'best'", "'best'"),
        ("[quality]\njudgements = 'x'\nat_least = 1\nwithin = 3", "no key 'within'"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in refused(tmp_path, text)


def test_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"no\.toml cannot be read"):
        load_cases(tmp_path / "no.toml")
    with pytest.raises(CorpusError, match="cannot be read"):
        load_cases(tmp_path)
    with pytest.raises(CorpusError, match="it is not UTF-8 text"):
        load_cases(write(tmp_path, ONE, encoding="utf-16"))
