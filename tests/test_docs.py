"""The docs say what is true: commands, keys, data, code, tables and files in them are held against the real ones."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import get_args
from unittest.mock import create_autospec

import pytest
import typer
import yaml

from kard.cli.main import app
from kard.methods import METHODS
from kard.recipe.file import load_recipe, shipped_recipes
from kard.recipe.recipe import Recipe
from kard.stages.plan import STAGES, plan
from tests.conftest import load_passages

ROOT = Path(__file__).parents[1]
PAGES = {str(path.relative_to(ROOT)): path for path in [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md"))]}
TEXTS = {name: path.read_text(encoding="utf-8") for name, path in PAGES.items()}
COMMANDS = typer.main.get_command(app).commands
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def fences(*languages: str) -> Iterator[tuple[str, str]]:
    """Page and content of every fenced block in one of the languages."""
    for name, text in TEXTS.items():
        yield from ((name, content) for language, content in FENCE.findall(text) if language in languages)


def spans(text: str) -> list[str]:
    """Contents of the inline code spans."""
    return re.findall(r"`([^`\n]+)`", FENCE.sub("", text))


def table(text: str, first_column: str) -> list[list[str]]:
    """Cells of the rows of all tables whose first column is called so."""
    found = re.findall(rf"^\| {first_column} \|.*\n\|[-|: ]+\n((?:\|.*\n?)+)", text, re.MULTILINE)
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for part in found for row in part.splitlines()]


def commands() -> list[tuple[str, str]]:
    lines = [
        (page, line.strip().removeprefix("$ "))
        for page, content in fences("sh", "console")
        for line in content.replace("\\\n", " ").splitlines()
    ]
    return [(page, line) for page, line in lines if line.startswith("kard ")]


def key_exists(key: str) -> bool:
    *sections, last = key.split(".")
    fields = Recipe.model_fields
    for section in sections:
        if section not in fields:
            return False
        fields = getattr(fields[section].annotation, "model_fields", {})
    return last in fields


def test_every_kind_of_block_is_there():
    """The checks below have something to check."""
    assert len(commands()) > 20
    for language in ("yaml", "jsonl", "python", "text"):
        assert len(list(fences(language))) >= 2
    assert not [page for page, _ in fences("bash", "shell", "py", "json", "yml")], "use sh, python, jsonl, yaml"


@pytest.mark.parametrize(("page", "command"), commands())
def test_commands_are_accepted_by_the_command_line(page, command):
    from kard.tools.show import SHOWN

    name, *arguments = shlex.split(command, comments=True)[1:]
    values = COMMANDS[name].make_context(name, arguments).params
    if "recipe" in values:
        assert values["recipe"] in (None, *shipped_recipes()) or values["recipe"].endswith(".yaml")
    for override in [*(values.get("override") or ()), *(values.get("vary") or ())]:
        assert all(map(key_exists, override.partition("=")[0].split(","))), override
    assert values.get("until") in (None, *STAGES)
    assert values.get("stage") in (None, *SHOWN)
    assert values.get("method") in (None, *METHODS)


@pytest.mark.parametrize("page", PAGES)
def test_commands_in_sentences_exist_with_their_options(page):
    for span in spans(TEXTS[page]):
        if not span.startswith("kard ") or span.startswith("kard --help"):
            continue
        _, name, *arguments = span.split()
        options = {option for parameter in COMMANDS[name].params for option in parameter.opts}
        assert {argument for argument in arguments if argument.startswith("-")} <= options, span


@pytest.mark.parametrize("page", PAGES)
def test_make_targets_exist(page):
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    code = [*spans(TEXTS[page]), *(content for where, content in fences("sh", "console") if where == page)]
    named = {target for text in code for target in re.findall(r"\bmake ([a-z]+)", text)}
    assert named <= targets


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", TEXTS[page])):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (PAGES[page].parent / path).resolve() if path else PAGES[page]
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", FENCE.sub("", target.read_text(encoding="utf-8")), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}, link


@pytest.mark.parametrize("page", PAGES)
def test_recipe_keys_exist(page):
    sections = [name for name, field in Recipe.model_fields.items() if hasattr(field.annotation, "model_fields")]
    for span in spans(TEXTS[page]):
        named = re.fullmatch(rf"((?:{'|'.join(sections)})(?:\.[a-z_0-9]+)+)(?:[=:].*)?", span)
        if named and not named[1].endswith((".jsonl", ".sqlite", ".spare")):
            assert key_exists(named[1]), span


def test_shipped_recipes_are_in_the_docs():
    named = {values for text in TEXTS.values() for values in re.findall(r"kard run ([\w-]+)", text)}
    assert set(shipped_recipes()) <= named


def tree(block: str) -> list[str]:
    """Paths of an indented file tree with notes behind the names."""
    paths: list[str] = []
    parents: list[str] = []
    for line in block.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        parents = [*parents[:depth], line.split()[0]]
        paths.append("".join(parents))
    return paths


def test_file_tree_is_true_and_whole():
    [block] = [content for page, content in fences("text") if page == "README.md"]
    named = tree(block)
    missing = [path for path in named if not (ROOT / path).exists()]
    assert missing == []
    parts = [
        path for path in (ROOT / "src" / "kard").iterdir() if not path.name.startswith("__") and path.name != "py.typed"
    ]
    there = {f"src/kard/{path.name}{'/' * path.is_dir()}" for path in parts} | set(PAGES)
    assert there <= set(named)


def test_recipe_reference_is_up_to_date():
    reference = runpy.run_path(str(ROOT / "docs" / "make_recipe_reference.py"))["reference"]
    assert TEXTS["docs/recipe.md"] == reference(), "run: python docs/make_recipe_reference.py > docs/recipe.md"


@pytest.mark.parametrize(("page", "content"), list(fences("yaml")))
def test_yaml_is_valid_in_a_recipe(page, content):
    rest = {"questions": {"path": "questions.jsonl"}, "knowledge": {"path": "passages.jsonl"}}
    Recipe.model_validate(rest | yaml.safe_load(content))


@pytest.mark.parametrize(("page", "content"), list(fences("jsonl")))
def test_jsonl_is_read_as_it_stands(page, content, tmp_path):
    from kard.data.readers.jsonl import read_questions_jsonl
    from kard.recipe.sections import KnowledgeSection

    path = tmp_path / "sample.jsonl"
    path.write_text(content, encoding="utf-8")
    read = read_questions_jsonl(path) if '"question"' in content else load_passages(KnowledgeSection(path=path))
    assert len(read) == len(content.splitlines())


@pytest.mark.parametrize(("page", "content"), list(fences("python")))
def test_python_runs_against_the_real_interface(page, content, monkeypatch, capsys):
    from pandas import DataFrame

    from kard import Answer, Found, Kard, Passage, Run

    passage = Passage("p1", "Giraffe", "A tall animal.", "p1", "animals.jsonl:1")
    answer = Answer("q", "Giraffe", 0, "It is tall.", (Found(passage, 1.0, 0.5),), "prompt", "text", False, 0.1)
    loaded = create_autospec(Kard, instance=True)
    loaded.answer.return_value = answer
    loaded.answer_many.return_value = [answer]
    monkeypatch.setattr(Kard, "load", create_autospec(Kard.load, return_value=loaded))
    run = create_autospec(Run, instance=True)
    run.frame.return_value = DataFrame({"question": ["q"], "answer": ["Giraffe"], "correct": [True]})
    monkeypatch.setattr(Run, "open", create_autospec(Run.open, return_value=run))
    exec(compile(content, page, "exec"), {})
    assert "Giraffe" in capsys.readouterr().out


def test_methods_table_is_the_real_one():
    rows = [[cell.strip("`") for cell in row] for row in table(TEXTS["docs/how-it-works.md"], "method")]
    assert rows == [[name, method.trained_on, method.reads, method.writes] for name, method in METHODS.items()]


def test_the_glossary_is_the_one_of_report_and_page_and_knows_every_method():
    from kard.report.glossary import GLOSSARY

    assert [tuple(row) for row in table(TEXTS["docs/glossary.md"], "word")] == list(GLOSSARY.items())
    assert set(METHODS) <= {*GLOSSARY, *spans(" ".join(GLOSSARY.values()))}
    assert "docs/glossary.md" in (app.info.epilog or "")


def test_classes_of_mistakes_are_the_real_ones():
    from kard.evaluation.diagnosis import CLASSES

    rows = table(TEXTS["docs/how-it-works.md"], "class")
    assert [row[0].strip("`") for row in rows] == list(CLASSES)


def test_stages_table_is_the_real_one():
    rows = table(TEXTS["docs/how-it-works.md"], "stage")
    assert tuple(row[0].strip("`") for row in rows) == STAGES


def test_statuses_are_the_real_ones():
    from kard.teacher.rationale import Status

    rows = table(TEXTS["docs/your-own-data.md"], "status")
    assert {name.strip("`") for row in rows for name in row[0].split(", ")} == set(get_args(Status))


def test_prompt_is_the_real_one():
    from kard.prompt import render, target

    passage = "Hooke's law. Hooke's law states that the force of a spring is proportional to how far it is stretched."
    prompt = render("Which of these is about springs?", ["Boyle's law", "Hooke's law"], [passage], "rationale")
    answer = target("The force of a spring is proportional to how far it is stretched.", "Hooke's law", "rationale")
    assert f"{prompt}{answer}\n" in [content for _, content in fences("text")]


def messages() -> list[str]:
    cells = [row[0] for text in TEXTS.values() for row in table(text, "message")]
    return [message for cell in cells for message in re.findall(r"`([^`]+)`", cell)]


def test_messages_are_in_the_source():
    sources = (path.read_text(encoding="utf-8") for path in (ROOT / "src" / "kard").rglob("*.py"))
    # A message may be split over two lines of the source.
    source = re.sub(r'"\n\s*f?"', "", "".join(sources))
    assert len(messages()) > 20
    assert [message for message in messages() if message not in source] == []


@pytest.fixture(scope="module")
def scaffold(tmp_path_factory) -> Path:
    from kard.tools.init import write_project

    folder = tmp_path_factory.mktemp("scaffold") / "project"
    write_project(folder)
    return folder / "recipe.yaml"


def keys_of(recipe: Path, *changes: str) -> dict[str, str]:
    """Steps and their keys; models are named so that no package is needed to know them."""
    models = ("student.model=someone/student", "reranker.model=someone/encoder")
    return {step.name: step.hash for step in plan(load_recipe(str(recipe), [*models, *changes]), recipe.parent / "run")}


@pytest.mark.parametrize(("change", "makes_again"), table(TEXTS["docs/faq.md"], "change"))
def test_reruns_are_those_of_the_table(change, makes_again, scaffold):
    before, after = keys_of(scaffold), keys_of(scaffold, change.strip("`"))
    changed = [name for name in before if before[name] != after[name]]
    whole = {stage for stage in STAGES if all(name in changed for name in before if name.split("/")[0] == stage)}
    shown = [stage if (stage := name.split("/")[0]) in whole else name for name in changed]
    assert makes_again == (", ".join(dict.fromkeys(shown)) or "nothing")


def test_layers_are_the_contracts():
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ][0]
    layers = "\n".join(contract["layers"]).replace("kard.", "")
    assert f"{layers}\n" in [content for page, content in fences("text") if page == "CONTRIBUTING.md"]


@pytest.mark.parametrize(
    ("page", "blocks"),
    [
        ("README.md", 1),
        ("docs/results.md", 18),
        ("docs/experiments/memorization.md", 3),
        ("docs/experiments/sweeps.md", 7),
        ("docs/experiments/teachers.md", 3),
    ],
)
def test_blocks_to_fill_are_whole(page, blocks):
    found = re.findall(r"<!-- ([a-z-]+):(begin|end) -->", TEXTS[page])
    assert len(found) == 2 * blocks
    assert found == [(name, edge) for name, _ in found[::2] for edge in ("begin", "end")]
    assert len(set(found)) == len(found)


BLOCKS = [("README.md", "scoreboard", "quickstart")]
BLOCKS += [
    ("docs/results.md", f"{recipe}-methods", recipe)
    for recipe in shipped_recipes()
    if f"<!-- {recipe}-methods:begin -->" in TEXTS["docs/results.md"]
]


@pytest.mark.parametrize(("page", "block", "recipe"), BLOCKS)
def test_result_tables_have_the_methods_of_their_recipe(page, block, recipe):
    inside = TEXTS[page].partition(f"<!-- {block}:begin -->")[2].partition(f"<!-- {block}:end -->")[0]
    rows = table(inside, "method")
    assert [re.findall(r"`(\w+)`", row[0])[0] for row in rows] == list(load_recipe(recipe).evaluation.methods)


def test_the_container_serves_without_rights():
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    [user] = [line.split()[1] for line in lines if line.startswith("USER ")]
    [command] = [json.loads(line.split(" ", 1)[1]) for line in lines if line.startswith("ENTRYPOINT ")]
    assert int(user) > 0
    assert lines.index(f"USER {user}") < next(n for n, line in enumerate(lines) if line.startswith("ENTRYPOINT "))
    values = COMMANDS[command[1]].make_context(command[1], command[2:]).params
    assert values["host"] == "0.0.0.0"
    copied = {name for line in lines if line.startswith("COPY ") for name in line.split()[1:-1]}
    assert [name for name in copied if not (ROOT / name).exists()] == []
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert {f"!{name}" for name in copied} <= set(ignored)


def test_every_page_is_in_the_sites_menu():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    menu = {page for row in yaml.safe_load(text)["nav"] for page in row.values()}
    assert {f"docs/{page}" for page in menu} == {name for name in TEXTS if name.startswith("docs/")}


def test_licence_is_the_one_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    licence = (ROOT / project["license-files"][0]).read_text(encoding="utf-8")
    assert project["license"] == "Apache-2.0"
    assert "Apache License\n                           Version 2.0, January 2004" in licence
    assert "END OF TERMS AND CONDITIONS" in licence
