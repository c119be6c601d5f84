"""A manifest in the words of a Qdrant server: how a collection is made and searched."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from retrieval.index.payload_fields import IndexKind, index_paths
from retrieval.index.point_store import DENSE, LEXICAL, SPARSE, TOKENS, Nearest, SparseTerms
from retrieval.index.server.limits import Limits
from retrieval.index.server.names import VectorNames, named_filter, vector_names
from retrieval.types import Layout, Manifest, Storage

if TYPE_CHECKING:
    from qdrant_client import models


def creation(manifest: Manifest) -> dict[str, Any]:
    """Arguments of `create_collection`, except the name and the metadata."""
    from qdrant_client import models

    layout, storage = manifest.layout, manifest.storage
    names = vector_names(manifest)
    vectors = {
        names[DENSE]: models.VectorParams(
            size=manifest.encoder.dimension,
            distance=models.Distance.COSINE,
            on_disk=storage.on_disk,
            hnsw_config=_graph(layout, storage),
            quantization_config=_quantization(storage),
        )
    }
    if layout.token_dimension is not None:
        vectors[names[TOKENS]] = models.VectorParams(
            size=layout.token_dimension,
            distance=models.Distance.DOT,  # of unit vectors, which come back as they were given
            on_disk=storage.on_disk,
            multivector_config=models.MultiVectorConfig(
                comparator=models.MultiVectorComparator.MAX_SIM
            ),
            # they re-order what other vectors found, so that a graph would never be used
            hnsw_config=models.HnswConfigDiff(m=0),
        )
    index = models.SparseIndexParams(on_disk=storage.on_disk)
    sparse = {names[SPARSE]: models.SparseVectorParams(index=index, modifier=models.Modifier.IDF)}
    if layout.lexical:
        sparse[names[LEXICAL]] = models.SparseVectorParams(index=index)
    return {
        "vectors_config": vectors,
        "sparse_vectors_config": sparse,
        "on_disk_payload": storage.on_disk,
        "shard_number": storage.shards,
        "replication_factor": storage.replicas,
        "write_consistency_factor": storage.write_consistency,
    }


def payload_indexes(manifest: Manifest) -> dict[str, Any]:
    """Payload path → parameters of the index that it gets."""
    on_disk = manifest.storage.on_disk
    return {
        path: _index(kind, on_disk)
        for path, kind in index_paths(manifest.layout, manifest.storage).items()
    }


def search_params(request: Nearest, storage: Storage, limits: Limits) -> models.SearchParams | None:
    """How a request is to be searched for; None where there is nothing to choose."""
    from qdrant_client import models

    if request.using == TOKENS and not limits.exact:
        return None
    if request.using != DENSE:
        return models.SearchParams(exact=True) if request.exact else None
    short = storage.quantization != "none"
    if request.exact:
        quantization = models.QuantizationSearchParams(ignore=True) if short else None
        return models.SearchParams(exact=True, quantization=quantization)
    more = storage.oversampling
    if limits.oversampling is not None:
        more = min(more, limits.oversampling)
    quantization = (
        models.QuantizationSearchParams(rescore=True, oversampling=more) if short else None
    )
    width = storage.search_ef or max(256, 2 * request.limit)
    if limits.ef is not None:
        width = min(width, limits.ef)
    return models.SearchParams(hnsw_ef=width, quantization=quantization)


def query_fields(
    request: Nearest,
    names: VectorNames,
    params: models.SearchParams | None,
    limits: Limits,
    *,
    with_payload: bool,
) -> dict[str, Any]:
    """Fields of the `QueryRequest` that a server takes; a dense query is still an array."""
    from qdrant_client import models

    where = None if request.where is None else named_filter(request.where, names)
    query: Any = request.query
    if isinstance(query, SparseTerms):
        query = models.SparseVector(indices=list(query.indices), values=list(query.values))
    fields: dict[str, Any] = {
        "query": query,
        "using": names[request.using],
        "filter": where,
        "limit": request.limit,
        "params": params,
        "with_payload": with_payload,
        "with_vector": False,
    }
    if request.using == TOKENS and not limits.exact:
        # Without a graph a server takes a search of token vectors for a full scan, which it may
        # forbid, unless what they re-order is found before.
        fields["prefetch"] = models.Prefetch(filter=where, limit=request.limit)
    return {name: value for name, value in fields.items() if value is not None}


def _graph(layout: Layout, storage: Storage) -> models.HnswConfigDiff:
    from qdrant_client import models

    # No search crosses tenants, so that only the graphs within each are worth building.
    return models.HnswConfigDiff(
        m=0 if layout.tenants else storage.hnsw_m,
        payload_m=storage.hnsw_m if layout.tenants else None,
        ef_construct=storage.hnsw_ef_construct,
        on_disk=storage.on_disk,
    )


def _quantization(storage: Storage) -> Any:
    from qdrant_client import models

    if storage.quantization == "int8":
        return models.ScalarQuantization(
            scalar=models.ScalarQuantizationConfig(
                type=models.ScalarType.INT8, quantile=0.99, always_ram=True
            )
        )
    if storage.quantization == "binary":
        return models.BinaryQuantization(binary=models.BinaryQuantizationConfig(always_ram=True))
    return None


def _index(kind: IndexKind, on_disk: bool) -> Any:
    from qdrant_client import models

    match kind:
        case "keyword":
            return models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, on_disk=on_disk)
        case "tenant":
            return models.KeywordIndexParams(
                type=models.KeywordIndexType.KEYWORD, is_tenant=True, on_disk=on_disk
            )
        case "integer":
            return models.IntegerIndexParams(
                type=models.IntegerIndexType.INTEGER, lookup=True, range=True, on_disk=on_disk
            )
        case "float":
            return models.FloatIndexParams(type=models.FloatIndexType.FLOAT, on_disk=on_disk)
        case "datetime":
            return models.DatetimeIndexParams(
                type=models.DatetimeIndexType.DATETIME, on_disk=on_disk
            )
