"""Answers with citations, which a language model writes from passages that a search found.

    hits → `prompt.build` (`sources` within a token budget, marked as data)
         → `llm_client` (any OpenAI-compatible endpoint; its errors: `llm_faults`)
         → `citations.cited` (which sources the answer names, and which it made up)

`answer` puts them together.
"""
