"""Texts and pairs of three length mixes, the same in every run.

short: 8 to 32 tokens. real: the passages of SciFact (title and abstract, 300 tokens on average) and
its queries. long: 512 tokens, cut from longer ones. Where SciFact is not available, `real` is made
of the standard library's docstrings, log-normal from 20 to 500 tokens, and says so.
"""

from __future__ import annotations

import importlib
import inspect
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from _shapes import starter_files

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Mix = Literal["short", "real", "long"]
MIXES: tuple[Mix, ...] = ("short", "real", "long")
MAX_LENGTH = 512

SHARED_DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data"

_MODULES = ("argparse", "asyncio", "collections", "datetime", "difflib", "functools", "inspect")
_MODULES += ("json", "logging", "multiprocessing", "os", "pathlib", "random", "re", "shutil")
_MODULES += ("statistics", "string", "subprocess", "tempfile", "threading", "typing", "unittest")


@dataclass(frozen=True, slots=True)
class Source:
    """Where texts come from: `name` for the report, queries and passages."""

    name: str
    passages: list[str]
    queries: list[str]


def source(data: Path) -> Source:
    """SciFact below `data`, or docstrings."""
    folder = data / "scifact"
    if not (folder / "corpus.jsonl").is_file():
        return Source("docstrings", *_docstring_passages())
    documents = _json_lines(folder / "corpus.jsonl")
    passages = [f"{line.get('title', '')} {line['text']}".strip() for line in documents]
    queries = [line["text"] for line in _json_lines(folder / "queries.jsonl")]
    return Source("SciFact", passages, queries)


def texts(origin: Source, mix: Mix, count: int, *, seed: int = 0) -> list[str]:
    """`count` texts of a mix; a text may come twice where the source has fewer."""
    choice = random.Random(seed)
    if mix == "real":
        return _draw(origin.passages, count, choice)
    sizes = [choice.randint(8, 32) if mix == "short" else MAX_LENGTH for _ in range(count)]
    return _slices(origin, [size - 2 for size in sizes], choice)


def of_length(origin: Source, tokens: int, count: int, *, seed: int = 0) -> list[str]:
    """`count` texts of `tokens` tokens, special tokens not counted."""
    return _slices(origin, [tokens] * count, random.Random(seed))


def pairs(
    origin: Source, mix: Mix, count: int, *, queries: int, seed: int = 0
) -> list[tuple[str, str]]:
    """`count` pairs of `queries` queries, each with as many passages as the others."""
    asked = _draw(origin.queries, queries, random.Random(seed + 1))
    passages = texts(origin, mix, count, seed=seed)
    return [(asked[index * queries // count], text) for index, text in enumerate(passages)]


def tokenizer() -> Tokenizer:
    from tokenizers import Tokenizer

    result = Tokenizer.from_file(str(starter_files() / "tokenizer.json"))
    result.no_truncation()
    result.no_padding()
    return result


def _slices(origin: Source, sizes: list[int], choice: random.Random) -> list[str]:
    """Texts of about that many tokens, from running text; never fewer where a model cuts at 512."""
    running = " ".join(_draw(origin.passages, min(len(origin.passages), 400), choice))
    encoding = tokenizer().encode(running, add_special_tokens=False)
    starts = [i for i, token in enumerate(encoding.tokens) if not token.startswith("##")]
    offsets = encoding.offsets
    spare = 12  # a cut inside a word is read as other tokens; long texts must not fall short
    result = []
    for size in sizes:
        wanted = size + spare if size + 2 >= MAX_LENGTH else size
        first = choice.choice(starts[: -2 * MAX_LENGTH] or starts[:1])
        last = min(first + wanted, len(offsets)) - 1
        result.append(running[offsets[first][0] : offsets[last][1]])
    return result


def _draw(values: list[str], count: int, choice: random.Random) -> list[str]:
    if count <= len(values):
        return choice.sample(values, count)
    return [*values, *(choice.choice(values) for _ in range(count - len(values)))]


def _docstring_passages() -> tuple[list[str], list[str]]:
    words = [word for text in docstrings() for word in text.split()]
    choice = random.Random(0)
    passages = []
    for _ in range(2000):
        size = int(min(max(choice.lognormvariate(4.2, 0.7), 14), 330))  # 1.5 tokens a word
        first = choice.randrange(len(words) - 340)
        passages.append(" ".join(words[first : first + size]))
    firsts = [choice.randrange(len(words) - 20) for _ in range(300)]
    return passages, [" ".join(words[f : f + choice.randint(4, 14)]) for f in firsts]


def docstrings() -> list[str]:
    """Real words, on every machine: the docstrings of the standard library."""
    found: dict[str, None] = {}
    for name in _MODULES:
        module = importlib.import_module(name)
        for value in (getattr(module, name) for name in module.__all__):
            if inspect.isclass(value) or inspect.isfunction(value):
                members = [value, *vars(value).values()] if inspect.isclass(value) else [value]
                docs = (getattr(member, "__doc__", None) for member in members)
                long = (doc for doc in docs if isinstance(doc, str) and len(doc.split()) >= 5)
                found.update(dict.fromkeys(long))
    return list(found)


def _json_lines(path: Path) -> list[dict[str, str]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line.strip()]
