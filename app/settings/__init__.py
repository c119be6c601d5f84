"""The service's settings: their declaration, and where values come from."""
