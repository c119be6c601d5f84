"""BM25 term vectors, made on the client and the same for every engine.

Terms come from `qdrant_edge.Bm25`; its term ids are those of a Qdrant server's `qdrant/bm25`;
the inverse document frequency is added by the engine at search time (`Modifier.Idf`), so a
passage's vector never has to change when others come or go.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from retrieval.errors import InvalidInput, StoreFault
from retrieval.index.bm25_language import FOLDING, ISO, LANGUAGES, MIXED, NO_BLANKS, detect
from retrieval.index.bm25_words import exact_words, normalised
from retrieval.index.point_store import SparseTerms
from retrieval.types import Bm25Info

if TYPE_CHECKING:
    from qdrant_edge import Bm25

Tokenizer: TypeAlias = Literal["word", "multilingual"]

AVG_LEN: dict[Tokenizer, float] = {"word": 100.0, "multilingual": 128.0}
"""Terms of an average passage, stop words left out. A constant and not an estimate, so that the
same corpus read twice gives the same manifest. nDCG@10 hardly depends on it: scifact 0.691 at 64,
0.692 at 96, 0.683 at 256; cmrc2018 (Chinese) 0.973 at 64, 0.980 at 128, 0.981 at 256."""

VERSION = 2
"""Of the rules by which terms are made. 1: as the engine's tokeniser makes them. 2: texts are
normalised, accents folded where readers leave them out, and words are kept that a tokeniser takes
apart or drops."""

_K, _B = 1.2, 0.75  # the engine's own
# without saturation and length a term's weight is how often it occurs
_AS_COUNTS: dict[str, Any] = {"k": 1e9, "b": 0.0}
_K3 = 8.0  # of the query's term frequencies, see `Bm25Terms.query`


def bm25_info(
    language: str,
    sample: Iterable[str] = (),
    *,
    fold_accents: bool | None = None,
    version: int = VERSION,
) -> Bm25Info:
    """How BM25 terms are made for a language.

    Languages written without blanks between words (and mixed corpora) get the multilingual
    tokeniser: nDCG@10 on cmrc2018 is 0.98 with it and 0.15 with the word tokeniser, while on
    English it costs 0.003.

    Args:
        language: a name ("english"), an ISO 639-1 code ("en", "zh-CN"), "multilingual", or
            "auto" to tell it from the sample.
        sample: some texts of the corpus, read only for "auto" (at most 200); English is assumed
            where they tell nothing. A collection that exists keeps the language it has: take
            it from the manifest, not from another sample.
        fold_accents: whether "café" is found by "cafe"; None does as readers of the language do.
        version: of the rules, see `VERSION`.

    Raises:
        InvalidInput: the language is not known.
    """
    if not isinstance(language, str):
        raise InvalidInput(
            f"the BM25 language is a {type(language).__name__}, expected text",
            fix="Give a name such as 'english', a code such as 'en', or 'auto'.",
        )
    name = language.strip().lower()
    if name == "auto":
        name = detect(sample)
    name = ISO.get(re.split(r"[-_]", name)[0], name)
    if name not in LANGUAGES:
        raise InvalidInput(
            f"the BM25 language {language!r} is not known; known are auto, {', '.join(LANGUAGES)} "
            "and their ISO 639-1 codes",
            fix="Choose one of these; for any other language try 'multilingual'.",
        )
    tokenizer: Tokenizer = "multilingual" if name in (*NO_BLANKS, MIXED) else "word"
    folds = name in FOLDING if fold_accents is None else fold_accents
    return Bm25Info(
        name, tokenizer, AVG_LEN[tokenizer], version=version, folds=version > 1 and folds
    )


class Bm25Terms:
    """Makes term vectors as a collection's manifest says. Safe to use from several threads."""

    def __init__(self, info: Bm25Info) -> None:
        if info.version not in (1, VERSION):
            raise StoreFault(
                f"the collection's BM25 terms are of version {info.version}, this library makes "
                f"versions 1 to {VERSION}",
                fix="Use the version of the library that made it, or index into a new collection.",
            )
        self._info = info
        self._counts = _model(info.language, info.tokenizer, info.avg_len, info.folds, counts=True)
        self._plain = _model(info.language, info.tokenizer, info.avg_len, info.folds)

    def passage(self, text: str) -> SparseTerms:
        """Term weights of a passage: saturated frequencies, normalised by length (k=1.2, b=0.75).

        Method: Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond",
        2009. A text without terms gives no terms: no query finds it by words.
        """
        if self._info.version == 1:
            return _terms(self._plain.embed_document(text))
        text = normalised(text)
        exact = self._exact(text)
        if not exact:
            return _terms(self._plain.embed_document(text))
        counts, length = self._counts_of(text, exact)
        short = _K * (1.0 - _B + _B * length / self._info.avg_len)
        weights = (count * (_K + 1.0) / (count + short) for count in counts.values())
        return SparseTerms(tuple(counts), tuple(weights))

    def query(self, text: str) -> SparseTerms:
        """Terms of a query; one that occurs n times has the weight 9 n / (8 + n), once 1.

        None for a query of only stop words. Method: the query's part of BM25, (k3 + 1) n / (k3 +
        n), Robertson et al., "Okapi at TREC-3", 1994, with k3 = 8 as in Terrier. Questions seldom
        say a word twice and see no difference (scifact/train 0.699, 0.701 with weights of 1); a
        paragraph says by repetition what it is about: CISI, queries of 62 words, 0.389 and 0.318.
        """
        if self._info.version > 1:
            text = normalised(text)
        counts, _ = self._counts_of(text, self._exact(text))
        weights = tuple((_K3 + 1.0) * count / (_K3 + count) for count in counts.values())
        return SparseTerms(tuple(counts), weights)

    def _counts_of(self, text: str, exact: dict[int, float]) -> tuple[dict[int, float], float]:
        """How often each term occurs, and how many there are without the exact words, which are
        mostly said by their parts, too."""
        found = self._counts.embed_document(text)
        counts = dict(zip(found.indices, found.values, strict=True))
        length = sum(counts.values())
        for term, count in exact.items():
            counts[term] = max(counts.get(term, 0.0), count)
        return counts, length

    def _exact(self, text: str) -> dict[int, float]:
        """How often words occur that are asked for by their very letters."""
        if self._info.version == 1:
            return {}
        words = exact_words(text, numbers=self._info.tokenizer == "multilingual")
        if not words:
            return {}
        found = _exact_model(self._info.folds).embed_document(" ".join(words))
        return dict(zip(found.indices, found.values, strict=True))


