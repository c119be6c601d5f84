"""Hugging Face's Text Embeddings Inference.

`routes`: `/embed`, `/embed_sparse`, `/rerank`, `/info`, `/health`. `schemas`: their requests and
responses. `errors`: their form of errors.
"""
