"""The wire formats, one package each, over one backend.

What they share: `errors` and `openapi_responses`, `requests` (the caller, clients that go away),
`json_limits` and `search_fields` (fields of requests), `model_calls` (embedding and re-ranking),
`scores`, `sse`. `health` is for operators.
"""
