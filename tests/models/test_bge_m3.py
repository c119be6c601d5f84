"""bge-m3's three outputs against FlagEmbedding's BGEM3FlagModel, on a tiny model of its shape."""

from __future__ import annotations

import contextlib
import io
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models.batches import cosines

from retrieval.errors import InvalidInput, ModelFault, ModelNotFound
from retrieval.models.encoders import bge_m3_scores
from retrieval.models.encoders.bge_m3 import BGEM3
from retrieval.models.encoders.bge_m3_heads import multi_vector_score
from retrieval.models.encoders.bi_encoder import BiEncoder
from retrieval.models.rerankers.late_interaction import LateInteractionReranker
from retrieval.types import Encoder, FloatArray, LexicalWeights

EXACT: dict[str, Any] = {"engine": "transformers", "device": "cpu", "dtype": "fp32"}
TEXTS = [
    "what is a bi-encoder?",
    "The quick brown fox jumps over the lazy dog, and the dog sleeps on.",
    "the the the dog and the dog",
    "北京是中国的首都，上海是中国最大的城市。",
    "",
    "unknown: ☃ שלום",
    "Return the path of the file; raise an error when the directory does not exist. " * 9,
]
PAIRS = [(query, passage) for query in TEXTS[:4] for passage in TEXTS]


@pytest.fixture(scope="module")
def folder(make_tiny_model: Callable[..., Path]) -> Path:
    """XLM-RoBERTa with two linear heads of fixed random weights, in bge-m3's files."""
    path = make_tiny_model("xlmr", "encoder", seed=3)
    random = torch.Generator().manual_seed(0)
    for name, out, bias in (("sparse_linear.pt", 1, 1.0), ("colbert_linear.pt", 64, 0.1)):
        weight = torch.randn((out, 64), generator=random) * 0.2
        torch.save({"weight": weight, "bias": torch.full((out,), bias)}, path / name)
    return path


@pytest.fixture(scope="module")
def m3(folder: Path) -> BGEM3:
    return BGEM3(folder, **EXACT)


@pytest.fixture(scope="module")
def flag(folder: Path) -> Any:
    """FlagEmbedding's model of the same files, in fp32."""
    pytest.importorskip("FlagEmbedding")
    from FlagEmbedding import BGEM3FlagModel

    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")  # its own, of old names of arguments
        return BGEM3FlagModel(
            str(folder),
            use_fp16=False,
            devices=["cpu"],
            query_max_length=128,
            passage_max_length=128,
        )


@pytest.fixture(scope="module")
def expected(flag: Any) -> dict[str, Any]:
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        output: dict[str, Any] = flag.encode(
            TEXTS,
            batch_size=3,
            max_length=128,
            return_dense=True,
            return_sparse=True,
            return_colbert_vecs=True,
        )
    return output


def outputs(
    model: BGEM3, texts: list[str], kind: Any
) -> tuple[FloatArray, list[LexicalWeights], list[FloatArray]]:
    output = model.encode(texts, kind)
    assert output.dense is not None
    assert output.sparse is not None
    assert output.multi_vectors is not None
    return output.dense, output.sparse, output.multi_vectors


# --- parity ---------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["transformers", "openvino", "packed"])
def test_all_three_outputs_are_those_of_flagembedding(
    folder: Path, expected: dict[str, Any], engine: Any
) -> None:
    model = BGEM3(folder, engine=engine, device="cpu", dtype="fp32")
    dense, sparse, multi_vectors = outputs(model, TEXTS, "passage")
    assert cosines(dense, expected["dense_vecs"]).min() >= 0.99999
    for ours, theirs in zip(sparse, expected["lexical_weights"], strict=True):
        theirs = {int(token): float(weight) for token, weight in theirs.items()}
        assert ours.as_dict() == pytest.approx(theirs, abs=1e-4)
    assert sum(map(len, sparse)) > 20
    for vectors, theirs in zip(multi_vectors, expected["colbert_vecs"], strict=True):
        assert vectors.shape == theirs.shape
        assert vectors.dtype == np.float32
        assert cosines(vectors, theirs).min() >= 0.99999


@pytest.mark.parametrize("weights", [(0.4, 0.2, 0.4), (1.0, 1.0, 1.0), (0.0, 0.3, 1.0)])
def test_scores_are_those_of_flagembedding(m3: BGEM3, flag: Any, weights: Any) -> None:
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        theirs = flag.compute_score(
            [list(pair) for pair in PAIRS], weights_for_different_modes=list(weights)
        )
    ours = m3.score(PAIRS, weights=weights)
    np.testing.assert_allclose(ours.values, theirs["colbert+sparse+dense"], atol=1e-4)
    assert np.ptp(ours.values) > 0.1, "a constant would agree with anything"


