"""What a server calls the vectors of a collection: `dense-<id>`, by the id in its manifest.

An open index asks for the vectors of the collection that it opened. Where that was deleted and
made anew, or another was restored in its place, the server itself refuses ("Not existing vector
name"), with every search and every write and at no further request: vectors of two encoders never
meet. Everything above the server's points says `dense`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from retrieval.index.point_store import DENSE, LEXICAL, SPARSE, TOKENS, VectorName
from retrieval.types import Manifest

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
