"""ModernBERT, ettin and Qwen3 rerankers: scores of sentence-transformers and plain transformers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reference.modern_models import (
    QWEN3_CHAT,
    bert_like_tokenizer,
    modernbert_config,
    qwen3_config,
    qwen3_tokenizer,
    save,
    save_chat_classifier,
    save_chat_reranker,
    save_ettin,
)
from reference.peers import silenced
from reference.texts import HAN, WORDS, mixed_pairs

from retrieval.errors import InvalidInput, ModelFault, ModelSettingUnknown
from retrieval.models.engines.base import EngineName
from retrieval.models.load import load_encoder, load_reranker
from retrieval.models.rerankers.cross_encoder import CrossEncoderReranker
from retrieval.models.rerankers.llm import LLMReranker
from retrieval.models.resolve import resolve

PAIRS = mixed_pairs(longest=128)[::4]
LONG = ("where is the file", " ".join(WORDS) * 12)
TASK = "find the passage that answers"


def theirs(path: Path, pairs: Any, **options: Any) -> Any:
    """float32 (n,): what sentence-transformers' `CrossEncoder` makes of the folder's own files."""
    with silenced():
        from sentence_transformers import CrossEncoder

        model = CrossEncoder(str(path), device="cpu", **options)
        return model.predict(
            list(pairs), activation_fn=torch.nn.Identity(), show_progress_bar=False
        )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rerankers")


# --- ModernBERT -----------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_modernbert_classifiers_score_as_cross_encoder(root: Path, pooling: str) -> None:
    """gte-reranker-modernbert-base: `mean`. Padding goes far beyond the window of attention."""
    from transformers import ModernBertForSequenceClassification

    config = modernbert_config(classifier_pooling=pooling, id2label={0: "LABEL_0"})
    path = save(root / pooling, ModernBertForSequenceClassification, config, bert_like_tokenizer())
    expected = theirs(path, PAIRS, max_length=128)
    assert np.ptp(expected) > 0.1, "a constant would agree with anything"
    engines: list[EngineName] = ["openvino", "transformers"]
    for engine in engines:
        ours = CrossEncoderReranker(path, engine=engine, dtype="fp32", device="cpu", max_length=128)
        np.testing.assert_allclose(ours.score(PAIRS).values, expected, atol=1e-4)
        mixed = ours.score([LONG, *PAIRS])
        np.testing.assert_allclose(mixed.values[1:], expected, atol=1e-4)
        assert mixed.truncated.tolist() == [True] + [False] * len(PAIRS)


# --- ettin ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ettin(root: Path) -> Path:
    from transformers import ModernBertModel

    source = save(
        root / "ettin-source", ModernBertModel, modernbert_config(), bert_like_tokenizer()
    )
    with silenced():
        return save_ettin(source, root / "my-ettin")


@pytest.mark.parametrize("engine", ["auto", "openvino", "transformers"])
def test_dense_heads_score_as_cross_encoder(ettin: Path, engine: EngineName) -> None:
    expected = theirs(ettin, PAIRS)
    assert np.ptp(expected) > 0.1, "a constant would agree with anything"
    reranker = load_reranker(ettin, engine=engine, dtype="fp32", device="cpu")
    assert isinstance(reranker, CrossEncoderReranker)
    assert reranker.info.max_length == 128
    np.testing.assert_allclose(reranker.score(PAIRS).values, expected, atol=1e-4)
    np.testing.assert_allclose(
        reranker.score(PAIRS[::-1]).values, reranker.score(PAIRS).values[::-1], atol=1e-5
    )


def test_mean_pooling_and_old_weights_score_alike(ettin: Path, root: Path) -> None:
    source = root / "ettin-source"
    with silenced():
        path = save_ettin(source, root / "ettin-mean", pooling="mean")
    expected = theirs(path, PAIRS)
    for folder in ("2_Dense", "4_Dense"):
        from safetensors.torch import load_file

        torch.save(
            load_file(path / folder / "model.safetensors"), path / folder / "pytorch_model.bin"
        )
        (path / folder / "model.safetensors").unlink()
    ours = load_reranker(path, dtype="fp32", device="cpu")
    assert ours is not None
    np.testing.assert_allclose(ours.score(PAIRS).values, expected, atol=1e-4)


def test_the_heads_weights_are_part_of_the_fingerprint(ettin: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(ettin, tmp_path / "other-name")
    assert resolve(copy, "reranker").fingerprint == resolve(ettin, "reranker").fingerprint
    before = load_reranker(copy, dtype="fp32", device="cpu").score(PAIRS).values  # type: ignore[union-attr]
    from safetensors.torch import load_file, save_file

    file = copy / "4_Dense" / "model.safetensors"
    save_file({name: -value for name, value in load_file(file).items()}, file)
    assert resolve(copy, "reranker").fingerprint != resolve(ettin, "reranker").fingerprint
    after = load_reranker(copy, dtype="fp32", device="cpu").score(PAIRS).values  # type: ignore[union-attr]
    np.testing.assert_allclose(after, -before, atol=1e-4)  # no graph of the old weights is used


def test_heads_that_cannot_be_run_are_refused(ettin: Path, tmp_path: Path) -> None:
    def changed(name: str, file: str, **values: Any) -> Path:
        copy = shutil.copytree(ettin, tmp_path / name)
        config = json.loads((copy / file).read_text("utf-8"))
        (copy / file).write_text(json.dumps(config | values), "utf-8")
        return copy

    with pytest.raises(InvalidInput, match="no single score"):
        load_reranker(changed("wide", "4_Dense/config.json", out_features=2))
    with pytest.raises(InvalidInput, match=r"activation my\.own"):
        load_reranker(changed("code", "2_Dense/config.json", activation_function="my.own"))
    with pytest.raises(InvalidInput, match="use_residual"):
        load_reranker(changed("residual", "2_Dense/config.json", use_residual=True))
    with pytest.raises(ModelFault, match=r"are not those of its config\.json"):
        load_reranker(changed("size", "2_Dense/config.json", in_features=32))
    with pytest.raises(InvalidInput, match="saved as a CrossEncoder"):
        load_encoder(ettin)


# --- Qwen3 ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def qwen3(root: Path) -> Path:
    """Qwen3-Reranker's folder before it had sentence-transformers' files: a language model."""
    from transformers import Qwen3ForCausalLM

    tokenizer = qwen3_tokenizer(ends=False)
    return save(root / "Qwen3-Reranker-0.6B", Qwen3ForCausalLM, qwen3_config(), tokenizer)


@pytest.fixture(scope="module")
def chat(qwen3: Path, root: Path) -> Path:
    """The same as its repository is now, with a template and a task of its own."""
    source = shutil.copytree(qwen3, root / "chat-source")
    (source / "chat_template.jinja").write_text(QWEN3_CHAT, "utf-8")
    with silenced():
        return save_chat_reranker(source, root / "my-chat-reranker", task=TASK)


def card_scores(path: Path, pairs: Any, max_length: int, task: str) -> list[float]:
    """What Qwen3-Reranker's model card shows, with transformers alone, a pair at a time."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    yes, no = tokenizer.convert_tokens_to_ids(["yes", "no"])
    prefix = (
        "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query "
        'and the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
        "<|im_start|>user\n"
    )
    suffix = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    before, behind = (tokenizer.encode(text, add_special_tokens=False) for text in (prefix, suffix))
    scores = []
    for query, passage in pairs:
        text = f"<Instruct>: {task}\n<Query>: {query}\n<Document>: {passage}"
        room = max_length - len(before) - len(behind)
        ids = tokenizer.encode(text, truncation=True, max_length=room, add_special_tokens=False)
        with torch.no_grad():
            logits = model(torch.tensor([before + ids + behind])).logits[0, -1]
        odds = torch.log_softmax(torch.stack([logits[no], logits[yes]]), dim=0)
        scores.append(float(odds[1] - odds[0]))
    return scores


