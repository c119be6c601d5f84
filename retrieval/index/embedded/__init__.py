"""The embedded engine: a folder on this machine (Qdrant Edge), open in one process at a time.

index.py       `EmbeddedIndex`: create and open a collection
folder.py      the store's folder: names, versions, creation, deletion; aliases.py which version
lock.py        one owner for each collection; disk_space.py refuses to fill the disk
points.py      the `PointStore` on Edge; shard.py its configuration and its errors
conversion.py  points and requests in Edge's types; filters.py filters
"""
