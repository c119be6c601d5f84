"""What a check of a collection found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found. `fix` is empty where nothing is wrong."""

    check: str
    state: State
    text: str
    fix: str = ""