def test_qwen3_reranker_scores_as_its_model_card(qwen3: Path) -> None:
    task = "Given a web search query, retrieve relevant passages that answer the query"
    pairs = [*PAIRS, LONG, ("北京在哪里？", HAN)]
    expected = card_scores(qwen3, pairs, 512, task)
    reranker = load_reranker(qwen3, dtype="fp32", device="cpu", max_length=512)
    assert isinstance(reranker, LLMReranker)
    scores = reranker.score(pairs)
    np.testing.assert_allclose(scores.values, expected, atol=1e-4)
    assert np.ptp(expected) > 0.1, "a constant would agree with anything"
    assert scores.truncated.tolist() == [False] * len(PAIRS) + [True, False]
    own = LLMReranker(qwen3, dtype="fp32", device="cpu", max_length=512, prompt=TASK)
    np.testing.assert_allclose(
        own.score(PAIRS).values, card_scores(qwen3, PAIRS, 512, TASK), atol=1e-4
    )


def test_a_chat_reranker_scores_as_cross_encoder(chat: Path) -> None:
    """Its own template, task and answer tokens; over-long passages cut as there, the end kept."""
    pairs = [*PAIRS, LONG]
    expected = theirs(chat, pairs)
    assert np.ptp(expected) > 0.1, "a constant would agree with anything"
    reranker = load_reranker(chat, dtype="fp32", device="cpu")
    assert isinstance(reranker, LLMReranker)
    assert reranker.info.max_length == 256
    scores = reranker.score(pairs)
    np.testing.assert_allclose(scores.values, expected, atol=1e-4)
    assert scores.truncated.tolist() == [False] * len(PAIRS) + [True]
    np.testing.assert_allclose(reranker.score(pairs[::-1]).values[::-1], scores.values, atol=1e-5)
    small = load_reranker(chat, dtype="fp32", device="cpu", token_budget=300)
    assert small is not None
    np.testing.assert_allclose(small.score(pairs).values, scores.values, atol=1e-5)
    one = load_reranker(chat, dtype="fp32", device="cpu", score_head="chat-logit")
    assert one is not None
    assert one.score(pairs[:1]).values[0] == pytest.approx(scores.values[0], abs=1e-5)


