"""Training data of any format that people have: `load_examples` finds which one lies there."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from retrieval.errors import CorpusError, InvalidInput
from retrieval.evaluation.flag_embedding import is_flag_embedding
from retrieval.evaluation.lines import existing
from retrieval.training.data.flag_jsonl import read_flag_jsonl
from retrieval.training.data.judged import read_judged
from retrieval.training.data.rows import SUFFIXES, json_objects, suffix_of
from retrieval.training.data.tables import Columns, is_table_of_pairs, read_table
from retrieval.training.examples import TrainingExample

UNDERSTOOD = (
    "What is understood: FlagEmbedding's JSONL (query, pos, neg), a CSV, TSV, JSONL or parquet "
    "file of pairs or triplets (query, positive, negative), a folder of such files, a BEIR folder "
    "or one of FlagEmbedding's evaluation with a training split, a folder of `retrieval judge`, "
    "and with --pairs titles,headings any documents"
)
TRAIN = "train"
_OF_SPLIT = re.compile(r"(train|test|dev|validation|valid|eval)[-_.]", re.IGNORECASE)


def load_examples(
    path: str | os.PathLike[str],
    *,
    split: str = TRAIN,
    columns: Columns | None = None,
    on_notice: Callable[[str], None] | None = None,
) -> list[TrainingExample]:
    """Read training data; the format follows from what lies there.

    Args:
        path: one of these:

            * FlagEmbedding's JSONL, see `retrieval.training.data.flag_jsonl`; its lines stay as
              they are;
            * a table of pairs or triplets, see `retrieval.training.data.tables`; rows of the same
              query become one example;
            * a folder of such files, in it or in its `data`; of those that are named after splits,
              as on the hub (`train-00000-of-00001.parquet`), the split's;
            * a folder that `load_judgements` reads, or a pool, see
              `retrieval.training.data.judged`.
        split: which judgements or files of a folder; a file has none.
        columns: of tables, where the names of their columns do not say what they hold.
        on_notice: gets a sentence on each thing that was left out.

    Returns:
        At least one example; each has a positive.

    Raises:
        CorpusError: nothing that is understood lies there; or a part of it is bad, and the message
            names it as path:line and field.
        InvalidInput: a split of a file.
        MissingExtra: a parquet file, without pyarrow.

    Example:
        >>> from pathlib import Path
        >>> from retrieval.training.data.reading import load_examples
        >>> _ = Path("own.csv").write_text("question,answer\\nwhen?,At ten.\\nwhen?,At noon.\\n")
        >>> load_examples("own.csv")[0].positives
        ('At ten.', 'At noon.')
    """
    examples, dropped = read_examples(path, split=split, columns=columns, on_notice=on_notice)
    if on_notice is not None:
        for reason, number in dropped.items():
            on_notice(f"{path}: dropped {number:,} {reason}.")
    return examples


def read_examples(
    path: str | os.PathLike[str],
    *,
    split: str = TRAIN,
    columns: Columns | None = None,
    on_notice: Callable[[str], None] | None = None,
) -> tuple[list[TrainingExample], Counter[str]]:
    """As `load_examples`, which see, and what was dropped: reason → how many."""
    root = Path(path)
    if not root.exists():
        raise CorpusError(f"{root} is not there", fix=f"{UNDERSTOOD}.")
    own = Columns() if columns is None else columns
    notice = on_notice or (lambda sentence: None)
    if not root.is_dir():
        if split != TRAIN:
            raise InvalidInput(
                f"the split {split!r} was asked for, and {root} is a file, which has no splits",
                fix="Leave the split out, or give the folder that has it.",
            )
        examples, dropped = _read_file(root, own, notice)
    elif _is_judged(root):
        examples, dropped = read_judged(root, split)
    elif files := _files_of(root, split):
        examples, dropped = [], Counter()
        for file in files:
            found, left_out = _read_file(file, own, notice)
            examples += found
            dropped += left_out
    else:  # the judged set in its only sub-folder; or an error that says what was found
        examples, dropped = _read_inner(root, split)
    if not examples:
        raise CorpusError(f"{root} holds no examples", fix="Write a line for each query.")
    return examples, dropped


def _read_file(
    path: Path, columns: Columns, on_notice: Callable[[str], None]
) -> tuple[list[TrainingExample], Counter[str]]:
    suffix = suffix_of(path)
    if suffix not in SUFFIXES:
        raise CorpusError(
            f"{path} has the suffix {suffix or 'none'!r}, expected one of {', '.join(SUFFIXES)}",
            fix=f"{UNDERSTOOD}. A data set of `datasets` is written with Dataset.to_parquet.",
        )
    if suffix not in (".csv", ".tsv", ".parquet"):
        _, first = next(json_objects(path), ("", {})) if not columns.header else ("", {})
        # Of a table `pos` may be a column of texts; in FlagEmbedding's files it is a list of them.
        lists = isinstance(first.get("pos"), list) and not (columns.query or columns.positive)
        if lists or (columns == Columns() and not is_table_of_pairs(first)):
            return list(read_flag_jsonl(path, on_notice=on_notice)), Counter()
    return read_table(path, columns, on_notice)


def _is_judged(root: Path) -> bool:
    beir = existing(root / "queries.jsonl") is not None or (root / "qrels").is_dir()
    return beir or is_flag_embedding(root)


def _read_inner(root: Path, split: str) -> tuple[list[TrainingExample], Counter[str]]:
    inner = [one for one in sorted(root.iterdir()) if one.is_dir() and _is_judged(one)]
    if len(inner) == 1:
        return read_judged(inner[0], split)
    if inner:
        names = ", ".join(one.name for one in inner)
        raise CorpusError(
            f"{root} holds several judged sets: {names}",
            fix=f"Give those that are meant, such as {inner[0]}.",
        )
    found = ", ".join(sorted(one.name for one in root.iterdir())[:8]) or "nothing"
    raise CorpusError(
        f"{root} holds no training data that is understood; found {found}", fix=f"{UNDERSTOOD}."
    )


def _files_of(root: Path, split: str) -> list[Path]:
    """The files of a folder that hold examples of the split, in the order of their names."""
    for folder in (root, root / "data"):
        if not folder.is_dir():
            continue
        files = sorted(
            one for one in folder.iterdir() if one.is_file() and suffix_of(one) in SUFFIXES
        )
        named = {one: _OF_SPLIT.match(one.name) for one in files}
        chosen = [
            one
            for one, of in named.items()
            if (of.group(1).lower() == split if of else split == TRAIN)
        ]
        if files and not chosen:
            there = sorted({of.group(1).lower() for of in named.values() if of})
            raise CorpusError(
                f"{root} has no files of the split {split!r}; it has "
                f"{', '.join(there) or 'none that is named after one'}",
                fix="Ask for one of them, or give the files themselves.",
            )
        if chosen:
            return chosen
    return []
