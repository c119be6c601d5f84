"""Numbers, versions, dates, part numbers and their like are found by their very letters."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from retrieval.index.bm25 import Bm25Terms, bm25_info
from retrieval.index.bm25_words import exact_words, normalised
from retrieval.types import Bm25Info

CASES = [
    # numbers
    ("The server listens on port 8080.", "8080"),
    ("The server listens on port 8081.", "port 8081"),
    ("Error 0x80070005 means that access is denied.", "0x80070005"),
    ("Pi is about 3.14 in most tables.", "3.14"),
    ("The fine is 1,500 euros.", "1500"),
    ("The prize is 2,000,000 yen.", "2000000"),
    ("It weighs 12.5kg with its box.", "12.5kg"),
    ("Over 99.9% of requests succeed.", "99.9%"),
    ("端口是9090，不要改。", "9090"),
    ("全长３４５米的大桥。", "345"),
    ("见第12条的规定。", "第12条"),
    ("见第13条的规定。", "13"),
    ("温度为-40℃时停机。", "40"),
    ("電話は0120-444-444です。", "0120-444-444"),
    ("كانت السنة ١٩٨٤ صعبة.", "1984"),
    # versions
    ("Fixed in version 1.10 of the parser.", "version 1.10"),
    ("Fixed in version 1.1 of the parser.", "1.1"),
    ("Needs python3.11 or newer.", "Python 3.11"),
    ("Upgrade to v2.3.4-beta first.", "v2.3.4-beta"),
    ("Release 2024.2 adds dark mode.", "2024.2"),
    ("需要Node.js18以上版本。", "Node.js18"),
    ("支持Windows11和macOS。", "Windows 11"),
    # dates and times
    ("The treaty was signed on 2024-03-01 in Rome.", "2024-03-01"),
    ("The treaty ended on 2024-03-02 in Rome.", "2024-03-02"),
    ("Invoices of 31.12.2023 are late.", "31.12.2023"),
    ("The gate opens at 08:30 on weekdays.", "08:30"),
    ("会议定于2025年7月15日召开。", "2025年7月15日"),
    ("发布日期：2022/11/05。", "2022/11/05"),
    # part numbers and standards
    ("Order the bearing AB-1234/56 again.", "AB-1234/56"),
    ("Order the bearing AB-1234/57 again.", "ab-1234/57"),
    ("Certified by ISO 9001 auditors.", "ISO 9001"),
    ("Audited for ISO27001 last year.", "ISO 27001"),
    ("The GTX-1080Ti is out of stock.", "gtx-1080ti"),
    ("HIV-1 and not another strain.", "HIV-1"),
    ("型号为XR-500的相机。", "XR-500"),
    ("请填写W-8BEN表。", "W-8BEN"),
    ("The loss of p53 was seen.", "p53"),
    ("Section §4.2.1 holds.", "4.2.1"),
    # languages, frameworks, tags
    ("Written in C++ by one person.", "C++"),
    ("Written in C# by one person.", "c#"),
    ("Written in F# by one person.", "F#"),
    ("Runs on .NET everywhere.", ".NET"),
    ("Runs on Node.js everywhere.", "node.js"),
    ("使用C++11标准编写。", "C++11"),
    ("Posted under #gardening yesterday.", "#gardening"),
    ("Ask @ana about it.", "@ana"),
    # addresses and paths
    ("Write to jane.roe@example.org for keys.", "jane.roe@example.org"),
    ("Write to john.doe@example.org for keys.", "john.doe@example.org"),
    ("The router is 10.0.0.17 there.", "10.0.0.17"),
    ("The router is 10.0.0.71 there.", "10.0.0.71"),
    ("Edit /etc/nginx/nginx.conf by hand.", "/etc/nginx/nginx.conf"),
    ("Open C:\\Windows\\System32\\drivers.", "C:\\Windows\\System32\\drivers"),
    ("See https://example.org/docs/42 for more.", "https://example.org/docs/42"),
    ("Set max_tokens in the file.", "max_tokens"),
    ("Set --max-tokens on the command line.", "--max-tokens"),
    ("2001:db8::ff00:42:8329 is an address.", "2001:db8::ff00:42:8329"),
    # the same letters, written otherwise
    ("Das Café Größe öffnet früh.", "cafe\u0301 größe"),
    ("The ﬁnancial oﬃce is closed.", "financial office"),
    ("ＡＰＩキーを設定する。", "API"),
    ("Un résumé de São Paulo.", "resume sao paulo"),
]  # fmt: skip


def best(info: Bm25Info, query: str) -> list[str]:
    """Texts that share a term with the query, best first."""
    terms = Bm25Terms(info)
    vectors = {text: terms.passage(text) for text, _ in CASES}
    found = Counter(term for own in vectors.values() for term in own.indices)
    asked = terms.query(query)
    scores: dict[str, float] = {}
    for text, own in vectors.items():
        weights = dict(zip(own.indices, own.values, strict=True))
        scores[text] = sum(
            weight
            * weights[term]
            * math.log(1 + (len(CASES) - found[term] + 0.5) / (found[term] + 0.5))
            for term, weight in zip(asked.indices, asked.values, strict=True)
            if term in weights
        )
    return sorted((text for text in scores if scores[text] > 0), key=lambda text: -scores[text])


@pytest.mark.parametrize("language", ["multilingual", "zh"])
@pytest.mark.parametrize(("text", "query"), CASES)
def test_what_is_asked_for_by_its_letters_is_found_first(
    text: str, query: str, language: str
) -> None:
    assert best(bm25_info(language), query)[:1] == [text]


@pytest.mark.parametrize(
    ("text", "query"), [case for case in CASES if case[0].isascii() and case[1].isascii()]
)
def test_in_english_likewise(text: str, query: str) -> None:
    assert best(bm25_info("en"), query)[:1] == [text]


def test_sentences_have_no_exact_words() -> None:
    text = "It's state-of-the-art, e.g. and/or: a new one...\nU.S.A. Mr. Smith's (or others') — yes"
    assert exact_words(text, numbers=True) == []


def test_an_older_collection_keeps_its_terms() -> None:
    import qdrant_edge as edge

    text = "Port 8080, café, C++ and 第12条"
    for language, tokenizer in (("en", None), ("zh", edge.TokenizerType.Multilingual)):
        info = bm25_info(language, version=1)
        assert (info.version, info.folds) == (1, False)
        more = {} if tokenizer is None else {"tokenizer": tokenizer}
        stop = edge.StopwordsSet(languages={edge.Language.English, edge.Language.Chinese})
        more |= {} if tokenizer is None else {"stopwords": stop}
        served = edge.Bm25(
            edge.Bm25Config(language="english", avg_len=info.avg_len, **more)
        ).embed_document(text)
        own = Bm25Terms(info).passage(text)
        assert dict(zip(own.indices, own.values, strict=True)) == dict(
            zip(served.indices, served.values, strict=True)
        )


def test_accents_are_letters_where_readers_take_them_so() -> None:
    for language, folds in (("fr", True), ("en", True), ("sv", False), ("tr", False), ("zh", True)):
        assert bm25_info(language).folds is folds
    swedish = Bm25Terms(bm25_info("sv"))
    assert swedish.query("får").indices != swedish.query("far").indices
    assert swedish.query("fa\u030ar").indices == swedish.query("får").indices
    kept = Bm25Terms(bm25_info("en", fold_accents=False))
    assert kept.query("café").indices != kept.query("cafe").indices


def test_weights_are_the_engines_where_nothing_is_added() -> None:
    import qdrant_edge as edge

    text = "The wing of a wing in 2 flows, nine wings of 10.0.0.17"
    own = Bm25Terms(bm25_info("en")).passage(text)
    engine = edge.Bm25(edge.Bm25Config(language="english", avg_len=100.0)).embed_document(text)
    weights = dict(zip(own.indices, own.values, strict=True))
    for term, weight in zip(engine.indices, engine.values, strict=True):
        assert weights[term] == pytest.approx(weight, rel=1e-6)
    assert len(weights) == len(engine.indices) + 1


def test_what_looks_alike_is_alike() -> None:
    assert normalised("ＡＢ１２ ﬁ cafe\u0301 ١٢ x²") == "AB12 fi café 12 x2"
    assert normalised("plain") == "plain"
