"""What must not be done in two threads at once."""

from __future__ import annotations

import threading

ONE_AT_A_TIME = threading.RLock()
"""For making a model with transformers, which changes what torch does in all threads."""
