"""Files as people have them: dialects, encodings, odd markup, archives that lie; the text is kept or its loss is named."""

from __future__ import annotations

import gzip
import io
import os
import zipfile
from pathlib import Path

import pytest

from kard.artifacts.files import read_jsonl
from kard.data.passage import positions_of, read_passages
from kard.data.passages import described, make_passages
from kard.data.readers import office
from kard.data.sources import content_hash
from kard.errors import UserError
from kard.recipe.sections import KnowledgeSection
from tests.data.samples import write_pdf


def made(tmp_path: Path, kind: str, path: Path, **settings) -> tuple[dict, list[tuple[str, str, str]], list[dict]]:
    """The report, id, title and text of the passages, and what was left out."""
    folder = tmp_path / "made"
    folder.mkdir(exist_ok=True)
    report = make_passages(KnowledgeSection(kind=kind, path=path, duplicates=None, **settings), folder)
    passages = [(passage.id, passage.title, passage.text) for passage in read_passages(folder / "passages.jsonl")]
    return report, passages, list(read_jsonl(folder / "left_out.jsonl"))


TEA = ("1", "Tea", "Tea grows.")


@pytest.mark.parametrize(
    ("content", "passages"),
    [
        ("sep=;\r\nid;title;text\r\n1;Tea;Tea grows.\r\n", [TEA]),
        ("id|title|text\n1|Tea|Tea grows.\n", [TEA]),
        (" ID , Title, text \n1, Tea, Tea grows.\n", [TEA]),
        ('id, title, text\n1, Tea, "Tea, green"\n', [("1", "Tea", "Tea, green")]),
        ("id,title,text\r1,Tea,Tea grows.\r", [TEA]),
        ("id,title,text,,\n1,Tea,Tea grows.,,\n,,,,\n\n", [TEA]),
        ("id,title,text\n1,Tea,Tea gr\0ows.\n2,Quora\n3,No,\n", [TEA]),
        ('id,title,text\n1,Tea,"He said \\"tea\\", once."\n', [("1", "Tea", 'He said "tea", once.')]),
        ('id\ttitle\ttext\n1\tA\t"Heavy" metal\n2\tB\t"No end\n', [("1", "A", '"Heavy" metal'), ("2", "B", '"No end')]),
        ('id\ttext\n1\t"Two\nlines, ""quoted"""\n', [("1", "", 'Two lines, "quoted"')]),
        ("\ufeffid;text\n1;Tea, grown; \n", [("1", "", "Tea, grown")]),
    ],
)
def test_csv_dialects(tmp_path, content, passages):
    for encoding in ("utf-8", "utf-16"):
        (tmp_path / "p.csv").write_bytes(
            gzip.compress(content.encode(encoding)) if encoding == "utf-16" else content.encode()
        )
        assert made(tmp_path, "csv", tmp_path / "p.csv")[1] == passages


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"id;title;text\n1;Caf\xe9;Tea\n", r"p\.csv:2: not UTF-8 \(looks like Windows-1252"),
        (b"0\tThe tea\n1\tThe law\n", r"p\.csv:1: no column 'id' \(found: 0, The tea\).*put one first: id text"),
        (b"_id,text\n1,Tea\n", r"p\.csv:1: no column 'id' \(found: _id, text\) \(did you mean '_id'\?\)"),
        (b"id,text,text\n1,Tea,x\n", r"p\.csv:1: column 'text' is there twice"),
        (b"id,title,text\n1,Tea,Tea, green\n", r"p\.csv:2: 4 cells, and 3 columns\. Put quotes"),
        (b'id,text\n1,ok\n2,"a "b" c"\n', r"p\.csv:3: the row that begins here is no CSV"),
        (b'id,text\n1,ok\n2,"no end\n', r"p\.csv:3: the row that begins here is no CSV \(unexpected end of data\)"),
        (b"id,text\n,Tea\n", r"p\.csv:2: 'id' is empty"),
        (b"id,text\n", r"p\.csv: holds no document"),
    ],
)
def test_csv_that_cannot_be_read_names_line_and_columns(tmp_path, content, complaint):
    (tmp_path / "p.csv").write_bytes(content)
    with pytest.raises(UserError, match=complaint):
        made(tmp_path, "csv", tmp_path / "p.csv")


