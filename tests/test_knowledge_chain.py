"""A PDF, a Markdown folder and a MediaWiki dump, each from the file to a right `kard answer` with page or offset shown."""

from __future__ import annotations

import bz2
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kard.cli.main import app
from kard.recipe.file import load_recipe
from tests.conftest import COLOURS, make_project
from tests.data.samples import write_pdf

# The tiny model has random weights: it is trained on so few questions that it learns the passage's colour by heart.
FACTS = [(thing, colour) for thing, colour in zip(("stone", "river", "bird", "house"), COLOURS, strict=False)]


def sentences() -> list[tuple[str, str]]:
    return [(thing, f"The {thing} of the north is {colour}.") for thing, colour in FACTS]


def as_pdf(folder: Path) -> dict:
    write_pdf(folder / "colours.pdf", [text for _, text in sentences()], "Colours")
    return {"kind": "files", "path": "colours.pdf", "passage_words": 7}


def as_markdown(folder: Path) -> dict:
    (folder / "notes").mkdir()
    for thing, text in sentences():
        (folder / "notes" / f"{thing}.md").write_text(f"# The {thing}\n\n{text}\n", encoding="utf-8")
    return {"kind": "files", "path": "notes"}


def as_dump(folder: Path) -> dict:
    page = "<page><title>{}</title><ns>0</ns><id>{}</id><revision><text>'''{}'''</text></revision></page>"
    pages = "".join(page.format(thing, number, text) for number, (thing, text) in enumerate(sentences(), start=1))
    (folder / "wiki.xml.bz2").write_bytes(bz2.compress(f"<mediawiki>{pages}</mediawiki>".encode()))
    return {"kind": "mediawiki", "path": "wiki.xml.bz2"}


KINDS = {
    "pdf": (as_pdf, "colours.pdf, page 2"),
    "markdown": (as_markdown, "river.md, line 3"),
    "mediawiki": (as_dump, "wiki.xml.bz2, page 2, character 0"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_from_the_file_to_a_right_answer_with_its_place(kind, tmp_path, decoder_folder, encoder_folder):
    write, place = KINDS[kind]
    recipe = make_project(tmp_path / "project", decoder_folder, encoder_folder)
    knowledge = write(recipe.parent)
    questions = [
        {
            "id": f"q{copy}-{thing}",
            "question": f"Which colour has the {thing} of the north?{' ' * copy}",
            "choices": [colour for _, colour in FACTS],
            "answer": number,
            "rationales": [f"The {thing} of the north is {colour}."],
        }
        for copy in range(4)
        for number, (thing, colour) in enumerate(FACTS)
    ]
    for name, part in (("train", questions[:12]), ("test", questions[12:])):
        rows = "".join(json.dumps(row) + "\n" for row in part)
        (recipe.parent / f"{name}.jsonl").write_text(rows, encoding="utf-8")
    changes = [f"knowledge={json.dumps(knowledge)}", 'questions={"train": "train.jsonl", "test": "test.jsonl"}']
    changes += ["evaluation.methods=[kard_bm25]", "student.epochs=40", "student.batch_size=4", "student.method=full"]
    from kard.pipeline import run_recipe

    run = tmp_path / "run"
    run_recipe(load_recipe(str(recipe), changes), run)
    choices = [part for _, colour in FACTS for part in ("--choice", colour)]
    question = "Which colour has the river of the north?"
    answered = CliRunner().invoke(app, ["answer", str(run), question, *choices])
    assert answered.exit_code == 0, answered.output
    assert place in answered.output
    assert f"Answer: {FACTS[1][1]}" in answered.output
    found = CliRunner().invoke(app, ["search", str(run), "river", "--json"])
    [row] = json.loads(found.stdout)
    assert row["source"].endswith(place)
    assert {word.lower() for word in row["words"]} == {"river"}
