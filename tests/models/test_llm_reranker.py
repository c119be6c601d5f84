"""LLM rerankers against plain transformers and against FlagEmbedding's own classes.

The models are tiny and random, but of the architecture, the files and the kind of tokeniser of
those they stand for. FlagEmbedding 1.4.2's layered classes do not load under transformers 5: the
references here are those classes with the three incompatible places mended, see `mended_*`.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from retrieval.errors import InvalidInput, ModelFault, ModelNotFound, ModelSettingUnknown
from retrieval.models.load import load_reranker
from retrieval.models.rerankers.llm import LLMReranker
from retrieval.models.rerankers.llm_decoders import compress
from retrieval.models.rerankers.llm_prompts import LIGHTWEIGHT_PROMPT, PROMPT
from retrieval.models.score_modules import AnswerTokens
from retrieval.types import Reranker

TEXTS = [
    PROMPT,
    LIGHTWEIGHT_PROMPT,
    "A: B: \n Yes No",
    "the quick brown fox jumps over the lazy dog while nobody looks",
    "abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ 0123456789 .,;:!?",
]
PAIRS = [
    ("what is a fox", "the quick brown fox jumps over the lazy dog"),
    ("dog", "nobody looks " * 7),
    ("a b c", ""),
    ("what is a fox", "x y z " * 90),
    ("who looks " * 60, "the lazy dog"),
    ("北京在哪里", "北京是中国的首都。"),
]
SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "max_position_embeddings": 1024,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
}


# --- models ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """Byte pairs, with the special tokens of Gemma and "Yes" as one token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<pad>", "<eos>", "<bos>", "<unk>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        min_frequency=1,
        show_progress=False,
    )
    backend.train_from_iterator([*TEXTS, "Yes Yes", "No No"] * 3, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        padding_side="left",
        model_max_length=1024,
    )


