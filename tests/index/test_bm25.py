"""BM25: languages, detection, and that the settings are worth what the comments say."""

from __future__ import annotations

import csv
import json
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval.errors import InvalidInput, StoreFault
from retrieval.index.bm25 import LANGUAGES, VERSION, Bm25Terms, bm25_info
from retrieval.index.embedded.index import EmbeddedIndex
from retrieval.types import Bm25Info, Manifest, Passage

SAMPLES = {
    "english": "The cat sat on the mat and it was not with the dog that is from the house of "
    "which we spoke. This is for you, and they are with the others.",
    "german": "Die Katze sitzt auf dem Tisch und der Hund ist nicht mit den anderen im Haus. "
    "Das ist ein Buch von der Frau, die sich zu einem Mann setzt.",
    "french": "Le chat est dans la maison et les chiens sont avec une femme qui parle pour ne pas "
    "dormir. Des livres sur le sujet du jour sont au bureau.",
    "spanish": "El gato está en la casa y los perros se quedan con una mujer que habla para no "
    "dormir. Las cosas del mundo son más grandes, pero su casa es como una caja.",
    "italian": "Il gatto che è nella casa non parla con una donna. Gli animali sono più grandi "
    "della casa, anche dei cani, per il nonno di Maria che è nel giardino.",
    "portuguese": "O gato não está em uma casa que os cães conhecem. Mais coisas são como um "
    "jogo da mulher, para o homem dos livros com as mãos do pai ao sol.",
    "dutch": "Het huis van de man is niet groot, maar het wordt ook voor een hond op straat "
    "gebouwd. Dat zijn boeken met een kaft, naar het zeggen bij ons van de bakker.",
    "swedish": "Och det är inte ett hus som katten bor i, med en hund till för att den har det "
    "om natten av sin mor. Det är på gården och inte här.",
    "finnish": "Kissa on talossa ja koira ei ole siellä, mutta se oli eilen. Hän sanoi että "
    "niin on myös kun joka sen näkee, tai ovat muut. Se on hyvä ja kaunis.",
    "turkish": "Bu bir ev ve içinde bir kedi var. Köpek ile kedi için de çok yer var, ama bu ne "
    "gibi bir yer olan daha iyi olarak bilinir, ve en güzel bu ev.",
    "russian": "Кошка сидит на столе, а собака лежит под ним.",
    "greek": "Η γάτα κάθεται στο τραπέζι και ο σκύλος κοιμάται.",
    "arabic": "القطة تجلس على الطاولة والكلب ينام",
    "hebrew": "החתול יושב על השולחן",
    "chinese": "北京是中国的首都，也是全国的政治中心。",
    "japanese": "東京は日本の首都であり、世界最大の都市の一つです。",
    "korean": "서울은 대한민국의 수도이다.",
    "thai": "กรุงเทพมหานครเป็นเมืองหลวงของประเทศไทย",
}


@pytest.mark.parametrize("language", SAMPLES)
def test_the_language_is_told_from_a_sample(language: str) -> None:
    assert bm25_info("auto", [SAMPLES[language]]).language == language


def test_auto_stays_with_english_without_evidence() -> None:
    for sample in ([], [""], ["12345 !?"], ["def main(): return xs[0]"], ["die cast"]):
        assert bm25_info("auto", sample) == Bm25Info("english", "word", 100.0, VERSION, folds=True)


def test_a_share_of_unspaced_script_decides_the_tokenizer() -> None:
    mixed = [SAMPLES["english"]] * 9 + [SAMPLES["chinese"]] * 5
    assert bm25_info("auto", mixed) == Bm25Info(
        "multilingual", "multilingual", 128.0, VERSION, folds=True
    )
    stray = [SAMPLES["english"] * 40, "中"]
    assert bm25_info("auto", stray).tokenizer == "word"


def test_detection_reads_no_more_than_it_needs() -> None:
    read = 0

    def endless() -> Any:
        nonlocal read
        while True:
            read += 1
            yield "the cat and the dog"

    assert bm25_info("auto", endless()).language == "english"
    assert read <= 201


@pytest.mark.parametrize(
    ("given", "language", "tokenizer"),
    [
        ("en", "english", "word"),
        (" English ", "english", "word"),
        ("DE", "german", "word"),
        ("zh-CN", "chinese", "multilingual"),
        ("zh_Hant", "chinese", "multilingual"),
        ("ja", "japanese", "multilingual"),
        ("multilingual", "multilingual", "multilingual"),
    ],
)
def test_names_and_codes(given: str, language: str, tokenizer: str) -> None:
    info = bm25_info(given, ["ignored"])
    assert (info.language, info.tokenizer) == (language, tokenizer)


