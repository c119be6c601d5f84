"""The server engine: a Qdrant server or cluster (qdrant-client).

index.py      `ServerIndex`: create and open a collection
options.py    key, certificates, timeouts; addresses.py URLs, ports and the proxy in between;
              transport.py makes clients of them
client.py     a connection that repeats calls; failover.py asks the first node that answers,
              nodes.py knows which do, watch.py gives up calls that hang
catalog.py    collections, versions, aliases; schema.py how vectors and indexes are configured
points.py     the `PointStore` on a server; limits.py what it allows in one request (strict mode)
errors.py     the server's errors as the library's, advice.py what to do about them; retry.py waits
              between tries
snapshots.py  snapshots fetched and restored
"""
