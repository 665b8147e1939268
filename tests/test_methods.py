"""The table of the paper's rows, and what is said of a name that is not in it."""

from __future__ import annotations

import pytest

from kard.errors import UserError
from kard.methods import METHODS, methods_named, without_passages
from kard.recipe.sections import EvaluationSection

# name: trained on, reads, writes, is it an oracle
TABLE = {
    "few_shot": ("nothing", "nothing", "answer", False),
    "few_shot_cot": ("nothing", "nothing", "rationale", False),
    "ka_few_shot": ("nothing", "bm25", "answer", False),
    "ka_few_shot_cot": ("nothing", "bm25", "rationale", False),
    "finetune": ("answers", "nothing", "answer", False),
    "ka_finetune": ("answers_passages", "bm25", "answer", False),
    "ka_finetune_reranker": ("answers_silver", "reranker", "answer", False),
    "kard_plus": ("answers_silver", "reranker", "answer", False),
    "distill": ("rationales", "nothing", "rationale", False),
    "kard_bm25": ("rationales_silver", "bm25", "rationale", False),
    "kard_reranker": ("rationales_silver", "reranker", "rationale", False),
    "kard_silver": ("rationales_silver", "silver", "rationale", True),
    "kard_gold": ("rationales_silver", "gold", "rationale", True),
    "teacher_cot": ("rationales", "teacher_rationale", "answer", True),
}


def test_fourteen_rows_in_the_tables_order():
    rows = {name: (row.trained_on, row.reads, row.writes, row.is_oracle) for name, row in METHODS.items()}
    assert list(rows.items()) == list(TABLE.items())
    assert len({row.label for row in METHODS.values()}) == len(METHODS) == 14


def test_oracles_say_so():
    assert all(("oracle" in row.label) == row.is_oracle for row in METHODS.values())


def test_the_tables_order_whatever_the_recipes():
    assert [row.name for row in methods_named(("kard_silver", "finetune", "kard_bm25", "finetune"))] == [
        "finetune",
        "kard_bm25",
        "kard_silver",
    ]
    assert methods_named(tuple(METHODS)) == list(METHODS.values())
    assert methods_named(EvaluationSection().methods)
    assert methods_named(()) == []


def test_an_unknown_name_shows_the_nearest_and_all():
    with pytest.raises(
        UserError, match=r"evaluation\.methods: unknown method 'kard_rerank' \(did you mean 'kard_"
    ) as error:
        methods_named(("finetune", "kard_rerank"))
    assert all(name in str(error.value) for name in METHODS)


def test_what_stands_in_a_prompt():
    assert [name for name, row in METHODS.items() if not row.reads_passages] == [
        "few_shot", "few_shot_cot", "finetune", "distill", "teacher_cot",
    ]  # fmt: skip
    assert [name for name, row in METHODS.items() if row.needs_test_rationales] == ["kard_silver", "teacher_cot"]


def test_without_passages_no_choices_are_ranked():
    alone = without_passages(METHODS["kard_plus"])
    assert (alone.reads_passages, alone.ranks_choices, alone.writes) == (False, False, "answer")