@pytest.mark.parametrize("given", ["klingon", "xx", "", "en glish"])
def test_unknown_languages_are_refused_with_the_known(given: str) -> None:
    with pytest.raises(InvalidInput, match="known are auto, arabic") as caught:
        bm25_info(given)
    assert "multilingual" in caught.value.fix


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_known_language_makes_terms(language: str) -> None:
    terms = Bm25Terms(bm25_info(language))
    assert terms.passage("Qdrant 北京 Москва 12").indices
    assert terms.query("Qdrant").values == (1.0,)


def test_a_manifest_with_a_language_the_engine_lacks() -> None:
    with pytest.raises(StoreFault, match="'klingon'"):
        Bm25Terms(Bm25Info("klingon", "word", 100.0))


def test_english_is_stemmed_and_stop_words_go() -> None:
    terms = Bm25Terms(bm25_info("en"))
    assert terms.query("The running foxes").indices == terms.query("fox run").indices
    assert terms.query("the of and").indices == ()
    assert terms.passage("").indices == ()


def test_english_terms_within_chinese_are_stemmed() -> None:
    terms = Bm25Terms(bm25_info("zh"))
    assert set(terms.query("foxes").indices) <= set(terms.passage("我喜欢 the fox").indices)


def test_a_query_that_says_a_word_again_weighs_it_more() -> None:
    terms = Bm25Terms(bm25_info("en"))
    once = terms.query("wing flow")
    again = terms.query("wing flows wing flowing the wing")
    assert once.values == (1.0, 1.0)
    assert again.indices == once.indices
    assert again.values == pytest.approx((9 * 3 / (8 + 3), 9 * 2 / (8 + 2)))
    assert max(terms.query("wing " * 3000).values) < 9.0


def test_query_terms_are_those_of_a_qdrant_server() -> None:
    import qdrant_edge as edge

    text = "The wing of a wing, in 2 flows: naïve wings"
    own = Bm25Terms(bm25_info("en", fold_accents=False)).query(text)
    served = edge.Bm25(edge.Bm25Config(language="english")).embed_query(text)
    assert set(own.indices) == set(served.indices)


def load(folder: Path) -> tuple[dict[str, str], dict[str, str], dict[str, dict[str, int]]]:
    def read(name: str) -> list[dict[str, Any]]:
        with (folder / name).open(encoding="utf-8") as file:
            return [json.loads(line) for line in file]

    corpus = {d["_id"]: f"{d.get('title', '')} {d['text']}".strip() for d in read("corpus.jsonl")}
    queries = {q["_id"]: q["text"] for q in read("queries.jsonl")}
    qrels: dict[str, dict[str, int]] = {}
    with (folder / "qrels" / "test.tsv").open(encoding="utf-8") as file:
        for row in list(csv.reader(file, delimiter="\t"))[1:]:
            qrels.setdefault(row[0], {})[row[1]] = int(row[2])
    return corpus, queries, qrels


def ndcg(found: list[str], relevant: dict[str, int]) -> float:
    def gain(grades: list[int]) -> float:
        return float(sum(grade / np.log2(rank + 2) for rank, grade in enumerate(grades[:10])))

    ideal = gain(sorted(relevant.values(), reverse=True))
    return gain([relevant.get(key, 0) for key in found]) / ideal if ideal else 0.0


@pytest.mark.shared_data
@pytest.mark.parametrize(("name", "least"), [("scifact", 0.685), ("cmrc2018", 0.97)])
def test_bm25_is_as_good_as_published(
    shared_data: Path, tmp_path: Path, manifest: Callable[..., Manifest], name: str, least: float
) -> None:
    """Anserini's BM25 on scifact: 0.679 (BEIR, Thakur et al. 2021, with tuned fields: 0.665)."""
    corpus, queries, qrels = load(shared_data / name)
    keys = list(corpus)
    passages = [
        Passage(str(uuid.uuid5(uuid.NAMESPACE_URL, key)), key, 0, corpus[key], 0, 1) for key in keys
    ]
    info = bm25_info("auto", list(corpus.values())[:200])
    assert info.language == {"scifact": "english", "cmrc2018": "chinese"}[name]
    with EmbeddedIndex.create(tmp_path, "docs", manifest(bm25=info)) as index:
        index.upsert(passages, np.ones((len(passages), 8), dtype=np.float32))
        scores = [
            ndcg(
                [c.passage.document_id for c in index.search(
                    mode="sparse", limit=10, text=queries[query])],
                relevant,
            )
            for query, relevant in list(qrels.items())[:400]
        ]  # fmt: skip
    assert float(np.mean(scores)) >= least
