"""One file per wire format. Each has `router(backend, …)`, and speaks to the backend alone."""
