"""Options that several commands share, above all those of how the models run."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal, TypeAlias, get_type_hints

import typer

from retrieval.cli.output import given_only, listed
from retrieval.errors import InvalidInput
from retrieval.models.examples import read_examples
from retrieval.search.options import THRESHOLD, Option, search_options
from retrieval.types import FieldKind, Fusion

_Decorator: TypeAlias = Callable[[Callable[..., None]], Callable[..., None]]

MODELS = "Models"
"""The part of the help that holds the options of models."""

AUTO = "auto"
"""Stands for None among the choices of an option."""

Collection = Annotated[str, typer.Option(help="Name of the collection.")]
Store = Annotated[
    str, typer.Option(help="Folder of the store, or URL of a Qdrant server, or URLs with commas.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON (stable, see docs/json.md).")]
ApiKey = Annotated[
    str | None, typer.Option(help="API key of a Qdrant server; '@FILE' reads it from a file.")
]
Tenant = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Tenant of the passages, where a collection keeps tenants apart."
    ),
]
RerankerOption = Annotated[
    str,
    typer.Option(
        help="Second stage: auto, none, a model's name or folder.", rich_help_panel=MODELS
    ),
]
_KINDS = ("keyword", "number", "datetime")


def field_kinds(given: Sequence[str]) -> dict[str, FieldKind]:
    """`year:number` and the like as names and kinds.

    Raises:
        InvalidInput: one is not NAME:KIND.
    """
    fields: dict[str, FieldKind] = {}
    for one in given:
        name, _, kind = one.rpartition(":")
        if not name or kind not in _KINDS:
            raise InvalidInput(
                f"--field is {one!r}, expected NAME:KIND with a kind of {', '.join(_KINDS)}",
                fix="Write, for example, --field year:number --field lang:keyword.",
            )
        fields[name] = kind  # type: ignore[assignment]  # checked above
    return fields


_MODEL_OPTIONS: dict[str, Any] = {
    "pooling": Annotated[
        Literal["cls", "mean", "last"] | None,
        typer.Option(
            metavar="HOW",
            help="cls, mean or last, where the encoder's own config declares none.",
            rich_help_panel=MODELS,
        ),
    ],
    "query_instruction": Annotated[
        str | None,
        typer.Option(
            help="Put before queries verbatim, instead of the model's own.", rich_help_panel=MODELS
        ),
    ],
    "passage_instruction": Annotated[
        str | None,
        typer.Option(
            help="Put before passages verbatim, instead of the model's own.", rich_help_panel=MODELS
        ),
    ],
    "query_suffix": Annotated[
        str | None,
        typer.Option(
            help="Put behind queries verbatim, instead of the model's own.", rich_help_panel=MODELS
        ),
    ],
    "query_examples": Annotated[
        Any,
        typer.Option(
            metavar="FILE",
            help="JSON of few-shot examples for bge-en-icl: objects with query and response.",
            parser=read_examples,
            rich_help_panel=MODELS,
        ),
    ],
    "max_length": Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Tokens the encoder reads, instead of the model's own.",
            min=8,
            rich_help_panel=MODELS,
        ),
    ],
    "device": Annotated[
        str | None, typer.Option(help="auto, cpu, cuda, cuda:1, mps.", rich_help_panel=MODELS)
    ],
    "devices": Annotated[
        str | None,
        typer.Option(
            help="Several devices, joined by commas: cuda:0,cuda:1.", rich_help_panel=MODELS
        ),
    ],
    "engine": Annotated[
        Literal["auto", "packed", "openvino", "transformers"] | None,
        typer.Option(
            metavar="NAME",
            help="auto, packed, openvino or transformers.",
            rich_help_panel=MODELS,
        ),
    ],
    "dtype": Annotated[
        Literal["auto", "fp32", "bf16", "fp16", "int8"] | None,
        typer.Option(
            metavar="FORMAT",
            help="auto, fp32, bf16, fp16 or, on CPUs, int8.",
            rich_help_panel=MODELS,
        ),
    ],
    "threads": Annotated[
        int | None,
        typer.Option(metavar="N", help="CPU threads of a model.", min=1, rich_help_panel=MODELS),
    ],
    "deterministic": Annotated[
        bool | None,
        typer.Option(
            "--deterministic",
            help="Encode each text alone: the same bits whatever else is in the batch; slower.",
            rich_help_panel=MODELS,
        ),
    ],
    "truncate_dim": Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Cut vectors to N dimensions, where the encoder was trained for it.",
            min=1,
            rich_help_panel=MODELS,
        ),
    ],
    "allow_untrained_truncation": Annotated[
        bool | None,
        typer.Option(
            "--allow-untrained-truncation",
            help="Allow a --truncate-dim that the encoder was not trained for; costs quality.",
            rich_help_panel=MODELS,
        ),
    ],
    "long_passages": Annotated[
        Literal["truncate", "windows", "error"] | None,
        typer.Option(
            metavar="HOW",
            help="Passages over a cross-encoder's length: truncate, windows (the best one "
            "counts), or error.",
            rich_help_panel=MODELS,
        ),
    ],
}

RUNNING = ("device", "devices", "engine", "dtype", "threads", "deterministic")
"""The options of how any model runs."""

CUTTING = ("truncate_dim", "allow_untrained_truncation")
"""The options of how an encoder's vectors are cut."""


