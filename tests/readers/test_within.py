"""Reading within folders: no link, pipe or exchange of files leads out of them."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from retrieval import read_documents
from retrieval.errors import CorpusError, InvalidInput
from retrieval.ingestion.source_size import SourceSize
from retrieval.readers import opening
from retrieval.types import Problem

SECRET = "root:x:0:0:the secret of this machine"
OUT = "leads out of the folders that may be read"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    (folder / "a.txt").write_text("inside")
    outside = tmp_path / "outside"
    outside.mkdir()
    for name in ("secret.txt", "corpus.jsonl", "secret.csv", "a.txt"):
        (outside / name).write_text(SECRET)
    return folder


def read(source: Path, *within: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Id → text, and the name of what could not be read → why."""
    problems: list[Problem] = []
    found = list(read_documents(source, within=within, on_problem=problems.append))
    assert all(SECRET not in str(document) for document in found)
    assert all(SECRET not in str(problem) for problem in problems)
    named = {os.path.relpath(one.source, source): one.reason for one in problems}
    return {document.id: document.text for document in found}, named


def test_links_that_lead_out_are_problems_and_those_inside_are_followed(root: Path) -> None:
    outside = root.parent / "outside"
    (root / "file.txt").symlink_to(outside / "secret.txt")
    (root / "relative.txt").symlink_to("../outside/secret.txt")
    (root / "missing.txt").symlink_to(outside / "missing.txt")
    (root / "rows.csv").symlink_to(outside / "secret.csv")
    (root / "folder").symlink_to(outside)
    (root / "up").symlink_to("..")
    (root / "top").symlink_to("/")
    (root / "inside.txt").symlink_to(root / "a.txt")
    (root / "hop.txt").symlink_to(root / "file.txt")
    (root / "loop").symlink_to(root)
    (root / "circle.txt").symlink_to(root / "circle.txt")
    (root / "real").mkdir()
    (root / "real" / "b.txt").write_text("deeper")
    (root / "again").symlink_to(root / "real")
    found, problems = read(root, root)
    assert found == {"a.txt": "inside", "inside.txt": "inside", "real/b.txt": "deeper"}
    leads_out = {name for name, reason in problems.items() if OUT in reason}
    assert leads_out == {
        "file.txt", "relative.txt", "missing.txt", "rows.csv", "folder", "up", "top", "hop.txt",
    }  # fmt: skip
    assert set(problems) - leads_out == {"circle.txt"}
    (root / "circle.txt").unlink()
    with pytest.raises(CorpusError, match=OUT):
        list(read_documents(root, within=[root], on_error="raise"))


def test_a_source_that_lies_elsewhere_is_refused_whatever_it_is(root: Path) -> None:
    outside = root.parent / "outside"
    (root / "link").symlink_to(outside)
    (root / "link.txt").symlink_to(outside / "secret.txt")
    sources = [
        outside, outside / "secret.txt", root / "link", root / "link" / "secret.txt",
        root / "link.txt", root / ".." / "outside", outside / "missing", Path("/etc/passwd"),
        Path("/proc/self/root") / outside.relative_to("/"), root.parent / "root2",
    ]  # fmt: skip
    for source in sources:
        with pytest.raises(CorpusError, match=OUT):
            read_documents(source, within=[root])
    with pytest.raises(CorpusError, match="null byte"):
        read_documents(f"{root}/a\0b", within=[root])
    with pytest.raises(CorpusError, match="no file or folder"):
        read_documents(root / "missing", within=[root])
    with pytest.raises(CorpusError, match=OUT):
        read_documents(root, within=[])
    with pytest.raises(InvalidInput, match="a list of folders"):
        read_documents(root, within=str(root))


def test_several_folders_a_file_and_a_link_may_be_what_is_allowed(root: Path) -> None:
    outside = root.parent / "outside"
    link = root.parent / "link"
    link.symlink_to(root)
    (root / "other.txt").symlink_to(outside / "secret.txt")
    assert read(link, link)[0] == read(root, link)[0] == read(link, root)[0] == {"a.txt": "inside"}
    one = list(read_documents(root, within=[root, outside]))
    assert {document.id for document in one} == {"a.txt", "other.txt"}
    (only,) = read_documents(root / "a.txt", within=[root / "a.txt"])
    assert only.text == "inside"


def test_pipes_sockets_and_devices_neither_block_nor_are_read(root: Path) -> None:
    os.mkfifo(root / "pipe.txt")
    (root / "zero.txt").symlink_to("/dev/zero")
    (root / "linked.txt").symlink_to(root / "pipe.txt")
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as unix:
        here = Path.cwd()
        os.chdir(root)  # the path of a socket must be short
        try:
            unix.bind("s.txt")
        finally:
            os.chdir(here)
        found, problems = read(root, root)
        assert found == {"a.txt": "inside"}
        assert OUT in problems.pop("zero.txt")
        assert set(problems) == {"pipe.txt", "linked.txt", "s.txt"}
        assert all("a pipe, socket or device" in reason for reason in problems.values())
        everywhere: list[Problem] = []
        assert [d.id for d in read_documents(root, on_problem=everywhere.append)] == ["a.txt"]
        assert len(everywhere) == 4
    for within in (None, [root]):
        with pytest.raises(CorpusError, match="neither a file nor a folder"):
            read_documents(root / "pipe.txt", within=within)


