"""How a reranker's files are to be scored, by what they declare; what is left open is an error."""

from __future__ import annotations

from retrieval.errors import InvalidInput, ModelSettingUnknown
from retrieval.models import registry
from retrieval.models.model_folder import OWN_ARCHITECTURES, ModelFolder
from retrieval.models.model_kinds import wrong_kind
from retrieval.models.score_modules import answer_tokens, chat_settings, score_layers
from retrieval.types import ScoreHead

_DECODERS = frozenset({"gemma", "gemma2", "llama", "mistral", "phi3", "qwen2", "qwen3"})
"""Types of models that are trained on prompts, so that a plain pair tells them nothing."""


def score_head_of(name: str, given: ScoreHead | None, found: ModelFolder) -> ScoreHead:
    """The score head of a reranker outside the registry.

    Raises:
        InvalidInput: it is no reranker, or has parts that would be left out.
        ModelSettingUnknown: a language model that does not say how it scores.
    """
    if found.architecture in OWN_ARCHITECTURES:
        return "layerwise-yes-logit"
    if found.is_language_model:
        return _of_language_model(name, given, found)
    if score_layers(found.root):
        return "classification"
    _check_classifier(name, found)
    if found.config.get("model_type") not in _DECODERS:
        return "classification"
    if chat_settings(found.root) is not None or _from_chat_reranker(found):
        return "chat-classification"
    if given == "classification":
        return "classification"
    raise ModelSettingUnknown(
        f"the model {name} is a {found.architecture}: it was trained on a prompt, and nothing in "
        "its files says which",
        fix="Save it with sentence-transformers and a chat_template.jinja that renders the roles "
        "'query' and 'document'; or pass score_head='classification' and put the prompt into the "
        "pairs yourself.",
    )


def _of_language_model(name: str, given: ScoreHead | None, found: ModelFolder) -> ScoreHead:
    if answer_tokens(found.root) is not None or _from_chat_reranker(found):
        return "chat-logit"
    if given in ("yes-logit", "chat-logit"):
        return given
    raise ModelSettingUnknown(
        f"the model {name} is a {found.architecture}, and nothing in its files says that it "
        "was trained to score passages",
        fix="If it was, pass score_head='yes-logit' (as bge-reranker-v2-gemma, by the logit of "
        "'Yes') or score_head='chat-logit' (as Qwen3-Reranker, by 'yes' and 'no'); otherwise "
        "choose a reranker such as BAAI/bge-reranker-v2-m3.",
    )


def _from_chat_reranker(found: ModelFolder) -> bool:
    """Whether it was made from a known reranker that reads a chat prompt."""
    for base in found.base_models:
        origin = registry.find(base.rstrip("/").rpartition("/")[2], "reranker")
        if origin is not None and origin.score_head == "chat-logit":
            return True
    return False


def _check_classifier(name: str, found: ModelFolder) -> None:
    if found.saved_as not in (None, "CrossEncoder") or found.pooling is not None:
        raise wrong_kind(name, "reranker", f"it was saved as {found.saved_as or 'an encoder'}")
    if not found.is_classifier:
        raise wrong_kind(name, "reranker", f"a {found.architecture} has no classification head")
    if found.labels != 1:
        raise wrong_kind(
            name, "reranker", f"its head gives {found.labels} values, and a reranker gives one"
        )
    prompts = any(found.prompts.values()) and chat_settings(found.root) is None
    if set(found.modules) - {"Transformer"} or prompts:
        raise InvalidInput(
            f"the reranker {name} has its own parts or prompts that would be left out",
            fix="Choose a plain sequence classification model, such as BAAI/bge-reranker-v2-m3.",
        )
