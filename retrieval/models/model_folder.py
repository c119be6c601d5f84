"""Reads what a model folder declares: sentence-transformers' and transformers' own files.

Nothing is guessed. What the files leave open comes back as None, and what this library cannot
run faithfully (foreign code, extra layers, other poolings) is refused with its reason.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrieval.errors import InvalidInput, ModelFault, ModelNotFound
from retrieval.types import Pooling

_SENTENCE_CONFIGS = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
# sentence-transformers' names of poolings; the others are concatenations or not offered here.
_POOLINGS: dict[str, Pooling] = {"cls": "cls", "mean": "mean", "lasttoken": "last"}
_OLD_POOLING_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
# Their positions start behind the padding token's id, so the first ones of the table go unused.
_POSITIONS_BEHIND_PADDING = frozenset(
    {
        "camembert",
        "data2vec-text",
        "ibert",
        "longformer",
        "mpnet",
        "roberta",
        "roberta-prelayernorm",
        "xlm-roberta",
        "xlm-roberta-xl",
        "xmod",
    }
)
LAYER_WISE = "LayerWiseMiniCPMForCausalLM"
COST_WISE = "CostWiseGemmaForCausalLM"
# Their repositories bring Python code, which is not needed: transformers' own parts serve.
OWN_ARCHITECTURES = frozenset({LAYER_WISE, COST_WISE})
_NO_LIMIT = 1_000_000  # tokenisers without a limit write 1e30


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A folder's own declarations; None or empty where it declares nothing.

    root: the folder given. transformer: where config.json, tokeniser and weights are (an old
    sentence-transformers layout keeps them one level down). modules: the class names of
    modules.json in order. prompts: as declared, empty texts included. no_instruction: whether it
    says that queries and passages are read bare, and matryoshka: the shorter dimensions that it was
    trained for, both as `sentence_files` writes them.
    """

    root: Path
    transformer: Path
    config: dict[str, Any]
    tokenizer_config: dict[str, Any]
    modules: tuple[str, ...]
    pooling: Pooling | None
    prompts: dict[str, str]
    default_prompt: str | None
    similarity: str | None
    saved_as: str | None
    declared_length: int | None
    base_models: tuple[str, ...]
    no_instruction: bool = False
    matryoshka: tuple[int, ...] = ()

    @property
    def architecture(self) -> str:
        """The class that the weights were saved from, or the model type."""
        return _architecture(self.config)

    @property
    def is_classifier(self) -> bool:
        """Whether it was saved with a head over whole sequences."""
        return self.architecture.endswith("ForSequenceClassification")

    @property
    def is_language_model(self) -> bool:
        """Whether it was saved with a head over the vocabulary, or over each of its layers."""
        return self.architecture.endswith("ForCausalLM")

    @property
    def labels(self) -> int:
        """How many outputs a classification head has; 2 is transformers' own default."""
        names = self.config.get("id2label")
        if isinstance(names, dict):
            return len(names)
        return int(self.config.get("num_labels", 2))

    @property
    def dimension(self) -> int | None:
        """The width of its hidden states."""
        for key in ("hidden_size", "dim", "d_model", "n_embd"):
            value = self.config.get(key)
            if isinstance(value, int):
                return value
        return None

    @property
    def position_limit(self) -> int | None:
        """The longest input in tokens, special tokens included; None where there is no table."""
        positions = self.config.get("max_position_embeddings", self.config.get("n_positions"))
        if not isinstance(positions, int) or positions <= 0:
            return None
        if self.config.get("model_type") in _POSITIONS_BEHIND_PADDING:
            padding = self.config.get("pad_token_id")
            return positions - (padding if isinstance(padding, int) else 1) - 1
        return positions


def read_folder(root: Path) -> ModelFolder:
    """Read a folder's configuration; weights are not looked at.

    Raises:
        ModelNotFound: it is not a model folder.
        ModelFault: one of its files is damaged.
        InvalidInput: it needs foreign code, or has parts that this library does not run.
    """
    modules = read_modules(root)
    inner = next((path for kind, path in modules if kind == "Transformer"), "")
    transformer = root / inner if inner else root
    config = read_json(transformer / "config.json")
    if config is None:
        raise _not_a_model(root)
    _refuse_foreign_code(root, config)
    sentence = next(filter(None, (read_json(transformer / n) for n in _SENTENCE_CONFIGS)), {})
    saved = read_json(root / "config_sentence_transformers.json") or {}
    tokenizer_config = read_json(transformer / "tokenizer_config.json") or {}
    if sentence.get("do_lower_case") and not tokenizer_config.get("do_lower_case"):
        raise _unsupported(root, "it lower-cases text before its tokeniser (do_lower_case)")
    prompts = saved.get("prompts")
    return ModelFolder(
        root=root,
        transformer=transformer,
        config=config,
        tokenizer_config=tokenizer_config,
        modules=tuple(kind for kind, _ in modules),
        pooling=_pooling(root, modules),
        prompts={k: v for k, v in prompts.items() if isinstance(v, str)}
        if isinstance(prompts, dict)
        else {},
        default_prompt=_text(saved.get("default_prompt_name")),
        similarity=_text(saved.get("similarity_fn_name")),
        saved_as=_text(saved.get("model_type")),
        declared_length=_length(sentence.get("max_seq_length"))
        or _length(tokenizer_config.get("model_max_length")),
        base_models=_base_models(root, config),
        no_instruction=saved.get("no_instruction") is True,
        matryoshka=_dimensions(saved.get("matryoshka_dimensions")),
    )


