"""Metadata of documents: from columns, front matter and folders; what is none is one error, and groups are never lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kard.artifacts.files import read_jsonl
from kard.data.document_table import DocumentTable
from kard.data.passage import read_passages
from kard.data.passages import make_passages
from kard.errors import UserError
from kard.recipe.sections import KnowledgeSection
from tests.data.test_readers import write_parquet


def made(folder: Path, kind: str, files: dict[str, str], **settings) -> DocumentTable:
    """The documents of files in a folder; of one, of that file."""
    target = folder / "knowledge"
    target.mkdir(exist_ok=True)
    source = folder / "Quellen é"
    for name, content in files.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(content, encoding="utf-8")
    path = source if len(files) > 1 else source / next(iter(files))
    make_passages(KnowledgeSection(kind=kind, path=path, **settings), target)
    return DocumentTable(target)


def metadata_of(folder: Path, kind: str, files: dict[str, str], **settings) -> list[dict]:
    return [dict(row.metadata) for row in made(folder, kind, files, **settings)]


def test_columns_of_jsonl_that_are_not_read_are_metadata(tmp_path):
    row = {
        "id": 1,
        "title": "T",
        "text": "One.",
        "year": 2020,
        "score": 0.5,
        "draft": False,
        "lang": "no",
        "none": None,
    }
    inner = {"tags": ["a", "b"], "metadata": {"url": "https://x", "gap": float("nan")}, "Groups": "staff, board,staff"}
    [found] = metadata_of(tmp_path, "jsonl", {"d.jsonl": json.dumps({**row, **inner})})
    assert found == {
        "year": 2020,
        "score": 0.5,
        "draft": False,
        "lang": "no",
        "tags": ["a", "b"],
        "url": "https://x",
        "groups": ["board", "staff"],
    }


def test_csv_has_texts_and_no_value_for_an_empty_cell(tmp_path):
    text = 'key,text,year,groups,\na,One.,2020,,left\nb,Two.,,"staff,board",over\n'
    found = metadata_of(tmp_path, "csv", {"d.csv": text}, columns={"id": "key"})
    assert found == [{"year": "2020"}, {"groups": ["board", "staff"]}]


def test_parquet_has_dates_and_lists(tmp_path):
    from datetime import date, datetime
    from decimal import Decimal

    (tmp_path / "knowledge").mkdir()
    row = {"id": "a", "url": "https://w/a", "title": "", "text": "One.", "day": date(2020, 1, 2), "tags": ["x"]}
    write_parquet(
        tmp_path / "p" / "d.parquet", [row | {"at": datetime(2020, 1, 2, 3), "price": Decimal("1.5"), "e": [0.5]}]
    )
    section = KnowledgeSection(
        kind="parquet", path=tmp_path / "p" / "d.parquet", metadata=["day", "tags", "at", "price"]
    )
    make_passages(section, tmp_path / "knowledge")
    [found] = DocumentTable(tmp_path / "knowledge")
    assert found.metadata == {"day": "2020-01-02", "tags": ["x"], "at": "2020-01-02T03:00:00", "price": 1.5}
    assert found.source == "d.parquet, row 1, https://w/a"


FRONT = """---
title: The tea
year: 2020
lang: no
time: 12:30
date: 2020-01-02
version: "1.10"
tags: [green, 2]
draft: false
menu: {main: {weight: 1}}
groups: [staff]
---
# The tea