def test_helpers_are_those_of_flagembedding(m3: BGEM3, flag: Any, expected: dict[str, Any]) -> None:
    _, sparse, multi_vectors = outputs(m3, TEXTS, "passage")
    lexical = flag.compute_lexical_matching_score(
        expected["lexical_weights"], expected["lexical_weights"]
    )
    ours = [[one.dot(other) for other in sparse] for one in sparse]
    np.testing.assert_allclose(ours, lexical, atol=1e-4)
    one, two = multi_vectors[:2]
    theirs = flag.colbert_score(*expected["colbert_vecs"][:2])
    assert multi_vector_score(one, two) == pytest.approx(float(theirs), abs=1e-5)


# --- what it gives --------------------------------------------------------------------------


def test_lexical_weights_are_of_words_only_each_once(m3: BGEM3) -> None:
    output = m3.encode(TEXTS, "query", dense=False, multi_vector=False)
    assert output.sparse is not None
    for sparse in output.sparse:
        assert (np.diff(sparse.indices) > 0).all()
        assert (sparse.values > 0).all()
        assert not set(sparse.indices.tolist()) & {0, 1, 2, 3}, "<s>, <pad>, </s>, <unk>"
        assert (sparse.indices.dtype, sparse.values.dtype) == (np.int32, np.float32)
    assert len(output.sparse[4]) == 0, "the empty text has no words"


def test_only_what_is_asked_for_is_computed(m3: BGEM3) -> None:
    output = m3.encode(TEXTS, "query", sparse=False, multi_vector=False)
    assert output.dense is not None
    assert (output.sparse, output.multi_vectors) == (None, None)
    whole = m3.encode(TEXTS, "query")
    assert whole.dense is not None
    np.testing.assert_allclose(output.dense, whole.dense, atol=1e-6)
    assert set(m3._engines) == {"cls", "tokens"}


def test_it_stands_where_a_bi_encoder_does(m3: BGEM3, folder: Path) -> None:
    assert isinstance(m3, Encoder)
    bi_encoder = BiEncoder(folder, **EXACT)
    assert m3.info == bi_encoder.info, "a collection must not tell them apart"
    np.testing.assert_allclose(
        m3.encode_queries(TEXTS), bi_encoder.encode_queries(TEXTS), atol=1e-6
    )
    ours, theirs = m3.encode_passages(TEXTS), bi_encoder.encode_passages(TEXTS)
    np.testing.assert_allclose(ours.vectors, theirs.vectors, atol=1e-6)
    np.testing.assert_array_equal(ours.tokens, theirs.tokens)
    np.testing.assert_array_equal(ours.truncated, theirs.truncated)
    assert ours.truncated.tolist() == [False] * 6 + [True]
    assert m3.token_counter.special_tokens == 2
    assert m3.engine == "transformers fp32 on cpu"


def test_it_serves_late_interaction(m3: BGEM3) -> None:
    reranker = LateInteractionReranker(m3, default_blend="none")
    scores = reranker.score(PAIRS)
    vectors = outputs(m3, TEXTS, "passage")[2]
    expected = [
        multi_vector_score(vectors[TEXTS.index(q)], vectors[TEXTS.index(p)]) for q, p in PAIRS
    ]
    np.testing.assert_allclose(scores.values, expected, atol=2e-3)  # it keeps float16


def test_order_and_company_change_nothing(m3: BGEM3, folder: Path) -> None:
    alone = [outputs(m3, [text], "passage") for text in TEXTS]
    together = outputs(m3, [*TEXTS, *TEXTS[::-1]], "passage")
    for place, (dense, sparse, vectors) in enumerate([*alone, *alone[::-1]]):
        np.testing.assert_allclose(together[0][place], dense[0], atol=1e-5)
        assert together[1][place].as_dict() == pytest.approx(sparse[0].as_dict(), abs=1e-5)
        np.testing.assert_allclose(together[2][place], vectors[0], atol=1e-5)
    exact = BGEM3(folder, **EXACT, deterministic=True)
    for text, vectors in zip(TEXTS, outputs(exact, TEXTS, "passage")[2], strict=True):
        np.testing.assert_array_equal(vectors, outputs(exact, [text], "passage")[2][0])


