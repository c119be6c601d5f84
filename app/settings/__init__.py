"""The service's settings: what there is, where values come from."""
