from __future__ import annotations

from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.ui.text import escape, highlight, query_terms, snippet

texts = st.text(
    alphabet=st.one_of(st.characters(codec="utf-8"), st.sampled_from("<>&\"'@`${} copytre"))
)


class Collector(HTMLParser):
    """What a browser would see: tags, attributes and text."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert not attrs
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def parse(html: str) -> Collector:
    collector = Collector()
    collector.feed(html)
    collector.close()
    return collector


@given(texts, texts)
def test_highlighted_text_is_the_text_and_nothing_but_marks(text: str, query: str) -> None:
    seen = parse(highlight(text, query_terms(query)))
    assert seen.text.replace("\r\n", "\n").replace("\r", "\n") == text.replace(
        "\r\n", "\n"
    ).replace("\r", "\n")
    assert set(seen.tags) <= {"mark"}


@given(texts)
def test_escaped_text_has_nothing_a_template_could_take(text: str) -> None:
    escaped = escape(text)
    assert not set("<>\"'@") & set(escaped)


@pytest.mark.parametrize(
    ("query", "text", "marked"),
    [
        ("how do I copy a tree", "Copies, copied and copying trees", ["Copies", "copied", "copying", "trees"]),  # noqa: E501
        ("run a process", "running processes", ["running", "processes"]),
        ("copy tree", "shutil.copy_tree(src)", ["copy", "tree"]),
        ("the and of", "the and of", []),
        ("cat", "concatenate", []),
        ("向量检索", "稠密向量与检索", ["向量", "检索"]),
        ("", "anything", []),
    ],
)  # fmt: skip
def test_query_terms_are_marked(query: str, text: str, marked: list[str]) -> None:
    html = highlight(text, query_terms(query))
    assert [part.split("</mark>")[0] for part in html.split("<mark>")[1:]] == marked


def test_a_snippet_shows_where_the_terms_stand() -> None:
    text = "Something else entirely. " * 40 + "Copy a directory tree to a place. " + "More. " * 90
    cut = snippet(text, query_terms("copy a directory tree"))
    assert "Copy a directory tree" in cut
    assert cut.startswith("… ")
    assert cut.endswith(" …")
    assert len(cut) <= 304


def test_a_snippet_keeps_the_beginning_unless_more_terms_stand_elsewhere() -> None:
    text = "Copy a tree. " + "Nothing here. " * 60 + "Copy again."
    assert snippet(text, query_terms("copy a tree")).startswith("Copy a tree.")


@given(texts, texts)
def test_a_short_text_is_its_own_snippet(text: str, query: str) -> None:
    folded = " ".join(text.split())
    shown = snippet(text, query_terms(query), length=60)
    if len(folded) <= 60:
        assert shown == folded
    else:
        assert shown.removeprefix("… ").removesuffix(" …") in folded
        assert len(shown) <= 64


def test_a_very_long_query_has_few_terms() -> None:
    assert len(query_terms(" ".join(f"word{n}" for n in range(50_000)))) <= 64
