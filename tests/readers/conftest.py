"""Token counters over real tokenisers, as an encoder gives them."""

from token_counters import minilm, xlmr

__all__ = ["minilm", "xlmr"]
