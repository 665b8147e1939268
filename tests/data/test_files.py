"""Folders of files: every kind gives its text, its title and the place of each part; a broken one is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from kard.artifacts.files import read_jsonl
from kard.data.passage import Passage, read_passages
from kard.data.passages import make_passages
from kard.errors import UserError
from kard.recipe.sections import KnowledgeSection
from tests.data.samples import write_pdf

HTML = """<!DOCTYPE html><html><head><title>The  Giraffe</title><style>p {color: red}</style></head><body>
<nav>Home | About</nav>
<h1>Giraffe</h1>
<p>A <b>tall</b> animal<br>of Africa.</p>
<ul><li>eats leaves</li><li>sleeps <i>little</i></li></ul>
<script>alert("no")</script><footer>Imprint</footer></body></html>"""

MARKDOWN = """# The *Okapi*

A forest animal with `striped` legs
and a [long](https://example.org) tongue.

| part | colour |
|---|---|
| legs | white |

```
code stays
```
<div>no markup</div>
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    path = tmp_path / "Unterlagen ü"
    path.mkdir()
    return path


def read(folder: Path, **settings) -> tuple[dict, list[Passage], list[dict]]:
    target = folder.parent / "knowledge"
    target.mkdir(exist_ok=True)
    report = make_passages(KnowledgeSection(kind="files", path=folder, **settings), target)
    return report, list(read_passages(target / "passages.jsonl")), list(read_jsonl(target / "left_out.jsonl"))


def test_text_keeps_lines_and_joins_those_that_go_on(folder):
    (folder / "a.txt").write_text("\ufeffFirst line\ngoes on here.\n\nSecond part.\n", encoding="utf-8")
    _, passages, _ = read(folder, passage_words=5)
    assert [(p.text, p.source) for p in passages] == [
        ("First line goes on here.", "a.txt, line 1"),
        ("Second part.", "a.txt, line 4"),
    ]
    assert (passages[0].id, passages[0].title, passages[1].id) == ("a.txt", "a", "a.txt#2")


def test_markdown_is_read_without_its_marks(folder):
    (folder / "sub").mkdir()
    (folder / "sub" / "okapi.md").write_text(MARKDOWN, encoding="utf-8")
    _, passages, _ = read(folder, passage_words=12)
    assert [p.title for p in passages] == ["The Okapi"] * len(passages)
    assert " ".join(p.text for p in passages) == (
        "A forest animal with striped legs and a long tongue. part colour legs white code stays no markup"
    )
    assert passages[0].source == "sub/okapi.md, line 3"
    assert passages[-1].source > "sub/okapi.md, line 3"


def test_html_is_read_without_navigation_and_scripts(folder):
    (folder / "giraffe.html").write_text(HTML, encoding="utf-8")
    _, [passage], _ = read(folder)
    assert passage.title == "The Giraffe"
    assert passage.text == "Giraffe A tall animal of Africa. eats leaves sleeps little"
    assert passage.source == "giraffe.html, line 3"


def test_pdf_gives_pages_and_whole_words(folder):
    pytest.importorskip("pypdf")
    write_pdf(folder / "manual.pdf", ["The giraffe is a know-\nledgeable\nanimal.", "It sleeps standing."], "Manual")
    _, passages, _ = read(folder, passage_words=6)
    assert [(p.text, p.source, p.title) for p in passages] == [
        ("The giraffe is a knowledgeable animal.", "manual.pdf, page 1", "Manual"),
        ("It sleeps standing.", "manual.pdf, page 2", "Manual"),
    ]


def test_docx_gives_paragraphs_and_tables(folder):
    docx = pytest.importorskip("docx")
    document = docx.Document()
    document.core_properties.title = "Report"
    document.add_paragraph("The first paragraph.")
    table = document.add_table(rows=1, cols=2)
    table.cell(0, 0).text, table.cell(0, 1).text = "legs", "four"
    document.add_paragraph("The last one.")
    document.save(str(folder / "report.docx"))
    _, passages, _ = read(folder, passage_words=3)
    assert [(p.text, p.source) for p in passages] == [
        ("The first paragraph.", "report.docx, paragraph 1"),
        ("legs | four", "report.docx, paragraph 2"),
        ("The last one.", "report.docx, paragraph 3"),
    ]


BROKEN = {
    "torn.pdf": b"%PDF-1.4 and no more",
    "no.docx": b"PK no archive",
    "latin.txt": "Stra\xdfe".encode("latin-1"),
    "empty.md": b"",
    "picture.png": b"no text",
}


def test_broken_empty_and_other_files_are_named_and_counted(folder):
    (folder / "good.txt").write_text("A good text.", encoding="utf-8")
    for name, content in BROKEN.items():
        (folder / name).write_bytes(content)
    report, passages, left_out = read(folder)
    assert [passage.id for passage in passages] == ["good.txt"]
    assert report["left_out"] == {"other_file": 1, "broken": 3, "empty": 1}
    by_name = {Path(row["source"]).name: row for row in left_out}
    assert by_name.keys() == BROKEN.keys()
    assert all(by_name[name]["reason"] == "broken" for name in ("torn.pdf", "no.docx", "latin.txt"))
    assert "latin.txt:1: not UTF-8 (looks like Windows-1252: byte 0xdf for 'ß')" in by_name["latin.txt"]["detail"]


def test_folders_with_nothing_to_read_are_errors(folder):
    with pytest.raises(UserError, match=r"no file ends in \.txt"):
        read(folder)
    (folder / "a.txt").write_text(" \n", encoding="utf-8")
    with pytest.raises(UserError, match=r"has text.*\. Mend knowledge\.path"):
        read(folder)
    with pytest.raises(UserError, match="no such file"):
        read(folder / "nothing")


def test_one_file_can_be_the_path(folder):
    (folder / "a.md").write_text("# T\n\nText.", encoding="utf-8")
    target = folder.parent / "knowledge"
    target.mkdir()
    make_passages(KnowledgeSection(kind="files", path=folder / "a.md"), target)
    assert [p.id for p in read_passages(target / "passages.jsonl")] == ["a.md"]


@pytest.mark.parametrize(
    ("text", "lengths"), [("今天下雨" * 10, [40]), ("今天下雨" * 100, [200, 200]), ("สวัสดี " * 100, None)]
)
def test_scripts_without_spaces_are_cut_by_characters(folder, text, lengths):
    (folder / "a.txt").write_text(text, encoding="utf-8")
    _, passages, _ = read(folder, duplicates=None)
    assert "".join("".join(p.text.split()) for p in passages) == "".join(text.split())
    assert lengths is None or [len(p.text) for p in passages] == lengths
    assert all(len(p.text) <= 700 for p in passages)
