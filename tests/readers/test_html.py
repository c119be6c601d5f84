"""Web pages: nothing of what they say is lost, nothing is said that they do not say."""

from __future__ import annotations

import pytest

from retrieval.readers.html import html_body_text, parse_html

LONG = "Navigation. " * 200


def text_of(page: str) -> str:
    return parse_html(page.encode(), None).text


@pytest.mark.parametrize(
    ("page", "text"),
    [
        # forms: their text is the page's, their controls are not
        ("<form><h1>A</h1><p>Five days.</p><input value=x><button>Send</button></form>",
         "# A\n\nFive days."),
        ("<form><label>I agree to the terms.</label><select><option>one</select></form>",
         "I agree to the terms."),
        ("<form role=search><label>Search</label></form><p>Text.", "Text."),
        ("<form class='site-search'><label>Find</label></form><p>Text.", "Text."),
        (f"<form action='/search'><p>{'Words of a page. ' * 20}</p></form>",
         ("Words of a page. " * 20).strip()),
        ("<p>One.</p><textarea>Kept.</textarea>", "One.\n\nKept."),
        # what is folded up is text
        ("<h3><button aria-expanded=false>How long?</button></h3><div>Nine days.</div>",
         "### How long?\n\nNine days."),
        ("<button aria-expanded=false>How long do refunds take?</button><div>Nine days.</div>",
         "How long do refunds take?\n\nNine days."),
        ("<button aria-expanded=false>Menu</button><button>Buy now and save</button><p>x", "x"),
        ("<div role=tablist><button role=tab>Linux</button></div><div role=tabpanel hidden>a</div>",
         "Linux\n\na"),
        ("<div hidden=until-found>Nine days.</div>", "Nine days."),
        ("<button aria-controls='p q'>Show more</button><div id=q hidden>Panel.</div>", "Panel."),
        ("<a data-bs-target='#p'>Shipping</a><div id=p aria-hidden=true>In two days.</div>",
         "Shipping\n\nIn two days."),
        ("<div hidden>No.</div><div aria-hidden=true>No.</div><p>Yes.", "Yes."),
        ("<details><summary>Q</summary>Answer</details>", "Q\nAnswer"),
        ("<dialog open>Seen.</dialog><dialog>Unseen.</dialog>", "Seen."),
        ("<template>No.</template><template shadowrootmode=open>Yes.</template>", "Yes."),
        ("<object data=x.svg>What the picture shows.</object>", "What the picture shows."),
        ("<noscript><p>The whole page, without scripts.</p></noscript><div id=root></div>",
         "The whole page, without scripts."),
        ("<p>The whole page, with scripts.</p><noscript>Turn scripts on.</noscript>",
         "The whole page, with scripts."),
        # beside the text, and a part of it
        ("<aside class='admonition warning'><p>Unplug first.</p></aside>", "Unplug first."),
        ("<aside class=sidebar>Other pages</aside><p>x", "x"),
        ("<aside><a>One page</a> <a>Another page</a></aside><p>x", "x"),
        ("<blockquote>Words.<footer>Who said so</footer></blockquote><footer>Imprint</footer>",
         "Words.\nWho said so"),
        # anchors
        ("<h2><a class=anchor href=#r>Refunds</a></h2>", "## Refunds"),
        ("<h2>Refunds<a class=headerlink href=#r>¶</a></h2>", "## Refunds"),
        ("<h2>Refunds <a class=hash-link href=#r>Direct link</a></h2>", "## Refunds"),
        # numbers of lists
        ("<ol><li>a<li>b</ol>", "1. a\n2. b"),
        ("<ol start=3><li>a<ol type=a><li>x</li><li>y</li></ol></li><li value=7>b</li></ol>",
         "3. a\n  a. x\n  b. y\n7. b"),
        ("<ol reversed><li>a</li><li>b</li></ol>", "2. a\n1. b"),
        ("<ol type=I start=4><li>a</li><li>b</li></ol>", "IV. a\nV. b"),
        ("<ol type=A start=27><li>a</li></ol>", "AA. a"),
        ("<ol style='list-style: none'><li>a</li></ol>", "- a"),
        ("<ul><li><p>a</p><p>more of a</p></li><li>b</li></ul>", "- a\n\nmore of a\n\n- b"),
        # what a character is to another
        ("10<sup>5</sup> m, 10<sup>-3</sup>, H<sub>2</sub>O", "10^5 m, 10^-3, H2O"),
        ("said so<sup><a href=#f1>1</a></sup>", "said so 1"),
        ("<ruby>漢<rp>(</rp><rt>かん</rt><rp>)</rp>字<rt>じ</rt></ruby>を書く",
         "漢字(かんじ)を書く"),
        ("<p>Donau&shy;dampf&#x2060;schiff", "Donaudampfschiff"),
        ("<math alttext='x^2'><mi>x</mi><mn>2</mn></math>", "x^2"),
    ],
)  # fmt: skip
def test_what_a_page_says(page: str, text: str) -> None:
    assert text_of(page) == text


