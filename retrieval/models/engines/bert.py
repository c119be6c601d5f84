"""BERT, RoBERTa and XLM-RoBERTa, head included, in the form in which they run fastest.

The weights and the small parts (embeddings, norms, activation, classification head) are those of
the transformers module; what differs is how they are put together:

- padded, (batch, length), for tracing, or packed, all texts one after the other without padding;
- where the head reads the first token only (`cls`, `logits`), the last layer computes only that
  token's query, attention and feed-forward part: the others would be thrown away. That is about
  8% of a model of 12 layers, and changes no result.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import torch
import torch.nn.functional as functional
from torch import nn

from retrieval.models.engines.base import Head

Attend: TypeAlias = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""query, key, value, each (…, tokens, heads, head dimension) → (…, query tokens, heads, head
dimension)."""

Pick: TypeAlias = Callable[[torch.Tensor], torch.Tensor]
"""(…, tokens, dimension) → the rows of the first token of each text."""

_TYPES = ("bert", "roberta", "xlm-roberta", "camembert")


def is_bert_like(model: nn.Module, head: Head) -> bool:
    """Whether `BertLike` computes what this transformers module computes."""
    config: Any = model.config
    return _computes(lambda name, default: getattr(config, name, default), head)


def is_bert_like_folder(path: Path, head: Head) -> bool:
    """`is_bert_like` of the model in a folder, from its config.json alone.

    False where there is none that can be read: what is wrong, its loading will say.
    """
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and _computes(config.get, head)


def _computes(setting: Callable[[str, Any], Any], head: Head) -> bool:
    if setting("model_type", "") not in _TYPES or setting("is_decoder", False):
        return False
    if setting("add_cross_attention", False) or head == "last":
        return False
    # transformers 5 knows absolute positions only; older checkpoints may declare others.
    return (setting("position_embedding_type", "absolute") or "absolute") == "absolute"