def _dimensions(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list):
        return ()
    return tuple(one for one in value if isinstance(one, int) and one > 0)


def own_config(path: Path) -> dict[str, Any]:
    """`{"config": …}` where transformers would otherwise look into foreign code; else empty."""
    architecture = read_folder(path).architecture
    if architecture not in OWN_ARCHITECTURES:
        return {}
    from transformers import Gemma2Config, LlamaConfig

    return {"config": Gemma2Config() if architecture == COST_WISE else LlamaConfig()}


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object from a file; None where there is no such file.

    Raises:
        ModelFault: it cannot be read, or holds no JSON object.
    """
    try:
        parsed = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise ModelFault(
            f"the model file {path} cannot be read ({error})",
            fix="Fetch the model again, or repair the file.",
        ) from error
    if not isinstance(parsed, dict):
        raise ModelFault(
            f"the model file {path} holds no JSON object", fix="Fetch the model again."
        )
    return parsed


def read_modules(root: Path) -> list[tuple[str, str]]:
    """(class name, folder) of modules.json in order; empty where there is none."""
    path = root / "modules.json"
    try:
        parsed = json.loads(path.read_text("utf-8"))
        entries = [(str(m["type"]), str(m.get("path", ""))) for m in parsed]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelFault(
            f"the model file {path} cannot be read ({error!r})",
            fix="Fetch the model again, or repair the file.",
        ) from error
    modules = []
    for kind, folder in entries:
        if not kind.startswith("sentence_transformers."):
            raise _needs_code(root, f"modules.json names the class {kind}")
        modules.append((kind.rpartition(".")[2], folder))
    return modules


def _pooling(root: Path, modules: list[tuple[str, str]]) -> Pooling | None:
    folder = next((path for kind, path in modules if kind == "Pooling"), None)
    if folder is None:
        return None
    config = read_json(root / folder / "config.json")
    if config is None:
        return None
    declared = config.get("pooling_mode")
    if declared is None:
        modes = [mode for flag, mode in _OLD_POOLING_FLAGS.items() if config.get(flag) is True]
    else:
        modes = [declared] if isinstance(declared, str) else [str(mode) for mode in declared]
    if not modes:
        return None
    if len(modes) > 1 or modes[0] not in _POOLINGS:
        raise _unsupported(
            root, f"it pools by {' + '.join(modes)}, and this library offers cls, mean and last"
        )
    if config.get("include_prompt") is False:
        raise _unsupported(root, "its pooling leaves the instruction's tokens out")
    return _POOLINGS[modes[0]]


def _refuse_foreign_code(root: Path, config: dict[str, Any]) -> None:
    mapped = config.get("auto_map")
    if _architecture(config) in OWN_ARCHITECTURES:
        return
    if isinstance(mapped, dict) and mapped:
        raise _needs_code(root, f"config.json maps {', '.join(sorted(mapped))} to its own files")


def _architecture(config: dict[str, Any]) -> str:
    names = config.get("architectures")
    if isinstance(names, list) and names:
        return str(names[0])
    return str(config.get("model_type", ""))


def _needs_code(root: Path, detail: str) -> InvalidInput:
    return InvalidInput(
        f"the model in {root} needs Python code from its own repository ({detail}), "
        "and code that comes with a model is never run",
        fix="Choose a model whose architecture is part of transformers; "
        "`retrieval models` lists some.",
    )


def _unsupported(root: Path, reason: str) -> InvalidInput:
    return InvalidInput(
        f"the model in {root} cannot be run faithfully: {reason}",
        fix="Choose another model; `retrieval models` lists some.",
    )


def _not_a_model(root: Path) -> ModelNotFound:
    if (root / "adapter_config.json").is_file():
        return ModelNotFound(
            f"the folder {root} holds only an adapter, not a whole model",
            fix="Merge the adapter into its base model, save that, and give its folder.",
        )
    return ModelNotFound(
        f"the folder {root} has no config.json, so it is not a model folder",
        fix="Give the folder that holds config.json, tokenizer.json and model.safetensors.",
    )


def _base_models(root: Path, config: dict[str, Any]) -> tuple[str, ...]:
    """What the model was made from, as config.json or the model card's header say."""
    names = [config.get("_name_or_path")]
    try:
        with (root / "README.md").open(encoding="utf-8", errors="replace") as stream:
            header = stream.read(8192)
        names += re.findall(r"^base_model:[ \t]*(\S+)[ \t]*$", header, re.MULTILINE)
        names += re.findall(r"^base_model:[ \t]*\n- (\S+)[ \t]*$", header, re.MULTILINE)
    except OSError:
        pass
    return tuple(name for name in names if isinstance(name, str) and name)


def _length(value: object) -> int | None:
    return value if isinstance(value, int) and 0 < value < _NO_LIMIT else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
