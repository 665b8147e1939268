"""Questions from documents: the folder, the run, the sample to label, and the filters' table."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.generated import ALONE, main, measured
from kard.artifacts.files import read_jsonl
from kard.methods import methods_named
from kard.run import Run
from tests.conftest import write_rows
from tests.teacher.fault_server import FaultServer
from tests.teacher.question_teacher import asks_and_answers, documents

LABELLED = Path(__file__).parents[1] / "data" / "questions.labelled.jsonl"
READ = LABELLED.with_name("questions.read.jsonl")


@pytest.fixture
def summaries(wikipedia_of, tmp_path) -> Path:
    pad = " It is one of many, and nobody has ever counted them all." * 3
    rows = [
        {
            "title": f"{name}/{number}",
            "extract": text.partition("\n\n")[2].strip() + pad,
            "description": "",
            "topic": "A, b",
        }
        for number, (name, text) in enumerate(documents(30).items())
    ]
    wikipedia_of(rows)
    main(["documents", str(tmp_path / "docs"), "--count", "20"])
    return tmp_path / "docs"


def test_from_summaries_to_a_sample_to_label(summaries, tmp_path, capsys):
    files = sorted(summaries.rglob("*.md"))
    assert len(files) == 20
    assert {file.parent.name for file in files} == {"A-b"}
    project, sample = tmp_path / "project", tmp_path / "sample.jsonl"
    with FaultServer(asks_and_answers) as server:
        few = ["--set", "questions.train_size=12", "--set", "questions.test_size=4", "--set", "questions.dev_size=null"]
        main(["run", str(summaries), str(project), "--teacher", f"tester@{server.url}", *few])
    table = capsys.readouterr().out
    assert table.splitlines()[0] == "| status | all | multiple_choice | short | yes_no |"
    assert "| kept | 16 | " in table
    main(["sample", str(project / "run"), str(sample), "--count", "5"])
    rows = list(read_jsonl(sample))
    assert len(rows) == 5
    assert all(". The " in row["texts"][0] and row["labels"] is None for row in rows)
    write_rows(sample, [row | {"labels": []} for row in rows])
    main(["filters", str(sample)])
    assert "| any | 0 | – | 0 | – |" in capsys.readouterr().out


def test_the_quickstarts_questions_about_the_same_articles(answering_run, wikipedia_of, tmp_path, capsys):
    words = ("red stone", "blue river", "green valley", "grey tower", "old bridge", "white house")
    rows = [
        {"title": f"Thing {n}", "extract": f"It is a {one}. " * 20, "description": f"{one} of the north", "topic": "A"}
        for n, one in enumerate(words)
    ]
    wikipedia_of(rows)
    main(["documents", str(tmp_path / "docs"), "--count", "4"])
    main(["quickstart", str(tmp_path / "docs"), str(answering_run)])
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split(" | ")[:2] for line in lines[2:] if line.startswith("| ")]
    asked = [one.name for one in methods_named(Run.open(answering_run).recipe.evaluation.methods) if not one.is_oracle]
    assert rows == [[f"| {name}", "4"] for name in asked]
    assert len([line for line in lines if "p (Holm) = " in line]) == len(asked) * (len(asked) - 1) // 2 > 0


def test_the_filters_on_labelled_questions():
    found = {row["filter"]: row for row in measured(LABELLED)}
    assert found["any"]["labelled"] > 150
    assert found["any"]["precision"] >= 0.9  # with the round trip of a weak teacher
    assert found["any"]["recall"] >= 0.75
    for name in ALONE:
        assert found[name]["precision"] >= 0.75, name
        assert found[name]["recall"] >= 0.6, name


def test_every_question_that_was_read_has_a_verdict_and_every_bad_one_a_reason():
    rows = list(read_jsonl(READ))
    assert len({row["id"] for row in rows}) == len(rows) == 60
    assert all(row["good"] != bool(row["why"]) for row in rows)
    assert all(row["question"] and row["answer"] and row["passage"] for row in rows)
