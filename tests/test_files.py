"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from retrieval import _files as files
from retrieval.errors import DiskFull, RetrievalError, StoreDenied, StoreFault


def fill(target: Path) -> None:
    with files.atomic_write(target) as file:
        file.write("new\né")


def fill_bytes(target: Path) -> None:
    with files.atomic_write(target, "wb") as file:
        file.write("new\né".encode())


def fill_path(target: Path) -> None:
    with files.atomic_path(target) as path:
        path.write_bytes("new\né".encode())


def write_while(target: Path, meanwhile: Callable[[], object]) -> None:
    with files.atomic_write(target) as file:
        file.write("half")
        meanwhile()


@pytest.mark.parametrize("write", [fill, fill_bytes, fill_path])
@pytest.mark.parametrize("old", [None, "old"])
def test_a_file_takes_its_place_when_the_block_ends(
    tmp_path: Path, write: Callable[[Path], None], old: str | None
) -> None:
    target = tmp_path / "file.json"
    if old is not None:
        target.write_text(old)
    write(target)
    assert target.read_bytes() == "new\né".encode()
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("step", ["block", "fsync", "replace", "open"])
def test_what_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "broken disk")

    target = tmp_path / "file"
    target.write_text("old")
    if step != "block":
        monkeypatch.setattr(Path if step == "replace" else os, step, fail)
    with pytest.raises(OSError, match="broken disk"):
        write_while(target, fail if step == "block" else lambda: None)
    monkeypatch.undo()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_reader_sees_the_old_file_until_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")
    with files.atomic_write(target) as file:
        file.write("new")
        file.flush()
        assert target.read_text() == "old"
    assert target.read_text() == "new"


def test_file_and_folder_are_synced_in_this_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []

    def note(handle: int) -> None:
        kind = os.fstat(handle).st_mode
        there = (tmp_path / "file").exists()
        synced.append(f"{'folder' if stat.S_ISDIR(kind) else 'file'} {there}")

    monkeypatch.setattr(os, "fsync", note)
    fill(tmp_path / "file")
    assert synced == ["file False", "folder True"]


@pytest.mark.parametrize(("permissions", "expected"), [(0o666, 0o644), (0o600, 0o600)])
def test_permissions_hold_from_the_first_byte(
    tmp_path: Path, permissions: int, expected: int
) -> None:
    before = os.umask(0o022)
    try:
        with files.atomic_write(tmp_path / "file", permissions=permissions):
            (draft,) = tmp_path.iterdir()
            assert stat.S_IMODE(draft.stat().st_mode) == expected
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == expected


def test_a_file_system_that_cannot_sync_folders_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: int) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", refuse)
    files.sync_folder(tmp_path)


@pytest.mark.parametrize(
    ("number", "kind", "message"),
    [
        (errno.EACCES, StoreDenied, "no permission to write it"),
        (errno.EROFS, StoreDenied, "no permission to write it"),
        (errno.ENOSPC, DiskFull, "no space left to write it"),
        (errno.EDQUOT, DiskFull, "no space left to write it"),
        (errno.ENOTDIR, StoreFault, "part of that path is a file"),
        (errno.EIO, StoreFault, "could not write it"),
    ],
)
def test_errors_of_the_system_become_the_librarys(
    number: int, kind: type[RetrievalError], message: str
) -> None:
    with pytest.raises(kind, match=message), files.os_errors("write it"):
        raise OSError(number, os.strerror(number))
