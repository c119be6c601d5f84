"""What a server calls the vectors of a collection: `dense-<id>`, by the id in its manifest.

An open index asks for the vectors of the collection that it opened. Where that was deleted and
made anew, or another was restored in its place, the server itself refuses ("Not existing vector
name"), with every search and every write and at no further request: vectors of two encoders never
meet. Everything above the server's points says `dense`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from retrieval.index.point_store import DENSE, LEXICAL, SPARSE, TOKENS, VectorName
from retrieval.types import Manifest

if TYPE_CHECKING:
    from qdrant_client import models

VectorNames: TypeAlias = Mapping[VectorName, str]


def vector_names(manifest: Manifest) -> dict[VectorName, str]:
    """The vectors that a collection has → their names on its server.

    A collection of manifest format 2 has no id, and plain names.
    """
    names: list[VectorName] = [DENSE, SPARSE]
    if manifest.layout.lexical:
        names.append(LEXICAL)
    if manifest.layout.token_dimension is not None:
        names.append(TOKENS)
    return {name: f"{name}-{manifest.id}" if manifest.id else name for name in names}


def named_filter(where: models.Filter, names: VectorNames) -> models.Filter:
    """The same filter, where it asks for points with a vector by the server's name of that."""
    from qdrant_client import models

    def condition(part: Any) -> Any:
        if isinstance(part, models.HasVectorCondition):
            own = {str(name): of_server for name, of_server in names.items()}
            return models.HasVectorCondition(has_vector=own.get(part.has_vector, part.has_vector))
        if isinstance(part, models.Filter):
            return named_filter(part, names)
        return part

    def clause(parts: Any) -> Any:
        return [condition(part) for part in parts] if isinstance(parts, list) else condition(parts)

    least = where.min_should
    if least is not None:
        least = least.model_copy(update={"conditions": clause(least.conditions)})
    return where.model_copy(
        update={
            "must": clause(where.must),
            "should": clause(where.should),
            "must_not": clause(where.must_not),
            "min_should": least,
        }
    )