def test_one_answer_token_is_enough(chat: Path, tmp_path: Path) -> None:
    """zerank's LogitScore has no false_token_id: the score is one logit."""
    copy = shutil.copytree(chat, tmp_path / "one")
    config = json.loads((copy / "1_LogitScore" / "config.json").read_text("utf-8"))
    config["false_token_id"] = None
    (copy / "1_LogitScore" / "config.json").write_text(json.dumps(config), "utf-8")
    ours = load_reranker(copy, dtype="fp32", device="cpu")
    assert ours is not None
    np.testing.assert_allclose(ours.score(PAIRS).values, theirs(copy, PAIRS), atol=1e-4)
    assert resolve(copy, "reranker").fingerprint != resolve(chat, "reranker").fingerprint


@pytest.fixture(scope="module")
def classifier(qwen3: Path, root: Path) -> Path:
    """A conversion of Qwen3-Reranker: the difference of two rows of its embeddings as its head."""
    from transformers import Qwen3ForCausalLM, Qwen3ForSequenceClassification

    tokenizer = qwen3_tokenizer(ends=False)
    language = Qwen3ForCausalLM.from_pretrained(qwen3)
    config = qwen3_config(id2label={0: "LABEL_0"}, pad_token_id=0)
    path = save(root / "seq-cls", Qwen3ForSequenceClassification, config, tokenizer)
    model = Qwen3ForSequenceClassification.from_pretrained(path)
    model.model.load_state_dict(language.model.state_dict())
    yes, no = tokenizer.convert_tokens_to_ids(["yes", "no"])
    weight = language.get_input_embeddings().weight
    model.score.weight.data = (weight[yes] - weight[no])[None].detach().clone()
    model.save_pretrained(path)
    return path