def test_rows_without_text_are_left_out_and_odd_characters_counted(tmp_path):
    rows = '{"_id": "a", "title": "", "text": ""}\n{"_id": 7, "TEXT": "Tea\\u0000 \\ud83d grows."}\n'
    (tmp_path / "c.jsonl").write_text(rows, encoding="utf-8")
    report, passages, left_out = made(tmp_path, "jsonl", tmp_path / "c.jsonl", columns={"id": "_id"})
    assert passages == [("7", "", "Tea \ufffd grows.")]
    assert [(row["reason"], row["source"]) for row in left_out] == [("empty", "c.jsonl:1")]
    assert report["replaced"] == {"NUL": 1, "half surrogate pair": 1}
    assert "left out: 1 empty: c.jsonl:1 (no text in it)" in list(described(report))
    with pytest.raises(UserError, match=r"c\.jsonl:1: key 'id' is missing \(found: _id, title, text\) \(did you mean"):
        made(tmp_path, "jsonl", tmp_path / "c.jsonl")


MARKUP = {
    "yaml.md": ("---\ntitle: 'Assam: tea'\ntags: [a]\n---\n\n# Growing\n\nTea grows.\n", "Assam: tea", "Growing Tea grows."),
    "odd.md": ("---\ntitle: Assam: tea\ndate: 2026-13-45\n---\nTea grows.\n", "Assam: tea", "Tea grows."),
    "toml.md": ('+++\ntitle = "Tea"\n+++\r\n# Tea\r\nTea grows.\r\n', "Tea", "Tea grows."),
    "line.md": ("---\n\nTea grows.\n\n---\n\nIt is old.\n", "line", "Tea grows. It is old."),
    "late.md": ("Tea grows.\n\n## Where\n\nAssam.\n", "late", "Tea grows. Where Assam."),
    "twice.md": ("# Tea\n\nTea grows.\n\n# Tea\n\nAgain.\n", "Tea", "Tea grows. Tea Again."),
    "tags.MD": (
        "# Tea\n\n<details>\n<summary>Where</summary>\nIn <b>Assam</b>.\n\n| a | b |\n|---|---|\n| c | d |\n\n</details>\n\n"
        "<table><tr><td>500</td><td>kg</td></tr></table>\n\n<script>no()</script>\n\none<br>two <kbd>x</kbd> <!-- no -->\n",
        "Tea",
        "Where In Assam. a b c d 500 kg one two x",
    ),
    "form.html": (
        "<title>Page</title><form><div><h1>Tea</h1><select><option>no</select>Tea grows.</div></form>",
        "Page",
        "Tea Tea grows.",
    ),
    "article.htm": (
        "<html><head><body><header>Menu</header><nav>no</nav><article><header><h1>Tea</h1><p>Lead.</header>Body."
        "<aside>Careful.</aside><footer>Source.</footer></article><footer>Imprint</footer>",
        "Tea",
        "Lead. Body. Careful. Source.",
    ),
    "shy.xhtml": (
        '<?xml version="1.0"?><html><body><p>Gesamt&shy;konzept</p><script src="x"/>'
        "<svg><title>no</title></svg></body></html>",
        "shy",
        "Gesamt\xadkonzept"),
    "cp1252.html": ("<meta charset=windows-1252><p>Café</p>".encode("cp1252"), "cp1252", "Café"),
    "packed.txt.gz": (gzip.compress(b"Tea grows."), "packed", "Tea grows."),
    "mark.txt": ("Tea\ufeff grows.\rOld.\r", "mark", "Tea\ufeff grows. Old."),
}  # fmt: skip


@pytest.mark.parametrize("name", MARKUP)
def test_markup_keeps_its_text_and_title(tmp_path, name):
    content, title, text = MARKUP[name]
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert made(tmp_path, "files", tmp_path / name)[1] == [(name, title, text)]


