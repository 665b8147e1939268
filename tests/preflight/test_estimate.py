"""Estimates: what is counted is what there is, and the time is about that of real work."""

from __future__ import annotations

import json
import random
import time

import pytest
import torch

from kard.data.passage import read_passages
from kard.data.passages import make_passages
from kard.methods import TRAINING_SETS
from kard.pipeline import run_recipe
from kard.preflight.checks import extent_of
from kard.preflight.estimate import counted, estimates, tokens
from kard.preflight.timetable import WHAT, Timetable, rounded
from kard.recipe.file import load_recipe
from kard.recipe.sections import KnowledgeSection
from kard.run import Run
from kard.stages.students import training_examples
from tests.conftest import write_rows


@pytest.fixture(scope="module")
def wide_decoder(tmp_path_factory, decoder_folder):
    """A decoder whose layers take long enough to be timed."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("wide")
    tokenizer = AutoTokenizer.from_pretrained(decoder_folder)
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    shape = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **shape, **ids)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_an_estimate_is_about_the_time_of_a_small_run(project, wide_decoder):
    """Training and writing, without the seconds in which libraries are loaded."""
    settings = [f"student.model={wide_decoder}", "student.max_output_tokens=40"]
    recipe = load_recipe(str(project), [*settings, "student.trim_vocabulary=false", "evaluation.methods=[distill]"])
    names = ["students/rationales", "predictions/rationales"]
    run_recipe(recipe, recipe.output, until="candidates")
    estimated = estimates(recipe, recipe.output, names)
    begun = time.monotonic()
    run_recipe(recipe, recipe.output)
    took = time.monotonic() - begun
    assert estimated[names[0]] > 3  # more than what all take: it was worth a trial
    expected = sum(estimated.values())
    assert took / 3 - 5 < expected < 3 * took + 8, (estimated, took)


def test_each_student_says_what_it_is_for():
    said = [WHAT.get(f"students/{name}") for name in TRAINING_SETS]
    assert None not in said
    assert len(set(said)) == len(said)


def test_a_published_set_in_a_file_is_counted_from_the_file(project, tmp_path):
    rows = (
        {"question": f"What helps {number}?", "options": {"A": "rest", "B": "tea"}, "answer_idx": "A"}
        for number in range(20)
    )
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    recipe = load_recipe(str(project), ["questions.kind=medqa", f"questions.path={tmp_path / 'm.jsonl'}"])
    assert counted(recipe, recipe.output).questions == {"train": 4, "dev": 4, "test": 12}


def test_what_is_there_is_counted_as_it_is(project):
    recipe = load_recipe(str(project))
    before = counted(recipe, recipe.output)
    run_recipe(recipe, recipe.output, until="candidates")
    after = counted(recipe, recipe.output)
    assert before.questions == after.questions == {"train": 32, "dev": 4, "test": 12}  # train_size is not set
    assert (after.passages, after.rationales, after.choices) == (48, 2.0, 4)
    assert before.passage == pytest.approx(after.passage, abs=1)
    assert after.passage < 0.5 * recipe.knowledge.passage_words
    assert before.passages == pytest.approx(after.passages, rel=0.2)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(recipe.student.model)
    examples = list(training_examples(Run(recipe.output, recipe), "rationales_silver", tokenizer))
    read = sum(len(tokenizer(one.prompt).input_ids) for one in examples) / len(examples)
    assert read / 2 < after.question + after.passage < read * 1.5


@pytest.mark.parametrize("words", [6, 60, 1200])
def test_passages_are_counted_from_the_first_documents_and_the_size_of_the_file(words, tmp_path):
    """Facts of one line, paragraphs, and documents that are cut into many passages."""
    chance = random.Random(words)
    texts = [
        " ".join(
            ["Green", "tea", "grows", "on", "mountains."][n % 5]
            for n in range(chance.randint(words // 2, words * 3 // 2))
        )
        for _ in range(1500)
    ]
    write_rows(
        tmp_path / "d.jsonl", [{"id": f"d{n}", "title": f"Page {n}", "text": text} for n, text in enumerate(texts)]
    )
    section = KnowledgeSection(path=tmp_path / "d.jsonl", duplicates=None)
    report = make_passages(section, tmp_path)
    extent = extent_of(section)
    assert extent.passages == pytest.approx(report["passages"], rel=0.15)
    own = [len(passage.full_text.split()) for passage in read_passages(tmp_path / "passages.jsonl")]
    assert extent.words == pytest.approx(sum(own) / len(own), rel=0.25)


def test_documents_with_half_characters_or_without_text_are_counted(tmp_path):
    for name, texts in (("half", ["Tea \ud800 grows."] * 4), ("nothing", ["", " ", "\0"])):
        rows = [json.dumps({"id": f"d{n}", "text": text}) for n, text in enumerate(texts)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows), encoding="utf-8")
    assert extent_of(KnowledgeSection(path=tmp_path / "half.jsonl")).passages == pytest.approx(4, abs=1)
    assert extent_of(KnowledgeSection(path=tmp_path / "nothing.jsonl")).passages == 1


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        ("medqa", (10_178, 1_272, 1_273)),
        ("openbookqa", (4_957, 500, 500)),
        ("arc", (3_370, 869, 3_548)),
        ("wikivital", (5_409, 773, 1_545)),
    ],
)
def test_an_unset_size_is_that_of_the_dataset(project, kind, sizes, tmp_path):
    recipe = load_recipe(str(project), [f"questions={{kind: {kind}}}"])
    assert tuple(counted(recipe, tmp_path).questions.values()) == sizes
    fewer = load_recipe(str(project), [f"questions={{kind: {kind}, train_size: 100}}"])
    assert counted(fewer, tmp_path).questions["train"] == 100
    if kind == "wikivital":  # what the test does not take is there to learn from
        fewer = load_recipe(str(project), ["questions={kind: wikivital, test_size: 545}"])
        assert counted(fewer, tmp_path).questions["train"] == 6_409


def test_more_work_takes_longer(project, wide_decoder, tmp_path):
    names = ["students/rationales"]
    found = []
    for epochs in (10, 30):
        recipe = load_recipe(str(project), [f"student.model={wide_decoder}", f"student.epochs={epochs}"])
        found.append(estimates(recipe, tmp_path, names)[names[0]])
    assert found[1] - 3 == pytest.approx(3 * (found[0] - 3))  # beside what all take


def test_only_what_the_reranker_finds_is_looked_at_a_second_time(project, wide_decoder, tmp_path):
    def second_looks(methods: str) -> float:
        settings = [f"student.model={wide_decoder}", f"evaluation.methods=[{methods}]", "evaluation.samples=100"]
        seconds = [
            estimates(load_recipe(str(project), [*settings, f"reranker.likelihood_weight={weight}"]), tmp_path, [stage])
            for weight in ("0.4", "null")
        ]
        return float(seconds[0][stage] or 0) - float(seconds[1][stage] or 0)

    stage = "predictions/rationales_silver"
    assert second_looks("kard_reranker") > 0
    assert second_looks("kard_bm25,kard_reranker,kard_silver") == pytest.approx(second_looks("kard_reranker"))


def test_what_the_stages_will_say_of_a_file_is_left_to_them(project, tmp_path, capsys):
    rows = project.parent / "questions.jsonl"
    rows.write_text(rows.read_text(encoding="utf-8").replace('{"id"', '{"topic": "tea", "id"'), encoding="utf-8")
    recipe = load_recipe(str(project))
    estimates(recipe, tmp_path, ["questions"])
    assert "topic" not in capsys.readouterr().err
    run_recipe(recipe, recipe.output, until="questions")
    assert capsys.readouterr().err.count("keys that are not read: topic") == 1


def test_a_model_that_is_not_here_has_no_time(project, tmp_path):
    recipe = load_recipe(str(project), ["student.model=nobody/nothing"])
    assert estimates(recipe, tmp_path, ["students/answers", "report"])["students/answers"] is None


@pytest.mark.parametrize(("text", "about"), [("The cat sat on the mat.", 7), ("今日は良い天気ですね。", 11), ("", 0)])
def test_tokens_are_about_right(text, about):
    assert about / 2 <= tokens(text) <= about * 1.5


def test_time_is_counted_down_and_corrected(capsys):
    table = Timetable(["questions", "reranker", "students/answers"], {"reranker": 60.0, "students/answers": 600.0})
    table.begin("mine", "runs/mine")
    table.over("questions", 1.0, skipped=True)
    table.at("reranker")
    table.over("reranker", 120.0, skipped=False)
    table.at("students/answers")
    shown = capsys.readouterr().err.splitlines()
    assert shown[0] == "mine in runs/mine: about 11 min on this machine"
    assert shown[1] == "stage 1 of 3: questions – is there"
    assert shown[2].startswith("stage 2 of 3: reranker – learns to find")
    assert shown[2].endswith("(about 60 s; 11 min left)")
    assert shown[4].endswith("(about 20 min; 20 min left)")  # the reranker took twice as long as was thought


def test_what_is_not_known_is_said(capsys):
    Timetable(["rationales"], {"rationales": None}).begin("mine", "runs/mine")
    assert "rationales, whose time is not known yet" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "5 s"), (44, "45 s"), (100, "2 min"), (3500, "58 min"), (3600, "1 h 00 min"), (7100, "2 h 00 min")],
)
def test_times_are_rounded(seconds, shown):
    assert rounded(seconds) == shown
