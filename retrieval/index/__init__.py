"""Where passages are kept and found: Qdrant, embedded in the process or on a server.

embedded.py   EmbeddedIndex, a folder on this machine (Qdrant Edge)
server.py     ServerIndex, a Qdrant server (qdrant-client)
collection.py what both mean: checks, ranking, document states; points.py is the seam below it
filters.py    the `where=` language; sparse.py BM25 terms; manifest.py what built a collection
"""
