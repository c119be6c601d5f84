"""What one does to collections beside indexing and searching them.

transfer.py   export to a file, import from one, copy from store to store
backup.py     a consistent copy of a whole collection, and back
doctor.py     is everything as it should be, and how to mend what is not
recall.py     what the approximate index misses
upgrade.py    bring a collection of an older format up to this one
"""
