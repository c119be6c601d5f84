"""The app put together, and a process that serves it."""
