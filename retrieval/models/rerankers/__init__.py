"""(query, passage) -> score: cross-encoders, late interaction and language models."""
