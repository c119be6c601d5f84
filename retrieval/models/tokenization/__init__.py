"""Text -> token ids, with truncation counted and repeated texts remembered."""
