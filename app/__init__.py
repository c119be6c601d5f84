"""The service: the page, its settings and the commands that start it.

Uses only the public names of `retrieval`; `retrieval` knows nothing of this package.
"""
