"""Documents become passages that say where they came from; a bad file is one error with its line."""

from __future__ import annotations

import bz2
import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kard.artifacts.files import read_jsonl
from kard.data.passage import Passage, positions_of, read_passages, write_passages
from kard.data.passages import make_passages
from kard.errors import UserError
from kard.recipe.sections import KnowledgeSection
from tests.conftest import load_passages

GOOD = '{"id": "a", "title": "T", "text": "One two."}'


def section(path, content: str | bytes, **settings) -> KnowledgeSection:
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return KnowledgeSection(path=path, **settings)


def test_documents_are_cut_and_traceable(tmp_path):
    lines = [
        {"id": "long", "title": "Ünïcode", "text": "One two three. Four five six. Seven eight."},
        {"id": 7, "text": "No title."},
        {"id": "null", "title": None, "text": "None either."},
    ]
    text = "\n\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    passages = load_passages(section(tmp_path / "päss ages.jsonl", text, passage_words=6))
    assert passages == [
        Passage("long", "Ünïcode", "One two three. Four five six.", "long", "päss ages.jsonl:1"),
        Passage("long#2", "Ünïcode", "Seven eight.", "long", "päss ages.jsonl:1"),
        Passage("7", "", "No title.", "7", "päss ages.jsonl:3"),
        Passage("null", "", "None either.", "null", "päss ages.jsonl:5"),
    ]
    assert [passage.full_text for passage in passages][1:3] == ["Ünïcode. Seven eight.", "No title."]


def test_a_prefix_takes_only_its_documents(tmp_path):
    text = f'{GOOD}\n{{"id": "b1", "text": "Three."}}\n{{"id": "b2", "text": "Four."}}\n'
    assert [p.id for p in load_passages(section(tmp_path / "p.jsonl", text, id_prefix="b"))] == ["b1", "b2"]
    with pytest.raises(UserError, match=r"begins with 'c'.*Mend id_prefix"):
        load_passages(section(tmp_path / "p.jsonl", text, id_prefix="c"))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (f"{GOOD}\n{GOOD}", r"p\.jsonl:2: passage 'a' is in p\.jsonl:1 already"),
        (f'{GOOD}\n{{"id": "", "text": "b"}}', r"p\.jsonl:2: 'id' is empty"),
        (f'{GOOD}\n{{"id": null, "text": "b"}}', r"p\.jsonl:2: 'id' is empty"),
        (f'{GOOD}\n{{"id": "b", "text": ["c"]}}', r"p\.jsonl:2: 'text' is no text"),
        ('{"id": "b"}', r"p\.jsonl:1: key 'text' is missing"),
        ('{"text": "b"}', r"p\.jsonl:1: key 'id' is missing"),
        ('{"id": true, "text": "b"}', r"p\.jsonl:1: 'id' is no text"),
        ('{"id": "b", "title": 5, "text": "b"}', r"p\.jsonl:1: 'title' is no text"),
        ("", r"p\.jsonl: holds no document"),
        ("\n \n", r"p\.jsonl: holds no document"),
        (
            '{"id": "x", "text": "A b. C d. E f."}\n{"id": "x#2", "text": "G"}',
            r"p\.jsonl:2: passage 'x#2' is in p\.jsonl:1 already",
        ),
    ],
)
def test_a_bad_document_names_file_and_line(tmp_path, content, complaint):
    with pytest.raises(UserError, match=complaint):
        load_passages(section(tmp_path / "p.jsonl", content, passage_words=2))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nothing\.jsonl: no such file"):
        load_passages(KnowledgeSection(path=tmp_path / "nothing.jsonl"))


@settings(max_examples=40)
@given(st.lists(st.builds(Passage, *[st.text(max_size=20)] * 5), max_size=5))
def test_what_is_written_is_read(tmp_path_factory, passages):
    path = tmp_path_factory.getbasetemp() / "passages.jsonl"
    write_passages(path, passages)
    stored = read_passages(path)
    assert list(stored) == passages
    assert stored[1:4] == passages[1:4]
    assert list(stored.texts) == [passage.full_text for passage in passages]
    assert stored.texts[:2] == [passage.full_text for passage in passages[:2]]


