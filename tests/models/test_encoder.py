"""The bi-encoder: instructions where they belong, parity with what users know, clear faults."""

from __future__ import annotations

import shutil
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models.batches import change_weights, cosines, in_threads

from retrieval.errors import InvalidInput, ModelFault, ModelSettingUnknown
from retrieval.models.encoders.bi_encoder import BiEncoder
from retrieval.models.engines.base import TokenBatch
from retrieval.models.tokenization import prefetch
from retrieval.types import Encoder, EncoderInfo, FloatArray, ModelSpec, ResolvedModel

EXACT: dict[str, Any] = {"engine": "transformers", "device": "cpu", "dtype": "fp32"}
INSTRUCTION = "Represent this sentence for searching relevant passages: "
TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "北京是中国的首都",
    "",
    "a cross-encoder reads the query and the passage " * 30,
    "dog",
    "Return the path of the file",
]


@pytest.fixture(params=["tiny_bert_encoder", "tiny_xlmr_encoder"])
def resolved(request: pytest.FixtureRequest, make_resolved_encoder: Any) -> ResolvedModel:
    return make_resolved_encoder(
        request.getfixturevalue(request.param), query_instruction=INSTRUCTION
    )


@pytest.fixture
def exact(resolved: ResolvedModel) -> BiEncoder:
    return BiEncoder(resolved, **EXACT)