def test_a_file_that_becomes_a_pipe_before_it_is_opened_does_not_block(root: Path) -> None:
    for within in (None, [root]):
        (root / "b.txt").write_text("a file still")
        problems: list[Problem] = []
        documents = read_documents(root, within=within, on_problem=problems.append)
        assert next(documents).id == "a.txt"
        (root / "b.txt").unlink()
        os.mkfifo(root / "b.txt")
        assert list(documents) == []
        assert "pipe" in problems[0].reason
        (root / "b.txt").unlink()


def test_rows_books_and_corpora_name_no_files(root: Path) -> None:
    outside = root.parent / "outside" / "secret.txt"
    (root / "rows.jsonl").write_text(
        f'{{"id": "../../outside/secret.txt", "text": "row", "path": "{outside}", '
        f'"source": "{outside}"}}\n'
    )
    with zipfile.ZipFile(root / "odd.epub", "w") as book:
        book.writestr("META-INF/container.xml", f"<a><rootfile full-path='{outside}'/></a>")
        book.writestr(str(outside), "nothing")
    beir = root / "beir"
    (beir / "qrels").mkdir(parents=True)
    (beir / "corpus.jsonl").symlink_to(root.parent / "outside" / "corpus.jsonl")
    found, problems = read(root, root)
    assert found == {"a.txt": "inside", "rows.jsonl#../../outside/secret.txt": "row"}
    assert set(problems) == {"odd.epub", "beir/corpus.jsonl"}
    assert OUT in problems["beir/corpus.jsonl"]
    found, problems = read(beir, root)
    assert found == {}
    assert OUT in problems["corpus.jsonl"]


class _Swapping(threading.Thread):
    """Exchanges a path for a link and back, again and again; each exchange is one rename."""

    def __init__(self, path: Path, link_to: Path, spare: Path) -> None:
        super().__init__(daemon=True)
        self.path, self.spare, self.ended = path, spare, threading.Event()
        link = spare.with_name(f"{spare.name}-link")
        link.symlink_to(link_to)
        self.link = link

    def run(self) -> None:
        kept = self.spare
        while not self.ended.is_set():
            self.path.rename(kept)
            self.link.rename(self.path)
            self.path.rename(self.link)
            kept.rename(self.path)


@contextlib.contextmanager
def swapping(path: Path, link_to: Path, aside: Path) -> Iterator[None]:
    aside.mkdir()
    thread = _Swapping(path, link_to, aside / "spare")
    thread.start()
    try:
        yield
    finally:
        thread.ended.set()
        thread.join()


def test_what_is_exchanged_for_a_link_while_it_is_read_never_leaks(root: Path) -> None:
    outside = root.parent / "outside"
    folder = root / "sub"
    folder.mkdir()
    (folder / "a.txt").write_text("inside")
    seen: set[str] = set()
    with (
        swapping(root / "a.txt", outside / "a.txt", root.parent / "one"),
        swapping(folder, outside, root.parent / "two"),
    ):
        for _ in range(400):
            with contextlib.suppress(CorpusError):
                seen |= set(read(root, root)[0].values())
            with contextlib.suppress(CorpusError):
                seen |= set(read(folder, root)[0].values())
    assert seen == {"inside"}


@pytest.mark.parametrize("what", ["file", "folder"])
def test_an_exchange_between_check_and_opening_is_refused(
    root: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = root.parent / "outside"
    folder = root / "sub"
    folder.mkdir()
    (folder / "secret.txt").write_text("inside")
    exchanged = folder if what == "folder" else folder / "secret.txt"
    target = outside if what == "folder" else outside / "secret.txt"
    place = opening.place
    checks = itertools.count()

    def checked(path: Path, within: tuple[Path, ...]) -> tuple[Path, tuple[str, ...]]:
        answer = place(path, within)
        if path.name == "secret.txt" and next(checks) == 1:  # the walk was the first
            exchanged.rename(root.parent / "away")
            exchanged.symlink_to(target)
        return answer

    monkeypatch.setattr(opening, "place", checked)
    found, problems = read(root, root)
    assert found == {"a.txt": "inside"}
    assert problems == {
        "sub/secret.txt": "was exchanged for a link while it was read; run this again"
    }


def test_a_hard_link_is_a_file_like_any_other(root: Path) -> None:
    os.link(root.parent / "outside" / "secret.txt", root / "hard.txt")
    (document,) = read_documents(root / "hard.txt", within=[root])
    assert document.text == SECRET


def test_folders_that_may_be_entered_and_not_listed_are_passed(root: Path) -> None:
    folder = root / "closed"
    folder.mkdir()
    (folder / "a.txt").write_text("known by its name")
    folder.chmod(0o311)
    try:
        (document,) = read_documents(folder / "a.txt", within=[root])
    finally:
        folder.chmod(0o755)
    assert document.text == "known by its name"


def test_what_lies_elsewhere_is_not_counted_either(root: Path) -> None:
    (root / "out").symlink_to("/")
    (root / "out.txt").symlink_to(root.parent / "outside" / "secret.txt")
    size = SourceSize(root, [root])
    size._count()
    assert size._bytes == {".txt": len("inside")}
