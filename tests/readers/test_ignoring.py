"""What lies in a folder beside its documents is left out, and told."""

from __future__ import annotations

from pathlib import Path

from retrieval.readers.read import read
from retrieval.types import Problem


def names_in(root: Path, *, all_files: bool = False) -> tuple[list[str], list[str]]:
    problems: list[Problem] = []
    documents = list(read(root, on_problem=problems.append, all_files=all_files))
    return [one.id for one in documents], [one.reason for one in problems]


def make(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("text", encoding="utf-8")


def test_packages_builds_and_what_git_ignores(tmp_path: Path) -> None:
    make(
        tmp_path,
        "a.md",
        "node_modules/p/README.md",
        "env/pyvenv.cfg",
        "env/lib/x.md",
        "app/package.json",
        "app/dist/bundle.md",
        "app/notes.md",
        "guide/build/how.md",
        "sub/draft.md",
        "sub/kept.md",
        "sub/deep/draft.md",
        "out/x.md",
    )
    (tmp_path / ".gitignore").write_text("draft.md\n/out/\n", encoding="utf-8")
    (tmp_path / "sub" / "deep" / ".gitignore").write_text("!draft.md\n", encoding="utf-8")
    found, problems = names_in(tmp_path)
    assert found == [
        "a.md",
        "app/notes.md",
        "guide/build/how.md",
        "sub/deep/draft.md",
        "sub/kept.md",
    ]
    left_out = [one for one in problems if "left out" in one]
    assert left_out == [
        "is one of 5 that are left out as packages, builds or named by .gitignore; all_files "
        "(--all-files) reads them"
    ]
    everything, problems = names_in(tmp_path, all_files=True)
    assert {"node_modules/p/README.md", "out/x.md", "sub/draft.md"} <= set(everything)
    assert not [one for one in problems if "left out" in one]


def test_the_folder_that_was_given_is_read_whatever_its_name(tmp_path: Path) -> None:
    make(tmp_path, "package.json", "dist/a.md")
    assert names_in(tmp_path / "dist")[0] == ["a.md"]
