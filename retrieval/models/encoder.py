"""WIP interface: see BiEncoder."""
