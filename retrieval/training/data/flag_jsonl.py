"""FlagEmbedding's training data: a JSON object a line.

    {"query": "…", "pos": ["…"], "neg": ["…"], "pos_scores": [0.9], "neg_scores": [0.1],
     "prompt": "…", "query_id": "…", "pos_id": ["…"], "neg_id": ["…"]}

`query` and `pos` must be there. `neg` may be missing or empty, as it is before mining; scores are
a teacher's; `prompt` is the instruction of this query. The ids are ours, and of some published
files: FlagEmbedding reads past them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from retrieval._files import atomic_write, os_errors
from retrieval._validate import is_number, is_whole_number, surrogate_at
from retrieval.errors import CorpusError, InvalidInput
from retrieval.training.data.rows import Unused, bad, json_objects
from retrieval.training.examples import TrainingExample

SUFFIXES = (".jsonl", ".json")
"""What FlagEmbedding's trainers read; files of other names they pass over."""

_KEYS = frozenset(
    {
        "query", "pos", "neg", "pos_scores", "neg_scores", "prompt", "query_id", "pos_id", "neg_id"
    }
)  # fmt: skip


def read_flag_jsonl(
    path: str | os.PathLike[str], *, on_notice: Callable[[str], None] | None = None
) -> Iterator[TrainingExample]:
    """The examples of a file, or of every such file in a folder, line by line.

    Args:
        path: a `.jsonl` or `.json` file, which may be compressed (`….gz`), or a folder of them,
            read in the order of their names.
        on_notice: gets a sentence on each key that is there and not used, when its file ends.

    Raises:
        CorpusError: the file cannot be read, the folder has none, or a line is bad; the message
            names it as path:line, and the field.

    Example:
        >>> from pathlib import Path
        >>> from retrieval.training.data.flag_jsonl import read_flag_jsonl
        >>> _ = Path("own.jsonl").write_text('{"query": "when?", "pos": ["At ten."], "neg": []}')
        >>> [(one.query, one.positives, one.where) for one in read_flag_jsonl("own.jsonl")]
        [('when?', ('At ten.',), 'own.jsonl:1')]
    """
    root = Path(path)
    for file in files_of(root) if root.is_dir() else [root]:
        yield from _read_file(file, on_notice)


def write_flag_jsonl(path: str | os.PathLike[str], examples: Iterable[TrainingExample]) -> int:
    """Write examples; the same examples are the same bytes.

    The file appears whole or not at all. `neg` is always written; the other keys where they are
    known.

    Args:
        path: ends in `.jsonl` or `.json`; its folder must exist.
        examples: each goes to disk as it comes.

    Returns:
        How many were written.

    Raises:
        InvalidInput: as `check_target`, or a text is not Unicode.
        DiskFull, StoreDenied, StoreFault: it cannot be written; an older file is unchanged.

    Example:
        >>> from retrieval.training.data.flag_jsonl import write_flag_jsonl
        >>> from retrieval.training.examples import TrainingExample
        >>> write_flag_jsonl("two.jsonl", [TrainingExample("when?", ("At ten.",))])
        1
    """
    target = Path(path)
    check_target(target)
    number = 0
    with os_errors(f"write {target}"), atomic_write(target) as file:
        for number, example in enumerate(examples, start=1):
            line = json.dumps(_as_record(example), ensure_ascii=False)
            if surrogate_at(line) is not None:
                raise InvalidInput(
                    f"{example.where or f'example {number}'} has a lone surrogate, which is not "
                    "Unicode text",
                    fix="Correct its texts.",
                )
            file.write(f"{line}\n")
    return number


def check_target(target: Path) -> None:
    """Refuse what could not be written, or would not be read.

    Raises:
        InvalidInput: it is a folder, its folder does not exist, or FlagEmbedding would pass over a
            file of that name.
    """
    if target.suffix not in SUFFIXES:
        raise InvalidInput(
            f"{target} is to be written as FlagEmbedding's JSONL, and its name does not end in "
            ".jsonl, so that FlagEmbedding would pass over it",
            fix=f"Write it to {target.name}.jsonl, for example.",
        )
    if target.is_dir() or not target.parent.is_dir():
        what = "is a folder" if target.is_dir() else f"would lie in {target.parent}, no folder"
        raise InvalidInput(f"{target} {what}", fix="Name a file in a folder that exists.")


def files_of(folder: Path) -> list[Path]:
    """The files of such examples in a folder, in the order of their names.

    Raises:
        CorpusError: there is none.
    """
    names = (*SUFFIXES, *(f"{one}.gz" for one in SUFFIXES))
    found = sorted(one for one in folder.iterdir() if one.name.endswith(names) and one.is_file())
    if not found:
        raise CorpusError(
            f"{folder} holds no .jsonl file", fix="Give a file, or a folder that has one."
        )
    return found


