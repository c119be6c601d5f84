"""From what a person types for a document to the documents and parts of a collection.

What can be typed, tried in this order:

    rules.md                     the document's id
    /srv/docs/legal/rules.md     its source, whole …
    legal/rules.md               … or the end of it, or of the id: a path below the indexed
                                 folder, or a file's name alone where no other file has it
    handbook.pdf#page=3          a page of it, or a slide
    rules.md#Travel costs        what stands under one of its headings
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from itertools import islice

from retrieval.errors import CorpusError
from retrieval.evaluation.judged import JudgedQueries, Part, heading_key, headings_of, pages_of
from retrieval.evaluation.qrels import add_grade
from retrieval.types import Index, Passage

_LINE = re.compile(r":\d+\Z")
_PAGE = re.compile(r"(?:page=|p(?:age|\.)?\s*)(\d+)", re.IGNORECASE)
_MOST_NAMED = 5
_MOST_COMPARED = 50_000
_BATCH = 64


def resolve(judged: JudgedQueries, index: Index, *, tenant: str | None = None) -> JudgedQueries:
    """Find what was typed in a collection: the same queries, judged by ids and parts.

    Args:
        judged: as `load_judgements` gave it; returned as it is where nothing was typed.
        index: the collection that is going to be searched.
        tenant: whose documents, where the collection keeps tenants apart.

    Raises:
        CorpusError: something names no document, page or heading (the first of them are listed
            with path:line and what comes nearest), or several documents; or two names of one
            document have different grades.
    """
    if not judged.typed:
        return judged
    found, parts = _documents(judged.typed, index, tenant), {}
    for typed, (document, rest) in found.items():
        if rest:
            parts[typed] = _part(document, rest)
    _check_parts(parts, judged.typed, index, tenant)
    qrels: dict[str, dict[str, int]] = {}
    own: defaultdict[str, dict[str, Part]] = defaultdict(dict)
    for query, grades in judged.qrels.items():
        for typed, grade in grades.items():
            part = parts.get(typed)
            key = found[typed][0] if part is None else part.key
            add_grade(qrels, query, key, grade, f"{judged.typed[typed]}: {typed!r}")
            if part is not None:
                own[query][key] = part
    return replace(judged, qrels=qrels, parts=dict(own), typed={})


def names(typed: str, passage: Passage) -> bool:
    """Whether what a person typed, as above, means this passage: its document, or a part it is of.

    No collection is asked: a file's name alone means every file that is called so.
    """
    id_, source = _composed(passage.document_id), _composed(passage.source)
    ends = {id_, *_ends(id_, source)}
    for name, rest in _readings(_composed(typed)):
        if _path(name) in ends or name == id_:
            return not rest or _part(passage.document_id, rest).covers(passage)
    return False


def unknown(typed: Sequence[str], index: Index, *, tenant: str | None = None) -> list[str]:
    """Which of what a person typed, as above, names no document of a collection."""
    wanted = {_path(name) for one in typed for name, _ in _readings(_composed(one))}
    there: set[str] = set()
    for id_, source in index.document_sources(tenant=tenant):
        there.update(wanted.intersection({id_, *_ends(_composed(id_), _composed(source))}))
    return [
        one
        for one in typed
        if not any(_path(name) in there for name, _ in _readings(_composed(one)))
    ]


def _composed(text: str) -> str:
    """Umlauts and accents as one character each: macOS takes names of files apart."""
    return unicodedata.normalize("NFC", text)


def _part(document: str, written: str) -> Part:
    page = _PAGE.fullmatch(written)
    return Part(document, int(page[1])) if page else Part(document, heading=heading_key(written))


def _documents(
    typed: Mapping[str, str], index: Index, tenant: str | None
) -> dict[str, tuple[str, str]]:
    """What was typed → the document's id, and what stands behind the #."""
    wanted = {_path(name) for one in typed for name, _ in _readings(_composed(one))}
    by_id: dict[str, str] = {}
    by_end: defaultdict[str, set[str]] = defaultdict(set)
    for id_, source in index.document_sources(tenant=tenant):
        composed = _composed(id_)
        if composed in wanted:
            by_id[composed] = id_
        for end in _ends(composed, _composed(source)):
            if end in wanted:
                by_end[end].add(id_)
    found: dict[str, tuple[str, str]] = {}
    missing: list[str] = []
    for one in typed:
        for name, rest in _readings(_composed(one)):
            name = _path(name)
            documents = {by_id[name]} if name in by_id else by_end.get(name, set())
            if len(documents) > 1:
                raise _ambiguous(one, name, documents, typed[one])
            if documents:
                found[one] = (next(iter(documents)), rest)
                break
        else:
            missing.append(one)
    if missing:
        ids = _some_ids(index.document_sources(tenant=tenant))
        raise _unknown(missing, typed, ids, "no document of the collection")
    return found


