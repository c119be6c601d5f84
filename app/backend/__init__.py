"""What the service does for a caller, and the checks that the caller may."""
