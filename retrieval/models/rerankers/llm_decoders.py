"""Language models that score: one forward pass over a prompt, one number per prompt.

`llm_loading.py` says which there are, and loads them from files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from retrieval.errors import ModelFault
from retrieval.models.rerankers.llm_prompts import Prompts
from retrieval.models.score_modules import AnswerTokens


class Decoder(Protocol):
    """A loaded language model with its score."""

    def to(self, device: torch.device) -> Decoder:
        """Itself, on that device."""
        ...

    def score(
        self, ids: torch.Tensor, lengths: torch.Tensor, queries: torch.Tensor, prompt: int
    ) -> torch.Tensor:
        """float32 (batch,).

        Args:
            ids: int64 (batch, length), padded on the right.
            lengths: int64 (batch,), tokens that are not padding.
            queries: int64 (batch,), tokens before the passage.
            prompt: tokens behind the passage.
        """
        ...


class YesLogit(nn.Module):
    """The logit of one token at the last position of a causal language model, or of two.

    Args:
        model: a language model of transformers.
        answer: `yes` is the token whose logit counts; that of `no`, where there is one, is taken
            off it, which makes the log odds of the two.
    """

    def __init__(self, model: Any, answer: AnswerTokens) -> None:
        super().__init__()
        self.model = model
        self.answer = answer

    @torch.inference_mode()
    def score(
        self, ids: torch.Tensor, lengths: torch.Tensor, queries: torch.Tensor, prompt: int
    ) -> torch.Tensor:
        """See `Decoder.score`."""
        # Padded on the left, all texts end at one place, and only there the vocabulary's logits
        # are computed: at every position they would take 1 MB each.
        columns = torch.arange(ids.shape[1], device=ids.device)
        shift = (ids.shape[1] - lengths)[:, None]
        mask = columns[None, :] >= shift
        positions = (columns[None, :] - shift).clamp(min=0)
        output = self.model(
            input_ids=ids.gather(1, positions) * mask,
            attention_mask=mask.long(),
            position_ids=positions,
            use_cache=False,
            logits_to_keep=1,
        )
        logits: torch.Tensor = output.logits[:, -1].float()
        yes = logits[:, self.answer.yes]
        return yes if self.answer.no is None else yes - logits[:, self.answer.no]


class Classifier(nn.Module):
    """A decoder whose last state goes through a head of one output."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    @torch.inference_mode()
    def score(
        self, ids: torch.Tensor, lengths: torch.Tensor, queries: torch.Tensor, prompt: int
    ) -> torch.Tensor:
        """See `Decoder.score`."""
        columns = torch.arange(ids.shape[1], device=ids.device)
        scores: torch.Tensor = self.model(ids, (columns[None] < lengths[:, None]).long())
        return scores


