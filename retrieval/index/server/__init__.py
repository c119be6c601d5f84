"""The server engine: a Qdrant server or cluster (qdrant-client).

index.py      `ServerIndex`: create and open a collection
options.py    key, certificates, timeouts; addresses.py URLs, ports and the proxy in between;
              transport.py makes clients of them
client.py     a connection that repeats calls; failover.py asks the first node that answers,
              nodes.py knows which do, watch.py gives up calls that hang
catalog.py    collections, versions, aliases; schema.py how vectors and indexes are configured
points.py     the `PointStore` on a server, of searches.py, reads.py, upserts.py, deletes.py;
              place.py the collection as it was opened, names.py what its vectors are called,
              limits.py what the server allows in one request (strict mode)
copies.py     copies compared; journal.py deletions that not all of them have
errors.py     the server's errors as the library's, advice.py what to do about them; retry.py waits
              between tries
snapshots.py  snapshots fetched and restored
"""
