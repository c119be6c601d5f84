"""Running models: registry, resolution, tokenising, batching, engines, encoder, rerankers."""
