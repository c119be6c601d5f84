"""A search: its options, its two stages and what comes of them."""
