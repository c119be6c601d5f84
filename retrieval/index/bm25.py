"""BM25 term vectors, made on the client and the same for every engine.

Terms come from `qdrant_edge.Bm25`; its term ids are those of a Qdrant server's `qdrant/bm25`;
the inverse document frequency is added by the engine at search time (`Modifier.Idf`), so a
passage's vector never has to change when others come or go.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from retrieval.errors import InvalidInput, StoreFault
from retrieval.index.point_store import SparseTerms
from retrieval.types import Bm25Info

if TYPE_CHECKING:
    from qdrant_edge import Bm25

Tokenizer: TypeAlias = Literal["word", "multilingual"]

AVG_LEN: dict[Tokenizer, float] = {"word": 100.0, "multilingual": 128.0}
"""Terms of an average passage, stop words left out. A constant and not an estimate, so that the
same corpus read twice gives the same manifest. nDCG@10 hardly depends on it: scifact 0.691 at 64,
0.692 at 96, 0.683 at 256; cmrc2018 (Chinese) 0.973 at 64, 0.980 at 128, 0.981 at 256."""

_K3 = 8.0  # of the query's term frequencies, see `Bm25Terms.query`

_ISO = {
    "ar": "arabic", "az": "azerbaijani", "eu": "basque", "bn": "bengali", "ca": "catalan",
    "zh": "chinese", "da": "danish", "nl": "dutch", "en": "english", "fi": "finnish",
    "fr": "french", "de": "german", "el": "greek", "he": "hebrew", "hu": "hungarian",
    "id": "indonesian", "it": "italian", "ja": "japanese", "kk": "kazakh", "ko": "korean",
    "ne": "nepali", "no": "norwegian", "nb": "norwegian", "pt": "portuguese", "ro": "romanian",
    "ru": "russian", "sl": "slovene", "es": "spanish", "sv": "swedish", "tg": "tajik",
    "th": "thai", "tr": "turkish",
}  # fmt: skip
_NO_BLANKS = ("chinese", "japanese", "thai", "korean")
_MIXED = "multilingual"
LANGUAGES = tuple(sorted({*_ISO.values(), _MIXED}))
"""What `bm25_info` knows by name; `multilingual` is for text of several scripts."""

# Function words that are frequent in one language and rare in the others of the list: enough to
# tell languages of the Latin script apart on a few hundred words.
_FUNCTION_WORDS = {
    "english": "the of and to is that it was for with are this be from which",
    "german": "der die und das ist nicht mit den ein eine auf dem sich von zu",
    "french": "le les des est et une dans qui que pour pas du sur au avec",
    "spanish": "el los las que una por con para del es se como más pero su",
    "italian": "il che di della per non una sono gli con è nel più anche dei",
    "portuguese": "não uma os que em para com do da dos um são mais como ao",
    "dutch": "het een van de niet dat zijn op voor met ook maar wordt naar bij",
    "swedish": "och att det som är inte på för av ett med den till har om",
    "danish": "og at det er ikke på en til af med der for som jeg har",
    "norwegian": "og det er ikke på en til av med som å har jeg fra ble",
    "finnish": "ja on ei se että oli hän mutta kun myös tai joka sen niin ovat",
    "romanian": "și nu este în cu pe un care mai din să sunt la pentru o",
    "turkish": "ve bir bu için ile da de olarak daha gibi çok olan ne var en",
    "hungarian": "a az és hogy nem egy is ez van meg volt csak de mint már",
    "indonesian": "yang dan di dengan untuk dari ini itu pada tidak dalam akan adalah oleh ke",
}
_WORD_SETS = {name: frozenset(words.split()) for name, words in _FUNCTION_WORDS.items()}

_SCRIPTS = {
    "kana": re.compile(r"[\u3040-\u30ff\u31f0-\u31ff]"),
    "han": re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f]"),
    "korean": re.compile(r"[\u1100-\u11ff\u3130-\u318f\uac00-\ud7af]"),
    "thai": re.compile(r"[\u0e00-\u0e7f]"),
    "russian": re.compile(r"[\u0400-\u04ff]"),
    "greek": re.compile(r"[\u0370-\u03ff]"),
    "arabic": re.compile(r"[\u0600-\u06ff\u0750-\u077f]"),
    "hebrew": re.compile(r"[\u0590-\u05ff]"),
    "bengali": re.compile(r"[\u0980-\u09ff]"),
    "latin": re.compile(r"[A-Za-z\u00c0-\u024f]"),
}
_SAMPLE_TEXTS, _SAMPLE_CHARS = 200, 4_000


def bm25_info(language: str, sample: Iterable[str] = ()) -> Bm25Info:
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
        name = _detect(sample)
    name = _ISO.get(re.split(r"[-_]", name)[0], name)
    if name not in LANGUAGES:
        raise InvalidInput(
            f"the BM25 language {language!r} is not known; known are auto, {', '.join(LANGUAGES)} "
            "and their ISO 639-1 codes",
            fix="Choose one of these; for any other language try 'multilingual'.",
        )
    tokenizer: Tokenizer = "multilingual" if name in (*_NO_BLANKS, _MIXED) else "word"
    return Bm25Info(language=name, tokenizer=tokenizer, avg_len=AVG_LEN[tokenizer])


class Bm25Terms:
    """Makes term vectors as a collection's manifest says. Safe to use from several threads."""

    def __init__(self, info: Bm25Info) -> None:
        self._model = _model(info.language, info.tokenizer, info.avg_len)
        self._counts = _model(info.language, info.tokenizer, info.avg_len, counts=True)

    def passage(self, text: str) -> SparseTerms:
        """Term weights of a passage: saturated frequencies, normalised by length (k=1.2, b=0.75).

        Method: Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond",
        2009. A text without terms gives no terms: no query finds it by words.
        """
        return _terms(self._model.embed_document(text))

    def query(self, text: str) -> SparseTerms:
        """Terms of a query; one that occurs n times has the weight 9 n / (8 + n), once 1.

        None for a query of only stop words. Method: the query's part of BM25, (k3 + 1) n / (k3 +
        n), Robertson et al., "Okapi at TREC-3", 1994, with k3 = 8 as in Terrier. Questions seldom
        say a word twice and see no difference (scifact/train 0.699, 0.701 with weights of 1); a
        paragraph says by repetition what it is about: CISI, queries of 62 words, 0.389 and 0.318.
        """
        counts = _terms(self._counts.embed_document(text))
        weights = tuple((_K3 + 1.0) * count / (_K3 + count) for count in counts.values)
        return SparseTerms(counts.indices, weights)


