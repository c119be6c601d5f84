"""This project's own HTTP API, under `/v1`.

Routes: `search` (with models and the service itself), `documents` (with collections), `jobs`, and
`answer`. Their schemas: `requests`, `responses` and `answer_schemas`.
"""
