"""Indexing: read → split → encode → upsert, overlapped, and safe to kill at any point.

    reader thread ─documents→ preparing thread ─passages→ caller: encoder ─windows→ writing thread
     any iterable              ids, hashes, states,        (model)            upsert, then delete
                               splitting                                      what became stale

A document is known by its id and judged by its content hash. Passage ids follow from document id
and position, so writing twice writes the same points. Passages of a changed document are written
and durable before what is left of its old version is deleted. A killed run therefore leaves
either old or new passages, never neither, and the next run sees which documents are incomplete
and ends in the same collection as an unkilled one.

run.py                  `ingest_documents`: one run and its report; pipeline.py its threads
prepare.py              what becomes of each document; seen_documents.py the ids seen in a run
queues.py               bounded queues, and how all threads stop at the first failure
prune.py                which stored documents have left the source
collection_settings.py  what a new collection is, and whether an existing one fits
infer_fields.py         which metadata are indexed for filters
source_size.py          how far a run is; throughput.py how fast it is and how long it will take
input_checks.py         checks of a caller's arguments

Memory does not grow with the corpus: queues between the threads are bounded, what the collection
holds is asked for some documents at a time, and the ids seen in a run are in a temporary file.
"""

from __future__ import annotations

from retrieval.ingestion.infer_fields import payload_fields
from retrieval.ingestion.pipeline import WINDOW_PASSAGES, IngestProgressCallback
from retrieval.ingestion.prepare import DocumentSplitter
from retrieval.ingestion.prune import PruneScope, prune_scope
from retrieval.ingestion.run import ingest_documents
from retrieval.ingestion.source_size import SourceSize

__all__ = [
    "WINDOW_PASSAGES",
    "DocumentSplitter",
    "IngestProgressCallback",
    "PruneScope",
    "SourceSize",
    "ingest_documents",
    "payload_fields",
    "prune_scope",
]