def test_a_conversion_scores_as_what_it_was_made_from(
    classifier: Path, qwen3: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(classifier, tmp_path / "converted")
    with pytest.raises(ModelSettingUnknown, match="trained on a prompt"):
        load_reranker(copy)
    (copy / "README.md").write_text("---\nbase_model: Qwen/Qwen3-Reranker-0.6B\n---\n", "utf-8")
    ours = load_reranker(copy, dtype="fp32", device="cpu", max_length=512)
    assert isinstance(ours, LLMReranker)
    expected = load_reranker(qwen3, dtype="fp32", device="cpu", max_length=512)
    assert expected is not None
    np.testing.assert_allclose(ours.score(PAIRS).values, expected.score(PAIRS).values, atol=1e-4)


def test_a_conversion_with_its_chat_template_scores_as_cross_encoder(
    classifier: Path, root: Path
) -> None:
    source = shutil.copytree(classifier, root / "classifier-source")
    (source / "chat_template.jinja").write_text(QWEN3_CHAT, "utf-8")
    with silenced():
        path = save_chat_classifier(source, root / "my-classifier", task=TASK)
    ours = load_reranker(path, dtype="fp32", device="cpu")
    assert isinstance(ours, LLMReranker)
    np.testing.assert_allclose(ours.score(PAIRS).values, theirs(path, PAIRS), atol=1e-4)


@pytest.mark.parametrize("engine", ["openvino", "transformers"])
def test_pairs_that_hold_their_prompt_are_read_as_they_are(
    classifier: Path, engine: EngineName
) -> None:
    """As the cards of conversions show: the prompt's halves put into query and passage by hand."""
    prompted = [
        (f"<|im_start|>user\n<Query>: {query}\n", f"<Document>: {passage}<|im_end|>\n")
        for query, passage in PAIRS
    ]
    ours = load_reranker(
        classifier, score_head="classification", engine=engine, dtype="fp32", device="cpu",
        max_length=512,
    )  # fmt: skip
    assert isinstance(ours, CrossEncoderReranker)
    expected = theirs(classifier, prompted, max_length=512)
    np.testing.assert_allclose(ours.score(prompted).values, expected, atol=1e-4)


def test_what_a_chat_needs_is_said(chat: Path, qwen3: Path, tmp_path: Path) -> None:
    mute = shutil.copytree(chat, tmp_path / "mute")
    (mute / "chat_template.jinja").write_text("{{ messages[0]['content'] }}", "utf-8")
    with pytest.raises(InvalidInput, match="render the roles 'query' and 'document'"):
        load_reranker(mute)
    with pytest.raises(InvalidInput, match="whose prompt alone has"):
        load_reranker(chat, max_length=16)
    with pytest.raises(InvalidInput, match="scored at its last layer only"):
        load_reranker(chat, cutoff_layers=2)
    unnamed = shutil.copytree(qwen3, tmp_path / "some-model")
    with pytest.raises(ModelSettingUnknown, match="score_head='chat-logit'"):
        load_reranker(unnamed)
    given = load_reranker(unnamed, score_head="chat-logit", dtype="fp32", max_length=512)
    known = load_reranker(qwen3, dtype="fp32", max_length=512)
    assert given is not None
    assert known is not None
    np.testing.assert_array_equal(given.score(PAIRS).values, known.score(PAIRS).values)


def test_a_long_query_leaves_room_for_its_passage(qwen3: Path) -> None:
    reranker = load_reranker(qwen3, dtype="fp32", device="cpu", max_length=512)
    assert reranker is not None
    long = "fox " * 900
    one, other = reranker.score([(long, "the dog"), (long, "北京")]).values
    assert abs(one - other) > 1e-3