def with_model_options(*names: str) -> _Decorator:
    """Give a command the named options of models, as its parameter `model_options`."""
    return with_options(model_options={name: _MODEL_OPTIONS[name] for name in names})


def with_options(**groups: Mapping[str, Any]) -> _Decorator:
    """Give a command options that are declared in tables.

    Args:
        groups: parameter of the command → option → its `Annotated` type, alone where None is the
            default, or with the default. The command gets a dict of those that are not None. In
            the help they stand where the command has the parameter, which must be a keyword-only
            one.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        parameters: list[inspect.Parameter] = []
        for parameter in signature.parameters.values():
            if parameter.name not in groups:
                parameters.append(parameter)
                continue
            for name, declared in groups[parameter.name].items():
                type_, default = declared if isinstance(declared, tuple) else (declared, None)
                kind = inspect.Parameter.KEYWORD_ONLY
                parameters.append(inspect.Parameter(name, kind, default=default, annotation=type_))

        @functools.wraps(command)
        def run(**values: Any) -> None:
            for group, options in groups.items():
                values[group] = given_only({name: values.pop(name) for name in options})
            command(**values)

        # Typer reads the options from here.
        run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return decorate


def with_search_options(*names: str, given_only: bool = False) -> _Decorator:
    """Give a command options of a search, all or the named ones, as its `search_options`.

    given_only: the command gets what was typed alone, and no defaults.
    """
    offered = [option for option in search_options("cli") if not names or option.name in names]
    if given_only:
        offered = [replace(option, default=None) for option in offered]
    table = {name: one for option in offered for name, one in declared(option).items()}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def run(*, search_options: dict[str, Any], **values: Any) -> None:
            command(search_options=_search_options(search_options), **values)

        return with_options(search_options=table)(run)

    return decorate


def declared(option: Option) -> dict[str, tuple[Any, Any]]:
    """An option as `with_options` takes it; the fusion of a search is several."""
    kind, default, flags, help_ = option.type, option.default, [], option.summary
    panel = option.panel
    if option.name == "where":
        kind, help_ = str, f'{help_} key=value,… or JSON \'{{"year": {{"gte": 2020}}}}\'.'
    elif kind == THRESHOLD:
        kind = str
    elif option.name == "fusion":
        kind = get_type_hints(Fusion)["method"]
    elif option.choices and default is None:
        kind, default = Literal[(AUTO, *option.choices)], AUTO
    elif kind is bool:
        name = option.name.replace("_", "-")
        flags = [f"--{name}" if default is False else f"--{name}/--no-{name}"]
    shown = typer.Option(*flags, help=help_, rich_help_panel=panel)
    declared = {
        option.name: (Annotated[kind if default is not None else kind | None, shown], default)
    }
    if option.name == "fusion":
        k = typer.Option(help="The constant k of rrf.", rich_help_panel=panel, min=1)
        weights = typer.Option(
            help="Weights of the dense, the BM25 and the lexical leg, such as 2,1.",
            rich_help_panel=panel,
        )
        declared["rrf_k"] = (Annotated[int | None, k], None)
        declared["weights"] = (Annotated[str | None, weights], None)
    return declared


def _search_options(values: dict[str, Any]) -> dict[str, Any]:
    """Options of a search, from what the command line says of them."""
    from retrieval.index.filter_syntax import parse_where

    choices = {option.name for option in search_options("cli") if option.choices}
    options = {k: v for k, v in values.items() if not (k in choices and v == AUTO)}
    if "where" in options:
        options["where"] = parse_where(options["where"])
    if "min_relevance" in options:
        options["min_relevance"] = _number_or_name(options["min_relevance"])
    fusion = fusion_of(*(options.pop(name, None) for name in ("fusion", "rrf_k", "weights")))
    return options if fusion is None else {**options, "fusion": fusion}


def _number_or_name(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def fusion_of(
    method: Literal["rrf", "dbsf"] | None, rrf_k: int | None, weights: str | None
) -> Fusion | None:
    """How the legs of hybrid search are joined; None where nothing was said of it.

    Raises:
        InvalidInput: weights that are not numbers, or `rrf_k` beside dbsf.
    """
    if method is None and rrf_k is None and weights is None:
        return None
    made = Fusion()
    if method is not None:
        made = replace(made, method=method)
    elif rrf_k is not None:
        made = replace(made, method="rrf")
    if rrf_k is not None:
        if made.method != "rrf":
            raise InvalidInput(
                f"--rrf-k {rrf_k} was given with --fusion {made.method}, which has no such "
                "constant",
                fix="Leave --rrf-k out, or use --fusion rrf.",
            )
        made = replace(made, k=rrf_k)
    if weights is not None:
        try:
            numbers = tuple(map(float, listed(weights)))
        except ValueError:
            numbers = ()
        if len(numbers) not in (2, 3):
            raise InvalidInput(
                f"--weights is {weights!r}, expected two or three numbers joined by commas",
                fix="Give those of the dense, the BM25 and, where the collection has it, the "
                "lexical leg: --weights 2,1",
            )
        dense, bm25, lexical = (*numbers, 1.0)[:3]
        made = replace(made, weights=(dense, bm25, lexical))
    return made
