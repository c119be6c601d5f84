"""A search: its options, its two stages and its results."""
