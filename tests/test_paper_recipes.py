"""Each recipe of the paper from its questions to its report: on local folders that the package datasets takes for the hub's sets,
with a teacher on loopback (and its recorded replies) and tiny models."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kard.errors import UserError
from kard.pipeline import run_recipe
from kard.recipe.file import load_recipe
from tests.conftest import COLOURS, PLACES, THINGS, write_rows
from tests.teacher.fault_server import FaultServer, completion

TRAIN, TEST = 8, 3
NAMES = [f"{thing} of the {place}" for thing in THINGS for place in PLACES]
LONG = "The stone of the north is red, the bird is grey. " * 55  # 605 words, all of them known to the tokenizer


def colours(number: int) -> list[str]:
    return [COLOURS[(number + step) % len(COLOURS)] for step in range(4)]


def medqa_row(number: int) -> dict[str, Any]:
    before = LONG if number in (3, TRAIN) else ""
    endings = {f"ending{place}": colour for place, colour in enumerate(colours(number))}
    asked = f"{before}Which colour has the {NAMES[number]}?"
    return {"id": f"train-{number:05}", "sent1": asked, "sent2": "", **endings, "label": number % 4}


def strategyqa_row(number: int) -> dict[str, Any]:
    asked, facts = f"Has the {NAMES[number]} a colour?", f"The {NAMES[number]} is {colours(number)[0]}."
    return {"qid": f"{number:x}c0ffee", "term": "", "question": asked, "answer": number % 2 == 0, "facts": facts}


def openbookqa_row(number: int) -> dict[str, Any]:
    choices = {"text": colours(number), "label": list("ABCD")}
    fact = {"fact1": f"the {NAMES[number]} is seen", "humanScore": 1.0}
    return {
        "id": f"7-{number}",
        "question_stem": f"The {NAMES[number]} is",
        "choices": choices,
        "answerKey": "ABCD"[number % 4],
        **fact,
    }


SETS = {
    "medqa": ("GBaker/MedQA-USMLE-4-options-hf", "default", medqa_row),
    "strategyqa": ("ChilleD/StrategyQA", "default", strategyqa_row),
    "openbookqa": ("allenai/openbookqa", "additional", openbookqa_row),
}


def write_set(folder: Path, config: str, splits: dict[str, list[dict[str, Any]]]) -> None:
    """A set as the hub has it: files, and a card that says which of them are which split."""
    folder.mkdir(parents=True)
    for split, rows in splits.items():
        write_rows(folder / f"{split}.jsonl", rows)
    files = "".join(f"  - split: {split}\n    path: {split}.jsonl\n" for split in splits)
    (folder / "README.md").write_text(
        f"---\nconfigs:\n- config_name: {config}\n  data_files:\n{files}---\n", encoding="utf-8"
    )


@pytest.fixture(scope="module")
def hub(tmp_path_factory) -> Iterator[Path]:
    """The current folder holds the sets under their names on the hub, where datasets looks first."""
    folder = tmp_path_factory.mktemp("hub")
    for name, config, make in SETS.values():
        rows = [make(number) for number in range(TRAIN + TEST)]
        dev = {} if "Strategy" in name else {"validation": [make(TRAIN + TEST)]}
        write_set(folder / name, config, {"train": rows[:TRAIN], **dev, "test": rows[TRAIN:]})
    places = enumerate(NAMES)
    texts = {str(number): (name, f"The {name} is {colours(number)[number % 4]}.") for number, name in places}
    address = "https://en.wikipedia.org/wiki/"
    articles = [{"id": one, "url": address + one, "title": name, "text": text} for one, (name, text) in texts.items()]
    write_set(folder / "wikimedia" / "wikipedia", "20231101.en", {"train": articles})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        # Whatever the sets are called: those of an earlier session have the same names.
        patch.setattr("datasets.config.HF_DATASETS_CACHE", folder / "cache")
        yield folder


def explained(body: dict[str, Any], attempt: int) -> dict[str, Any]:
    """As many explanations as are asked for, of the question and the answer that the prompt ends with."""
    prompt = body["messages"][0]["content"]
    asked, answer = re.findall(r"Question: (.*)\n(?:Choices:\n(?:\(.*\n)+)?Answer: (?:\(.\) )?(.*)\n", prompt)[-1]
    thing = asked.rpartition(" the ")[0].rpartition(" the ")[2] or asked
    texts = [
        f"As one sees in case {number}, the {thing} has it. That is why it is {answer}." for number in range(body["n"])
    ]
    parts = [completion(text)["choices"][0] for text in texts]
    return {"body": completion("") | {"choices": parts}}


@pytest.fixture(scope="module")
def settings(t5_folder, decoder_folder, encoder_folder) -> list[str]:
    return [
        f"student.model={t5_folder}",
        f"reranker.model={encoder_folder}",
        f"teacher.verifier={decoder_folder}",
        "teacher.rationales=2",
        "student.batch_size=4",
        *("student.dtype=fp32", "student.max_output_tokens=16", "student.epochs=1", "reranker.epochs=1"),
        *("reranker.question_tokens=64", "reranker.passage_tokens=64", "evaluation.shots=1"),
    ]


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.open(encoding="utf-8")]


def check(name: str, run: Path, results: dict[str, Any]) -> None:
    """Every row of the table was measured on every test question, from the passages that its set asks for."""
    wanted = load_recipe(f"paper-{name}").evaluation.methods
    assert [row["name"] for row in results["methods"] + results["skipped_methods"]] == list(wanted)
    assert {row["n"] for row in results["methods"]} == {TEST}
    assert results["dataset"] == name
    assert (run / "report" / "index.html").exists()
    assert sum(1 for _ in (run / "knowledge" / "passages.jsonl").open(encoding="utf-8")) == len(NAMES)


@pytest.mark.parametrize("name", ["medqa", "strategyqa"])
def test_with_a_teacher_that_is_asked(hub, settings, tmp_path, name, monkeypatch):
    with FaultServer(explained, models=["gpt-6-luna"]) as server:
        monkeypatch.setattr(
            "kard.teacher.prompting.OPENAI_URL", server.url
        )  # the endpoint that is asked for all at once
        monkeypatch.setenv("OPENAI_API_KEY", "a-key")
        results = run_recipe(load_recipe(f"paper-{name}", settings), tmp_path)
    assert results is not None
    check(name, tmp_path, results)
    assert results["skipped_methods"] == []
    assert {body["n"] for body in server.bodies} == {2}  # the prompt is paid once
    assert {body["reasoning_effort"] for body in server.bodies} == {"none"}
    assert not any("temperature" in body for body in server.bodies)
    assert len(server.bodies) == TRAIN + TEST  # the oracles need the test's
    found = Counter(row["status"] for row in rows(tmp_path / "rationales" / "rationales.jsonl"))
    assert sum(found.values()) == 2 * (TRAIN + TEST)
    assert set(found) == {"kept", "unverified"}
    if name == "strategyqa":
        [answered, *_] = rows(tmp_path / "predictions" / "rationales_silver" / "kard_bm25.jsonl")
        assert answered["passages"][0]["title"] in answered["prompt"]


def test_with_replies_that_were_recorded(hub, settings, tmp_path):
    for number in range(TRAIN):
        row = openbookqa_row(number)
        answer = row["choices"]["text"][number % 4]
        texts = [f"The {NAMES[number]} is {answer} in light {place}, as all of them are." for place in range(1)]
        cut = completion(f"The {NAMES[number]} is", "length")["choices"]
        reply = completion("") | {"choices": [completion(text)["choices"][0] for text in texts] + cut}
        (tmp_path / "raw").mkdir(exist_ok=True)
        (tmp_path / "raw" / f"{number:05}.json").write_text(json.dumps(reply), encoding="utf-8")
    recorded = ["teacher.kind=recorded", f"teacher.replies={tmp_path / 'raw'}"]
    results = run_recipe(load_recipe("paper-openbookqa", [*settings, *recorded]), tmp_path / "run")
    assert results is not None
    check("openbookqa", tmp_path / "run", results)
    assert [row["name"] for row in results["skipped_methods"]] == [
        "kard_silver",
        "teacher_cot",
    ]  # no reply to a test question
    found = Counter(row["status"] for row in rows(tmp_path / "run" / "rationales" / "rationales.jsonl"))
    assert (found["truncated"], sum(found.values())) == (TRAIN, 2 * TRAIN)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {},
            r"teacher\.model: http://127\S+ does not know 'gpt-6-luna' \(did you mean 'gpt-7-luna'\?\)\. It has: gpt-7-luna",
        ),
        ({"teacher.model": "tiny"}, None),
        (
            {"teacher.base_url": "http://127.0.0.1:9/v1"},
            r"teacher\.base_url: nothing answers at http://127\.0\.0\.1:9/v1",
        ),
        ({"teacher.base_url": "null"}, "OPENAI_API_KEY is not set"),
        ({"teacher.kind": "recorded", "teacher.replies": "nowhere"}, r"nowhere: no such f"),
    ],
)
def test_what_will_fail_later_fails_before_the_first_stage(hub, settings, tmp_path, monkeypatch, change, says):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with FaultServer(models=["gpt-7-luna", "tiny:latest"]) as server:
        overrides = {"teacher.base_url": server.url} | change
        recipe = load_recipe("paper-medqa", [*settings, *(f"{key}={value}" for key, value in overrides.items())])
        if says is None:
            run_recipe(recipe, tmp_path, until="questions")
            return
        with pytest.raises(UserError, match=says):
            run_recipe(recipe, tmp_path)
    assert not (tmp_path / "questions").exists()


def test_too_little_disk_says_how_much_before_the_first_stage(hub, settings, tmp_path, monkeypatch):
    """36 million passages do not fit everywhere."""
    monkeypatch.chdir(tmp_path)  # no folder stands for the hub's Wikipedia here
    monkeypatch.setattr("kard.preflight.checks.free_disk", lambda folder: 6_000_000_000)
    recipe = load_recipe("paper-medqa", [*settings, "teacher.kind=recorded", "reranker.model=someone/BERT-base"])
    with pytest.raises(
        UserError, match=r"about 68\.\d GB of disk are needed \(passages \d+\.\d, .*6\.0 GB are free"
    ) as error:
        run_recipe(recipe, tmp_path / "run")
    assert "--output" in str(error.value)
    monkeypatch.chdir(hub)
    run_recipe(recipe, tmp_path / "run", until="questions")
