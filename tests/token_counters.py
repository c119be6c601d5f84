"""Token counters over real tokenisers, as an encoder gives them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray


class FastTokenizerCounter:
    """Counts with a tokenizer.json; special tokens are those around one text."""

    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer

        self._tokenizer: Any = Tokenizer.from_file(str(path / "tokenizer.json"))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.special_tokens = self._tokenizer.num_special_tokens_to_add(is_pair=False)

    def token_offsets(self, text: str) -> NDArray[np.int64]:
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        return np.asarray(encoding.offsets, dtype=np.int64).reshape(-1, 2)


@pytest.fixture(scope="session")
def minilm(starter_path: Path) -> FastTokenizerCounter:
    """WordPiece, as all-MiniLM-L6-v2 and BGE's English models have it."""
    return FastTokenizerCounter(starter_path)


@pytest.fixture(scope="session")
def xlmr(tiny_xlmr_encoder: Path) -> FastTokenizerCounter:
    """Unigram with a blank mark, as bge-m3 has it: counts depend on where a text is cut."""
    return FastTokenizerCounter(tiny_xlmr_encoder)
