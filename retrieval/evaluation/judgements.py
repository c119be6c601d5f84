"""Judged queries of any format that people have: `load_judgements` finds which one lies there."""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path

from retrieval.errors import CorpusError, InvalidInput
from retrieval.evaluation.beir import load_beir
from retrieval.evaluation.flag_embedding import is_flag_embedding, load_flag_embedding
from retrieval.evaluation.judged import JudgedQueries
from retrieval.evaluation.lines import existing
from retrieval.evaluation.own_file import SUFFIXES, load_own_file
from retrieval.evaluation.topics import load_topics

UNDERSTOOD = (
    "What is understood: a BEIR folder (queries.jsonl, qrels/SPLIT.tsv), a folder of "
    "FlagEmbedding's evaluation (SPLIT_queries.jsonl, SPLIT_qrels.jsonl), a file of TREC topics "
    "with --qrels FILE, and a CSV, TSV or JSONL file with the columns query and relevant"
)
_MOST_NAMED = 8


def load_judgements(
    path: str | os.PathLike[str],
    split: str = "test",
    *,
    qrels: str | os.PathLike[str] | None = None,
) -> JudgedQueries:
    """Read queries and judgements; the format follows from what lies there.

    Args:
        path: one of these:

            * a folder in BEIR layout, see `retrieval.evaluation.beir`;
            * a folder of FlagEmbedding's evaluation, see `retrieval.evaluation.flag_embedding`;
              or a folder whose only sub-folder is one of these two;
            * a file of TREC topics, see `retrieval.evaluation.topics`, with its `qrels`;
            * a CSV, TSV or JSONL file of one's own, see `retrieval.evaluation.own_file`. What it
              names as relevant must be found in a collection by `resolve` before it is measured
              against.
        split: of a folder; a file has none.
        qrels: a file of judgements, see `retrieval.evaluation.trec`; with a BEIR folder, in place
            of its own.

    Raises:
        CorpusError: nothing that is understood lies there; or a file of it is missing or bad, and
            then the message names it as path:line.
        InvalidInput: an argument that the format has no use for.

    Example:
        >>> from pathlib import Path
        >>> _ = Path("own.csv").write_text("query,relevant\\nwhen does it close?,rules.md\\n")
        >>> load_judgements("own.csv").qrels
        {'2': {'rules.md': 1}}
    """
    root = Path(path)
    if root.is_dir():
        return _load_folder(root, split, qrels)
    if not root.exists():
        raise CorpusError(f"{root} is not there", fix=f"{UNDERSTOOD}.")
    if split != "test":
        raise InvalidInput(
            f"the split {split!r} was asked for, and {root} is a file, which has no splits",
            fix="Leave the split out, or give the folder that has it.",
        )
    if qrels is not None:
        return load_topics(root, Path(qrels))
    if root.name.removesuffix(".gz").lower().endswith(SUFFIXES):
        return load_own_file(root)
    raise CorpusError(
        f"{root} is a file without judgements: neither a table ({', '.join(SUFFIXES)}), nor were "
        "judgements given beside it",
        fix=f"{UNDERSTOOD}.",
    )


def _load_folder(root: Path, split: str, qrels: str | os.PathLike[str] | None) -> JudgedQueries:
    if _is_beir(root):
        if qrels is not None and split != "test":
            raise InvalidInput(
                f"the split {split!r} was asked for, and judgements ({qrels}) in its place",
                fix="Give one of the two.",
            )
        return load_beir(root, split, qrels=qrels)
    if is_flag_embedding(root):
        if qrels is not None:
            raise InvalidInput(
                f"judgements ({qrels}) were given beside {root}, which has its own",
                fix="Leave them out, or give the queries' file alone as TREC topics.",
            )
        return load_flag_embedding(root, split)
    inner = [one for one in sorted(root.iterdir()) if one.is_dir()]
    known = [one for one in inner if _is_beir(one) or is_flag_embedding(one)]
    if len(known) == 1:
        return _load_folder(known[0], split, qrels)
    if known:
        raise CorpusError(
            f"{root} holds several judged sets: {', '.join(one.name for one in known)}",
            fix=f"Give one of them, such as {known[0]}.",
        )
    names = [one.name for one in islice(sorted(root.iterdir()), _MOST_NAMED + 1)]
    found = ", ".join(names[:_MOST_NAMED]) + (", …" if len(names) > _MOST_NAMED else "")
    raise CorpusError(
        f"{root} holds no judged queries that are understood; found {found or 'nothing'}",
        fix=f"{UNDERSTOOD}.",
    )


def _is_beir(root: Path) -> bool:
    return existing(root / "queries.jsonl") is not None or (root / "qrels").is_dir()