def docx_with(path: Path, body: str, **others: str) -> None:
    """A DOCX whose document part has this body, and whose further parts replace those of the template."""
    docx = pytest.importorskip("docx")
    buffer = io.BytesIO()
    document = docx.Document()
    document.core_properties.title = ""
    document.save(buffer)
    space = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
    mark = 'xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006"'
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for item in old.namelist():
            content = old.read(item)
            if item == "word/document.xml":
                content = f"<w:document {space} {mark}><w:body>{body}</w:body></w:document>".encode()
            new.writestr(item, others.get(item, content))


def p(text: str, style: str = "") -> str:
    said = f'<w:pPr><w:pStyle w:val="{style}"/></w:pPr>' if style else ""
    return f"<w:p>{said}<w:r><w:t>{text}</w:t></w:r></w:p>"


def tc(content: str, merge: str = "") -> str:
    return f"<w:tc><w:tcPr>{merge}</w:tcPr>{content}</w:tc>"


def test_docx_keeps_controls_nested_tables_boxes_and_merged_cells_once(tmp_path):
    inner = f"<w:tbl><w:tr>{tc(p('in'))}{tc(p('ner'))}</w:tr></w:tbl>"
    wide, down, on = '<w:gridSpan w:val="2"/>', '<w:vMerge w:val="restart"/>', "<w:vMerge/>"
    first = f"<w:tr>{tc(p('wide'), wide)}{tc(p('down'), down)}</w:tr>"
    second = f"<w:tr>{tc(p('a') + inner)}{tc(p('b'))}{tc(p('down'), on)}</w:tr>"
    older = f"<mc:Fallback><w:txbxContent>{p('box')}</w:txbxContent></mc:Fallback>"
    box = f"<mc:AlternateContent><mc:Choice><w:txbxContent>{p('box')}</w:txbxContent></mc:Choice>{older}</mc:AlternateContent>"
    body = (
        p("Tea guide", "Heading1")
        + f"<w:sdt><w:sdtContent>{p('control')}</w:sdtContent></w:sdt>"
        + f"<w:tbl>{first}<w:sdt><w:sdtContent>{second}</w:sdtContent></w:sdt></w:tbl>"
        + "<w:p><w:ins><w:r><w:t>new</w:t></w:r></w:ins><w:del><w:r><w:delText>old</w:delText></w:r></w:del>"
        + f"<w:r><w:tab/><w:t>tab</w:t></w:r><w:r>{box}</w:r></w:p>"
    )
    docx_with(tmp_path / "a.docx", body)
    text = "control wide | down a in | ner | b new tab box"
    assert made(tmp_path, "files", tmp_path / "a.docx")[1] == [("a.docx", "Tea guide", text)]


def test_archives_and_pages_that_swell_stop_at_the_bound(tmp_path, monkeypatch):
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "good.txt").write_text("Good.", encoding="utf-8")
    docx_with(docs / "bomb.docx", p("x" * (17 << 20)))
    (docs / "bomb.html.gz").write_bytes(gzip.compress(bytes(17 << 20), 1))
    (docs / "locked.docx").write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600))
    write_pdf(docs / "long.pdf", ["Tea grows.", "Tea grows."])
    monkeypatch.setattr(office, "DOCUMENT_BYTES", 15)
    _, passages, left_out = made(tmp_path, "files", docs)
    assert [identity for identity, _, _ in passages] == ["good.txt"]
    said = {Path(row["source"]).name: row["detail"] for row in left_out}
    assert all("holds more than" in said[name] for name in ("bomb.docx", "bomb.html.gz", "long.pdf"))
    assert "has a password, or is an old .doc" in said["locked.docx"]


def test_pdfs_that_are_encrypted_or_scanned_in_part(tmp_path):
    pypdf = pytest.importorskip("pypdf")
    docs = tmp_path / "docs"
    docs.mkdir()
    write_pdf(docs / "mixed.pdf", ["Tea grows.", "", ""])
    for name, password in (("open.pdf", ""), ("closed.pdf", "secret")):
        writer = pypdf.PdfWriter(clone_from=docs / "mixed.pdf")
        writer.encrypt(password, "owner", algorithm="AES-256")
        writer.write(docs / name)
    report, passages, left_out = made(tmp_path, "files", docs)
    assert [(identity, text) for identity, _, text in passages] == [
        ("mixed.pdf", "Tea grows."),
        ("open.pdf", "Tea grows."),
    ]
    assert report["left_out"] == {"broken": 1, "pages_without_text": 4}
    said = {Path(row["source"]).name: row["detail"] for row in left_out}
    assert said["closed.pdf"].endswith("has a password. Save it without one.")
    assert said["mixed.pdf"].startswith("2 of 3 pages have no text: if they are scanned, run OCR")