def _readings(typed: str) -> Iterator[tuple[str, str]]:
    """All of it as a name, then what is before and behind each #: ids may have one, too."""
    yield typed, ""
    for place, character in enumerate(typed):
        if character == "#" and typed[place + 1 :].strip():
            yield typed[:place].rstrip(), typed[place + 1 :].strip()


def _path(name: str) -> str:
    return name.replace("\\", "/").removeprefix("./")


def _ends(id_: str, source: str) -> Iterator[str]:
    """A document's source, and every end of it and of the id that begins after a slash."""
    file = _LINE.sub("", source)
    for whole in dict.fromkeys((source, file, id_)):
        path = whole.replace("\\", "/")
        yield path
        for place, character in enumerate(path):
            if character == "/":
                yield path[place + 1 :]


def _check_parts(
    parts: Mapping[str, Part], typed: Mapping[str, str], index: Index, tenant: str | None
) -> None:
    """Raise CorpusError where a document has no such page or heading."""
    by_document: defaultdict[str, list[str]] = defaultdict(list)
    for one, part in parts.items():
        by_document[part.document_id].append(one)
    documents = list(by_document)
    for start in range(0, len(documents), _BATCH):
        ids = documents[start : start + _BATCH]
        stored = index.document_passages(ids, tenant=tenant)
        for id_ in ids:
            passages = stored.get(id_, ())
            missing = [one for one in by_document[id_] if not any(map(parts[one].covers, passages))]
            if missing:
                whole = [f"{id_}#{part}" for part in parts_of(passages)]
                raise _unknown(missing, typed, whole, "no page or heading of its document")


def parts_of(passages: Sequence[Passage]) -> list[str]:
    """The pages and headings of a document as they can be typed behind its #, in order."""
    last = max((pages_of(one)[1] for one in passages), default=0)
    pages = [f"page={number}" for number in range(1, last + 1)]
    headings: dict[str, str] = {}
    for passage in passages:
        for key, heading in headings_of(passage).items():
            headings.setdefault(key, heading)
    return [*pages, *headings.values()]


def _some_ids(sources: Iterable[tuple[str, str]]) -> list[str]:
    """Ids to name the nearest of, as many as can be compared in a moment."""
    return list(dict.fromkeys(id_ for id_, _ in islice(sources, _MOST_COMPARED)))


def _ambiguous(typed: str, name: str, documents: Iterable[str], where: str) -> CorpusError:
    ordered = sorted(documents)
    shown = ", ".join(ordered[:_MOST_NAMED]) + (", …" if len(ordered) > _MOST_NAMED else "")
    return CorpusError(
        f"{where}: {typed!r} is ambiguous: {name!r} means {len(ordered):,} documents ({shown})",
        fix="Write more of the path, or the id itself; `retrieval documents` lists the ids.",
    )


def _unknown(
    missing: Sequence[str], typed: Mapping[str, str], ids: Sequence[str], what: str
) -> CorpusError:
    """An error that names what was not found, where it was typed, and what comes nearest."""
    lines = []
    lowered = {id_.casefold(): id_ for id_ in reversed(ids)}
    lowered |= {id_.rpartition("/")[2].casefold(): id_ for id_ in reversed(ids)}
    for one in missing[:_MOST_NAMED]:
        near = get_close_matches(one.casefold(), lowered, n=3, cutoff=0.5)
        nearest = ", ".join(dict.fromkeys(repr(lowered[match]) for match in near))
        lines.append(f"{typed[one]}: {one!r}" + (f" (nearest: {nearest})" if nearest else ""))
    more = f"; and {len(missing) - _MOST_NAMED:,} more" if len(missing) > _MOST_NAMED else ""
    who = "this names" if len(missing) == 1 else "each of these names"
    return CorpusError(
        f"{who} {what}: {'; '.join(lines)}{more}",
        fix="Correct it; `retrieval documents` lists the ids that there are, and with --headings "
        "the pages and headings.",
    )
