"""A field of several kinds is told when it is indexed, not when a filter misses some of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hashing_encoder import HashingEncoder

import retrieval
from retrieval import Document


def notices(tmp_path: Path, *metadata: dict[str, Any]) -> tuple[str, ...]:
    documents = [Document(f"d{n}", "text", metadata=one) for n, one in enumerate(metadata)]
    return retrieval.ingest(documents, "c", store=tmp_path, encoder=HashingEncoder()).notices


def test_a_field_of_several_kinds_is_named(tmp_path: Path) -> None:
    found = notices(
        tmp_path,
        {"year": 2020, "tags": ["a"], "kept": True, "none": None},
        {"year": 2021.5, "tags": "b", "kept": False, "none": "x"},
        {"year": "2022", "tags": []},
    )
    assert found == (
        "The field year holds numbers in 2 (d0) and text in 1 (d2) of the documents: a filter "
        "compares with one kind at a time.",
    )


def test_many_of_them_are_counted(tmp_path: Path) -> None:
    found = notices(tmp_path, {f"f{n}": n for n in range(8)}, {f"f{n}": "x" for n in range(8)})
    assert len(found) == 6
    assert found[-1] == "3 more fields hold values of several kinds."