@pytest.mark.parametrize(
    ("rows", "lines"),
    [
        ("<tr><th>k<th>v<tr><td>a<td>1", ["| k | v |", "| - | - |", "| a | 1 |"]),
        ("<tr><td>a</td><td><p>1</p><p>2</p></td></tr>", ["| a | 1 2 |"]),
        ("<tr><td></td><td>b</td></tr><tr><td>a</td><td></td></tr>", ["|  | b |", "| a |  |"]),
        ("<tr><td>a|b</td><td><ul><li>x</li><li>y</li></ul></td></tr>", ["| a\\|b | x y |"]),
        ("<thead><tr><td colspan=2>Both</td><td>z</td></tr></thead><tr><td>1<td>2<td>3",
         ["| Both |  | z |", "| - | - | - |", "| 1 | 2 | 3 |"]),
        ("<tr><td rowspan=2>A</td><td>1</td></tr><tr><td>2</td></tr><tr><td>B</td><td>3</td></tr>",
         ["| A | 1 |", "| A | 2 |", "| B | 3 |"]),
        ("<tr><td>1</td><td rowspan=3>Z</td></tr><tr><td>2</td></tr><tr></tr><tr><td>4</td></tr>",
         ["| 1 | Z |", "| 2 | Z |", "|  | Z |", "| 4 |  |"]),
        ("<caption>Fees</caption><tr><td>a<td>1", ["Fees", "", "| a | 1 |"]),
    ],
)  # fmt: skip
def test_tables_keep_their_grid(rows: str, lines: list[str]) -> None:
    assert text_of(f"<table>{rows}</table>") == "\n".join(lines)


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<table><tr><td><h2>Left</h2><p>One.</p></td><td><p>Two.</p></td></tr></table>",
         "## Left\n\nOne.\n\nTwo."),
        ("<table role=presentation><tr><td>One.</td><td>Two.</td></tr></table>", "One.\nTwo."),
        ("<table><tr><td>One.</td></tr><tr><td>Two.</td></tr></table>", "One.\nTwo."),
        ("<table><tr><td class=linenos><pre>1\n2</pre></td><td><pre>a\nb</pre></td></tr></table>",
         "```\na\nb\n```"),
    ],
)  # fmt: skip
def test_tables_that_only_place_texts_are_no_tables(page: str, text: str) -> None:
    assert text_of(page) == text


def test_a_page_that_is_mostly_left_out_says_so() -> None:
    found = parse_html(f"<nav>{LONG}</nav><p>Short.</p>".encode(), None)
    assert found.text == "Short."
    (note,) = found.notes
    assert note.startswith("has 2,206 characters of text, of which 6 were read")
    assert parse_html(f"<nav>{LONG}</nav><p>{LONG * 2}</p>".encode(), None).notes == ()
    assert parse_html(b"<nav>Home</nav><p>x</p>", None).notes == ()


def test_books_keep_their_notes() -> None:
    assert html_body_text(b"<aside><a>1</a></aside><footer>Of a chapter</footer>") == (
        "1\n\nOf a chapter"
    )


def test_deep_and_long_pages_end() -> None:
    assert text_of("<ol>" + "<li>x<ol>" * 2000).count("x") == 2000
    rows = "".join(f"<tr><td>{place}<td>b" for place in range(3000))
    assert text_of(f"<table>{rows}</table>").endswith("| 2999 | b |")