@pytest.fixture(scope="module")
def gemma(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bge-reranker-v2-gemma's shape, under its name, so that it is recognised."""
    from transformers import GemmaConfig, GemmaForCausalLM

    path = tmp_path_factory.mktemp("llm") / "bge-reranker-v2-gemma"
    config = GemmaConfig(
        **SIZES,
        vocab_size=len(tokenizer),
        num_hidden_layers=3,
        num_key_value_heads=1,
        head_dim=16,
        initializer_range=0.15,
    )
    saved(GemmaForCausalLM, config, path, tokenizer)
    return path


@pytest.fixture(scope="module")
def minicpm(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """bge-reranker-v2-minicpm-layerwise's shape, and FlagEmbedding's model of it."""
    flag = pytest.importorskip(
        "FlagEmbedding.inference.reranker.decoder_only.models.modeling_minicpm_reranker"
    )
    path = tmp_path_factory.mktemp("llm") / "bge-reranker-v2-minicpm-layerwise"
    own = {
        **{"start_layer": 2, "head_multi": True, "head_type": "simple", "scale_emb": 12},
        **{"dim_model_base": 16, "scale_depth": 1.4, "rope_theta": 5000.0, "rms_norm_eps": 1e-5},
    }
    with mended(flag.LayerWiseMiniCPMForCausalLM):
        config = flag.LayerWiseMiniCPMConfig(
            **SIZES,
            **own,
            vocab_size=len(tokenizer),
            num_hidden_layers=5,
            num_key_value_heads=4,
            initializer_range=0.1,
            use_cache=False,
        )
        config.rope_scaling = None  # transformers 5 fills in a dictionary that the class misreads
        config._attn_implementation = "eager"
        model = saved(flag.LayerWiseMiniCPMForCausalLM, config, path, tokenizer)
    published = {"rope_scaling": None, "rope_theta": 5000.0, "model_type": "minicpm"}
    foreign = "BAAI/bge-reranker-v2-minicpm-layerwise--modeling_minicpm_reranker"
    rewrite(path, published | {"auto_map": {"AutoModelForCausalLM": f"{foreign}.LayerWise"}})
    return path, model


@pytest.fixture(scope="module")
def gemma2(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """bge-reranker-v2.5-gemma2-lightweight's shape, and FlagEmbedding's model of it."""
    flag = pytest.importorskip("FlagEmbedding.inference.reranker.decoder_only.models.gemma_model")
    path = tmp_path_factory.mktemp("llm") / "bge-reranker-v2.5-gemma2-lightweight"
    config = flag.CostWiseGemmaConfig(
        **SIZES,
        vocab_size=len(tokenizer),
        start_layer=2,
        layer_sep=1,
        layer_wise=True,
        num_hidden_layers=5,
        num_key_value_heads=2,
        head_dim=16,
        query_pre_attn_scalar=16,
        initializer_range=0.1,
        attn_logit_softcapping=5.0,
        final_logit_softcapping=3.0,
    )
    config._attn_implementation = "eager"
    with mended(flag.CostWiseGemmaForCausalLM):
        model = saved(flag.CostWiseGemmaForCausalLM, config, path, tokenizer)
    rewrite(path, {"model_type": "cost_wise_gemma", "auto_map": {"AutoConfig": "foreign.Code"}})
    rotary = gemma2_rotary(config)
    model.model.layers = torch.nn.ModuleList(
        MendedLayer(layer, rotary) for layer in model.model.layers
    )
    return path, model


@contextlib.contextmanager
def mended(model: Any) -> Iterator[None]:
    """transformers 5 wants a mapping where version 4 had a list of tied weights."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        # Its configuration sets an attribute that transformers 5 has renamed.
        warnings.filterwarnings("ignore", "`rope_scaling` is deprecated", FutureWarning)
        patch.setattr(model, "_tied_weights_keys", {})
        yield


class MendedLayer(torch.nn.Module):
    """A Gemma 2 layer with the signature and the result that it had in transformers 4."""

    def __init__(self, layer: Any, rotary: Any) -> None:
        super().__init__()
        self.layer = layer
        self.rotary = rotary

    def forward(self, hidden: Any, *, attention_mask: Any, position_ids: Any, **_: Any) -> Any:
        embeddings = self.rotary(hidden, position_ids)
        return (self.layer(hidden, position_embeddings=embeddings, attention_mask=attention_mask),)


def gemma2_rotary(config: Any) -> Any:
    from transformers.models.gemma2.modeling_gemma2 import Gemma2RotaryEmbedding

    return Gemma2RotaryEmbedding(config)


def saved(kind: Any, config: Any, path: Path, tokenizer: Any) -> Any:
    """Random weights from a fixed seed, without touching the random state of the test run."""
    from retrieval.models.engines.modules import quiet

    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(0)
        model = kind(config).eval()
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return model


def rewrite(path: Path, changes: dict[str, Any]) -> None:
    """config.json as the published one is: by transformers 4, with its own code."""
    config = json.loads((path / "config.json").read_text("utf-8"))
    config.pop("rope_parameters", None)
    (path / "config.json").write_text(json.dumps(config | changes), "utf-8")


def flag_scores(name: str, tokenizer: Any, model: Any, **options: Any) -> list[float]:
    """What FlagEmbedding's own class makes of `PAIRS`, its progress bars kept quiet."""
    import FlagEmbedding

    reranker = object.__new__(getattr(FlagEmbedding, name))
    settings = {
        **{"model": model, "tokenizer": tokenizer, "target_devices": ["cpu"], "pool": None},
        **{"use_fp16": False, "batch_size": 4, "max_length": 128, "query_max_length": None},
        **{"normalize": False, "prompt": None, "cutoff_layers": None},
        **{"compress_layers": [8], "compress_ratio": 1},
        **{"query_instruction_for_rerank": "A: ", "query_instruction_format": "{}{}"},
        **{"passage_instruction_for_rerank": "B: ", "passage_instruction_format": "{}{}"},
        "yes_loc": tokenizer("Yes", add_special_tokens=False)["input_ids"][0],
    }
    for key, value in settings.items():
        setattr(reranker, key, value)
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")  # FlagEmbedding's own, of old names of arguments
        scores: list[float] = reranker.compute_score([list(pair) for pair in PAIRS], **options)
    return scores


def llm(path: Path, **options: Any) -> LLMReranker:
    return LLMReranker(path, dtype="fp32", device="cpu", **{"max_length": 128, **options})


# --- scores ---------------------------------------------------------------------------------


def test_the_yes_logit_is_that_of_plain_transformers(gemma: Path, tokenizer: Any) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(gemma, dtype=torch.float32).eval()
    yes = tokenizer.convert_tokens_to_ids("Yes")
    expected = []
    for query, passage in PAIRS[:3]:
        text = f"A: {query}", "\n", f"B: {passage}", "\n", PROMPT
        ids = [id_ for part in text for id_ in tokenizer.encode(part, add_special_tokens=False)]
        with torch.no_grad():
            output = model(input_ids=torch.tensor([[tokenizer.bos_token_id, *ids]]))
        expected.append(float(output.logits[0, -1, yes]))
    scores = llm(gemma).score(PAIRS[:3])
    np.testing.assert_allclose(scores.values, expected, atol=1e-4)
    assert np.ptp(scores.values) > 0.1, "a constant would agree with anything"


def test_scores_are_those_of_flag_llm_reranker(gemma: Path, tokenizer: Any) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(gemma, dtype=torch.float32)
    expected = flag_scores("FlagLLMReranker", tokenizer, model)
    np.testing.assert_allclose(llm(gemma).score(PAIRS).values, expected, atol=1e-4)
    other = flag_scores("FlagLLMReranker", tokenizer, model, prompt="the lazy dog", max_length=40)
    ours = llm(gemma, prompt="the lazy dog", max_length=40).score(PAIRS).values
    np.testing.assert_allclose(ours, other, atol=1e-4)


@pytest.mark.parametrize("layer", [2, 3, 5, None])
def test_layerwise_scores_are_those_of_flagembedding(
    minicpm: tuple[Path, Any], tokenizer: Any, layer: int | None
) -> None:
    path, model = minicpm
    expected = flag_scores(
        "LayerWiseFlagLLMReranker",
        tokenizer,
        model,
        cutoff_layers=None if layer is None else [layer],
    )
    ours = llm(path, cutoff_layers=layer).score(PAIRS).values
    np.testing.assert_allclose(ours, expected, atol=1e-4)
    assert np.ptp(ours) > 0.1, "a constant would agree with anything"


@pytest.mark.parametrize(
    ("layer", "ratio", "at"),
    [(None, None, None), (3, None, None), (4, 2, [1]), (5, 4, [2, 3]), (None, 8, [0, 1])],
)
def test_lightweight_scores_are_those_of_flagembedding(
    gemma2: tuple[Path, Any], tokenizer: Any, layer: int | None, ratio: int | None, at: Any
) -> None:
    path, model = gemma2
    tokenizer.padding_side = "right"
    try:
        expected = flag_scores(
            "LightWeightFlagLLMReranker",
            tokenizer,
            model,
            cutoff_layers=None if layer is None else [layer],
            compress_ratio=ratio,
            compress_layers=at,
        )
    finally:
        tokenizer.padding_side = "left"
    reranker = llm(path, cutoff_layers=layer, compress_ratio=ratio, compress_layers=at)
    ours = reranker.score(PAIRS).values
    np.testing.assert_allclose(ours, expected, atol=1e-4)
    assert np.ptp(ours) > 0.05, "a constant would agree with anything"


def test_layers_behind_the_cut_off_are_not_loaded(minicpm: tuple[Path, Any]) -> None:
    from retrieval.models.rerankers.llm_decoders import LayeredDecoder
    from retrieval.models.rerankers.llm_loading import Cut, load_decoder

    cut = load_decoder(minicpm[0], torch.float32, Cut(layer=2), answer=AnswerTokens(0))
    assert isinstance(cut, LayeredDecoder)
    assert len(cut.model.layers) == 2


def test_every_second_layer_of_gemma2_looks_back_so_far_only(
    gemma2: tuple[Path, Any], tmp_path: Path
) -> None:
    from safetensors.torch import load_file
    from transformers import Gemma2Config, Gemma2Model

    from retrieval.models.rerankers.llm_loading import Cut, load_decoder

    path = shutil.copytree(gemma2[0], tmp_path / gemma2[0].name)
    rewrite(path, {"sliding_window": 16})
    weights = load_file(path / "model.safetensors")
    settings = json.loads((path / "config.json").read_text("utf-8"))
    for key in ("auto_map", "model_type", "architectures"):
        del settings[key]
    config = Gemma2Config.from_dict(settings)
    config._attn_implementation = "eager"
    model = Gemma2Model(config).eval()
    model.load_state_dict({k[6:]: v for k, v in weights.items() if k.startswith("model.")})
    ids = torch.arange(4, 104)[None]
    with torch.no_grad():
        last = model(input_ids=ids, use_cache=False).last_hidden_state[0, -1]
    logit = weights["lm_head.0.linear_head.weight"] @ last
    expected = float(torch.tanh(logit / 3.0) * 3.0)
    lengths, queries = torch.tensor([100]), torch.tensor([5])
    decoder = load_decoder(path, torch.float32, Cut(), answer=AnswerTokens(0))
    assert float(decoder.score(ids, lengths, queries, 5)) == pytest.approx(expected, abs=1e-5)
    unbound = load_decoder(gemma2[0], torch.float32, Cut(), answer=AnswerTokens(0))
    assert float(unbound.score(ids, lengths, queries, 5)) != pytest.approx(expected, abs=1e-3)


def test_compression_averages_groups_of_passage_tokens() -> None:
    hidden = torch.arange(12.0).reshape(1, 12, 1).repeat(2, 1, 1)
    shorter, lengths = compress(
        hidden, torch.tensor([12, 8]), queries=torch.tensor([3, 2]), prompt=2, ratio=4
    )
    assert lengths.tolist() == [7, 5]
    # 3 + 7 + 2 tokens: the passage's are 3…9; 2 + 4 + 2: the passage's are 2…5.
    assert shorter[0, :7, 0].tolist() == [0, 1, 2, 4.5, 8, 10, 11]
    assert shorter[1, :5, 0].tolist() == [0, 1, 3.5, 6, 7]


# --- what a reranker must do ----------------------------------------------------------------


def test_it_is_a_reranker_and_says_what_it_read(gemma: Path, tokenizer: Any) -> None:
    reranker = llm(gemma)
    assert isinstance(reranker, Reranker)
    assert (reranker.info.kind, reranker.info.max_length) == ("cross-encoder", 128)
    assert reranker.engine == "transformers fp32 on cpu"
    scores = reranker.score(PAIRS)
    whole = [
        1 + sum(len(tokenizer.encode(t, add_special_tokens=False)) for t in parts)
        for parts in ((f"A: {q}", "\n", f"B: {p}", "\n", PROMPT) for q, p in PAIRS)
    ]
    assert scores.tokens is not None
    assert scores.tokens.tolist() == whole
    assert scores.truncated.tolist() == [False, False, False, True, True, False]
    assert scores.values.dtype == np.float64


def test_order_batches_and_repeats_change_nothing(gemma: Path) -> None:
    reranker = llm(gemma, batch_size=2, token_budget=300)
    alone = [reranker.score([pair]).values[0] for pair in PAIRS]
    seen: list[tuple[int, int]] = []
    together = reranker.score([*PAIRS, PAIRS[0]], progress=lambda *call: seen.append(call))
    np.testing.assert_allclose(together.values, [*alone, alone[0]], atol=1e-5)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (7, 7)
    one_by_one = llm(gemma, deterministic=True).score(PAIRS).values
    assert one_by_one.tolist() == alone


def test_several_devices_share_the_pairs(gemma: Path, minicpm: tuple[Path, Any]) -> None:
    many = [(f"query {i % 7}", f"passage {i} " * (i % 11)) for i in range(60)]
    for path in (gemma, minicpm[0]):
        expected = llm(path).score(many).values
        shared = llm(path, devices=["cpu", "cpu"], batch_size=3).score(many).values
        np.testing.assert_allclose(shared, expected, atol=1e-5)


def test_a_failing_device_is_an_error_and_no_hang(
    gemma: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = [(f"query {i}", "passage") for i in range(40)]
    for devices in (["cpu"], ["cpu", "cpu"]):
        reranker = llm(gemma, devices=devices, batch_size=2)

        def broken(*_: Any, **__: Any) -> Any:
            raise RuntimeError("the device fell off")

        monkeypatch.setattr(reranker._workers[0]._decoder, "score", broken)
        with pytest.raises(ModelFault, match="the device fell off"):
            reranker.score(many)


def test_out_of_memory_halves_the_batch(gemma: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reranker = llm(gemma)
    expected = reranker.score(PAIRS).values
    decoder = reranker._workers[0]._decoder
    real = decoder.score
    sizes = []

    def small(ids: torch.Tensor, *rest: Any) -> torch.Tensor:
        sizes.append(len(ids))
        if len(ids) > 1:
            raise torch.OutOfMemoryError("no room")
        return real(ids, *rest)

    monkeypatch.setattr(decoder, "score", small)
    np.testing.assert_allclose(reranker.score(PAIRS).values, expected, atol=1e-5)
    assert max(sizes) > 1

    def none(*_: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(decoder, "score", none)
    with pytest.raises(ModelFault, match="no memory for one pair"):
        reranker.score(PAIRS[:1])


def test_hostile_texts_have_scores(gemma: Path) -> None:
    odd = ["", "\ud800 lone", "\x00\x07", "שלום مرحبا", "word " * 20_000, "<bos>Yes"]
    scores = llm(gemma).score([(text, other) for text in odd for other in odd[:4]])
    assert np.isfinite(scores.values).all()
    assert llm(gemma).score([]).values.shape == (0,)


def test_relevance_is_the_sigmoid(gemma: Path) -> None:
    relevance = llm(gemma).relevance(np.array([-800.0, 0.0, 2.0, 800.0]))
    np.testing.assert_allclose(relevance, [0.0, 0.5, 1 / (1 + np.exp(-2.0)), 1.0])


def test_bf16_keeps_the_order_of_what_lies_apart(gemma: Path) -> None:
    many = [(f"query {i % 5}", f"passage {i} the lazy dog " * (i % 9)) for i in range(40)]
    exact = llm(gemma).score(many).values
    rounded = LLMReranker(gemma, dtype="bf16", device="cpu", max_length=128).score(many).values
    apart = np.subtract.outer(exact, exact) > 4 * np.abs(rounded - exact).max()
    assert apart.any()
    assert (np.subtract.outer(rounded, rounded)[apart] > 0).all()


# --- loading --------------------------------------------------------------------------------


def test_load_reranker_chooses_by_the_score_head(
    gemma: Path, minicpm: tuple[Path, Any], gemma2: tuple[Path, Any]
) -> None:
    for path, name in (
        (gemma, "yes-logit"),
        (minicpm[0], "layerwise-yes-logit"),
        (gemma2[0], "layerwise-yes-logit"),
    ):
        reranker = load_reranker(path, dtype="fp32", device="cpu", engine="auto", cache_dir=None)
        assert isinstance(reranker, LLMReranker), name
        assert reranker.info.max_length == 1024


def test_a_plain_language_model_must_be_called_a_reranker(gemma: Path, tmp_path: Path) -> None:
    mine = shutil.copytree(gemma, tmp_path / "my-model")
    with pytest.raises(ModelSettingUnknown, match="score_head='yes-logit'"):
        load_reranker(mine)
    reranker = load_reranker(mine, score_head="yes-logit", dtype="fp32", max_length=128)
    assert isinstance(reranker, LLMReranker)
    np.testing.assert_array_equal(
        reranker.score(PAIRS).values,
        LLMReranker(mine, dtype="fp32", max_length=128).score(PAIRS).values,
    )


def test_a_layered_model_needs_no_name(minicpm: tuple[Path, Any], tmp_path: Path) -> None:
    mine = shutil.copytree(minicpm[0], tmp_path / "my-model")
    reranker = load_reranker(mine, cutoff_layers=3, dtype="fp32", max_length=128)
    assert isinstance(reranker, LLMReranker)
    expected = llm(minicpm[0], cutoff_layers=3).score(PAIRS).values
    np.testing.assert_array_equal(reranker.score(PAIRS).values, expected)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cutoff_layers": 1}, "heads for one of 2 to 5"),
        ({"cutoff_layers": 6}, "heads for one of 2 to 5"),
        ({"cutoff_layers": [2, 3]}, "a pair has one score"),
        ({"compress_ratio": 2}, "compresses no tokens"),
        ({"compress_ratio": 3}, "compress_ratio=3"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"devices": "cpu"}, "a list of torch devices"),
        ({"devices": []}, "a list of torch devices"),
        ({"device": "gpu"}, "device='gpu'"),
        ({"dtype": "int8"}, "int8"),
    ],
)
def test_what_does_not_fit_is_said(
    minicpm: tuple[Path, Any], options: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidInput, match=words.replace("(", r"\(")):
        LLMReranker(minicpm[0], **{"dtype": "fp32", "max_length": 128, **options})


def test_a_whole_language_model_has_no_layers_to_cut(gemma: Path) -> None:
    with pytest.raises(InvalidInput, match="scored at its last layer only"):
        llm(gemma, cutoff_layers=2)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"engine": "openvino"}, "engine='openvino'"),
        ({"long_passages": "windows"}, "long_passages='windows'"),
        ({"colour": "blue"}, "colour"),
    ],
)
def test_options_of_cross_encoders_are_not_dropped_in_silence(
    gemma: Path, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidInput, match=words):
        load_reranker(gemma, **options)


