from __future__ import annotations

import re
from html.parser import HTMLParser
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
from app.ui import render
from retrieval.types import Hit, SearchResult

_spec = spec_from_file_location("app_conftest", Path(__file__).with_name("conftest.py"))
