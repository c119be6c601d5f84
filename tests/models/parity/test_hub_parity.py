"""Released weights: BGE's query vectors made elsewhere, FlagReranker's logits, bge-m3's outputs.

These run where a model hub answers or the weights lie in its local cache.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from reference.peers import FlagRun, flag_embedding, plain_logits, silenced
from reference.texts import cosines

from retrieval.models.encoders.bge_m3 import BGEM3
from retrieval.models.encoders.bi_encoder import BiEncoder
from retrieval.models.rerankers.cross_encoder import CrossEncoderReranker
from retrieval.models.resolve import resolve
from retrieval.types import FloatArray

ENCODER = "BAAI/bge-base-en-v1.5"
RERANKER = "BAAI/bge-reranker-base"
M3 = "BAAI/bge-m3"
STORED = "msmarco-dl20-pool/queries.bge-base-en-v1.5.jsonl.gz"

PAIRS = [
    ("what is a panda?", "hi"),
    ("what is a panda?", "The giant panda is a bear that lives in China and eats bamboo."),
    ("what is a panda?", "pandas is a library for tables in Python."),
    ("how do I copy a folder?", "shutil.copytree copies a whole directory tree."),
    ("how do I copy a folder?", "The moon orbits the earth once in about a month."),
    ("北京在哪里？", "北京是中国的首都，位于华北平原的北部。"),
    ("北京在哪里？", "大熊猫生活在四川的山里。"),
    ("wo liegt Berlin?", "Berlin liegt an der Spree im Nordosten Deutschlands."),
    ("dog", "dog"),
    ("what does the long text say?", "It says the same again and again. " * 120),
    ("what does the long text say? " * 100, "It says the same again and again. " * 60),
    ("1 + 1", "2"),
]


def stored_queries(folder: Path) -> tuple[list[str], FloatArray]:
    """Texts (n) and vectors (n, 768) of the topics, in the order of the vectors' file."""
    lines = (folder / "msmarco-dl20-pool/queries.jsonl").read_text(encoding="utf-8").splitlines()
    texts = {entry["_id"]: entry["text"] for entry in map(json.loads, lines)}
    with gzip.open(folder / STORED, "rt", encoding="utf-8") as file:
        entries = [json.loads(line) for line in file]
    vectors = np.array([entry["vector"] for entry in entries], dtype=np.float32)
    return [texts[entry["qid"]] for entry in entries], vectors


@pytest.mark.shared_data
def test_the_stored_vectors_belong_to_the_topics(shared_data: Path) -> None:
    """What the next test compares with is whole, whether or not the weights are here."""
    texts, vectors = stored_queries(shared_data)
    assert vectors.shape == (54, 768)
    assert len(set(texts)) == 54
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)


@pytest.mark.hub(ENCODER)
@pytest.mark.shared_data
def test_query_vectors_of_bge_base(shared_data: Path) -> None:
    """Made elsewhere with the released weights and the query instruction."""
    texts, stored = stored_queries(shared_data)
    encoder = BiEncoder(ENCODER, device="cpu", dtype="fp32")
    assert cosines(encoder.encode_queries(texts), stored).min() >= 0.9999
    # Without the instruction they are other vectors: it is what the comparison is about.
    assert cosines(encoder.encode_passages(texts).vectors, stored).max() < 0.999
    rounded = BiEncoder(ENCODER, device="cpu", dtype="bf16")
    assert cosines(rounded.encode_queries(texts), stored).min() >= 0.9995


@pytest.mark.hub(RERANKER)
@pytest.mark.timeout(900)
def test_logits_of_bge_reranker_base() -> None:
    ours = CrossEncoderReranker(RERANKER, device="cpu", dtype="fp32")
    values = ours.score(PAIRS).values
    path = resolve(RERANKER, "reranker").path
    theirs = FlagRun(path, PAIRS, ours.info.max_length)
    assert theirs.same.sum() >= len(PAIRS) - 2
    np.testing.assert_allclose(values[theirs.same], theirs.scores[theirs.same], atol=1e-4)
    np.testing.assert_allclose(values, plain_logits(path, PAIRS, ours.info.max_length), atol=1e-4)
    assert values[1] > values[2] > values[0]
    assert values[3] > values[4]


@pytest.mark.hub(M3)
@pytest.mark.timeout(1800)
def test_three_outputs_of_bge_m3() -> None:
    texts = sorted({text for pair in PAIRS for text in pair})
    ours = BGEM3(M3, device="cpu", dtype="fp32", max_length=512)
    output = ours.encode(texts, "passage")
    assert output.dense is not None
    assert output.sparse is not None
    assert output.multi_vectors is not None
    module = flag_embedding()
    with silenced():
        model = module.BGEM3FlagModel(
            str(resolve(M3, "encoder").path), use_fp16=False, devices="cpu"
        )
        expected = model.encode(
            texts, max_length=512, return_dense=True, return_sparse=True, return_colbert_vecs=True
        )
    assert cosines(output.dense, expected["dense_vecs"]).min() >= 0.99999
    for weights, theirs in zip(output.sparse, expected["lexical_weights"], strict=True):
        kept = {int(token): float(weight) for token, weight in theirs.items()}
        assert weights.as_dict() == pytest.approx(kept, abs=1e-4)
    for vectors, theirs in zip(output.multi_vectors, expected["colbert_vecs"], strict=True):
        assert vectors.shape == theirs.shape
        assert cosines(vectors, theirs).min() >= 0.9999
