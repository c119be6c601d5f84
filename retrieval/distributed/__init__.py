"""Indexing on many machines with Ray Data (extra `scale`): `ingest_with_ray`.

    source ─list→ FileGroup ─read→ DocumentBatch ─split→ Prepared ─encode→ Encoded ─write→ Counts
            driver           tasks             CPU actors       GPU/CPU actors     actors

ingest.py        `ingest_with_ray`: the driver; report.py adds up its report
cluster.py       Ray: connection, errors, settings
actor_counts.py  how many actors of each stage fit on the cluster
sources.py       what the driver does with a source
partitions.py    files → groups of files, a group → batches of documents, by `retrieval.readers`
actors.py        what the workers do; messages.py what goes from one stage to the next
writers.py       how workers reach the collection: a server directly, a folder through one owner

The result is the same collection as that of `retrieval.ingest`, point by point, and the same holds
after a worker was killed, or the run itself and it was started again: passage ids are stable, a
write replaces, and the content hash in the collection says which documents are done.

ray is imported where it is used, so that importing this costs nothing.
"""

from __future__ import annotations

from retrieval.distributed.ingest import ingest_with_ray

__all__ = ["ingest_with_ray"]
