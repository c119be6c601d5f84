"""OpenAI's embeddings, chat and vector stores."""
