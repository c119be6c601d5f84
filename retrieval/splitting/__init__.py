"""`Document` -> `Passage`: where passages begin and end, and their ids."""
