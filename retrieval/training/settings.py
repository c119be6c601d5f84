"""What a training run is asked for, declared once: a TOML file, options and the card follow.

Names and defaults are FlagEmbedding's where it has the setting.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias, TypeVar, get_args, get_origin, get_type_hints

from retrieval._validate import number, one_of, true_or_false, unicode_text, whole_number
from retrieval.errors import InvalidInput

T = TypeVar("T", bound="TrainingSettings")

Stage: TypeAlias = Literal["encoder", "reranker"]
Dtype: TypeAlias = Literal["auto", "fp32", "bf16", "fp16"]
GradientCache: TypeAlias = Literal["auto", "on", "off"]
KdLoss: TypeAlias = Literal["none", "kl_div", "margin_mse"]
RerankerLoss: TypeAlias = Literal["listwise", "lambda", "binary"]


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of a setting: what the help says, and the numbers that it may be."""

    help: str
    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf


def _set(default: Any, help_: str, **bounds: float) -> Any:
    metadata = {"bounds": Bounds(help_, **bounds)}
    if default is MISSING:
        return field(metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """What both stages have in common."""

    stage: ClassVar[Stage]

    model: str = _set("starter", "The model to start from: a name, a folder, a hub id.")
    train_data: tuple[str, ...] = _set(
        MISSING, "What to train on, as `retrieval train data` reads."
    )
    output_dir: str = _set(MISSING, "Folder of the tuned model.")
    dev_data: str | None = _set(None, "Examples that choose the best checkpoint.")
    dev_share: float = _set(
        0.1, "Share of the training queries held out for that, without dev_data.", least=0, most=0.5
    )
    allow_leaks: bool = _set(False, "Measure on queries that are trained on, too.")
    learning_rate: float = _set(2e-5, "Its highest value.", above=0, most=1)
    num_train_epochs: float = _set(3, "How often every query is seen.", above=0, most=1000)
    max_steps: int | None = _set(None, "End after so many steps.", least=1)
    per_device_train_batch_size: int = _set(32, "Queries of a batch on each device.", least=1)
    gradient_accumulation_steps: int = _set(1, "Batches of a step.", least=1)
    train_group_size: int = _set(
        8, "Passages of a query in a batch: one that answers, the others hard negatives.", least=1
    )
    knowledge_distillation: KdLoss = _set(
        "none", "Learn the teacher's scores, too: kl_div, or margin_mse alone."
    )
    warmup_ratio: float = _set(0.1, "Share of the steps in which the rate rises.", least=0, most=1)
    weight_decay: float = _set(0.01, "AdamW's.", least=0, most=1)
    max_grad_norm: float = _set(1.0, "Longer gradients are cut to it.", above=0)
    lr_scheduler_type: str = _set("linear", "How the rate falls: linear, cosine, constant …")
    dropout: float | None = _set(
        None,
        "Share of activations set to zero, attention's too; the model's own.",
        least=0,
        most=0.9,
    )
    seed: int = _set(42, "Of order, choice of passages, dropout.", least=0, most=2**31)
    dtype: Dtype = _set("auto", "auto, fp32, bf16 or fp16 (mixed precision).")
    gradient_checkpointing: bool = _set(False, "Less memory for more time.")
    gradient_cache: GradientCache = _set(
        "auto", "Large batches in little memory (GradCache): auto, on or off."
    )
    micro_batch_tokens: int = _set(2048, "Padded tokens that are computed at once.", least=16)
    lora_rank: int | None = _set(
        None, "Train a LoRA adapter of this rank; merged at the end.", least=1
    )
    lora_alpha: float = _set(32, "LoRA's scale.", above=0)
    lora_dropout: float = _set(0.0, "LoRA's dropout.", least=0, most=0.9)
    deepspeed: str | None = _set(None, "DeepSpeed's configuration file.")
    eval_steps: int | None = _set(
        None, "Steps between measurements and checkpoints; once an epoch.", least=1
    )
    early_stopping_patience: int = _set(
        0, "Measurements without a gain after which it ends; 0 for never.", least=0
    )
    threads: int | None = _set(None, "CPU threads; all cores.", least=1)
    device: str = _set("auto", "auto, cpu, cuda, mps.")
    tensorboard: bool = _set(True, "Write a log for TensorBoard.")
    most_minutes: float | None = _set(None, "Refuse what will take longer.", above=0)

    def __post_init__(self) -> None:
        for name, kind, bounds in settings_of(type(self)):
            _check(name, getattr(self, name), kind, bounds)
        if not self.train_data:
            raise InvalidInput(
                "there is nothing to train on: train_data is empty",
                fix="Name a file or folder, for example train_data = ['train.jsonl'].",
            )
        if self.deepspeed and self.gradient_cache == "on":
            raise InvalidInput(
                "gradient_cache is on and deepspeed was given, which do not work together",
                fix="Leave one of them out; DeepSpeed saves memory in its own way.",
            )

    def as_dict(self) -> dict[str, Any]:
        """Name → value, JSON values, in the order of declaration."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}


@dataclass(frozen=True, kw_only=True)
class EncoderTraining(TrainingSettings):
    """A run of `retrieval train encoder`: contrastive fine-tuning of a bi-encoder.

    Raises:
        InvalidInput: a value that cannot be used.

    Example:
        >>> from retrieval.training.settings import EncoderTraining
        >>> EncoderTraining(train_data=("train.jsonl",), output_dir="tuned").temperature
        0.02
    """

    stage: ClassVar[Stage] = "encoder"

    temperature: float = _set(0.02, "InfoNCE's; similarities are divided by it.", above=0, most=10)
    query_max_len: int | None = _set(None, "Tokens of a query; the model's own.", least=8)
    passage_max_len: int | None = _set(None, "Tokens of a passage; the model's own.", least=8)
    query_instruction_for_retrieval: str | None = _set(
        None, "Before queries, verbatim; the model's own."
    )
    passage_instruction_for_retrieval: str | None = _set(None, "Before passages, likewise.")
    two_variants: bool = _set(
        False, "Train with and without the query instruction, and average both."
    )
    in_batch_negatives: bool = _set(True, "Other queries' passages are negatives, too.")
    negatives_cross_device: bool = _set(True, "And those of other devices, under torchrun.")
    mrl_dims: tuple[int, ...] = _set((), "Shorter dimensions to train for (Matryoshka).")
    guide: str | None = _set(None, "An encoder that sorts out false negatives (GIST).")
    guide_margin: float = _set(
        0.0, "How far below the answer a negative must be for the guide.", least=-2, most=2
    )


@dataclass(frozen=True, kw_only=True)
class RerankerTraining(TrainingSettings):
    """A run of `retrieval train reranker`: fine-tuning of a cross-encoder.

    Raises:
        InvalidInput: a value that cannot be used.

    Example:
        >>> from retrieval.training.settings import RerankerTraining
        >>> RerankerTraining(train_data=("train.jsonl",), output_dir="tuned").loss
        'listwise'
    """

    stage: ClassVar[Stage] = "reranker"

    per_device_train_batch_size: int = _set(8, "Queries of a batch on each device.", least=1)
    loss: RerankerLoss = _set("listwise", "listwise, lambda or binary.")
    max_len: int | None = _set(None, "Tokens of a pair; the model's own.", least=8)


def settings_of(cls: type[TrainingSettings]) -> Iterator[tuple[str, Any, Bounds]]:
    """Name, type and bounds of every setting of a stage."""
    hints = get_type_hints(cls)
    for one in fields(cls):
        yield one.name, hints[one.name], one.metadata["bounds"]


def default_of(cls: type[TrainingSettings], name: str) -> Any:
    """The default of a setting; `MISSING` where it has none."""
    found: Field[Any] = next(one for one in fields(cls) if one.name == name)
    return found.default


def read_settings(cls: type[T], path: Path, given: Mapping[str, Any]) -> T:
    """A run from its TOML file, with what was given beside it in the first place.

    Args:
        cls: the stage's settings.
        path: a file with settings by their names, flat or in a table [encoder] or [reranker].
        given: settings that replace the file's.

    Raises:
        InvalidInput: it cannot be read, is not TOML, or has a setting that there is not.
    """
    found = read_toml(path)
    stages = {
        name: found.pop(name) for name in get_args(Stage) if isinstance(found.get(name), dict)
    }
    return make_settings(cls, {**found, **stages.get(cls.stage, {}), **given}, str(path))


def read_toml(path: Path) -> dict[str, Any]:
    """What a TOML file says.

    Raises:
        InvalidInput: it cannot be read, or is not TOML.
    """
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise InvalidInput(
            f"{path} cannot be read: {error.strerror}", fix="Name a TOML file with settings."
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path} is not TOML: {error}", fix="Correct that place.") from error


def make_settings(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """Settings from names and values, with lists as a file has them.

    Raises:
        InvalidInput: a name that there is not, a value that cannot be used, one that is missing.
    """
    known = {name: kind for name, kind, _ in settings_of(cls)}
    unknown = sorted(set(values) - set(known))
    if unknown:
        from difflib import get_close_matches

        near = get_close_matches(unknown[0], known, n=1)
        raise InvalidInput(
            f"{where} has the setting {unknown[0]!r}, which training a {cls.stage} does not have",
            fix=f"Did you mean {near[0]}?"
            if near
            else f"These are known: {', '.join(sorted(known))}.",
        )
    for name, on in (("train_data", " (TRAIN …)"), ("output_dir", " (--out DIR)")):
        if not values.get(name):
            raise InvalidInput(f"{where} names no {name}", fix=f"Give {name}{on}.")
    return cls(**{name: _as_kind(value, known[name]) for name, value in values.items()})


def _as_kind(value: Any, kind: Any) -> Any:
    """A list or a single value where a tuple is meant."""
    if get_origin(kind) is tuple:
        return tuple(value) if isinstance(value, list | tuple) else (value,)
    return value


def _check(name: str, value: Any, kind: Any, bounds: Bounds) -> None:
    options = [one for one in get_args(kind) if one is not type(None)]
    if value is None and type(None) in get_args(kind):
        return
    if get_origin(kind) is tuple:
        for one in value:
            _check(name, one, options[0], bounds)
        return
    if get_origin(kind) is Literal:
        one_of(value, kind, name)
        return
    plain = options[0] if options else kind
    fix = f"{bounds.help} Give {name} so, or leave it out."
    if plain is bool:
        true_or_false(value, name, fix=fix)
    elif plain is int:
        whole_number(
            value,
            name,
            least=int(max(bounds.least, 0)),
            most=None if bounds.most == math.inf else int(bounds.most),
            fix=fix,
        )
    elif plain is float:
        number(
            value,
            name,
            least=bounds.least,
            most=bounds.most,
            above=bounds.above,
            expected=_expected(bounds),
            fix=fix,
        )
    else:
        unicode_text(value, name, fix=fix)


def _expected(bounds: Bounds) -> str:
    parts = []
    if bounds.above > -math.inf:
        parts.append(f"above {bounds.above:g}")
    if bounds.least > -math.inf:
        parts.append(f"of at least {bounds.least:g}")
    if bounds.most < math.inf:
        parts.append(f"of at most {bounds.most:g}")
    return "a number " + " and ".join(parts) if parts else "a finite number"
