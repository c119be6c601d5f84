"""Re-ranking in the forms of Cohere, Jina and vLLM.

`routes`: `/v1/rerank` and `/v2/rerank`. `schemas`: their requests and responses. `core`: the call
and its answer, for every format that re-ranks.
"""
