"""What the app's commands do in a line, for `retrieval --help`, which loads none of them."""

from __future__ import annotations

SERVE, MEASURE, SET_UP = "Serve", "Measure and choose", "Set up"
HELP: dict[str, tuple[str, str]] = {
    "serve": ("Answer RAG backends, agents and people on one port: HTTP, MCP and the page.", SERVE),
    "ui": ("Search a collection on a page in the browser.", SERVE),
    "demo": (
        "Index the documentation of Python's standard library and search it in the browser.",
        SERVE,
    ),
    "mcp": (
        "Speak MCP over standard input and output, for agents that start their tools themselves.",
        SERVE,
    ),
    "keys": ("Make, list and revoke the API keys of `retrieval serve`.", SERVE),
    "questions": (
        "Collect questions and what the systems find for them, to be judged: retrieval judge.",
        MEASURE,
    ),
    "config": (
        "Print the service's settings and where each came from; secrets are masked.",
        SET_UP,
    ),
}
"""Name → (help, heading)."""
