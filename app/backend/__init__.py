"""What is done for a caller, and whether it may be."""