@functools.lru_cache(maxsize=16)
def _model(language: str, tokenizer: Tokenizer, avg_len: float, counts: bool = False) -> Bm25:
    import qdrant_edge as edge

    options: dict[str, Any] = {"language": language, "avg_len": avg_len}
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
        # without saturation and length a term's weight is how often it occurs there
        options |= {"k": 1e9, "b": 0.0}
    try:
        return edge.Bm25(edge.Bm25Config(**options))
    except ValueError as error:
        raise StoreFault(
            f"the installed qdrant-edge-py makes no BM25 terms for {language!r} ({error})",
            fix="Install the pinned version: pip install 'qdrant-edge-py==0.9.0'.",
        ) from error


def _terms(vector: Any) -> SparseTerms:
    return SparseTerms(tuple(vector.indices), tuple(vector.values))


def _detect(sample: Iterable[str]) -> str:
    text = "\n".join(part[:_SAMPLE_CHARS] for part in itertools.islice(sample, _SAMPLE_TEXTS))
    counts = {name: len(pattern.findall(text)) for name, pattern in _SCRIPTS.items()}
    letters = sum(counts.values())
    if not letters:
        return "english"
    unspaced = counts["kana"] + counts["han"] + counts["korean"] + counts["thai"]
    if unspaced >= 0.02 * letters:
        # the word tokeniser would make one term of each run of these, so a small share decides
        if unspaced < 0.5 * letters:
            return _MIXED
        if counts["kana"] >= 0.1 * unspaced:
            return "japanese"
        return max(("chinese", "han"), ("korean", "korean"), ("thai", "thai"),
                   key=lambda pair: counts[pair[1]])[0]  # fmt: skip
    script = max(counts, key=lambda name: counts[name])
    return _latin_language(text) if script == "latin" else script


def _latin_language(text: str) -> str:
    words = Counter(re.findall(r"[^\W\d_]+", text.lower()))
    hits = {name: sum(words[word] for word in known) for name, known in _WORD_SETS.items()}
    best = max(hits, key=lambda name: hits[name])
    # a wrong stemmer costs more than a missing one: leave English only on clear evidence
    clear = hits[best] >= 10 and hits[best] >= 1.2 * hits["english"]
    return best if clear else "english"
