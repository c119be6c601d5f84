"""Every command of this package: where it is, what it does in a line, and beside which others.

`retrieval --help` is made of this table alone, and a command is loaded when it is called: all of
them together take several times as long as the quickest of them.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SEARCH, MEASURE, TRAIN = "Index and search", "Measure and choose", "Train"
COLLECTIONS, CARE = "Collections", "Copies and care"
SERVE, SET_UP = "Serve", "Set up"
PANELS = (SEARCH, MEASURE, TRAIN, COLLECTIONS, CARE, SERVE, SET_UP)
"""Headings of the help, in this order."""


@dataclass(frozen=True, slots=True)
class Command:
    """Where a command is, as `module:attribute`; its help in a line; its heading."""

    place: str
    help: str
    panel: str

    def load(self) -> Any:
        """The function, or the Typer app of a command that has its own commands."""
        module, _, attribute = self.place.partition(":")
        return getattr(importlib.import_module(module), attribute)


def _own(module: str, attribute: str, text: str, panel: str) -> Command:
    return Command(f"retrieval.cli.{module}:{attribute}", text, panel)


COMMANDS: Mapping[str, Command] = {
    "index": _own(
        "index",
        "index",
        "Index files and folders into a collection; what is unchanged is skipped.",
        SEARCH,
    ),
    "search": _own(
        "search",
        "search",
        "Answer a question with the passages that fit it best.",
        SEARCH,
    ),
    "documents": _own(
        "documents",
        "documents",
        "List a collection's documents by id: what judgements may name, and filters ask for.",
        SEARCH,
    ),
    "eval": _own("evaluation", "evaluate", "Measure both stages on judged queries.", MEASURE),
    "compare": _own(
        "compare",
        "compare",
        "Compare settings on judged queries, and say which to take and how sure that is.",
        MEASURE,
    ),
    "calibrate": _own(
        "tuning",
        "calibrate",
        "Learn from judged queries what a collection's scores mean.",
        MEASURE,
    ),
    "defaults": _own(
        "tuning",
        "defaults",
        "Show or set what searches of a collection take where they do not say.",
        MEASURE,
    ),
    "judge": _own(
        "judge",
        "judge",
        "Judge what was found for the questions of a pool: one document at a time, a key each.",
        MEASURE,
    ),
    "test": _own(
        "cases",
        "run_tests",
        "Ask a file of questions and check what the answers contain; exit code 3 where one fails.",
        MEASURE,
    ),
    "drift": _own(
        "drift",
        "drift",
        "Compare today's searches with those at calibration, and say when to label again.",
        MEASURE,
    ),
    "mteb": _own(
        "mteb",
        "mteb",
        "Measure the models on tasks of MTEB, as its leaderboard does (extra mteb).",
        MEASURE,
    ),
    "adapt": _own(
        "adapt",
        "adapt",
        "Split, mine, train both stages, merge, encode, gate, calibrate, switch: one "
        "after the other.",
        TRAIN,
    ),
    "mine": _own(
        "mine",
        "mine",
        "Mine hard negatives: passages that look like answers and are none.",
        TRAIN,
    ),
    "train": _own("train", "train", "Tune either stage on one's own data.", TRAIN),
    "merge": _own(
        "merge",
        "merge",
        "Merge models that were tuned from one into a new one: LM-Cocktail.",
        TRAIN,
    ),
    "list": _own("collections", "list_", "The collections of a store.", COLLECTIONS),
    "info": _own(
        "collections",
        "info",
        "What a store holds, and what built a collection.",
        COLLECTIONS,
    ),
    "reindex": _own(
        "collections",
        "reindex",
        "Build a collection anew beside the one in use, compare both, and switch to it.",
        COLLECTIONS,
    ),
    "versions": _own(
        "collections",
        "versions",
        "The versions of a collection; * marks the one that searches use.",
        COLLECTIONS,
    ),
    "switch": _own(
        "collections",
        "switch",
        "Let searches use another version of a collection from now on, in one step.",
        COLLECTIONS,
    ),
    "rollback": _own(
        "collections",
        "rollback",
        "Let searches use the version before the current one again.",
        COLLECTIONS,
    ),
    "delete": _own(
        "collections",
        "delete",
        "Delete a collection with all its versions, or one version that is not in use.",
        COLLECTIONS,
    ),
    "copy": _own(
        "maintenance",
        "copy",
        "Copy a collection with its vectors to another store, as from a laptop to a server.",
        CARE,
    ),
    "export": _own(
        "maintenance",
        "export",
        "Write a collection with its vectors to a file that any store can import.",
        CARE,
    ),
    "import": _own(
        "maintenance",
        "import_",
        "Make a collection of an exported file; nothing is encoded again.",
        CARE,
    ),
    "backup": _own(
        "maintenance",
        "backup",
        "Copy a whole collection into one file, consistently.",
        CARE,
    ),
    "restore": _own("maintenance", "restore", "Make a collection of a backup.", CARE),
    "doctor": _own(
        "maintenance",
        "doctor",
        "Check a collection, and say how to correct what is wrong.",
        CARE,
    ),
    "recall": _own(
        "maintenance",
        "recall",
        "What the approximate index misses, against an exact scan.",
        CARE,
    ),
    "models": _own(
        "models",
        "models",
        "The models whose settings are known here, where their weights are, and fetching them.",
        SET_UP,
    ),
}
"""Name → command."""