class Layer(nn.Module):
    """One transformer layer, norms after the residual sums (Vaswani et al. 2017).

    Args:
        layer: a `BertLayer`, `RobertaLayer` or `XLMRobertaLayer`.
        heads: attention heads.
        fused: one product for query, key and value instead of three: faster on a GPU.
    """

    def __init__(self, layer: Any, heads: int, *, fused: bool) -> None:
        super().__init__()
        own = layer.attention.self
        self.heads = heads
        self.fused: nn.Linear | None = _fuse(own.query, own.key, own.value) if fused else None
        if not fused:
            self.query, self.key, self.value = own.query, own.key, own.value
        self.out = layer.attention.output.dense
        self.attention_norm = layer.attention.output.LayerNorm
        self.up = layer.intermediate.dense
        self.activation = layer.intermediate.intermediate_act_fn
        self.down = layer.output.dense
        self.output_norm = layer.output.LayerNorm

    def forward(self, hidden: torch.Tensor, attend: Attend, pick: Pick | None) -> torch.Tensor:
        """(…, tokens, dimension) → the same, or only the rows that `pick` picks."""
        asked = hidden if pick is None else pick(hidden)
        query, key, value = self._project(hidden, asked, pick is None)
        context = attend(self._split(query), self._split(key), self._split(value)).flatten(-2)
        summed = self.attention_norm(asked + self.out(context))
        result: torch.Tensor = self.output_norm(
            summed + self.down(self.activation(self.up(summed)))
        )
        return result

    def _project(
        self, hidden: torch.Tensor, asked: torch.Tensor, whole: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        if self.fused is None:
            return self.query(asked), self.key(hidden), self.value(hidden)
        if whole:
            query, key, value = self.fused(hidden).chunk(3, dim=-1)
            return query, key, value
        width = self.fused.in_features
        weight, bias = self.fused.weight, self.fused.bias
        query = functional.linear(asked, weight[:width], bias[:width])
        key, value = functional.linear(hidden, weight[width:], bias[width:]).chunk(2, dim=-1)
        return query, key, value

    def _split(self, states: torch.Tensor) -> torch.Tensor:
        return torch.unflatten(states, -1, (self.heads, -1))


class BertLike(nn.Module):
    """A BERT-like model with its head: float32 vectors, states or logits out.

    Args:
        model: the transformers module, with a classification head where `head` is `logits`;
            `is_bert_like(model, head)` must hold.
        head: what to compute.
        fused: see `Layer`.
    """

    def __init__(self, model: Any, head: Head, *, fused: bool = False) -> None:
        super().__init__()
        config = model.config
        base = getattr(model, model.base_model_prefix, model) if head == "logits" else model
        self.head: Head = head
        self._heads = int(config.num_attention_heads)
        self.takes_type_ids = int(config.type_vocab_size) > 1
        self.words = base.embeddings.word_embeddings
        self.positions = base.embeddings.position_embeddings
        self.types = base.embeddings.token_type_embeddings
        self.norm = base.embeddings.LayerNorm
        # RoBERTa counts positions from behind the padding id, and padding has that id itself.
        self.first_position = 0
        self.pad_id: int | None = None
        if config.model_type != "bert":
            self.pad_id = int(config.pad_token_id)
            self.first_position = self.pad_id + 1
        self.layers = nn.ModuleList(
            Layer(layer, config.num_attention_heads, fused=fused) for layer in base.encoder.layer
        )
        self.pooler = None
        self.classifier = None
        if head == "logits":
            self.pooler = base.pooler if config.model_type == "bert" else None
            self.classifier = model.classifier

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Padded on the right, all inputs int64 (batch, length); output float32, see `Head`."""
        mask = attention_mask.bool()[:, None, None, :]

        def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
            return functional.scaled_dot_product_attention(
                query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), attn_mask=mask
            ).transpose(1, 2)

        if self.pad_id is None:
            positions = torch.cumsum(torch.ones_like(input_ids[:1]), 1) - 1
        else:
            real = input_ids.ne(self.pad_id).to(input_ids.dtype)
            positions = torch.cumsum(real, 1) * real + self.pad_id
        hidden = self.embed(input_ids, positions, token_type_ids)
        hidden = self.encode(hidden, attend, attend, lambda states: states[:, :1])
        if self.reads_first:
            return self.finish(hidden[:, 0])
        if self.head == "mean":
            weights = attention_mask.unsqueeze(-1).float()
            return (hidden.float() * weights).sum(1) / weights.sum(1).clamp(min=1.0)
        return hidden.float()

    def run_packed(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor,
        types: torch.Tensor | None,
        cumulative: torch.Tensor,
        attend: Attend,
        attend_first: Attend,
    ) -> torch.Tensor:
        """All texts one after the other, without padding.

        Args:
            ids: int32 or int64 (tokens,), likewise `positions` and `types`.
            positions: each token's position, counted as the model counts it.
            types: None where all are 0.
            cumulative: (texts + 1,): where each text begins, and where all end. At least one token
                each.
            attend: attention of all tokens to all tokens of their text.
            attend_first: attention of each text's first token to all tokens of its text.

        Returns:
            float32 (texts, dimension) or (texts,); for the head `tokens` the states
            (tokens, dimension) in the number format of the weights.
        """
        starts = cumulative[:-1]
        hidden = self.embed(ids, positions, types)
        hidden = self.encode(
            hidden, attend, attend_first, lambda states: states.index_select(0, starts)
        )
        if self.reads_first:
            return self.finish(hidden)
        if self.head == "mean":
            # Each sum is made by one thread in the order of the tokens: it cannot depend on the
            # other texts, as atomic additions would.
            return torch.segment_reduce(
                hidden.float(), "mean", offsets=cumulative, axis=0, unsafe=True
            )
        return hidden

    @property
    def head_dimension(self) -> int:
        """Of one attention head."""
        return int(self.words.embedding_dim) // self._heads

    @property
    def longest(self) -> int:
        """Tokens of the longest text that there are positions for."""
        return int(self.positions.num_embeddings) - self.first_position

    @property
    def reads_first(self) -> bool:
        """Whether the head looks at the first token only."""
        return self.head in ("cls", "logits")

    def embed(
        self, ids: torch.Tensor, positions: torch.Tensor, types: torch.Tensor | None
    ) -> torch.Tensor:
        """Ids and positions of one shape, or one that broadcasts → states with a last dimension."""
        kind = self.types.weight[0] if types is None else self.types(types)
        states: torch.Tensor = self.norm(self.words(ids) + self.positions(positions) + kind)
        return states

    def encode(
        self, hidden: torch.Tensor, attend: Attend, attend_first: Attend, pick: Pick
    ) -> torch.Tensor:
        """All layers. Where the head reads the first token only, the last layer gives just those.

        Args:
            hidden: embedded tokens.
            attend: attention of all tokens to all tokens of their text.
            attend_first: attention of each text's first token to all tokens of its text.
            pick: the first tokens' rows.
        """
        *most, last = self.layers
        for layer in most:
            hidden = layer(hidden, attend, None)
        if self.reads_first:
            result: torch.Tensor = last(hidden, attend_first, pick)
        else:
            result = last(hidden, attend, None)
        return result

    def finish(self, first: torch.Tensor) -> torch.Tensor:
        """First tokens' states (n, dimension) → vectors, or logits (n,), in float32."""
        if self.classifier is None:
            return first.float()
        if self.pooler is not None:
            logits = self.classifier(self.pooler(first.unsqueeze(1)))
        else:
            logits = self.classifier(first.unsqueeze(1))
        result: torch.Tensor = logits.float().squeeze(-1)
        return result


def _fuse(*layers: nn.Linear) -> nn.Linear:
    fused = nn.Linear(layers[0].in_features, sum(layer.out_features for layer in layers))
    fused.weight = nn.Parameter(torch.cat([layer.weight for layer in layers]), requires_grad=False)
    fused.bias = nn.Parameter(torch.cat([layer.bias for layer in layers]), requires_grad=False)
    return fused
