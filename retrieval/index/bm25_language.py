"""Languages that BM25 terms are made for, and which one a text is in."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable

ISO = {
    "ar": "arabic", "az": "azerbaijani", "eu": "basque", "bn": "bengali", "ca": "catalan",
    "zh": "chinese", "da": "danish", "nl": "dutch", "en": "english", "fi": "finnish",
    "fr": "french", "de": "german", "el": "greek", "he": "hebrew", "hu": "hungarian",
    "id": "indonesian", "it": "italian", "ja": "japanese", "kk": "kazakh", "ko": "korean",
    "ne": "nepali", "no": "norwegian", "nb": "norwegian", "pt": "portuguese", "ro": "romanian",
    "ru": "russian", "sl": "slovene", "es": "spanish", "sv": "swedish", "tg": "tajik",
    "th": "thai", "tr": "turkish",
}  # fmt: skip
NO_BLANKS = ("chinese", "japanese", "thai", "korean")
MIXED = "multilingual"
LANGUAGES = tuple(sorted({*ISO.values(), MIXED}))
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
FOLDING = frozenset(
    {
        *("english", "french", "spanish", "portuguese", "italian", "catalan", "basque", "dutch"),
        *("german", "indonesian", MIXED, *NO_BLANKS),
    }
)
"""Languages whose readers leave accents out when they search (cafe, Munchen, ano), as search
engines let them. In others such a letter is another letter: å, ö, ı, ł."""


def detect(sample: Iterable[str]) -> str:
    """The language of some texts; English where they tell nothing."""
    text = "\n".join(part[:_SAMPLE_CHARS] for part in itertools.islice(sample, _SAMPLE_TEXTS))
    counts = {name: len(pattern.findall(text)) for name, pattern in _SCRIPTS.items()}
    letters = sum(counts.values())
    if not letters:
        return "english"
    unspaced = counts["kana"] + counts["han"] + counts["korean"] + counts["thai"]
    if unspaced >= 0.02 * letters:
        # the word tokeniser would make one term of each run of these, so a small share decides
        if unspaced < 0.5 * letters:
            return MIXED
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