def test_scoring_in_small_blocks_gives_the_same(m3: BGEM3, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = m3.score(PAIRS)
    seen: list[tuple[int, int]] = []
    monkeypatch.setattr(bge_m3_scores, "WORKING_BYTES", 100_000)
    parts = m3.score(PAIRS, progress=lambda *call: seen.append(call))
    np.testing.assert_allclose(parts.values, whole.values, atol=1e-5)
    np.testing.assert_array_equal(parts.truncated, whole.truncated)
    assert whole.truncated.sum() == 4, "the last text is longer than the model reads"
    assert len(seen) > 3
    assert seen[-1] == (len(PAIRS), len(PAIRS))


def test_closing_ends_its_engines_and_a_later_call_loads_them_again(folder: Path) -> None:
    with BGEM3(folder, **EXACT) as model:
        before = model.encode_queries(TEXTS[:2])
        assert model._engines
    assert not model._engines
    np.testing.assert_array_equal(model.encode_queries(TEXTS[:2]), before)


def test_progress_counts_texts(m3: BGEM3) -> None:
    seen: list[tuple[int, int]] = []
    m3.encode(TEXTS, "passage", progress=lambda *call: seen.append(call))
    assert seen[-1] == (len(TEXTS), len(TEXTS))


def test_hostile_texts_and_none_at_all(m3: BGEM3) -> None:
    odd = ["\ud800", "\x00\x07", "x" * 100_000, "a\u202eb", "<s></s><pad>"]
    output = m3.encode(odd, "passage")
    assert output.dense is not None
    assert np.isfinite(output.dense).all()
    nothing = m3.encode([], "query")
    assert nothing.dense is not None
    assert nothing.dense.shape == (0, 64)
    assert (nothing.sparse, nothing.multi_vectors) == ([], [])
    assert m3.score([]).values.shape == (0,)


def test_lexical_weights_multiply_where_both_have_a_token() -> None:
    def weights(**tokens: float) -> LexicalWeights:
        ids = [int(name[1:]) for name in tokens]
        return LexicalWeights(
            np.array(ids, dtype=np.int32), np.array(list(tokens.values()), dtype=np.float32)
        )

    one, two = weights(t4=1.0, t7=0.5, t9=2.0), weights(t7=4.0, t8=1.0, t9=0.25)
    assert one.dot(two) == pytest.approx(2.5)
    assert one.dot(weights()) == 0.0


# --- what cannot be used --------------------------------------------------------------------


def test_without_the_heads_there_are_dense_vectors_only(
    folder: Path, tmp_path: Path, m3: BGEM3
) -> None:
    bare = shutil.copytree(folder, tmp_path / "bare", ignore=shutil.ignore_patterns("*.pt"))
    model = BGEM3(bare, **EXACT)
    np.testing.assert_allclose(model.encode_queries(TEXTS), m3.encode_queries(TEXTS), atol=1e-6)
    with pytest.raises(ModelNotFound, match=r"no sparse_linear\.pt and no colbert_linear\.pt"):
        model.encode(TEXTS, "query")


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (b"version https://git-lfs", "cannot be read as a linear layer"),
        ({"weight": torch.zeros(1, 64)}, "cannot be read as a linear layer"),
        ({"weight": torch.zeros(1, 32), "bias": torch.zeros(1)}, r"shape \(1, 32\)"),
        ({"weight": torch.zeros(2, 64), "bias": torch.zeros(2)}, "gives 2 values per token"),
        ({"weight": torch.full((1, 64), torch.nan), "bias": torch.zeros(1)}, "not finite"),
    ],
)
def test_damaged_heads_are_named(folder: Path, tmp_path: Path, state: Any, words: str) -> None:
    broken = shutil.copytree(folder, tmp_path / "broken")
    if isinstance(state, bytes):
        (broken / "sparse_linear.pt").write_bytes(state)
    else:
        torch.save(state, broken / "sparse_linear.pt")
    model = BGEM3(broken, **EXACT)
    with pytest.raises(ModelFault, match=words):
        model.encode(TEXTS, "query")


class Evil:
    def __reduce__(self) -> Any:
        return (exec, ("raise SystemExit('a pickle was run')",))


def test_no_code_in_a_pickle_is_run(folder: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(folder, tmp_path / "broken")
    torch.save({"weight": Evil(), "bias": Evil()}, broken / "colbert_linear.pt")
    model = BGEM3(broken, **EXACT)
    with pytest.raises(ModelFault, match="cannot be read as a linear layer"):
        model.encode(TEXTS, "query")


def test_wrong_arguments_are_named(m3: BGEM3, folder: Path, tiny_bert_reranker: Path) -> None:
    with pytest.raises(InvalidInput, match="no output was asked for"):
        m3.encode(TEXTS, "query", dense=False, sparse=False, multi_vector=False)
    with pytest.raises(InvalidInput, match="kind='both'"):
        m3.encode(TEXTS, "both")  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="query 0 is of type int"):
        m3.encode([1], "query")  # type: ignore[list-item]
    for weights in ((1, 1), (0, 0, 0), (-1, 1, 1), (np.nan, 1, 1)):
        with pytest.raises(InvalidInput, match="expected three numbers"):
            m3.score(PAIRS, weights=weights)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="token_budget is 0"):
        BGEM3(folder, token_budget=0)
    with pytest.raises(InvalidInput, match="cannot be used as an encoder"):
        BGEM3(tiny_bert_reranker)
