"""OpenAI's API over this service.

`embeddings`: `/v1/embeddings`. `chat`, `chat_schemas`: `/v1/chat/completions`. `vector_stores`,
`vector_store_schemas`, `attribute_filters`: the collections as vector stores.
"""