@functools.lru_cache(maxsize=16)
def _model(
    language: str, tokenizer: Tokenizer, avg_len: float, folds: bool, counts: bool = False
) -> Bm25:
    import qdrant_edge as edge

    options: dict[str, Any] = {"language": language, "avg_len": avg_len}
    if folds:
        options["ascii_folding"] = True
    if tokenizer == "multilingual":
        # such texts carry English terms too, which are stemmed and stopped; measured on
        # cmrc2018, that costs Chinese nothing
        stop = {edge.Language.English}
        own = {"chinese": edge.Language.Chinese, "japanese": edge.Language.Japanese}
        if language in own:
            stop.add(own[language])
        options |= {
            "language": "english",
            "tokenizer": edge.TokenizerType.Multilingual,
            "stopwords": edge.StopwordsSet(languages=stop),
        }
    if counts:
        options |= _AS_COUNTS
    try:
        return edge.Bm25(edge.Bm25Config(**options))
    except ValueError as error:
        raise StoreFault(
            f"the installed qdrant-edge-py makes no BM25 terms for {language!r} ({error})",
            fix="Install the pinned version: pip install 'qdrant-edge-py==0.9.0'.",
        ) from error


@functools.cache
def _exact_model(folds: bool) -> Bm25:
    """Words between blanks as they are; their ids are those of the other tokenisers."""
    import qdrant_edge as edge

    return edge.Bm25(
        edge.Bm25Config(
            tokenizer=edge.TokenizerType.Whitespace, language="english", ascii_folding=folds,
            **_AS_COUNTS,
        )
    )  # fmt: skip


def _terms(vector: Any) -> SparseTerms:
    return SparseTerms(tuple(vector.indices), tuple(vector.values))