Green leaves.
"""


def test_front_matter_is_flat_and_a_language_is_no_boolean(tmp_path):
    files = {
        "sub/tea.md": FRONT,
        "b.md": "+++\ntitle = 'B'\nday = 2020-01-02\n+++\nWater.",
        "c.txt": "No front matter.",
    }
    table = made(tmp_path, "files", files)
    [b, c, tea] = list(table)
    assert tea.metadata == {
        "folder": "sub",
        "year": 2020,
        "lang": "no",
        "time": "12:30",
        "date": "2020-01-02",
        "version": "1.10",
        "tags": ["green", "2"],
        "draft": False,
        "groups": ["staff"],
    }
    assert (tea.title, tea.passages) == ("The tea", 1)
    assert (b.title, b.metadata, c.metadata) == ("B", {"day": "2020-01-02"}, {})
    [noted] = read_jsonl(table.folder / "left_out.jsonl")
    assert (noted["reason"], noted["detail"]) == ("front_matter", "'menu' holds objects or lists of lists")


def test_files_of_rows_have_their_folder_too_and_a_documents_own_wins(tmp_path):
    rows = {"2020/a.jsonl": '{"id": 1, "text": "One."}', "2021/b.jsonl": '{"id": 2, "text": "Two.", "folder": "own"}'}
    assert metadata_of(tmp_path, "jsonl", rows) == [{"folder": "2020"}, {"folder": "own"}]


def test_keys_can_be_chosen_and_groups_always_stay(tmp_path):
    row = {"id": 1, "text": "One.", "year": 2020, "vector": [0.1, 0.2], "groups": ["staff"]}
    found = metadata_of(tmp_path, "jsonl", {"d.jsonl": json.dumps(row)}, metadata=["year"])
    assert found == [{"year": 2020, "groups": ["staff"]}]
    assert metadata_of(tmp_path, "jsonl", {"d.jsonl": json.dumps(row)}, metadata=[]) == [{"groups": ["staff"]}]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"a": {"b": 1}}, r"d\.jsonl:1: 'a' holds an object\. Metadata is a text, .*name the keys .* in knowledge\.metadata"),
        ({"a": [0.5]}, r"'a' holds a list with something else than texts \(float\)"),
        ({"a": "é" * 40_000}, r"'a' holds 80,000 bytes; a value of metadata may hold 65,536"),
        ({"a": ["x" * 40_000] * 2}, r"'a' holds 80,000 bytes"),
        ({"a": 2**53 + 1}, r"'a' is a number too large to be told from its neighbours\. Write a text"),
        ({"a": float("inf")}, r"'a' is a number too large"),
        ({"$a": 1}, r"'\$a' can be no key of metadata: .* or begins with \$"),
        ({"a" * 201: 1}, r"'a{30}' can be no key of metadata"),
        ({"a\ud800": {}}, r"'a\\ud800' holds an object"),
        ({"groups": 5}, r"'groups' names no groups\. Write a text or a list of texts, or leave it out"),
        ({"groups": ["a", ""]}, r"'groups' names no groups"),
        ({"groups": {"a": 1}}, r"'groups' names no groups"),
        ({"groups": "a", "Groups": "b"}, r"'groups' is there twice"),
        ({"a": 1, "metadata": {"a": 2}}, r"'a' is there twice, in 'metadata' too"),
        ({f"k{n}": n for n in range(1001)}, r"d\.jsonl:1: the documents have more than 1,000 .* 'k1000' is one more"),
    ],
)  # fmt: skip
def test_what_is_no_metadata_is_one_error(tmp_path, more, says):
    with pytest.raises(UserError, match=says):
        made(tmp_path, "jsonl", {"d.jsonl": json.dumps({"id": 1, "text": "One.", **more})})


@pytest.mark.parametrize(
    "text",
    [
        "---\ngroups: [staff\n---\nSecret.",
        "---\ntitle: a: b\n'groups': staff\n---\nSecret.",
        "---\ngroups: staff\nSecret.",
        "\n---\nGroups: staff\n---\nSecret.",
        "+++\ngroups = staff\n+++\nSecret.",
        "---\ngroups: {a: b}\n---\nSecret.",
    ],
)
def test_a_file_whose_groups_cannot_be_read_is_not_read_by_all(tmp_path, text):
    with pytest.raises(UserError, match=r"a\.md: (its front matter names groups, and cannot|'groups' names no groups)"):
        made(tmp_path, "files", {"a.md": text})
    table = made(tmp_path, "files", {"a.md": text, "b.md": "Open."})
    assert [row.id for row in table] == ["b.md"]


def test_groups_without_a_name_are_nobody(tmp_path):
    assert metadata_of(tmp_path, "files", {"a.md": "---\ngroups:\n---\nSecret."}) == [{"groups": []}]
    with pytest.raises(UserError, match=r"d\.csv:1: column 'groups' is there twice"):
        made(tmp_path, "csv", {"d.csv": "id,text,groups,groups\na,One.,staff,\n"})


def test_the_table_keeps_documents_whose_passages_are_duplicates(tmp_path):
    words = " ".join(f"word{number}" for number in range(30))
    rows = [
        {"id": "a", "text": words + " Other words."},
        {"id": "b", "text": words + " Other words."},
        {"id": "c", "text": "Own."},
    ]
    table = made(tmp_path, "jsonl", {"d.jsonl": "\n".join(map(json.dumps, rows))}, passage_words=30)
    assert [(row.id, row.passages) for row in table] == [("a", 2), ("b", 0), ("c", 1)]
    assert table.owners.tolist() == [0, 0, 2]
    assert len(table) == 3
    passages = read_passages(table.folder / "passages.jsonl")
    assert [passage.document for passage in passages] == ["a", "a", "c"]


@pytest.mark.parametrize(
    ("first", "second", "kept"),
    [
        (None, None, 1),
        (None, ["staff"], 1),
        (["staff"], None, 2),
        (["staff"], ["board"], 2),
        (["staff", "board"], ["board"], 1),
        (["board"], ["staff", "board"], 2),
    ],
)
def test_a_passage_that_somebody_else_may_read_is_no_duplicate(tmp_path, first, second, kept):
    rows = [
        {"id": "a", "text": "The same words.", "groups": first},
        {"id": "b", "text": "The same words.", "groups": second},
    ]
    table = made(tmp_path, "jsonl", {"d.jsonl": "\n".join(map(json.dumps, rows))})
    assert len(table.owners) == kept == len(read_passages(table.folder / "passages.jsonl"))


def test_a_damaged_table_is_named(tmp_path):
    table = made(tmp_path, "jsonl", {"d.jsonl": '{"id": 1, "text": "One."}'})
    (table.folder / "passages.owners.i32").write_bytes(b"\x09\0\0\0")
    with pytest.raises(UserError, match=r"passages\.owners\.i32.* is damaged"):
        table.owners  # noqa: B018
    (table.folder / "documents.json").unlink()
    with pytest.raises(UserError, match=r"documents\.json.* is missing"):
        DocumentTable(table.folder)
