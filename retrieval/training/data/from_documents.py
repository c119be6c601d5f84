"""Pairs made from documents, where nobody has asked anything yet: titles and headings as queries.

What stands under a title or heading answers it, more or less. That is how weakly supervised pairs
are made for pre-training (Wang et al., Text Embeddings by Weakly-Supervised Contrastive
Pre-training, 2022), and it is worth as much as the headings are: those that say nothing are left
out and counted.
"""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, get_args

from retrieval._validate import one_of, whole_number
from retrieval.errors import InvalidInput
from retrieval.splitting.markdown_structure import find_headings, sentence_starts
from retrieval.training.data.generic_headings import GENERIC_HEADINGS
from retrieval.training.data.merging import REPEATED
from retrieval.training.examples import TrainingExample
from retrieval.training.near_duplicates import normalised, shingles
from retrieval.types import Document

PairKind = Literal["titles", "headings"]

MOST_PER_DOCUMENT = 8
MOST_CHARACTERS = 2000
"""Of a positive: a little more than the 512 tokens that BGE's encoders read."""

SHORT_QUERY = "titles and headings too short to ask anything"
GENERIC = "titles and headings that any document may have"
SHORT_TEXT = "texts too short to answer anything"
AMBIGUOUS = "titles and headings that stand above several texts"
OVER_CAP = "pairs over the most for one document"

_LEAST_SHINGLES = 2  # words, or three characters of Chinese and the like
_LEAST_CHARACTERS = 80
_LEAST_CHARACTERS_UNSPACED = 30
# What numbers a heading, and is no part of what it says: "10 ways" and "C. elegans" stay.
_NUMBERING = re.compile(
    r"\A(?:(?:(?:[Cc]hapter|[Ss]ection|[Pp]art|Kapitel|Abschnitt|[Cc]hapitre|[Cc]ap[ií]tulo)\s+)?"
    r"(?:\d{1,3}(?:\.\d{1,3})+[.:)]?|(?:\d{1,3}|[IVX]{2,5})[.:)])\s+|\d{1,3}、\s*"
    r"|第[\d一二三四五六七八九十百]+[章节節条條部]\s*|[一二三四五六七八九十]+、\s*"
    r"|[（(][\d一二三四五六七八九十]{1,3}[)）]\s*)(?=\S)"
)
_MARK = re.compile(r"\A(?:[\W\d_]+|(?:[a-z]|[ivx]+)\s+)")


def pairs_from_documents(
    documents: Iterable[Document],
    kinds: Sequence[PairKind] = get_args(PairKind),
    *,
    most_per_document: int = MOST_PER_DOCUMENT,
    seed: int = 0,
) -> tuple[list[TrainingExample], Counter[str]]:
    """Pairs of a title and the text below it, and of a heading and its section.

    Args:
        documents: as `retrieval.readers.read` gives them.
        kinds: titles, headings or both. A section's text has the document's title before it, as
            the passages of an index have; the title's own text does not, nor do headings stand in
            what answers them.
        most_per_document: of a document with more pairs, so many are drawn.
        seed: of that choice, which does not hang on other documents.

    Returns:
        The examples in the order of the documents, and what was dropped: reason → how many. A
        query that stands above texts of several places is dropped everywhere: it would ask for
        one of them and be taught that the others are wrong.

    Raises:
        InvalidInput: an argument that cannot be used.

    Example:
        >>> from retrieval import Document
        >>> from retrieval.training.data.from_documents import pairs_from_documents
        >>> text = "# Library\\n\\n## Opening hours\\n\\n" + "The gate closes at ten. " * 4
        >>> examples, dropped = pairs_from_documents([Document("a.md", text, "Library")])
        >>> examples[0].query, examples[0].positives[0][:31]
        ('Opening hours', 'Library The gate closes at ten.')
        >>> dict(dropped)
        {'titles and headings too short to ask anything': 1}
    """
    if isinstance(kinds, str) or not kinds:
        raise InvalidInput(
            f"kinds is {kinds!r}, expected a list of {', '.join(get_args(PairKind))}",
            fix="Give ['titles', 'headings'], for example.",
        )
    for kind in kinds:
        one_of(
            kind, get_args(PairKind), "a kind of pairs",
            fix="Give titles, headings or both; a table's columns of questions and answers are "
            "read without.",
        )  # fmt: skip
    whole_number(most_per_document, "most_per_document")
    whole_number(seed, "seed", least=0)
    dropped: Counter[str] = Counter()
    by_query: defaultdict[str, dict[str, TrainingExample]] = defaultdict(dict)
    for document in documents:
        usable: list[TrainingExample] = []
        for query, text, title in _pairs(document, kinds):
            query = " ".join(_NUMBERING.sub("", query.strip()).split())
            reason = _fault(query, text)
            if reason:
                dropped[reason] += 1
                continue
            positive = f"{title} {text}" if title else text
            where = document.source or document.id
            usable.append(
                TrainingExample(query, (positive,), positive_ids=(document.id,), where=where)
            )
        if len(usable) > most_per_document:
            dropped[OVER_CAP] += len(usable) - most_per_document
            chosen = random.Random(f"{seed} {document.id}").sample(
                range(len(usable)), most_per_document
            )
            usable = [usable[at] for at in sorted(chosen)]
        for one in usable:
            texts = by_query[normalised(one.query)]
            text = normalised(one.positives[0])
            dropped[REPEATED] += text in texts
            texts.setdefault(text, one)
    examples: list[TrainingExample] = []
    for same in by_query.values():
        if len(same) == 1:
            examples += same.values()
        else:
            dropped[AMBIGUOUS] += len(same)
    return examples, +dropped


def _pairs(document: Document, kinds: Sequence[PairKind]) -> Iterator[tuple[str, str, str]]:
    """A query, the text that answers it, and the title to put before that."""
    text, title = document.text, document.title.strip()
    headings = list(find_headings(text))
    if "titles" in kinds and title:
        # Where the text begins with its title, as markdown does, the answer begins behind it.
        own = headings and not text[: headings[0].start].strip()
        starts = own and normalised(headings[0].text) == normalised(title)
        yield title, _cut(text[headings[0].end if starts else 0 :]), ""
    if "headings" not in kinds:
        return
    ends = [*(heading.start for heading in headings[1:]), len(text)]
    for heading, end in zip(headings, ends, strict=False):  # without headings, one end is left
        section = text[heading.end : end]
        if normalised(heading.text) == normalised(title) or not section.strip():
            continue  # the title's pair, or a heading that only holds others
        yield heading.text, _cut(section), title


def _cut(text: str) -> str:
    """The beginning of a text, up to the end of a sentence."""
    text = text.strip()
    if len(text) <= MOST_CHARACTERS:
        return text
    ends = [at for at in sentence_starts(text, 0, MOST_CHARACTERS) if at > MOST_CHARACTERS // 2]
    return text[: ends[-1] if ends else MOST_CHARACTERS].strip()


def _fault(query: str, text: str) -> str:
    """Why a pair is worth nothing; "" where it is."""
    known = normalised(query)
    if known in GENERIC_HEADINGS or _MARK.sub("", known) in GENERIC_HEADINGS:
        return GENERIC
    if len(shingles(query, 1)) < _LEAST_SHINGLES or not any(map(str.isalpha, known)):
        return SHORT_QUERY
    # Chinese and Japanese say as much in a third of the characters.
    wide = sum(one > "\u2e7f" for one in text) > len(text) / 4
    if len(text) < (_LEAST_CHARACTERS_UNSPACED if wide else _LEAST_CHARACTERS):
        return SHORT_TEXT
    return ""
