"""The standard library's documentation as a corpus, and the questions that are asked of it."""

from __future__ import annotations

import json
import os
import platform
import re
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest

from retrieval.errors import CorpusError
from retrieval.readers.read import read
from retrieval.readers.stdlib_docs import python_docs
from retrieval.types import Document

WELL_KNOWN = """
shutil.copytree os.path.join json.loads subprocess.run str.split dict.get open print asyncio.run
asyncio.gather random.choice tarfile.open multiprocessing.Pool math.gcd
concurrent.futures.ThreadPoolExecutor unittest.TestCase.assertRaises unittest.mock.patch
pathlib.Path.mkdir pathlib.PurePath.suffix socket.socket.connect sqlite3.connect os.walk
collections.Counter.most_common itertools.chain functools.lru_cache re.Pattern.sub
datetime.datetime.strptime logging.handlers.RotatingFileHandler argparse int.bit_length
list.sort http.server xml.etree.ElementTree.parse KeyError
"""

QUESTIONS = Path(__file__).parent.parent / "fixtures" / "python-docs"


@pytest.fixture(scope="module")
def documents() -> dict[str, Document]:
    return {document.id: document for document in read("python-docs")}


def test_what_there_is(documents: dict[str, Document]) -> None:
    assert 4500 < len(documents) < 7500
    kinds = Counter(document.metadata["kind"] for document in documents.values())
    assert set(kinds) == {"module", "class", "function", "method", "property"}
    assert kinds["method"] > 2000
    assert kinds["function"] > 1000
    assert list(documents) == sorted(documents)
    version = ".".join(platform.python_version_tuple()[:2])
    for document in documents.values():
        assert document.text.strip()
        assert document.source == document.id
        assert document.title.startswith(document.id)
        assert len(document.title) < 160
        assert document.metadata["python"] == version
        module = document.metadata["module"]
        assert module == "builtins" or document.id.startswith(module)


def test_names_are_those_a_user_types(documents: dict[str, Document]) -> None:
    for name in WELL_KNOWN.split():
        assert name in documents, name
    assert "posixpath.join" not in documents
    assert "io.open" not in documents
    assert "asyncio.runners.run" not in documents


def test_what_is_left_out(documents: dict[str, Document]) -> None:
    for name, document in documents.items():
        assert not any(part.startswith("_") for part in name.split(".")), name
        assert not re.search(r"\bat 0x[0-9a-f]{4}", document.title + document.text), name
    modules = {str(document.metadata["module"]).split(".")[0] for document in documents.values()}
    assert modules <= {*sys.stdlib_module_names, "builtins"}
    assert modules.isdisjoint({"test", "antigravity", "this", "idlelib", "tkinter", "distutils"})
    # An inherited docstring is its base's: bool.bit_length is int.bit_length.
    assert "bool.bit_length" not in documents
    assert "logging.FileHandler.setFormatter" not in documents


def test_how_a_document_reads(documents: dict[str, Document]) -> None:
    copytree = documents["shutil.copytree"]
    assert copytree.title.startswith("shutil.copytree(src, dst, symlinks=False, ")
    assert "Recursively copy a directory tree" in copytree.text
    assert "Function copytree in module shutil: " in copytree.text
    assert copytree.metadata["module"] == "shutil"
    assert documents["str.split"].title == "str.split(sep=None, maxsplit=-1)"
    assert documents["str.split"].metadata["module"] == "builtins"
    assert "Class ThreadPoolExecutor (thread pool executor) in module concurrent.futures" in (
        documents["concurrent.futures.ThreadPoolExecutor"].text
    )


def test_two_runs_give_the_same(documents: dict[str, Document]) -> None:
    assert list(python_docs()) == list(documents.values())


def test_nothing_is_imported_into_this_process() -> None:
    before = set(sys.modules)
    next(python_docs())
    assert set(sys.modules) - before <= {"subprocess", "selectors", "tempfile", "platform"}


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="lists children through /proc")
def test_stopping_half_way_leaves_no_process() -> None:
    listing = Path(f"/proc/self/task/{threading.get_native_id()}/children")
    before = listing.read_text()
    documents = python_docs()
    next(documents)
    assert listing.read_text() != before
    documents.close()
    assert listing.read_text() == before


@pytest.mark.parametrize("interpreter", ["", "/nowhere/python", "/bin/false"])
def test_without_an_interpreter_the_error_says_so(
    monkeypatch: pytest.MonkeyPatch, interpreter: str
) -> None:
    monkeypatch.setattr(sys, "executable", interpreter)
    with pytest.raises(CorpusError) as caught:
        list(python_docs())
    assert str(caught.value).startswith("python-docs is read by a second run of ")
    assert (interpreter or "the interpreter") in str(caught.value)


def test_a_folder_of_that_name_is_read_as_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "python-docs"
    folder.mkdir()
    (folder / "a.txt").write_text("mine", encoding="utf-8")
    assert [d.text for d in read("./python-docs")] == ["mine"]
    assert [d.text for d in read(Path("python-docs") / "a.txt")] == ["mine"]
    assert os.fspath(Path("./python-docs")) == "python-docs"
    assert [d.text for d in read(Path("python-docs"))] == ["mine"]


# --- the questions --------------------------------------------------------------------------


def _queries() -> list[tuple[str, str]]:
    lines = (QUESTIONS / "queries.jsonl").read_text(encoding="utf-8").splitlines()
    return [(row["_id"], row["text"]) for row in map(json.loads, lines)]


def _answers(split: str) -> dict[str, list[str]]:
    path = QUESTIONS / "qrels" / f"{split}.tsv"
    header, *judged = path.read_text(encoding="utf-8").splitlines()
    assert header == "query-id\tcorpus-id\tscore"
    answers: dict[str, list[str]] = {}
    seen = set()
    for line in judged:
        query, name, score = line.split("\t")
        assert score in ("0", "1")  # looked at, and no answer
        assert (query, name) not in seen
        seen.add((query, name))
        if score == "1":
            answers.setdefault(query, []).append(name)
    return answers


# Names that got their docstring in a later patch release of Python 3.11 than Debian 12's 3.11.2.
UNDOCUMENTED_AT_FIRST = {"asyncio.Timeout"}


@pytest.mark.parametrize(("split", "questions", "most"), [("test", 74, 9), ("dev", 80, 4)])
def test_questions_have_answers_that_exist(
    documents: dict[str, Document], split: str, questions: int, most: int
) -> None:
    texts = dict(_queries())
    answers = _answers(split)
    for query, names in answers.items():
        for name in names:
            if name in UNDOCUMENTED_AT_FIRST and sys.version_info < (3, 11, 7):
                continue
            assert name in documents, name
            # A module may be named for its subject: who asks about JSON has to say so.
            if documents[name].metadata["kind"] != "module":
                assert name not in texts[query], f"{name} is given away by its question"
    assert len(answers) == questions
    assert all(1 <= len(names) == len(set(names)) <= most for names in answers.values())
    modules = {
        documents[n].metadata["module"]
        for names in answers.values()
        for n in names
        if n in documents
    }
    assert len(modules) >= 45


def test_settings_are_chosen_on_other_questions_than_they_are_measured_on() -> None:
    test, dev = _answers("test"), _answers("dev")
    assert set(test).isdisjoint(dev)
    assert all(query.startswith("dev-") == (query in dev) for query in {**test, **dev})
    shared = {n for names in test.values() for n in names} & {n for ns in dev.values() for n in ns}
    assert not shared
    queries = _queries()
    assert len(queries) == len(dict(queries)) == len({text for _, text in queries})
    assert dict(queries).keys() == {**test, **dev}.keys()
