"""The options of a search as fields of requests, taken from their one declaration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, Field, create_model

from app.protocols.json_limits import JsonObject, Milliseconds, Name, Strict
from retrieval.search.options import THRESHOLD, Option, Surface, search_options
from retrieval.types import Fusion

Model = TypeVar("Model", bound=BaseModel)

WHERE_EXAMPLES: list[Any] = [
    {"team": "finance"},
    {"team": ["finance", "it"], "year": {"gte": 2024}},
    {"or": [{"year": {"lt": 2000}}, {"not": {"draft": True}}], "author.name": {"exists": True}},
]


class SearchTarget(Strict):
    """Where to search, and how long."""

    collection: Name | None = Field(None, description="null: the default one")
    timeout_ms: Milliseconds | None = Field(
        None, description="milliseconds that the search may take"
    )
    on_timeout: Literal["error", "first_stage"] = Field(
        "error", description="504, or the first stage's order with a notice"
    )


class FusionOptions(Strict):
    """How the legs of a hybrid search are joined."""

    method: Literal["dbsf", "rrf"] = Field(
        "dbsf", description="sums of scores on one scale, or of weight / (k + rank)"
    )
    k: int = Field(20, ge=1, le=100_000, description="of rrf")
    weights: list[Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]] = Field(
        [1.0, 1.0, 1.0],
        min_length=3,
        max_length=3,
        description="of the dense, the BM25 and the lexical leg",
    )

    def fusion(self) -> Fusion:
        """As the library takes it."""
        dense, bm25, lexical = self.weights
        return Fusion(self.method, self.k, (dense, bm25, lexical))


def offers_search(surface: Surface) -> Callable[[type[Model]], type[Model]]:
    """A class decorator: the request has the options that the surface offers as fields, too."""

    def add(model: type[Model]) -> type[Model]:
        options: dict[str, Any] = {one.name: _field(one) for one in search_options(surface)}
        return create_model(
            model.__name__,
            __base__=model,
            __module__=model.__module__,
            __doc__=model.__doc__,
            **options,
        )

    return add


def options_of(body: BaseModel, surface: Surface) -> dict[str, Any]:
    """The options of a request, as `Backend.search` takes them; what is null is left out."""
    values = {one.name: getattr(body, one.name) for one in search_options(surface)}
    return {name: value for name, value in values.items() if value is not None}


def _field(option: Option) -> tuple[Any, Any]:
    kind = option.type
    if kind in (int, float):
        least = option.least
        if least is None and option.above is None and option.most is not None:
            least = -option.most
        infinite = False if kind is float else None
        bounds = Field(ge=least, gt=option.above, le=option.most, allow_inf_nan=infinite)
        kind = Annotated[kind, bounds]
    elif kind == THRESHOLD:
        number = Annotated[float, Field(ge=option.least, le=option.most, allow_inf_nan=False)]
        kind = number | Name
    elif kind is str:
        kind = Name
    elif kind is Fusion:
        kind = Annotated[FusionOptions, AfterValidator(FusionOptions.fusion)]
    elif not option.choices and kind is not bool:
        kind = JsonObject
    examples = WHERE_EXAMPLES if option.name == "where" else None
    shown = Field(option.default, description=option.help, examples=examples)
    return (kind | None if option.optional else kind), shown
