"""The commands of the app, which `retrieval` finds through entry points."""
