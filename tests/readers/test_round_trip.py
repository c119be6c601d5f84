"""A folder of every kind of file: each sentence that was written is found by search."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from email.message import EmailMessage
from pathlib import Path

import docx
import openpyxl
import pptx
import pytest
from hashing_encoder import HashingEncoder
from readers.pdf_files import Line, pdf

import retrieval
from retrieval import TwoStageRetriever

Writer = Callable[[str], str | bytes]


def word(sentence: str) -> bytes:
    document = docx.Document()
    document.add_heading("A heading", 1)
    document.add_paragraph(sentence, style="List Number")
    return saved(document)


def word_table(sentence: str) -> bytes:
    document = docx.Document()
    table = document.add_table(2, 2)
    table.cell(1, 1).text = sentence
    return saved(document)


def slides(sentence: str, *, notes: bool = False) -> bytes:
    deck = pptx.Presentation()
    slide = deck.slides.add_slide(deck.slide_layouts[1])
    slide.shapes.title.text = "A title"
    if notes:
        slide.notes_slide.notes_text_frame.text = sentence
    else:
        slide.placeholders[1].text = sentence
    return saved(deck)


def sheet(sentence: str) -> bytes:
    book = openpyxl.Workbook()
    book.active.append(["name", "remark"])
    book.active.append(["one", sentence])
    return saved(book)


def saved(document: object) -> bytes:
    out = io.BytesIO()
    document.save(out)  # type: ignore[attr-defined]
    return out.getvalue()


def book(sentence: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as package:
        package.writestr("mimetype", "application/epub+zip")
        package.writestr(
            "META-INF/container.xml",
            '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
            '<rootfile full-path="a.opf"/></rootfiles></container>',
        )
        package.writestr(
            "a.opf",
            '<package xmlns="http://www.idpf.org/2007/opf"><metadata/><manifest><item id="c" '
            'href="c.xhtml" media-type="application/xhtml+xml"/></manifest><spine>'
            '<itemref idref="c"/></spine></package>',
        )
        package.writestr("c.xhtml", f"<html><body><p>{sentence}</p></body></html>")
    return out.getvalue()


def mail(sentence: str, *, html: bool = False) -> bytes:
    message = EmailMessage()
    message["Subject"], message["From"] = "A subject", "a@example.org"
    if html:
        message.set_content(f"<p>{sentence}</p>", subtype="html")
    else:
        message.set_content(sentence)
    return bytes(message)


def notebook(sentence: str, *, kind: str = "markdown") -> str:
    source = sentence if kind == "markdown" else f'print("{sentence}")'
    cell = {"cell_type": kind, "source": [source], "outputs": []}
    return json.dumps({"cells": [cell], "metadata": {}, "nbformat": 4})


def form(sentence: str) -> bytes:
    field = f"/Subtype /Widget /FT /Tx /T (remark) /V ({sentence}) /Rect [190 716 580 732]"
    return pdf([[Line("Remark:")]], annotations=[field])


def hashed(sentence: str) -> str:
    return f"# {sentence}\n"


def slashed(sentence: str) -> str:
    return f"// {sentence}\nint x;\n"


KINDS: dict[str, Writer] = {
    "plain.txt": str,
    "western.txt": lambda s: f"Grüße. {s} Größe.".encode("cp1252"),
    "wide.txt": lambda s: s.encode("utf-16"),
    "page.md": lambda s: f"# Title\n\n{s}\n",
    "yaml.md": lambda s: f"---\ntags: [a]\n---\n{s}\n",
    "toml.mdx": lambda s: f"+++\ntags = ['a']\n+++\n{s}\n",
    "main.html": lambda s: f"<nav>Home</nav><main><p>{s}</p></main>",
    "form.htm": lambda s: f"<form><p>{s}</p><input></form>",
    "table.xhtml": lambda s: f"<table><tr><td></td><td>{s}</td></tr></table>",
    "tabs.html": lambda s: f"<div role=tabpanel>A</div><div role=tabpanel hidden>{s}</div>",
    "book.epub": book,
    "list.docx": word,
    "table.docx": word_table,
    "points.pptx": slides,
    "notes.pptx": lambda s: slides(s, notes=True),
    "sheet.xlsx": sheet,
    "plain.eml": mail,
    "html.eml": lambda s: mail(s, html=True),
    "text.ipynb": notebook,
    "code.ipynb": lambda s: notebook(s, kind="code"),
    "page.pdf": lambda s: pdf([[Line(s)]]),
    "form.pdf": form,
    "one.json": lambda s: json.dumps({"note": s}),
    "list.json": lambda s: json.dumps([{"text": s}]),
    "rows.jsonl": lambda s: json.dumps({"page_content": s}),
    "rows.ndjson": lambda s: json.dumps({"question": "q", "answer": s}),
    "commas.csv": lambda s: f'id,text\n1,"{s}"\n',
    "semicolons.csv": lambda s: f"id;body\n1;{s}\n",
    "tabs.tsv": lambda s: f"id\ttext\n1\t{s}\n",
    "guide.rst": lambda s: f"Title\n=====\n\n.. note:: {s}\n",
    "paper.tex": lambda s: f"\\begin{{document}}\\section{{One}} \\emph{{{s}}}\\end{{document}}",
    "values.yaml": hashed,
    "values.toml": hashed,
    "values.ini": hashed,
    "tree.xml": lambda s: f"<a>{s}</a>",
    "code.py": hashed,
    "code.rb": hashed,
    "code.sh": hashed,
    "code.js": slashed,
    "code.ts": slashed,
    "code.java": slashed,
    "code.c": slashed,
    "code.cpp": slashed,
    "code.go": slashed,
    "code.rs": slashed,
    "code.sql": lambda s: f"-- {s}\nSELECT 1;\n",
    "code.css": lambda s: f"/* {s} */\n",
}
ANIMALS = [
    "badger", "beaver", "bison", "camel", "cheetah", "coyote", "dingo", "dolphin", "donkey",
    "ermine", "falcon", "ferret", "gazelle", "gibbon", "giraffe", "gopher", "hamster", "heron",
    "hippo", "hyena", "ibex", "iguana", "jackal", "jaguar", "kestrel", "lemming", "lemur",
    "leopard", "llama", "lynx", "marmot", "marten", "meerkat", "mongoose", "narwhal", "ocelot",
    "osprey", "otter", "panther", "pelican", "penguin", "platypus", "puffin", "quail", "raccoon",
    "reindeer", "salamander",
]  # fmt: skip


@pytest.fixture(scope="module")
def sentences() -> dict[str, str]:
    assert len(ANIMALS) >= len(KINDS)
    return {
        name: f"The {animal} sleeps beneath the {animal} bridge number {place + 500}."
        for place, (name, animal) in enumerate(zip(KINDS, ANIMALS, strict=False))
    }


def test_every_sentence_is_found(tmp_path: Path, sentences: dict[str, str]) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, write in KINDS.items():
        content = write(sentences[name])
        data = content.encode() if isinstance(content, str) else content
        (folder / name).write_bytes(data)
    encoder = HashingEncoder()
    report = retrieval.ingest(folder, "c", store=tmp_path / "store", encoder=encoder)
    told = [str(one) for one in report.failed]
    assert len(told) == 1, told
    assert "western.txt: is not UTF-8 and was read as cp1252" in told[0]
    assert len(KINDS) > 40
    with TwoStageRetriever(encoder, retrieval.Store(tmp_path / "store").open("c")) as retriever:
        for name, sentence in sentences.items():
            hit = retriever.search(sentence, mode="sparse", top_k=1, rerank=False).hits[0]
            assert hit.passage.document_id.partition("#")[0] == name
            assert sentence in hit.passage.text.replace("\\", "")
