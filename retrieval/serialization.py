"""Results as JSON-able mappings, in the stable form that docs/json.md describes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from retrieval.types import (
    Candidate,
    Hit,
    IngestReport,
    Manifest,
    ModelSpec,
    Passage,
    SearchResult,
    Storage,
)

if TYPE_CHECKING:
    from retrieval.index.server.cluster import Cluster
    from retrieval.models.sources.known import Source


def result_as_dict(result: SearchResult, *, candidates: bool = False) -> dict[str, Any]:
    """A search result in its stable JSON form, described in docs/json.md.

    Args:
        result: of a search.
        candidates: also give the first stage's list.

    Returns:
        Values that `json.dumps` takes; fields are added from version to version, none is renamed.

    Example:
        >>> import json, retrieval
        >>> documents = [retrieval.Document("gate", "The gate closes at ten.")]
        >>> _ = retrieval.ingest(documents, "gates", encoder="starter")
        >>> with retrieval.open("gates", reranker="none") as retriever:
        ...     result = retriever.search("when does the gate close?")
        >>> hit = json.loads(json.dumps(retrieval.result_as_dict(result)))["hits"][0]
        >>> hit["rank"], hit["passage"]["document_id"]
        (1, 'gate')
    """
    data: dict[str, Any] = {
        "query": result.query,
        "mode": result.mode,
        "blend": result.blend,
        "models": {"encoder": result.encoder, "reranker": result.reranker},
        "timings_ms": {
            "encode": round(result.timings.encode_ms, 3),
            "retrieve": round(result.timings.retrieve_ms, 3),
            "rerank": round(result.timings.rerank_ms, 3),
            "total": round(result.timings.total_ms, 3),
        },
        "reranked": result.reranked,
        "offset": result.offset,
        "relevance_is": result.relevance_is,
        "best_relevance": result.best_relevance,
        "notices": list(result.notices),
        "hits": [_hit(hit) for hit in result.hits],
    }
    if candidates:
        data["candidates"] = [_candidate(candidate) for candidate in result.candidates]
    return data


def report_as_dict(report: IngestReport) -> dict[str, Any]:
    """An indexing report in its stable JSON form, described in docs/json.md."""
    return {
        "collection": report.collection,
        "documents": {
            "read": report.read,
            "new": report.new,
            "changed": report.changed,
            "unchanged": report.unchanged,
            "pruned": report.pruned,
            "duplicates": report.duplicates,
            "failed": len(report.failed),
        },
        "passages": report.passages,
        "tokens": report.tokens,
        "truncated_passages": report.truncated_passages,
        "seconds": round(report.seconds, 3),
        "passages_per_second": round(
            report.passages / report.seconds if report.seconds > 0 else 0.0, 3
        ),
        "duplicate_examples": [
            {"id": one, "same_as": other} for one, other in report.duplicate_examples
        ],
        "problems": [
            {"source": p.source, "line": p.line, "reason": p.reason} for p in report.failed
        ],
        "notices": list(report.notices),
    }


def manifest_as_dict(manifest: Manifest) -> dict[str, Any]:
    """A manifest in its stable JSON form."""
    return asdict(manifest)


def cluster_as_dict(cluster: Cluster | None, storage: Storage) -> dict[str, Any] | None:
    """A server's cluster in its stable JSON form; None stays None."""
    if cluster is None:
        return None
    return {
        "enabled": cluster.enabled,
        "nodes": [
            {"id": node, "address": address, "away": address in cluster.away}
            for node, address in cluster.nodes.items()
        ],
        "shards": cluster.shards,
        "copies": [asdict(copy) for copy in cluster.copies],
        "transfers": [asdict(transfer) for transfer in cluster.transfers],
        "warnings": [*cluster.missing(storage), *cluster.unwell()],
    }


def _passage(passage: Passage) -> dict[str, Any]:
    return {
        "id": passage.id,
        "document_id": passage.document_id,
        "position": passage.position,
        "text": passage.text,
        "start": passage.start,
        "end": passage.end,
        "title": passage.title,
        "headings": list(passage.headings),
        "metadata": _thaw(passage.metadata),
        "source": passage.source,
    }


def _hit(hit: Hit) -> dict[str, Any]:
    return {
        "rank": hit.rank,
        "score": hit.score,
        "relevance": hit.relevance,
        "stage1_rank": hit.stage1_rank,
        "stage1_score": hit.stage1_score,
        "stage2_rank": hit.stage2_rank,
        "stage2_score": hit.stage2_score,
        "best_span": None if hit.best_span is None else list(hit.best_span),
        "passage": _passage(hit.passage),
        "before": [_passage(passage) for passage in hit.before],
        "after": [_passage(passage) for passage in hit.after],
    }


def _candidate(candidate: Candidate) -> dict[str, Any]:
    return {
        "rank": candidate.rank,
        "score": candidate.score,
        "passage": _passage(candidate.passage),
    }


def _thaw(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _thaw(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_thaw(item) for item in value]
    return value


def models_as_dicts(
    specs: Sequence[ModelSpec], sources: Mapping[str, Sequence[Source]]
) -> list[dict[str, Any]]:
    """The model table in its stable JSON form; `sources` of each in the order they are tried."""
    return [
        {
            **asdict(spec),
            "cached": any(source.folder for source in sources[spec.name]),
            "sources": [
                {
                    "kind": source.kind,
                    "from": source.detail,
                    "folder": None if source.folder is None else str(source.folder),
                    "int8_origin": source.int8_origin,
                }
                for source in sources[spec.name]
            ],
        }
        for spec in specs
    ]
