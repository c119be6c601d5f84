"""The ways in: each call opens, fills, measures or replaces a collection in one line."""
