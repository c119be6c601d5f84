"""Re-ranking as Cohere, Jina and vLLM have it.

`routes`: `/v1/rerank` and `/v2/rerank`. `schemas`: their requests and responses. `core`: the call
and its answer, for every format that re-ranks.
"""
