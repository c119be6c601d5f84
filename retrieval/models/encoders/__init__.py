"""Text -> vectors: the bi-encoder and bge-m3."""