def sentence_transformers(path: Path, *, truncate_dim: int | None = None, **options: Any) -> Any:
    """What sentence-transformers makes of `TEXTS`, without its warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(str(path), device="cpu", truncate_dim=truncate_dim)
        return model.encode(TEXTS, show_progress_bar=False, **options)


def test_it_is_an_encoder(exact: BiEncoder) -> None:
    assert isinstance(exact, Encoder)
    assert exact.info == EncoderInfo(
        model=exact.info.model,
        fingerprint="sha256:test",
        dimension=64,
        pooling="cls",
        normalize=True,
        query_instruction=INSTRUCTION,
        passage_instruction="",
        max_length=128,
    )
    assert exact.engine == "transformers fp32 on cpu"
    assert exact.token_counter.special_tokens == 2


def test_shapes_and_norms(exact: BiEncoder) -> None:
    encoding = exact.encode_passages(TEXTS)
    assert encoding.vectors.shape == (len(TEXTS), 64)
    assert encoding.vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(encoding.vectors, axis=1), 1.0, atol=1e-6)
    assert exact.encode_queries([]).shape == (0, 64)
    empty = exact.encode_passages([])
    assert empty.vectors.shape == (0, 64)
    assert len(empty.tokens) == len(empty.truncated) == 0
    assert exact.encode_tokens([], "query") == []


def test_queries_carry_the_instruction_and_passages_never_do(
    exact: BiEncoder, resolved: ResolvedModel
) -> None:
    plain = BiEncoder(resolved, query_instruction="", **EXACT)
    assert plain.info.query_instruction == ""
    by_hand = plain.encode_passages([INSTRUCTION + text for text in TEXTS]).vectors
    np.testing.assert_allclose(exact.encode_queries(TEXTS), by_hand, atol=1e-5)
    passages = exact.encode_passages(TEXTS).vectors
    np.testing.assert_allclose(passages, plain.encode_passages(TEXTS).vectors, atol=1e-5)
    np.testing.assert_allclose(passages, plain.encode_queries(TEXTS), atol=1e-5)
    short = [0, 1, 2, 4, 5]
    assert cosines(exact.encode_queries(TEXTS), passages)[short].max() < 0.999


def test_truncation_is_reported(exact: BiEncoder) -> None:
    encoding = exact.encode_passages(TEXTS)
    assert encoding.truncated.tolist() == [False, False, False, True, False, False]
    counter = exact.token_counter
    assert encoding.tokens.tolist() == [len(counter.token_offsets(text)) + 2 for text in TEXTS]
    assert encoding.tokens[3] > 128


@pytest.mark.parametrize("engine", ["transformers", "openvino"])
def test_alone_or_in_a_mixed_batch(resolved: ResolvedModel, engine: Any) -> None:
    encoder = BiEncoder(resolved, engine=engine, device="cpu", dtype="fp32", token_budget=300)
    together = encoder.encode_passages(TEXTS).vectors
    alone = np.concatenate([encoder.encode_passages([text]).vectors for text in TEXTS])
    np.testing.assert_allclose(together, alone, atol=1e-3)
    backwards = encoder.encode_passages(TEXTS[::-1]).vectors[::-1]
    np.testing.assert_allclose(together, backwards, atol=1e-3)


def test_slices_change_nothing(exact: BiEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, calls = exact.encode_passages(TEXTS), []
    whole_tokens = exact.encode_tokens(TEXTS, "passage")
    monkeypatch.setattr(prefetch, "FIRST", 1)
    monkeypatch.setattr(prefetch, "SLICE", 4)
    monkeypatch.setattr(prefetch, "_PIECE", 2)
    sliced = exact.encode_passages(TEXTS, progress=lambda done, total: calls.append((done, total)))
    np.testing.assert_allclose(sliced.vectors, whole.vectors, atol=1e-5)
    assert sliced.tokens.tolist() == whole.tokens.tolist()
    assert sliced.truncated.tolist() == whole.truncated.tolist()
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    assert calls[-1] == (6, 6)
    for ours, theirs in zip(exact.encode_tokens(TEXTS, "passage"), whole_tokens, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_a_tokeniser_that_fails_ahead_is_heard(
    exact: BiEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefetch, "FIRST", 1)
    encode, before = exact._tokenizer.encode, set(threading.enumerate())

    def fail(texts: list[str], prefix: str = "") -> Any:
        if "dog" in texts:
            raise MemoryError("no room for the dog")
        return encode(texts, prefix=prefix)

    monkeypatch.setattr(exact._tokenizer, "encode", fail)
    with pytest.raises(MemoryError, match="no room for the dog"):
        exact.encode_passages(TEXTS)
    assert set(threading.enumerate()) <= before  # those of others may end meanwhile


def test_a_failure_ends_the_tokeniser(exact: BiEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch, "FIRST", 1)
    before = set(threading.enumerate())

    def refuse(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        exact.encode_passages(TEXTS * 1000, progress=refuse)
    assert set(threading.enumerate()) <= before  # those of others may end meanwhile


def test_slices_grow_and_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch, "FIRST", 2)
    monkeypatch.setattr(prefetch, "SLICE", 32)
    monkeypatch.setattr(prefetch, "SLICE_CHARS", 320)
    sizes = [1] * 100 + [300, 300, 1, 1, 500]
    bounds = list(prefetch._bounds(sizes))
    lengths = [stop - start for start, stop in bounds]
    assert lengths == [2, 8, 32, 32, 26, 1, 3, 1]
    assert [stop for _, stop in bounds[:-1]] == [start for start, _ in bounds[1:]]
    assert (bounds[0][0], bounds[-1][1]) == (0, len(sizes))


@pytest.mark.parametrize("kind", ["query", "passage"])
def test_token_vectors(exact: BiEncoder, kind: Any) -> None:
    tokens = exact.encode_tokens(TEXTS, kind)
    prefix = INSTRUCTION if kind == "query" else ""
    counter = exact.token_counter
    for text, vectors in zip(TEXTS, tokens, strict=True):
        expected = min(len(counter.token_offsets(prefix + text)) + 2, 128)
        assert vectors.shape == (expected, 64)
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)
    # This model pools by CLS, so a text's vector is its first token's.
    pooled = (
        exact.encode_queries(TEXTS) if kind == "query" else exact.encode_passages(TEXTS).vectors
    )
    np.testing.assert_allclose(np.stack([vectors[0] for vectors in tokens]), pooled, atol=1e-4)
    assert tokens[4].base is None or tokens[4].base.shape[0] < 128 * len(TEXTS)


class TestParity:
    def test_flag_embedding(
        self, exact: BiEncoder, resolved: ResolvedModel, tmp_path: Path
    ) -> None:
        """FlagModel, the reference of BGE: CLS pooling, instruction, normalised."""
        pytest.importorskip("FlagEmbedding", reason="FlagEmbedding is not installed")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its dependencies' deprecations at import and use
            from FlagEmbedding import FlagModel

            theirs = FlagModel(
                str(resolved.path),
                query_instruction_for_retrieval=INSTRUCTION,
                use_fp16=False,
                devices="cpu",
            )
            queries = theirs.encode_queries(TEXTS, max_length=128)
            passages = theirs.encode_corpus(TEXTS, max_length=128)
        assert cosines(exact.encode_queries(TEXTS), queries).min() >= 0.99999
        assert cosines(exact.encode_passages(TEXTS).vectors, passages).min() >= 0.99999

    @pytest.mark.parametrize(
        ("engine", "dtype", "least"),
        [
            ("transformers", "fp32", 0.99999),
            ("openvino", "fp32", 0.99999),
            ("openvino", "bf16", 0.999),
        ],
    )
    def test_sentence_transformers_on_a_trained_model(
        self, starter_encoder: BiEncoder, starter_path: Path, engine: Any, dtype: Any, least: float
    ) -> None:
        theirs = sentence_transformers(starter_path, normalize_embeddings=True)
        spec = ModelSpec("MiniLM", "encoder", max_length=256, dimension=384, pooling="mean")
        ours = BiEncoder(
            ResolvedModel(spec, starter_path, ""), engine=engine, device="cpu", dtype=dtype
        )
        assert cosines(ours.encode_passages(TEXTS).vectors, theirs).min() >= least
        assert cosines(starter_encoder.encode_passages(TEXTS).vectors, theirs).min() >= 0.999

    @pytest.mark.parametrize("pooling", ["cls", "mean", "last"])
    def test_sentence_transformers_with_each_pooling(
        self, make_tiny_model: Callable[..., Path], make_resolved_encoder: Any, pooling: Any
    ) -> None:
        path = make_tiny_model("bert", "encoder", pooling=pooling)
        ours = BiEncoder(make_resolved_encoder(path, pooling=pooling), **EXACT)
        vectors = ours.encode_passages(TEXTS).vectors
        assert cosines(vectors, sentence_transformers(path)).min() >= 0.99999


def test_the_starter_knows_what_belongs_together(starter_encoder: BiEncoder) -> None:
    query = starter_encoder.encode_queries(["how do I copy a directory tree?"])
    passages = starter_encoder.encode_passages(
        ["Recursively copy a whole folder to another place", "The moon orbits the earth"]
    ).vectors
    near, far = (passages @ query[0]).tolist()
    assert near > 0.4 > 0.2 > far


class TestTruncation:
    def test_cut_and_normalised_again(
        self, tiny_bert_encoder: Path, make_resolved_encoder: Any
    ) -> None:
        """As sentence-transformers does it."""
        resolved = make_resolved_encoder(tiny_bert_encoder, matryoshka=(16, 32))
        whole, cut = BiEncoder(resolved, **EXACT), BiEncoder(resolved, truncate_dim=16, **EXACT)
        assert (whole.info.dimension, cut.info.dimension) == (64, 16)
        expected = whole.encode_passages(TEXTS).vectors[:, :16]
        expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
        vectors = cut.encode_passages(TEXTS).vectors
        assert vectors.shape == (len(TEXTS), 16)
        np.testing.assert_allclose(vectors, expected, atol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)
        tokens = cut.encode_tokens(TEXTS, "passage")
        assert {states.shape[1] for states in tokens} == {16}
        theirs = sentence_transformers(
            tiny_bert_encoder, truncate_dim=16, normalize_embeddings=True
        )
        assert cosines(vectors, theirs).min() >= 0.99999

    def test_not_normalised_where_the_model_is_not(
        self, tiny_bert_encoder: Path, make_resolved_encoder: Any
    ) -> None:
        resolved = make_resolved_encoder(tiny_bert_encoder, matryoshka=(16,), normalize=False)
        cut = BiEncoder(resolved, truncate_dim=16, **EXACT).encode_passages(TEXTS).vectors
        whole = BiEncoder(resolved, **EXACT).encode_passages(TEXTS).vectors
        np.testing.assert_allclose(cut, whole[:, :16], atol=1e-6)

    def test_untrained_only_where_insisted(self, resolved: ResolvedModel) -> None:
        with pytest.raises(InvalidInput, match=r"are: none\. .*allow_untrained_truncation=True"):
            BiEncoder(resolved, truncate_dim=16)
        insisted = BiEncoder(resolved, truncate_dim=16, allow_untrained_truncation=True)
        assert insisted.encode_queries(["dog"]).shape == (1, 16)
        assert BiEncoder(resolved, truncate_dim=64).info.dimension == 64

    @pytest.mark.parametrize("given", [0, -4, 65, "16", 16.0, True])
    def test_impossible_dimensions(self, resolved: ResolvedModel, given: Any) -> None:
        with pytest.raises(InvalidInput, match="truncate_dim"):
            BiEncoder(resolved, truncate_dim=given, allow_untrained_truncation=True)


def test_closed(resolved: ResolvedModel) -> None:
    with BiEncoder(resolved, engine="transformers", device="cpu") as encoder:
        assert encoder.encode_queries(["dog"]).shape == (1, 64)
    encoder.close()
    for encode in (encoder.encode_queries, encoder.encode_passages):
        with pytest.raises(InvalidInput, match=r"was closed.*Load it again"):
            encode(["dog"])
    with pytest.raises(InvalidInput, match="was closed"):
        encoder.encode_tokens(["dog"], "query")


class TestArguments:
    def test_overrides(self, resolved: ResolvedModel) -> None:
        encoder = BiEncoder(
            resolved, engine="openvino", pooling="mean", max_length=32, query_instruction="query: "
        )
        info = encoder.info
        assert (info.pooling, info.max_length) == ("mean", 32)
        assert info.query_instruction == "query: "
        assert encoder.encode_passages(TEXTS).truncated[3]

    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"token_budget": 0}, InvalidInput, "token_budget is 0"),
            ({"pooling": "max"}, InvalidInput, "pooling='max'"),
            ({"max_length": 129}, InvalidInput, "max_length=129"),
            ({"query_instruction": "dog " * 200}, InvalidInput, "instruction .* 200 tokens"),
            ({"query_instruction": 3}, InvalidInput, "query_instruction 0 is of type int"),
        ],
    )
    def test_bad_arguments(
        self, resolved: ResolvedModel, options: dict[str, Any], error: Any, message: str
    ) -> None:
        with pytest.raises(error, match=message):
            BiEncoder(resolved, **options)

    @pytest.mark.parametrize("setting", ["pooling", "dimension", "max_length"])
    def test_nothing_is_guessed(
        self, tiny_bert_encoder: Path, make_resolved_encoder: Any, setting: str
    ) -> None:
        resolved = make_resolved_encoder(tiny_bert_encoder, **{setting: None})
        with pytest.raises(ModelSettingUnknown, match=f"nothing declares the {setting}"):
            BiEncoder(resolved)

    def test_another_dimension_than_declared(
        self, tiny_bert_encoder: Path, make_resolved_encoder: Any
    ) -> None:
        with pytest.raises(ModelFault, match="declared to give 384 dimensions, but gives 64"):
            BiEncoder(make_resolved_encoder(tiny_bert_encoder, dimension=384))

    def test_a_reranker_is_no_encoder(
        self, tiny_bert_reranker: Path, make_resolved_encoder: Any
    ) -> None:
        with pytest.raises(InvalidInput, match="is a reranker, expected an encoder"):
            BiEncoder(make_resolved_encoder(tiny_bert_reranker, kind="reranker"))

    @pytest.mark.parametrize(
        ("texts", "message"),
        [
            ("dog", "type str was given where a list of queries is expected"),
            (["dog", None], "query 1 is of type NoneType"),
            ([b"dog"], "query 0 is of type bytes"),
        ],
    )
    def test_what_is_not_text(self, exact: BiEncoder, texts: Any, message: str) -> None:
        with pytest.raises(InvalidInput, match=message):
            exact.encode_queries(texts)
        with pytest.raises(
            InvalidInput, match=message.replace("queries", "passages").replace("query", "passage")
        ):
            exact.encode_passages(texts)
        with pytest.raises(InvalidInput):
            exact.encode_tokens(texts, "query")
        with pytest.raises(InvalidInput, match="kind='document'"):
            exact.encode_tokens(["dog"], "document")  # type: ignore[arg-type]


@pytest.mark.parametrize("engine", ["transformers", "openvino"])
def test_damaged_weights_give_no_vectors(
    tiny_bert_encoder: Path, make_resolved_encoder: Any, tmp_path: Path, engine: Any
) -> None:
    """One NaN in an embedding spoils only the texts that use it: they must not be stored."""
    path = shutil.copytree(tiny_bert_encoder, tmp_path / "model")
    encoder = BiEncoder(make_resolved_encoder(path), engine=engine, device="cpu", dtype="fp32")
    offset = encoder._tokenizer.encode(["dog"]).row(0)[1]
    change_weights(
        path, lambda tensors: tensors["embeddings.word_embeddings.weight"][offset].fill_(np.nan)
    )
    damaged = BiEncoder(make_resolved_encoder(path), engine=engine, device="cpu", dtype="fp32")
    assert np.isfinite(damaged.encode_queries(["fox", "file"])).all()
    with pytest.raises(ModelFault, match="zero or not finite for text 1"):
        damaged.encode_passages(["fox", "the dog", "path"])
    with pytest.raises(ModelFault, match="zero or not finite"):
        damaged.encode_tokens(["the dog"], "passage")


def test_not_normalised_where_the_model_is_not(
    tiny_bert_encoder: Path, make_resolved_encoder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolved = make_resolved_encoder(tiny_bert_encoder, normalize=False)
    encoder = BiEncoder(resolved, **EXACT)
    vectors = encoder.encode_passages(TEXTS).vectors
    assert np.linalg.norm(vectors, axis=1).max() > 1.5

    def broken(batch: TokenBatch) -> FloatArray:
        return np.full((len(batch.input_ids), 64), np.inf, dtype=np.float32)

    monkeypatch.setattr(encoder._engine, "submit", lambda batch: lambda: broken(batch))
    with pytest.raises(ModelFault, match=r"not finite for text \d"):
        encoder.encode_queries(TEXTS)


def test_from_several_threads(starter_encoder: BiEncoder) -> None:
    expected = starter_encoder.encode_queries(TEXTS)
    for result in in_threads(lambda _: starter_encoder.encode_queries(TEXTS)):
        np.testing.assert_allclose(result, expected, atol=1e-6)


@pytest.mark.hub
def test_bge_small_from_the_hub() -> None:
    """The published example of BGE: the right passage is nearer than the wrong one."""
    encoder = BiEncoder("BAAI/bge-small-en-v1.5")
    assert encoder.info.pooling == "cls"
    query = encoder.encode_queries(["What is a bi-encoder?"])[0]
    right, wrong = encoder.encode_passages(
        ["A bi-encoder turns queries and passages into vectors.", "Cows eat grass."]
    ).vectors
    assert query @ right > query @ wrong + 0.1
