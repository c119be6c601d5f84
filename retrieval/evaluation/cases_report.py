"""What came of retrieval tests: as text, as JSON, and as JUnit XML for build servers."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from retrieval._validate import without_surrogates
from retrieval.evaluation.cases import CaseOutcome
from retrieval.evaluation.trec import write_atomically

FAILED_EXIT_CODE = 3
"""Of the command line where a case failed: the searches ran, and found the wrong thing."""

_STATES = ("ok", "failed", "error")
# XML 1.0 has no way to write other characters, not even as references
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, slots=True)
class CasesReport:
    """The outcomes of a file of cases.

    Attributes:
        source: the file, as it was named.
        collection: what was searched.
        outcomes: one for each case, in the file's order; judged queries last.
        seconds: of all of them.
        notices: what the searches had to say, each once.
    """

    source: str
    collection: str
    outcomes: tuple[CaseOutcome, ...]
    seconds: float
    notices: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every case did."""
        return all(outcome.state == "ok" for outcome in self.outcomes)

    @property
    def exit_code(self) -> int:
        """0 where all passed, 3 where one failed, and an error's own where one did not run."""
        errors = [outcome.exit_code for outcome in self.outcomes if outcome.state == "error"]
        return min(errors) if errors else 0 if self.passed else FAILED_EXIT_CODE

    def count(self, state: str) -> int:
        """How many cases ended in this state."""
        return sum(outcome.state == state for outcome in self.outcomes)

    def as_dict(self) -> dict[str, Any]:
        """For JSON; docs/json.md describes it."""
        return {
            "file": self.source,
            "collection": self.collection,
            "passed": self.passed,
            "counts": {state: self.count(state) for state in _STATES},
            "seconds": round(self.seconds, 3),
            "notices": list(self.notices),
            "cases": [_as_dict(outcome) for outcome in self.outcomes],
        }

    def as_junit(self) -> str:
        """JUnit's XML, as Jenkins, GitLab and GitHub's actions read it.

        Characters that XML cannot hold are U+FFFD.
        """
        counts = {
            "name": _xml(self.source),
            "tests": str(len(self.outcomes)),
            "failures": str(self.count("failed")),
            "errors": str(self.count("error")),
            "skipped": "0",
            "time": f"{self.seconds:.3f}",
        }
        root = ElementTree.Element("testsuites", counts)
        suite = ElementTree.SubElement(root, "testsuite", counts)
        for outcome in self.outcomes:
            seconds = (outcome.ms or 0.0) / 1000
            about = {
                "classname": _xml(self.collection),
                "name": _xml(outcome.name),
                "file": _xml(self.source),
                "time": f"{seconds:.3f}",
            }
            case = ElementTree.SubElement(suite, "testcase", about)
            if outcome.state != "ok":
                kind = "failure" if outcome.state == "failed" else "error"
                why = {"message": _xml(outcome.why), "type": kind}
                lines = [outcome.question, *outcome.problems]
                ElementTree.SubElement(case, kind, why).text = _xml("\n".join(lines))
        ElementTree.indent(root)
        text = ElementTree.tostring(root, encoding="unicode")
        return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'

    def summary(self) -> str:
        """How many cases there were, and what came of them, in a line."""
        parts = [f"{self.count('ok')} ok", f"{self.count('failed')} failed"]
        if errors := self.count("error"):
            parts.append(f"{errors} could not be run")
        cases = f"{len(self.outcomes)} case" + ("" if len(self.outcomes) == 1 else "s")
        return f"{cases} on {self.collection}: {', '.join(parts)}; {self.seconds:.1f} s"


def write_json(path: str | os.PathLike[str], report: CasesReport) -> None:
    """Write the report as JSON; whole or not at all. Raises: as `write_atomically`."""
    text = json.dumps(report.as_dict(), indent=2, ensure_ascii=False)
    write_atomically(path, lambda file: file.write(without_surrogates(text) + "\n"))


def write_junit(path: str | os.PathLike[str], report: CasesReport) -> None:
    """Write the report as JUnit's XML; whole or not at all. Raises: as `write_atomically`."""
    write_atomically(path, lambda file: file.write(report.as_junit()))


def _as_dict(outcome: CaseOutcome) -> dict[str, Any]:
    return {
        "name": outcome.name,
        "question": outcome.question,
        "state": outcome.state,
        "problems": list(outcome.problems),
        "ms": None if outcome.ms is None else round(outcome.ms, 3),
        "figure": outcome.figure,
        "hits": [
            {
                "rank": hit.rank,
                "document_id": hit.passage.document_id,
                "passage_id": hit.passage.id,
                "source": hit.passage.source,
                "score": hit.score,
                "relevance": hit.relevance,
            }
            for hit in outcome.hits
        ],
    }


def _xml(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)
