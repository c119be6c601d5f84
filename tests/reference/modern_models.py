"""Tiny models of the newer families: real configurations shrunk, random weights, real files.

ModernBERT (gte-modernbert, modernbert-embed, ettin-reranker), Qwen3 (Qwen3-Embedding and -Reranker)
and Mistral (bge-en-icl). Vocabularies are byte pairs trained on a few words, as those models have,
with their special tokens and post-processors.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from reference.texts import WORDS

QWEN3_CHAT = (
    "{%- set task = messages | selectattr('role', 'eq', 'system') | map(attribute='content')"
    " | first | default('find passages') -%}\n"
    "<|im_start|>system\nAnswer yes or no.<|im_end|>\n<|im_start|>user\n<Instruct>: {{ task }}\n"
    "<Query>: {{ messages | selectattr('role', 'eq', 'query') | map(attribute='content')"
    " | first }}\n"
    "<Document>: {{ messages | selectattr('role', 'eq', 'document') | map(attribute='content')"
    " | first }}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n\n"
)
"""A template of the shape that Qwen3-Reranker's repository has, in other words."""


def bert_like_tokenizer() -> Any:
    """ModernBERT's: `[CLS] text [SEP]`, no type ids."""
    return _byte_pairs(
        ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "attention_mask"],
    )


def qwen3_tokenizer(*, ends: bool, side: str = "left") -> Any:
    """Qwen3's: an embedding model's ends a text in `<|endoftext|>`, a reranker's adds nothing."""
    return _byte_pairs(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "yes", "no"],
        single="$A <|endoftext|>" if ends else None,
        pair="$A $B <|endoftext|>" if ends else None,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        padding_side=side,
    )


def mistral_tokenizer() -> Any:
    """bge-en-icl's: `<s> text </s>`, and its three markers as tokens of their own."""
    return _byte_pairs(
        ["<unk>", "<s>", "</s>", "<instruct>", "<query>", "<response>"],
        single="<s> $A </s>",
        pair="<s> $A </s> <s> $B </s>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
        padding_side="left",
    )


def _byte_pairs(special: list[str], *, single: str | None, pair: str | None, **options: Any) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator([" ".join(WORDS)] * 3, trainer)
    if single is not None:
        marks = [(token, backend.token_to_id(token)) for token in special]
        backend.post_processor = processors.TemplateProcessing(
            single=single, pair=pair, special_tokens=marks
        )
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=8192, **options)


def modernbert_config(**changes: Any) -> Any:
    """Global attention in every third layer, a window of 16 tokens in the others."""
    from transformers import ModernBertConfig

    settings = {
        **{"vocab_size": 500, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4},
        **{"num_attention_heads": 4, "max_position_embeddings": 8192, "local_attention": 16},
        **{"global_attn_every_n_layers": 3, "pad_token_id": 0, "cls_token_id": 2},
        **{"sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3, "initializer_range": 0.3},
    }
    return ModernBertConfig(**{**settings, **changes})


def qwen3_config(**changes: Any) -> Any:
    """Grouped queries, heads wider than their share, tied embeddings, as Qwen3-0.6B has them."""
    from transformers import Qwen3Config

    settings = {
        **{"vocab_size": 500, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3},
        **{"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32},
        **{"max_position_embeddings": 32768, "rope_theta": 1e6, "tie_word_embeddings": True},
        **{"bos_token_id": 0, "eos_token_id": 0, "initializer_range": 0.15},
    }
    return Qwen3Config(**{**settings, **changes})


def mistral_config(**changes: Any) -> Any:
    """bge-en-icl's shape."""
    from transformers import MistralConfig

    settings = {
        **{"vocab_size": 500, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3},
        **{"num_attention_heads": 4, "num_key_value_heads": 2, "sliding_window": 4096},
        **{"max_position_embeddings": 32768, "bos_token_id": 1, "eos_token_id": 2},
        **{"initializer_range": 0.15},
    }
    return MistralConfig(**{**settings, **changes})


def save(path: Path, model_class: Any, config: Any, tokenizer: Any, *, seed: int = 0) -> Path:
    """A folder as transformers saves it, with random weights from `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(config)
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def save_sentence_encoder(
    source: Path, path: Path, pooling: str, prompts: dict[str, str], *, length: int = 128
) -> Path:
    """The same, as sentence-transformers saves it: modules.json, pooling, prompts."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    transformer = Transformer(str(source), max_seq_length=length)
    size = transformer.get_embedding_dimension()
    modules = [transformer, Pooling(size, pooling_mode=pooling), Normalize()]
    SentenceTransformer(modules=modules, prompts=prompts, device="cpu").save_pretrained(str(path))
    return path


def save_ettin(source: Path, path: Path, *, pooling: str = "cls", length: int = 128) -> Path:
    """ettin-reranker's modules over a ModernBERT, as sentence-transformers saves them."""
    from sentence_transformers import CrossEncoder
    from sentence_transformers.base.modules import Dense, Transformer
    from sentence_transformers.sentence_transformer.modules import LayerNorm, Pooling

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        transformer = Transformer(
            str(source), transformer_task="feature-extraction", max_seq_length=length
        )
        size = transformer.get_embedding_dimension()
        inner = Dense(size, size, bias=False, activation_function=torch.nn.GELU())
        norm = LayerNorm(size)
        torch.nn.init.normal_(norm.norm.weight, mean=1.0, std=0.3)
        torch.nn.init.normal_(norm.norm.bias, std=0.3)
        last = Dense(size, 1, activation_function=torch.nn.Identity(), module_output_name="scores")
    modules = [transformer, Pooling(size, pooling_mode=pooling), inner, norm, last]
    model = CrossEncoder(modules=modules, device="cpu", activation_fn=torch.nn.Identity())
    model.save_pretrained(str(path))
    return path


def save_chat_reranker(source: Path, path: Path, *, task: str, length: int = 256) -> Path:
    """Qwen3-Reranker as its repository is now: LogitScore, chat template, default prompt."""
    from sentence_transformers import CrossEncoder
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.cross_encoder.modules import LogitScore

    transformer = Transformer(
        str(source),
        transformer_task="text-generation",
        max_seq_length=length,
        modality_config=_messages("logits"),
        module_output_name="causal_logits",
    )
    words = transformer.tokenizer.convert_tokens_to_ids(["yes", "no"])
    model = CrossEncoder(
        modules=[transformer, LogitScore(*words)],
        device="cpu",
        prompts={"query": task},
        default_prompt_name="query",
        activation_fn=torch.nn.Identity(),
    )
    model.save_pretrained(str(path))
    return path


def save_chat_classifier(source: Path, path: Path, *, task: str, length: int = 256) -> Path:
    """A Qwen3-Reranker that was converted to a sequence classifier, with its chat template."""
    from sentence_transformers import CrossEncoder
    from sentence_transformers.base.modules import Transformer

    transformer = Transformer(
        str(source),
        transformer_task="sequence-classification",
        max_seq_length=length,
        modality_config=_messages("logits"),
        module_output_name="scores",
    )
    model = CrossEncoder(
        modules=[transformer],
        device="cpu",
        prompts={"query": task},
        default_prompt_name="query",
        activation_fn=torch.nn.Identity(),
    )
    model.save_pretrained(str(path))
    return path


def _messages(output: str) -> dict[str, Any]:
    plain = {"method": "forward", "method_output_name": output}
    return {"text": plain, "message": {**plain, "format": "flat"}}
