"""Loads the decoders of language models that score pairs.

Three kinds, by the architecture in config.json:

- any causal language model of transformers: the logit of the token "Yes" after the prompt, or that
  of "yes" less that of "no" (Qwen3-Reranker); or the output of a head in their place (its
  conversions to sequence classifiers);
- `LayerWiseMiniCPMForCausalLM` (bge-reranker-v2-minicpm-layerwise): every layer from a first one
  on has a head of one output, so that the model can be cut off at a layer of choice;
- `CostWiseGemmaForCausalLM` (bge-reranker-v2.5-gemma2-lightweight): the same, and passage tokens
  can be averaged in groups on the way, as the model's card describes.

The last two come with their own Python code, which is not run: a MiniCPM is a Llama whose
embeddings and residual branches are scaled, and a cost-wise Gemma is a Gemma 2, so transformers'
own layers serve. Layers behind the cut-off are never loaded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from retrieval.errors import InvalidInput, ModelFault, ModelNotFound
from retrieval.models.engines.modules import load_module, quiet
from retrieval.models.model_folder import COST_WISE, LAYER_WISE, read_folder
from retrieval.models.rerankers.llm_decoders import (
    Classifier,
    Decoder,
    LayeredDecoder,
    ScaledLinear,
    YesLogit,
)
from retrieval.models.score_modules import AnswerTokens
from retrieval.models.weight_files import weight_files

# Keys of these config.json files that say nothing of the layers, or would start foreign code.
_NOT_OF_LAYERS = ("auto_map", "architectures", "model_type", "cache_implementation")


@dataclass(frozen=True, slots=True)
class Cut:
    """Where to stop and what to compress; None for the model's own.

    layer: the layer whose state is scored, counted from 1. ratio: how many passage tokens become
    one. at: before which layers that happens, counted from 0.
    """

    layer: int | None = None
    ratio: int | None = None
    at: tuple[int, ...] | None = None


def load_decoder(path: Path, dtype: torch.dtype, cut: Cut, answer: AnswerTokens) -> Decoder:
    """The model in `path`, on the CPU. `answer`: the tokens that say yes, and no.

    Raises:
        InvalidInput: `cut` does not fit the model.
        ModelNotFound: nothing that loads in `path`.
        ModelFault: weights are missing or of another shape, so they would be random.
    """
    folder = read_folder(path)
    if folder.architecture in (LAYER_WISE, COST_WISE):
        return _load_layered(path, folder.config, dtype, cut, folder.architecture == COST_WISE)
    if cut != Cut():
        raise InvalidInput(
            f"cutoff_layers, compress_ratio or compress_layers was given for a "
            f"{folder.architecture}, which is scored at its last layer only",
            fix="Leave them out, or choose BAAI/bge-reranker-v2-minicpm-layerwise.",
        )
    if folder.is_classifier:
        return Classifier(load_module(path, "logits", dtype))
    from transformers import AutoModelForCausalLM

    with quiet():
        try:
            model, loading = AutoModelForCausalLM.from_pretrained(
                str(path), dtype=dtype, local_files_only=True, output_loading_info=True
            )
        except Exception as error:  # the one boundary: whatever transformers raises
            raise _not_loaded(path, error) from error
    _check_loaded(path, loading)
    return YesLogit(model.eval().requires_grad_(False), answer)


def _load_layered(
    path: Path, config: dict[str, Any], dtype: torch.dtype, cut: Cut, cost_wise: bool
) -> LayeredDecoder:
    from transformers import Gemma2Config, Gemma2Model, LlamaConfig, LlamaModel

    layers = int(config["num_hidden_layers"])
    first = int(config.get("start_layer", 28 if cost_wise else 8))
    step = int(config.get("layer_sep", 28)) if cost_wise else 1
    heads = range(first, layers + 1, step)
    layer = cut.layer or layers
    _check_cut(config, cut, layer, heads, cost_wise)
    single = not cost_wise and not config.get("head_multi", True)
    # A cost-wise Gemma takes the first head for the first layer asked for, whichever that is: so
    # does its authors' code (FlagEmbedding 1.4.2), whose scores these must be.
    number = 0 if single or cost_wise else heads.index(layer)
    name = "lm_head.linear_head.weight" if single else f"lm_head.{number}.linear_head.weight"
    settings = {key: value for key, value in config.items() if key not in _NOT_OF_LAYERS}
    settings |= {"num_hidden_layers": layer, "use_cache": False}
    # Filled in by newer versions of transformers for the whole stack; `_check_cut` refuses a
    # rope_scaling that is not null.
    settings = {k: v for k, v in settings.items() if k not in ("layer_types", "rope_scaling")}
    own, build = (Gemma2Config, Gemma2Model) if cost_wise else (LlamaConfig, LlamaModel)
    state, head = _read_weights(path, layer, name, dtype)
    with quiet():
        try:
            made = own.from_dict(settings)
            # Gemma 2 bounds its attention scores, which the fused kernels leave out.
            made._attn_implementation = "eager" if cost_wise else "sdpa"
            model, loading = build.from_pretrained(
                None, config=made, state_dict=state, dtype=dtype, output_loading_info=True
            )
        except Exception as error:  # the one boundary: whatever transformers raises
            raise _not_loaded(path, error) from error
    _check_loaded(path, loading)
    model.eval().requires_grad_(False)
    if cost_wise:
        softcap = config.get("final_logit_softcapping", 30.0)
        at = cut.at if cut.at is not None else (8,)
        return LayeredDecoder(model, head, softcap=softcap, ratio=cut.ratio or 1, at=at)
    branch = float(config.get("scale_depth", 1)) / math.sqrt(layers)
    for block in model.layers:
        block.self_attn.o_proj = ScaledLinear(block.self_attn.o_proj, branch)
        block.mlp.down_proj = ScaledLinear(block.mlp.down_proj, branch)
    return LayeredDecoder(model, head, scale=float(config.get("scale_emb", 1)))


def _check_cut(config: dict[str, Any], cut: Cut, layer: int, heads: range, cost_wise: bool) -> None:
    if layer not in heads:
        some = f"one of {heads[0]} to {heads[-1]}" if heads.step == 1 else f"one of {list(heads)}"
        raise InvalidInput(
            f"cutoff_layers={layer} was given, but this model has heads for {some}",
            fix="Choose such a layer, or leave it out for the last.",
        )
    if not cost_wise and (cut.ratio is not None or cut.at is not None):
        raise InvalidInput(
            "compress_ratio or compress_layers was given for a model that compresses no tokens",
            fix="Leave them out, or choose BAAI/bge-reranker-v2.5-gemma2-lightweight.",
        )
    simple = config.get("layer_wise", False) if cost_wise else config.get("head_type") == "simple"
    scaled = config.get("rope_scaling") is not None
    if not simple or scaled or config.get("quantization_config") is not None:
        raise InvalidInput(
            "this reranker has quantised weights, stretched positions or heads over a vocabulary, "
            "which cannot be run faithfully here",
            fix="Choose BAAI/bge-reranker-v2-minicpm-layerwise or BAAI/bge-reranker-v2-m3.",
        )


def _read_weights(
    path: Path, layers: int, head: str, dtype: torch.dtype
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """The first `layers` layers' weights without the prefix `model.`, and one head (hidden,)."""
    state: dict[str, torch.Tensor] = {}
    found: torch.Tensor | None = None
    for file in weight_files(path):
        for name, tensor in _tensors(file, head, layers):
            if name == head:
                found = tensor.to(dtype)
            else:
                state[name.removeprefix("model.")] = tensor.to(dtype)
    if found is None or found.shape[0] != 1:
        raise ModelFault(
            f"the weights in {path} have no head of one output named {head}",
            fix="Fetch the model again; its weights are not those of its config.json.",
        )
    return state, found[0]


