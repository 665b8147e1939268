"""Tables of the terminal."""

import io
import re

from rich.console import Console

from kard.report.table import comparison_table, summary_table


def shown(table, width=120):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(table)
    return console.file.getvalue()


def cells(text, name):
    """The cells of the row that begins with a method's name."""
    (row,) = [line for line in text.splitlines() if line.startswith(name + " ")]
    return re.split(r" {2,}", row.strip())


def test_summary_shows_each_method_with_its_numbers(results):
    text = shown(summary_table(results))
    assert "quickstart: 300 test questions" in text
    assert cells(text, "distill") == ["distill", "55.0", "49.3–60.5", "2", "2 min 31 s", "48 s"]
    assert cells(text, "kard_silver")[0] == "kard_silver *"
    assert "* oracle" in text


def test_summary_without_an_oracle_has_no_note(results):
    assert "oracle" not in shown(summary_table(results | {"methods": results["methods"][:2]}))


def test_summary_fits_a_terminal_of_eighty_columns(results):
    text = shown(summary_table(results), width=80)
    assert "kard_reranker" in text
    assert "…" not in text


def test_comparison_puts_runs_beside_each_other(results):
    other = results | {"methods": [results["methods"][1] | {"accuracy": 0.6}, results["methods"][4]]}
    text = shown(comparison_table({"runs/one": results, "runs/two [lr]": other}))
    assert "runs/two [lr]" in text
    assert cells(text, "distill") == ["distill", "55.0 (49.3–60.5)", "60.0 (49.3–60.5)"]
    assert cells(text, "kard_bm25") == ["kard_bm25", "61.3 (55.7–66.7)", "–"]


def test_comparison_keeps_the_order_of_the_methods_table(results):
    backwards = results | {"methods": results["methods"][::-1]}
    text = shown(comparison_table({"one": backwards}))
    places = [text.index(name) for name in ("finetune", "distill", "kard_bm25", "kard_reranker", "kard_silver")]
    assert places == sorted(places)


def test_square_brackets_in_a_recipes_name_are_no_markup(results):
    assert "[bold]x" in shown(summary_table(results | {"recipe": "[bold]x"}))
