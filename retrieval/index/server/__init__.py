"""The server engine: a Qdrant server or cluster (qdrant-client).

index.py      `ServerIndex`: create and open a collection
options.py    address, key, certificate, timeouts; client.py a connection that repeats calls
catalog.py    collections, versions, aliases; schema.py how vectors and indexes are configured
points.py     the `PointStore` on a server; limits.py what it allows in one request (strict mode)
errors.py     the server's errors as the library's; retry.py waits between tries
snapshots.py  snapshots fetched and restored
"""
