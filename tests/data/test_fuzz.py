"""Whatever bytes a file holds, its reader gives passages, a line in left_out.jsonl, or one message: never another exception."""

from __future__ import annotations

import gzip
import io
import json
import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kard.data.passages import passages_of
from kard.data.readers.documents import LeftOut, cleaned_document
from kard.data.readers.kinds import documents_of
from kard.errors import UserError
from kard.recipe.sections import KnowledgeSection
from tests.data.samples import write_pdf

FRONT = "---\ntitle: Tea\nyear: 2020\ngroups: [a]\n---\n"
TEXT = f"{FRONT}# Tea\n\n<details><summary>Wo?</summary>Zürich</details>\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\x00\n"
HTML = "<html><head><title>T</title></head><body><form><article><header><h1>Tea</h1></header><p>Lead<br>in &shy;<svg>x"
WIKI = (
    '<mediawiki><siteinfo><namespaces><namespace key="6">Datei</namespace></namespaces></siteinfo><page><title>Tee</title>'
    "<ns>0</ns><id>1</id>"
    "<revision><id>2</id><text>'''Tee''' {{x|y}} [[Datei:a.jpg|mini|[[b]]]] &lt;ref&gt;c&lt;/ref&gt;\n== d ==\n{|\n| e\n|}"
    "</text></revision></page></mediawiki>"
)
ROWS = '{"id": "a", "title": "T", "text": "One two.\\u0000 \\ud83d"}\n{"id": 7, "text": "", "x": ["1"], "metadata": {"y": 1}}\n'
CSV = 'id;title;text\n1;"T ""x""";"One\ntwo"\n2;;\n;;\n'
# Kind, file name, and how many examples; 2,000 together by `make fuzz`, a tenth of them else.
KINDS = {
    "jsonl": ("a.jsonl", 350),
    "csv": ("a.csv", 350),
    "mediawiki": ("a.xml", 250),
    "text": ("a.txt.gz", 150),
    "markdown": ("a.md", 250),
    "html": ("a.html", 250),
    "pdf": ("a.pdf", 200),
    "docx": ("a.docx", 120),
    "parquet": ("a.parquet", 80),
}
# What a library says of a damaged file may have any name; these readers are our own from end to end.
OWN = ("jsonl", "csv", "text", "markdown", "html")


@cache
def sample(kind: str, folder: Path) -> bytes:
    if kind == "pdf":
        write_pdf(folder / "sample.pdf", ["Tea grows.", ""], "T")
        return (folder / "sample.pdf").read_bytes()
    buffer = io.BytesIO()
    if kind == "docx":
        document = pytest.importorskip("docx").Document()
        document.add_heading("Tea")
        document.add_table(rows=1, cols=2).cell(0, 0).text = "a"
        document.save(buffer)
        return buffer.getvalue()
    if kind == "parquet":
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist([{"id": "a", "title": "T", "text": "One."}]), buffer)
        return buffer.getvalue()
    text = {"jsonl": ROWS, "csv": CSV, "mediawiki": WIKI, "html": HTML}.get(kind, TEXT)
    return gzip.compress(text.encode(), mtime=0) if kind == "text" else text.encode()


def changed(content: bytes, changes: list[tuple[str, float, bytes]]) -> bytes:
    for how, where, more in changes:
        place = int(where * len(content))
        if how == "cut":
            content = content[:place]
        elif how == "repeat":
            content = content[:place] + content[place : place + 40] * 20 + content[place:]
        else:  # put in, or over what is there
            content = content[:place] + more + content[place + len(more) * (how == "over") :]
    return content


snippets = st.one_of(
    st.binary(max_size=4),
    st.sampled_from([b'"', b"\\", b"\0", b"\r", b"\xff\xfe", b"\xef\xbb\xbf", b"[", b"{", b"]]>", b"<", b"</p>",
                     b"+++\n", b"\t", b"\x1f\x8b", b"-9e999"]),
)  # fmt: skip
changes = st.lists(
    st.tuples(st.sampled_from(["cut", "repeat", "put", "over"]), st.floats(0, 1), snippets), min_size=1, max_size=4
)


@pytest.mark.parametrize("kind", KINDS)
def test_no_bytes_end_in_a_traceback(kind, tmp_path):
    name, examples = KINDS[kind]
    section = KnowledgeSection(
        kind=kind if kind in ("jsonl", "csv", "mediawiki", "parquet") else "files",
        path=tmp_path / name,
        duplicates=None,
    )
    seen = set()

    @settings(max_examples=examples, derandomize=True, deadline=None, database=None)
    @given(st.one_of(changes, st.binary(max_size=200)))
    def try_one(what):
        section.path.write_bytes(what if isinstance(what, bytes) else changed(sample(kind, tmp_path), what))
        said = None
        try:
            for document in documents_of(section, LeftOut()):
                document = cleaned_document(document, Counter())
                json.dumps(document.metadata, ensure_ascii=False).encode("utf-8")
                for passage in passages_of(document, 100):
                    assert "\0" not in passage.id + passage.full_text
                    (passage.id + passage.full_text).encode("utf-8")
            seen.add("read")
        except UserError as error:
            seen.add("refused")
            said = re.search(r"cannot be read \((\w+): ", str(error))
        assert said is None or (kind not in OWN and (kind != "mediawiki" or said[1] == "ParseError")), said

    try_one()
    assert seen >= ({"read"} if kind == "html" else {"read", "refused"})  # of HTML, anything is read