def test_what_a_pdf_reader_notes_is_not_shown(tmp_path, caplog):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "broken.pdf").write_bytes(b"no PDF")
    write_pdf(tmp_path / "docs" / "whole.pdf", ["Tea grows."])
    report, passages, _ = made(tmp_path, "files", tmp_path / "docs")
    assert (report["left_out"], len(passages)) == ({"broken": 1}, 1)
    assert caplog.records == []


@pytest.mark.parametrize("name", ["notes.rst", "README", "old.doc.gz"])
def test_a_single_file_of_another_kind_names_those_that_are_read(tmp_path, name):
    (tmp_path / name).write_text("Tea grows.", encoding="utf-8")
    with pytest.raises(
        UserError, match=r"no format that is read\. Name a file that ends in one of: \.txt.*\.pdf, \.docx\.$"
    ):
        made(tmp_path, "files", tmp_path / name)


@pytest.mark.parametrize("mark", ["-", "\u2010", "\u00ad"])
def test_words_divided_at_the_end_of_a_pdf_line_are_put_together(mark):
    assert office._unwrapped(f"Tea es{mark}\ntates\nGrow").replace("\u00ad", "") == "Tea estates\nGrow"


def test_links_out_hidden_and_special_files_are_named_and_never_opened(tmp_path):
    docs, secret = tmp_path / "docs", tmp_path / "secret.txt"
    (docs / "dir.md").mkdir(parents=True)
    (docs / ".git").mkdir()
    secret.write_text("Secret.", encoding="utf-8")
    for place in (docs / "a.txt", docs / "dir.md" / "b.TXT", docs / ".git" / "c.txt", docs / "~$lock.docx"):
        place.write_text("Tea grows.", encoding="utf-8")
    (docs / "out.txt").symlink_to(secret)
    (docs / "in.txt").symlink_to(docs / "a.txt")
    (docs / "up").symlink_to(tmp_path)
    (docs / "gone.txt").symlink_to(docs / "nothing")
    os.mkfifo(docs / "pipe.txt")
    with open(os.fsencode(docs) + b"/caf\xe9.txt", "wb") as file:
        file.write(b"Tea.")
    report, passages, left_out = made(tmp_path, "files", docs)
    assert [identity for identity, _, _ in passages] == ["a.txt", "dir.md/b.TXT", "in.txt"]
    assert report["left_out"] == {"hidden": 2, "file_name": 1, "link": 3, "special_file": 1}
    assert any(row["source"].endswith("caf\\xe9.txt") for row in left_out)
    assert list(content_hash(docs, "knowledge.path")) == ["a.txt", "dir.md/b.TXT", "in.txt"]
    (docs / "a.txt").unlink()
    for place in ("in.txt", "dir.md/b.TXT"):
        (docs / place).unlink()
    with pytest.raises(UserError, match=r"no file ends in .*Left out: .*Mend knowledge\.path"):
        made(tmp_path, "files", docs)


def test_names_are_found_without_reading_passages(tmp_path, monkeypatch):
    text = "".join(f'{{"id": "d{number}", "text": "One two. Three four."}}\n' for number in range(50))
    (tmp_path / "p.jsonl").write_text(text, encoding="utf-8")
    made(tmp_path, "jsonl", tmp_path / "p.jsonl", passage_words=2)
    read: list[int] = []
    whole = type(read_passages(tmp_path / "made" / "passages.jsonl"))
    get = whole.__getitem__
    monkeypatch.setattr(whole, "__getitem__", lambda self, place: [read.append(place), get(self, place)][1])
    assert positions_of(tmp_path / "made", ["d7", "d9#2", "no"]) == {"d7": [14, 15], "d9#2": [19]}
    assert read == [14, 15, 19]
    (tmp_path / "made" / "passages.jsonl").unlink()
    assert positions_of(tmp_path / "made", []) == {}
