"""The assembled app, and a process that serves it."""