class LayeredDecoder(nn.Module):
    """A stack of transformers' decoder layers, cut off at a layer, with that layer's head.

    Args:
        model: a `LlamaModel` or `Gemma2Model` of just the layers needed.
        head: (hidden,) weights of the one output.
        scale: what embeddings are multiplied with.
        softcap: bounds the score smoothly to ± that; None for none.
        ratio, at: see `Cut`.
    """

    def __init__(
        self,
        model: Any,
        head: torch.Tensor,
        *,
        scale: float = 1.0,
        softcap: float | None = None,
        ratio: int = 1,
        at: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.model = model
        self.head = nn.Parameter(head, requires_grad=False)
        self.scale = scale
        self.softcap = softcap
        self.ratio = ratio
        self.at = frozenset(at) - {0} if ratio > 1 else frozenset()
        full = ["full_attention"] * len(model.layers)
        self.kinds: list[str] = getattr(model.config, "layer_types", None) or full

    @torch.inference_mode()
    def score(
        self, ids: torch.Tensor, lengths: torch.Tensor, queries: torch.Tensor, prompt: int
    ) -> torch.Tensor:
        """See `Decoder.score`."""
        hidden = self.model.embed_tokens(ids)
        if self.scale != 1.0:
            hidden = hidden * self.scale
        layout, masks = self._layout(hidden)
        for index, layer in enumerate(self.model.layers):
            if index in self.at:
                hidden, lengths = compress(hidden, lengths, queries, prompt, self.ratio)
                layout, masks = self._layout(hidden)
            hidden = layer(hidden, attention_mask=masks[self.kinds[index]], **layout)
        rows = torch.arange(len(hidden), device=hidden.device)
        last = self.model.norm(hidden[rows, lengths - 1])
        score: torch.Tensor = nn.functional.linear(last, self.head[None])[:, 0].float()
        if self.softcap is not None:
            score = torch.tanh(score / self.softcap) * self.softcap
        return score

    def _layout(self, hidden: torch.Tensor) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """The position embeddings for all layers, and the mask of each kind of layer."""
        length = hidden.shape[1]
        positions = torch.arange(length, device=hidden.device)[None]
        # Every token looks back only, and padding is behind the text: no other mask is needed.
        back = positions.T - positions
        masks = {}
        for kind in set(self.kinds):
            hide = back < 0
            if kind == "sliding_attention":
                hide = hide | (back >= self.model.config.sliding_window)
            mask = torch.zeros((1, 1, length, length), dtype=hidden.dtype, device=hidden.device)
            masks[kind] = mask.masked_fill(hide, torch.finfo(hidden.dtype).min)
        embeddings = self.model.rotary_emb(hidden, positions)
        layout = {"position_ids": positions, "position_embeddings": embeddings, "use_cache": False}
        return layout, masks


def compress(
    hidden: torch.Tensor, lengths: torch.Tensor, queries: torch.Tensor, prompt: int, ratio: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Average every `ratio` passage tokens into one; query and prompt stay as they are.

    Args:
        hidden: (batch, length, dimension), padded on the right; the rest as in `Decoder.score`.

    Returns:
        (batch, shorter length, dimension), and its lengths (batch,).
    """
    passages = (lengths - queries - prompt)[:, None]
    first = queries[:, None]
    kept = (passages + ratio - 1) // ratio
    shorter = (first + kept + prompt)[:, 0]
    place = torch.arange(int(shorter.max()), device=hidden.device)[None]
    group = (place >= first) & (place < first + kept)
    source = torch.where(group, first + (place - first) * ratio, place)
    source = torch.where(place >= first + kept, place - kept + passages, source)
    count = torch.where(group, (first + passages - source).clamp(max=ratio), 1)
    total = torch.zeros((*source.shape, hidden.shape[2]), dtype=torch.float32, device=hidden.device)
    for step in range(ratio):
        index = (source + step).clamp(max=hidden.shape[1] - 1)[..., None]
        part = hidden.gather(1, index.expand(-1, -1, hidden.shape[2])).float()
        total += part * (step < count)[..., None]
    return (total / count[..., None]).to(hidden.dtype), shorter


class ScaledLinear(nn.Module):
    """A linear layer whose output is multiplied: MiniCPM's residual branches."""

    def __init__(self, layer: nn.Module, scale: float) -> None:
        super().__init__()
        self.layer = layer
        self.scale = scale

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """(…, in) → (…, out)."""
        result: torch.Tensor = self.layer(states) * self.scale
        return result


class Worker:
    """A copy of the model on a device."""

    def __init__(self, decoder: Decoder, device: torch.device) -> None:
        self._decoder = decoder
        self.device = device

    def score(self, prompts: Prompts, batch: NDArray[np.int64]) -> NDArray[np.float64]:
        """float64 (len(batch),). Out of device memory, the batch is halved, and so on."""
        lengths = prompts.lengths[batch]
        try:
            ids = np.zeros((len(batch), int(lengths.max())), dtype=np.int64)
            for row, index in enumerate(batch):
                ids[row, : lengths[row]] = prompts.rows[index]
            arrays = [ids, lengths, prompts.queries[batch]]
            tokens, sizes, queries = (torch.from_numpy(a).to(self.device) for a in arrays)
            scores = self._decoder.score(tokens, sizes, queries, prompts.prompt)
            result: NDArray[np.float64] = scores.cpu().numpy().astype(np.float64)
            return result
        except torch.OutOfMemoryError as error:
            if len(batch) == 1:
                raise ModelFault(
                    f"{self.device} has no memory for one pair of {ids.shape[1]} tokens: {error}",
                    fix="Choose a smaller max_length or model, or a lower cutoff_layers.",
                ) from error
        except (RuntimeError, ValueError, IndexError) as error:
            raise ModelFault(
                f"{self.device} failed on {len(batch)} pairs of up to {int(lengths.max())} "
                f"tokens: {error}",
                fix="Try another device, dtype='fp32', or a smaller batch_size.",
            ) from error
        # Outside the handler, so that the failed forward's tensors are no longer referenced.
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        half = len(batch) // 2
        return np.concatenate(
            [self.score(prompts, batch[:half]), self.score(prompts, batch[half:])]
        )