def test_a_cross_encoder_is_no_language_model(tiny_bert_reranker: Path) -> None:
    with pytest.raises(InvalidInput, match="score head classification"):
        LLMReranker(tiny_bert_reranker)


def test_damaged_folders_are_refused(
    gemma: Path, minicpm: tuple[Path, Any], tmp_path: Path
) -> None:
    def broken(source: Path, change: Callable[[Path], object]) -> Path:
        copy = shutil.copytree(source, tmp_path / str(len(list(tmp_path.iterdir()))) / source.name)
        change(copy)
        return copy

    def forget(*names: str) -> Callable[[Path], object]:
        from safetensors.torch import load_file, save_file

        def change(folder: Path) -> None:
            weights = load_file(folder / "model.safetensors")
            kept = {k: v for k, v in weights.items() if not any(name in k for name in names)}
            assert len(kept) < len(weights)
            save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})

        return change

    with pytest.raises(ModelFault, match="no head of one output"):
        llm(broken(minicpm[0], forget("lm_head.3.")))
    with pytest.raises(ModelFault, match="missing or of another shape"):
        llm(broken(minicpm[0], forget("layers.1.mlp.up_proj")))
    with pytest.raises(ModelFault, match="missing or of another shape"):
        llm(broken(gemma, forget("layers.1.mlp.up_proj")))
    with pytest.raises(ModelNotFound, match="cannot be loaded"):
        llm(broken(gemma, lambda f: (f / "model.safetensors").write_bytes(b"no weights")))
    with pytest.raises(ModelNotFound, match="cannot be loaded"):
        llm(broken(minicpm[0], lambda f: (f / "model.safetensors").write_bytes(b"no weights")))
    with pytest.raises(ModelNotFound, match="no tokeniser"):
        llm(broken(gemma, lambda f: (f / "tokenizer.json").unlink()))
    with pytest.raises(InvalidInput, match="cannot be run faithfully"):
        llm(broken(minicpm[0], lambda f: rewrite(f, {"head_type": "raw"})))
