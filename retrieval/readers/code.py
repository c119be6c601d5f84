"""Source code and configuration: as they are, fenced, so that a comment is no heading."""

from __future__ import annotations

import re
from collections.abc import Callable

from retrieval.readers.files import decode
from retrieval.readers.text import Content

LANGUAGES = {
    ".py": "python", ".pyi": "python", ".js": "javascript", ".mjs": "javascript",
    ".cjs": "javascript", ".jsx": "jsx", ".ts": "typescript", ".tsx": "tsx", ".java": "java",
    ".kt": "kotlin", ".kts": "kotlin", ".scala": "scala", ".groovy": "groovy", ".c": "c",
    ".h": "c", ".cc": "cpp", ".cpp": "cpp", ".cxx": "cpp", ".hpp": "cpp", ".cs": "csharp",
    ".fs": "fsharp", ".vb": "vbnet", ".go": "go", ".rs": "rust", ".rb": "ruby", ".php": "php",
    ".swift": "swift", ".m": "objectivec", ".dart": "dart", ".lua": "lua", ".pl": "perl",
    ".pm": "perl", ".r": "r", ".jl": "julia", ".hs": "haskell", ".ex": "elixir", ".exs": "elixir",
    ".erl": "erlang", ".clj": "clojure", ".sql": "sql", ".sh": "shell", ".bash": "shell",
    ".zsh": "shell", ".ps1": "powershell", ".bat": "batch", ".css": "css", ".scss": "scss",
    ".proto": "protobuf", ".graphql": "graphql", ".tf": "terraform", ".vue": "vue",
    ".yaml": "yaml", ".yml": "yaml", ".toml": "toml", ".ini": "ini", ".cfg": "ini",
    ".conf": "ini", ".properties": "properties", ".xml": "xml",
}  # fmt: skip
"""Suffix → what its text is called."""


def parser_of(language: str) -> Callable[[bytes, str | None], Content]:
    """The reader of one language."""

    def parse(data: bytes, encoding: str | None) -> Content:
        found = decode(data, encoding)
        return Content(fenced(found.text, language), "", {"language": language}, notes=found.notes)

    return parse


def fenced(text: str, language: str = "") -> str:
    """A text within marks that it does not hold itself; blank where it is blank."""
    text = text.strip("\n").rstrip()
    if not text.strip():
        return ""
    longest = max((len(run) for run in re.findall("`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"
