"""Documents become passages that say where they came from; a bad file is one error with its line."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kard.errors import UserError
from kard.knowledge import Passage, load_passages, read_passages, write_passages
from kard.recipe import KnowledgeSection

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
        (f"{GOOD}\n{GOOD}", r"p\.jsonl:2: id 'a' is already on line 1"),
        (f'{GOOD}\n{{"id": "b", "text": ""}}', r"p\.jsonl:2: 'text' is empty"),
        (f'{GOOD}\n{{"id": "b", "text": " \\n"}}', r"p\.jsonl:2: 'text' is empty"),
        (f'{GOOD}\n{{"id": "b", "text": ["c"]}}', r"p\.jsonl:2: 'text' is no text"),
        ('{"id": "b"}', r"p\.jsonl:1: key 'text' is missing"),
        ('{"text": "b"}', r"p\.jsonl:1: key 'id' is missing"),
        ('{"id": true, "text": "b"}', r"p\.jsonl:1: 'id' is no text"),
        ('{"id": "b", "title": 5, "text": "b"}', r"p\.jsonl:1: 'title' is no text"),
        ("", r"p\.jsonl: holds no document"),
        ("\n \n", r"p\.jsonl: holds no document"),
        ('{"id": "x", "text": "A b. C d. E f."}\n{"id": "x#2", "text": "G"}', r"p\.jsonl:2: its passage 'x#2'"),
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
    assert read_passages(path) == passages