def _read_file(path: Path, on_notice: Callable[[str], None] | None) -> Iterator[TrainingExample]:
    unused = Unused()
    for where, record in json_objects(path):
        unused.count(record.keys() - _KEYS, where)
        yield _example(record, where)
    if on_notice is not None:
        for sentence in unused.sentences("key"):
            on_notice(f"{path}: {sentence}")


def _example(record: dict[str, Any], where: str) -> TrainingExample:
    if record.get("query") is None:
        found = ", ".join(sorted(record)) or "none"
        bad(where, f'"query" is missing; the line has the keys {found}', "Write the line's query.")
    query = _text(record["query"], where, '"query"')
    positives = _texts(record.get("pos"), where, "pos")
    if not positives:
        bad(
            where,
            '"pos" is an empty list' if "pos" in record else '"pos" is missing',
            "Name a passage that answers the query, or remove the line.",
        )
    negatives = _texts(record.get("neg"), where, "neg")
    prompt = record.get("prompt")
    if prompt is not None:
        prompt = _text(prompt, where, '"prompt"', blank=True)
    query_id = record.get("query_id")
    return TrainingExample(
        query=query,
        positives=positives,
        negatives=negatives,
        positive_scores=_scores(record, "pos", len(positives), where),
        negative_scores=_scores(record, "neg", len(negatives), where),
        prompt=prompt,
        query_id="" if query_id is None else _id(query_id, where, '"query_id"'),
        positive_ids=_ids(record, "pos", len(positives), where),
        negative_ids=_ids(record, "neg", len(negatives), where),
        where=where,
    )


def _texts(value: Any, where: str, key: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        bad(
            where,
            f'"{key}" is a {type(value).__name__}, expected a list of texts',
            f'Write it as "{key}": ["…"].',
        )
    return tuple(_text(one, where, f'"{key}"[{at}]') for at, one in enumerate(value))


def _text(value: Any, where: str, field: str, *, blank: bool = False) -> str:
    if not isinstance(value, str):
        bad(
            where,
            f"{field} is {_shown(value)}, expected a text",
            "Write it in quotation marks, or remove it.",
        )
    if not value.strip() and not blank:
        bad(where, f"{field} is blank", "Write its text, or remove it.")
    if (place := surrogate_at(value)) is not None:
        bad(
            where,
            f"{field} has a lone surrogate at character {place}, which is not Unicode text",
            "Write the character itself, or remove it.",
        )
    return value


def _scores(record: dict[str, Any], of: str, length: int, where: str) -> tuple[float, ...] | None:
    scores = _beside(record, f"{of}_scores", of, length, where)
    if scores is None:
        return None
    for at, score in enumerate(scores):
        if not is_number(score):
            bad(
                where,
                f'"{of}_scores"[{at}] is {_shown(score)}, expected a finite number',
                "Have the teacher score the pair again, or remove the scores.",
            )
    return tuple(float(score) for score in scores)


def _ids(record: dict[str, Any], of: str, length: int, where: str) -> tuple[str, ...]:
    key = f"{of}_id"
    ids = _beside(record, key, of, length, where)
    return tuple(_id(one, where, f'"{key}"[{at}]') for at, one in enumerate(ids or ()))


def _beside(record: dict[str, Any], key: str, of: str, length: int, where: str) -> list[Any] | None:
    """A list that has a value for each text of another; None where it is not there."""
    value = record.get(key)
    if value is None:
        return None
    if not isinstance(value, list):
        bad(where, f'"{key}" is {_shown(value)}, expected a list', f'One value for each "{of}".')
    if len(value) != length:
        bad(
            where,
            f'"{key}" has {len(value)} values for {length} texts in "{of}"',
            f'Give one for each "{of}", in its order, or leave "{key}" out.',
        )
    return value


def _id(value: Any, where: str, field: str) -> str:
    if is_whole_number(value):
        return str(value)
    return _text(value, where, field)


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=True)[:80]


def _as_record(example: TrainingExample) -> dict[str, Any]:
    known: dict[str, Any] = {"query_id": example.query_id} if example.query_id else {}
    known |= {
        "query": example.query,
        "pos": list(example.positives),
        "neg": list(example.negatives),
    }
    for key, scores in (
        ("pos_scores", example.positive_scores),
        ("neg_scores", example.negative_scores),
    ):
        if scores is not None:
            known[key] = [float(one) for one in scores]
    if example.prompt is not None:
        known["prompt"] = example.prompt
    for key, ids in (("pos_id", example.positive_ids), ("neg_id", example.negative_ids)):
        if ids:
            known[key] = list(ids)
    return known
