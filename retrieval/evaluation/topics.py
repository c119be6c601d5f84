"""Topics of TREC: queries in one file, their judgements in another.

    301<TAB>international organized crime            one a line
    {"id": "301", "text": "…"}                       one a line; also _id, qid and query
    <top> <num> Number: 301 <title> International Organized Crime <desc> … </top>
    <topic number="301"><query>international organized crime</query> … </topic>

Of the last two the title, or the query, is what is searched with. A file may be compressed.
"""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

from retrieval.errors import CorpusError
from retrieval.evaluation.judged import JudgedQueries
from retrieval.evaluation.lines import id_of, lines, records, text_of
from retrieval.evaluation.qrels import add_query, judged_of
from retrieval.evaluation.trec import read_qrels

_SGML = re.compile(r"<top>(.*?)(?=</top>|<top>|\Z)", re.DOTALL | re.IGNORECASE)
_XML = re.compile(r"<topic\b([^>]*)>(.*?)</topic>", re.DOTALL | re.IGNORECASE)
_NUMBER = re.compile(r"<num(?:ber)?>\s*(?:Number:)?\s*([^\s<]+)", re.IGNORECASE)
_ATTRIBUTE = re.compile(r"""\b(?:number|id|num)\s*=\s*["']\s*([^"']+?)\s*["']""", re.IGNORECASE)
_TEXTS = [re.compile(rf"<{tag}>\s*(?:Topic:)?\s*([^<]*)", re.I) for tag in ("query", "title")]


def load_topics(path: Path, qrels: Path) -> JudgedQueries:
    """Read topics and their judgements.

    Raises:
        CorpusError: a file cannot be read, a line or topic is bad (named as path:line), or a
            judged query has no text.
    """
    texts, grades = read_topics(path), read_qrels(qrels)
    # TREC's first collections write topic 051, and 51 in the judgements.
    queries = {
        short if query not in grades and (short := query.lstrip("0")) in grades else query: text
        for query, text in texts.items()
    }
    kept, judged = judged_of(queries, grades, path, qrels)
    name = path.name.removesuffix(".gz").rpartition(".")[0] or path.name
    return JudgedQueries(
        name=name, split="test", queries=kept, qrels=judged, files=(path, qrels)
    )  # fmt: skip


def read_topics(path: Path) -> dict[str, str]:
    """Query id → text, in the file's order.

    Raises:
        CorpusError: see `load_topics`.
    """
    numbered = list(lines(path))
    if not numbered:
        raise CorpusError(f"{path} holds no topics", fix="Give the file of the queries.")
    first = numbered[0][1].lstrip().lower()
    if first.startswith("<"):
        return _marked(path, numbered)
    if first.startswith("{"):
        return _json(path)
    queries: dict[str, str] = {}
    for number, line in numbered:
        id_, tab, text = line.partition("\t")
        if not tab or not id_.strip():
            raise CorpusError(
                f"{path}:{number}: expected an id, a tab and the query's text: {line[:80]!r}",
                fix="Put a tab between the two.",
            )
        add_query(queries, id_.strip(), text.strip(), f"{path}:{number}")
    return queries


def _json(path: Path) -> dict[str, str]:
    queries: dict[str, str] = {}
    for where, record in records(path):
        id_key = next((key for key in ("_id", "id", "qid", "query_id") if key in record), "id")
        text_key = next((key for key in ("text", "query") if key in record), "text")
        add_query(
            queries, id_of(record, id_key, where), text_of(record, text_key, where), where
        )  # fmt: skip
    return queries


def _marked(path: Path, numbered: list[tuple[int, str]]) -> dict[str, str]:
    """Topics with tags, which TREC's files do not always close, nor escape what is between them."""
    whole = "\n".join(line for _, line in numbered)
    found = [(match.start(), "", match[1]) for match in _SGML.finditer(whole)]
    found = found or [(match.start(), match[1], match[2]) for match in _XML.finditer(whole)]
    queries: dict[str, str] = {}
    for start, attributes, inside in found:
        where = f"{path}:{numbered[whole.count(chr(10), 0, start)][0]}"
        number = _ATTRIBUTE.search(attributes) or _NUMBER.search(inside)
        if number is None:
            raise CorpusError(
                f"{where}: the topic has no number",
                fix='Write it as <num> Number: 301, or <topic number="301">.',
            )
        add_query(queries, html.unescape(number[1]), _text(inside), where)
    if not queries:
        raise CorpusError(
            f"{path} begins with {json.dumps(numbered[0][1][:40])} and has no <top> or <topic>",
            fix="Write a line for each query: its id, a tab and its text.",
        )
    return queries


def _text(inside: str) -> str:
    for tag in _TEXTS:
        if match := tag.search(inside):
            return " ".join(html.unescape(match[1]).split())
    # Clinical topics are their text alone.
    return "" if "<" in inside else " ".join(html.unescape(inside).split())
