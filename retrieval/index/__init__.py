"""Where passages are stored and searched: Qdrant, embedded in the process or on a server.

store.py            `Store`: a folder or a server, its collections and their versions
collection.py       `CollectionIndex`: what both engines mean by write, search, read and delete
  upsert_checks.py  what may be written        payload.py          passages as payloads, and back
  searcher.py       modes, fusion, refine      stored_passages.py  reading by document and page
  tenants.py        which tenant's passages a call sees
filters.py          the `where` language; filter_syntax.py reads it from the command line
payload_indexes.py  filters that mean the same with and without an index on a field
bm25.py             terms and weights of BM25; ties.py the order of equal scores
manifest.py         what built a collection: written, read, compared
point_store.py      the interface to an engine, which embedded/ and server/ implement
"""
