"""The command line `retrieval`, a file for each group of commands."""