def made(tmp_path: Path, kind: str, path: Path, **settings) -> tuple[dict, list[Passage], list[dict]]:
    """The report, the passages and what was left out."""
    folder = tmp_path / "knowledge"
    folder.mkdir(exist_ok=True)
    report = make_passages(KnowledgeSection(kind=kind, path=path, **settings), folder)
    return report, list(read_passages(folder / "passages.jsonl")), list(read_jsonl(folder / "left_out.jsonl"))


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_csv_with_any_separator_and_own_names(tmp_path, separator):
    rows = [["key", "name", "body"], ["a", "T", "One.\nTwo, three; four."], ["b", "", "Five."]]
    quoted = [separator.join('"' + cell.replace('"', '""') + '"' for cell in row) for row in rows]
    (tmp_path / "d.csv").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(quoted).encode())
    columns = {"id": "key", "title": "name", "text": "body"}
    _, passages, _ = made(tmp_path, "csv", tmp_path / "d.csv", columns=columns)
    assert passages == [
        Passage("a", "T", "One. Two, three; four.", "a", "d.csv:3"),
        Passage("b", "", "Five.", "b", "d.csv:4"),
    ]


def test_csv_without_a_column_names_line_and_key(tmp_path):
    (tmp_path / "d.csv").write_text("id,body\na,One.\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"d\.csv:1: no column 'text' \(found: id, body\)"):
        made(tmp_path, "csv", tmp_path / "d.csv")


def write_parquet(path: Path, rows: list[dict]) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path.parent.mkdir(exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def test_parquet_in_the_schema_of_the_wikipedia_dumps(tmp_path):
    rows = [{"id": str(n), "url": f"https://w/{n}", "title": f"T{n}", "text": f"Text number {n}."} for n in range(3)]
    write_parquet(tmp_path / "p" / "train-00000.parquet", rows[:2])
    write_parquet(tmp_path / "p" / "train-00001.parquet", rows[2:])
    (tmp_path / "p" / "notes.md").write_text("# no", encoding="utf-8")
    report, passages, _ = made(tmp_path, "parquet", tmp_path / "p")
    assert [passage.id for passage in passages] == ["0", "1", "2"]
    assert passages[1].source == "train-00000.parquet, row 2, https://w/1"
    assert [report[key] for key in ("documents", "passages", "left_out")] == [3, 3, {"other_file": 1}]


def test_one_broken_shard_is_named_and_the_others_are_read(tmp_path):
    write_parquet(tmp_path / "p" / "a.parquet", [{"id": "a", "title": "", "text": "One."}])
    (tmp_path / "p" / "b.parquet").write_bytes(b"PAR1 no")
    report, passages, left_out = made(tmp_path, "parquet", tmp_path / "p")
    assert [passage.id for passage in passages] == ["a"]
    assert report["left_out"] == {"broken": 1}
    assert left_out[0]["source"].endswith("b.parquet")
    with pytest.raises(UserError, match=r"b\.parquet: cannot be read .*Mend or remove"):
        made(tmp_path, "parquet", tmp_path / "p" / "b.parquet")


def test_duplicates_are_left_out_counted_and_still_found_by_name(tmp_path):
    long = " ".join(f"word{number}" for number in range(60))
    texts = {"a": long, "b": long + "!", "c": long.replace("word30", "changed"), "d": "Short one.", "e": "Short one."}
    texts["f"] = " ".join(f"other{number}" for number in range(60))
    rows = [{"id": name, "title": "" if name != "e" else "Own", "text": text} for name, text in texts.items()]
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    report, passages, left_out = made(tmp_path, "jsonl", path)
    assert [passage.id for passage in passages] == ["a", "d", "e", "f"]
    assert report["left_out"] == {"duplicate": 1, "near_duplicate": 1}
    found = [(row["id"], row["of"], row["source"]) for row in left_out]
    assert found == [("b", "a", "p.jsonl:2"), ("c", "a", "p.jsonl:3")]
    assert positions_of(tmp_path / "knowledge", ["b", "c", "f", "zebra"]) == {"b": [0], "c": [0], "f": [3]}
    assert [p.id for p in made(tmp_path, "jsonl", path, duplicates=1.0)[1]] == ["a", "c", "d", "e", "f"]
    assert len(made(tmp_path, "jsonl", path, duplicates=None)[1]) == 6


PAGE = """<page><title>{title}</title><ns>{ns}</ns><id>{number}</id>{redirect}
<revision><id>9</id><text bytes="1" xml:space="preserve">{text}</text></revision></page>"""
WIKITEXT = """{{Infobox|name=x}}'''Okapi''' is a [[mammal|hoofed mammal]].&lt;ref&gt;A book.&lt;/ref&gt;
[[File:okapi.jpg|thumb|An okapi]]
== Life ==
It eats [[leaf|leaves]].
{| class="wikitable"
| cell
|}
[[Category:Animals]]"""


def dump(*pages: str) -> bytes:
    inside = "".join(pages)
    return f'<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/">{inside}</mediawiki>'.encode()


@pytest.mark.parametrize(("suffix", "pack"), [(".xml", bytes), (".xml.bz2", bz2.compress), (".xml.gz", gzip.compress)])
def test_a_mediawiki_dump_is_streamed_as_plain_text(tmp_path, suffix, pack):
    pages = [
        PAGE.format(title="Okapi", ns=0, number=7, redirect="", text=WIKITEXT),
        PAGE.format(title="Talk:Okapi", ns=1, number=8, redirect="", text="Talk."),
        PAGE.format(title="O.", ns=0, number=9, redirect='<redirect title="Okapi"/>', text="#REDIRECT [[Okapi]]"),
        PAGE.format(title="Nothing", ns=0, number=10, redirect="", text=""),
    ]
    (tmp_path / f"wiki{suffix}").write_bytes(pack(dump(*pages)))
    report, passages, left_out = made(tmp_path, "mediawiki", tmp_path / f"wiki{suffix}", passage_words=6)
    assert [passage.text for passage in passages] == ["Okapi is a hoofed mammal.", "Life It eats leaves."]
    assert passages[0] == Passage("Okapi", "Okapi", passages[0].text, "Okapi", f"wiki{suffix}, page 7, character 0")
    assert passages[1].source.startswith(f"wiki{suffix}, page 7, character 2")
    assert report["left_out"] == {"empty": 1}
    assert left_out[0]["source"] == f"wiki{suffix}, page 10"


def test_a_dump_names_its_namespaces_in_its_own_language_and_may_give_pages_no_number(tmp_path):
    names = '<siteinfo><namespaces><namespace key="6">Datei</namespace><namespace key="14">Kategorie</namespace>'
    text = "[[Datei:a.jpg|mini|Bild vom Tee]] Tee ist ein [[Getränk]]. [[Kategorie:Getränke]]"
    page = f"<page><title>Tee</title><id>1</id><revision><text>{text}</text></revision></page>"
    (tmp_path / "w.xml").write_bytes(dump(f"{names}</namespaces></siteinfo>", page))
    _, passages, _ = made(tmp_path, "mediawiki", tmp_path / "w.xml")
    assert [passage.text for passage in passages] == ["Tee ist ein Getränk."]


def test_a_torn_dump_among_others_keeps_what_was_read(tmp_path):
    page = PAGE.format(title="{}", ns=0, number=1, redirect="", text="Text of {}.")
    folder = tmp_path / "dumps"
    folder.mkdir()
    (folder / "a.xml").write_bytes(dump(page.replace("{}", "A"), page.replace("{}", "B"))[:-60])
    (folder / "b.xml").write_bytes(dump(page.replace("{}", "C")))
    report, passages, left_out = made(tmp_path, "mediawiki", folder)
    assert [passage.id for passage in passages] == ["A", "C"]
    assert left_out[0]["source"].endswith("a.xml")
    assert report["left_out"] == {"broken": 1}
