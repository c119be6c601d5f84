"""The embedded engine: a folder on this machine (Qdrant Edge)."""
