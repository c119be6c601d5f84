"""What a folder holds beside its documents: packages, builds, caches, what .gitignore names."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from retrieval.readers.files import Unreadable
from retrieval.readers.opening import Within, opened

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

_NEVER = frozenset({"node_modules", "bower_components", "__pycache__", "site-packages"})
_LOCKS = frozenset({"package-lock.json", "pnpm-lock.yaml", "composer.lock"})
_PACKED = (".min.js", ".min.css")
_VENV = "pyvenv.cfg"
# A folder of such a name is a build's only beside the file that builds it: "build" may be a guide.
_BUILDERS = frozenset(
    {
        *("pyproject.toml", "setup.py", "package.json", "CMakeLists.txt", "Makefile", "pom.xml"),
        *("build.gradle", "build.gradle.kts", "Cargo.toml", "go.mod", "conf.py", "mkdocs.yml"),
    }
)
_BUILDS = frozenset({"build", "dist", "target", "_build", "out", "site"})
_GITIGNORE = ".gitignore"
_MOST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Ignored:
    """What is left out below a folder: the rules of each .gitignore from the root down to it."""

    rules: tuple[tuple[Path, GitIgnoreSpec], ...] = ()

    def of(self, folder: Path, children: Iterable[Path], within: Within) -> Ignored:
        """The same with the rules of a folder below."""
        if not any(child.name == _GITIGNORE for child in children):
            return self
        try:
            with opened(folder / _GITIGNORE, within) as file:
                text = file.read(_MOST_BYTES).decode("utf-8", "replace")
        except Unreadable:
            return self
        from pathspec import GitIgnoreSpec

        return Ignored((*self.rules, (folder, GitIgnoreSpec.from_lines(text.splitlines()))))

    def leaves_out(self, path: Path, *, is_folder: bool, siblings: frozenset[str]) -> bool:
        """Whether a file or folder is no document of its folder."""
        if is_folder and (path.name in _NEVER or _is_venv(path)):
            return True
        if not is_folder and (path.name in _LOCKS or path.name.endswith(_PACKED)):
            return True
        if is_folder and path.name in _BUILDS and not siblings.isdisjoint(_BUILDERS):
            return True
        for folder, rules in reversed(self.rules):
            name = path.relative_to(folder).as_posix() + ("/" if is_folder else "")
            if (found := rules.check_file(name).include) is not None:
                return found
        return False


def _is_venv(path: Path) -> bool:
    try:
        return (path / _VENV).is_file()
    except OSError:
        return False
