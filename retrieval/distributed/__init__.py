"""Indexing on many machines with Ray Data (extra `scale`): `ingest_with_ray`.

    folder ─list→ Portion ─read→ Parcel ─split→ Prepared ─encode→ Encoded ─write→ Counts
            driver         tasks          CPU actors      GPU/CPU actors    actors

ray_ingest.py   `ingest_with_ray`: the driver; total.py adds up its report
cluster.py      Ray: connection, errors, settings
plan.py         how many actors of each stage fit on the cluster
sources.py      what the driver does with a source
portions.py     source → portions, portion → parcels of documents, by the corpus room's reader
stages.py       what the actors do; parcels.py what goes from one to the next
gate.py         how workers reach the collection: a server directly, a folder through one owner

The end is the same collection as that of `retrieval.ingest`, point by point, and the same holds
after a worker was killed, or the run itself and it was started again: passage ids are stable, a
write replaces, and the content hash in the collection says which documents are done.

ray is imported where it is used, so that importing this costs nothing.
"""

from __future__ import annotations

from retrieval.distributed.ingest import ingest_with_ray

__all__ = ["ingest_with_ray"]