def _tensors(file: Path, head: str, layers: int) -> list[tuple[str, torch.Tensor]]:
    def wanted(name: str) -> bool:
        parts = name.split(".")
        if parts[0] != "model":
            return name == head
        return parts[1] != "layers" or int(parts[2]) < layers

    try:
        if file.suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(str(file), framework="pt") as opened:
                return [(n, opened.get_tensor(n)) for n in opened.keys() if wanted(n)]  # noqa: SIM118
        # weights_only: a pickle could run code, a state dict cannot.
        state = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        return [(name, tensor) for name, tensor in state.items() if wanted(name)]
    except Exception as error:  # the one boundary: whatever the readers raise
        raise _not_loaded(file, error) from error


def _check_loaded(path: Path, loading: dict[str, Any]) -> None:
    wrong = sorted(str(key) for key in loading["missing_keys"])
    wrong += sorted(str(entry[0]) for entry in loading["mismatched_keys"])
    if wrong:
        raise ModelFault(
            f"the model in {path} was expected to hold all weights of its architecture, but "
            f"{len(wrong)} tensors are missing or of another shape, among them {wrong[0]!r}",
            fix="Fetch the model again, or save config and weights together.",
        )


def _not_loaded(path: Path, error: Exception) -> ModelNotFound:
    return ModelNotFound(
        f"the language model in {path} cannot be loaded ({type(error).__name__}: "
        f"{str(error).strip()[:300]})",
        fix="Check that the folder holds config.json and complete safetensors weights.",
    )
