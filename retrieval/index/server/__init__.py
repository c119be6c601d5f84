"""The server engine: a Qdrant server or cluster (qdrant-client)."""
