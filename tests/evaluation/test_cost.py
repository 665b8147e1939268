"""Sizes against models that are really there, tokens against their tokenizers, prices against arithmetic by hand."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from kard.artifacts.files import write_json
from kard.data.question import Question, write_questions
from kard.evaluation.cost import answer_tokens, costs, forward_flops, teacher_spent, training_flops
from kard.methods import METHODS
from kard.recipe.recipe import Recipe
from kard.recipe.sections import StudentSection
from kard.run import Run
from kard.student.loading import StudentSettings, StudentSize, base_model, base_tokenizer, student_size
from kard.student.training import encode_examples, trained_tokens, with_adapters
from kard.teacher.rationale import Rationale, write_rationales

USAGE = {"prompt_tokens": 100, "completion_tokens": 50, "seconds": 1.0}


def prompted(folder: Path, base: Path) -> Path:
    """A student's folder without weights of its own."""
    folder.mkdir(parents=True)
    settings = StudentSettings(str(base), False, "text", "float32", 512, 128)
    write_json(folder / "student.json", asdict(settings))
    base_tokenizer(str(base)).save_pretrained(folder / "tokenizer")
    return folder


def count(module: torch.nn.Module, *without: torch.Tensor) -> int:
    return sum(weight.numel() for weight in module.parameters() if not any(weight is other for other in without))


def test_a_decoder_reads_without_its_output_layer(tmp_path, decoder_folder):
    model = base_model(str(decoder_folder), torch.float32)
    looked_up, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    assert looked_up is not head
    size = student_size(prompted(tmp_path / "student", decoder_folder))
    assert size == StudentSize(count(model.model, looked_up), count(model, looked_up))
    assert size.writing - size.reading == head.numel()


def test_an_encoder_reads_and_a_decoder_writes(tmp_path, t5_folder):
    model = base_model(str(t5_folder), torch.float32)
    shared = model.get_input_embeddings().weight
    assert shared is model.get_output_embeddings().weight
    size = student_size(prompted(tmp_path / "student", t5_folder))
    assert size.reading == count(model.encoder, shared)
    assert size.writing == count(model.decoder, shared) + shared.numel()


def test_adapters_are_counted_apart(tmp_path, decoder_folder):
    folder = prompted(tmp_path / "student", decoder_folder)
    plain = student_size(folder)
    adapted = with_adapters(base_model(str(decoder_folder), torch.float32), StudentSection(lora_rank=3))
    adapted.save_pretrained(folder / "weights")
    write_json(folder / "student.json", asdict(replace(StudentSettings.read(folder / "student.json"), adapters=True)))
    trained = sum(weight.numel() for weight in adapted.parameters() if weight.requires_grad)
    assert student_size(folder) == replace(plain, adapters=trained)


def test_operations_are_two_and_six_for_each_parameter_and_token():
    size = StudentSize(reading=100, writing=130, adapters=7)
    assert forward_flops(size, 10, 3) == 2 * (100 * 10 + 130 * 3)
    assert training_flops(replace(size, adapters=0), 10, 3, frozen=False) == 6 * (100 * 10 + 130 * 3)
    assert training_flops(size, 10, 3, frozen=True) == 4 * (100 * 10 + 130 * 3) + 6 * 7 * 13


def test_answers_tokens_are_those_of_the_tokenizer(tmp_path, t5_folder):
    folder = prompted(tmp_path / "student", t5_folder)
    tokenizer = base_tokenizer(str(t5_folder))
    rows = [
        {"prompt": "Question: which colour?\nAnswer:", "text": "red"},
        {"prompt": "é" * 700, "text": "The house is"},
    ]
    read, written = answer_tokens(folder, rows, samples=1)
    assert read == sum(len(tokenizer(row["prompt"]).input_ids) for row in rows)
    assert written == sum(len(tokenizer(row["text"], add_special_tokens=False).input_ids) + 1 for row in rows)
    assert answer_tokens(folder, rows, samples=5) == (read, 5 * written)


@pytest.mark.parametrize("encoder_decoder", [False, True])
def test_an_epochs_tokens(decoder_folder, encoder_decoder):
    from kard.student.training import Example

    tokenizer = base_tokenizer(str(decoder_folder))
    examples = [Example("red house", " is red"), Example("a", " b c d"), Example("a bird", " c")]
    rows = encode_examples(examples, tokenizer, encoder_decoder)
    read = [len(tokenizer(one.prompt).input_ids) for one in examples]
    written = [len(tokenizer(one.target, add_special_tokens=False).input_ids) + 1 for one in examples]
    assert trained_tokens(rows, encoder_decoder) == {"read": sum(read), "written": sum(written)}


def test_the_teachers_tokens_are_of_the_questions_that_a_method_learned_from(tmp_path):
    recipe = asked_recipe()
    run = made_run(tmp_path)
    spent = {name: teacher_spent(Run(run, recipe), METHODS[name]).prompt_tokens for name in METHODS}
    assert spent["distill"] == spent["kard_reranker"] == 200  # a rejected one was paid as well
    assert spent["kard_silver"] == spent["teacher_cot"] == 300
    assert spent["finetune"] == spent["ka_finetune"] == spent["few_shot"] == 0


def test_a_row_for_each_method(tmp_path, decoder_folder):
    run = made_run(tmp_path)
    folder = prompted(run / "students" / "rationales", decoder_folder)
    write_json(folder / "training.json", {"tokens": {"read": 1000, "written": 200}})
    write_json(folder / "manifest.json", {"name": "students/rationales", "key": "k", "seconds": 12.5})
    prompted(run / "students" / "nothing", decoder_folder)
    answer = {"prompt": "Question:", "text": "red", "seconds": 0.5}
    told, shown = costs(Run(run, asked_recipe()), {"teacher_cot": [answer, answer], "few_shot": [answer]})
    size = student_size(folder)
    assert told["train_tokens"] == 1200
    assert told["train_flops"] == 4 * (1000 * size.reading + 200 * size.writing)
    assert told["train_seconds"] == 12.5
    assert told["answer_seconds"] == 0.5
    assert told["answer_flops"] == forward_flops(size, told["read_tokens"], told["written_tokens"])
    assert told["teacher_usd"] == pytest.approx((300 * 1.0 + 150 * 2.0) / 1e6)
    assert (shown["train_flops"], shown["train_seconds"], shown["teacher_usd"]) == (0, 0, 0.0)
    write_json(folder / "training.json", {"examples": 3})
    [unknown] = costs(Run(run, asked_recipe()), {"distill": [answer]})
    assert unknown["train_flops"] is None


def asked_recipe() -> Recipe:
    teacher = {"kind": "openai", "model": "m", "resources": {"input_price": 1.0, "output_price": 2.0}}
    source = {"kind": "wikivital"}
    return Recipe.model_validate({"questions": source, "knowledge": source, "teacher": teacher})


def made_run(folder: Path) -> Path:
    for name in ("questions", "rationales"):
        (folder / name).mkdir()
    write_questions(folder / "questions" / "train.jsonl", [Question("a", "?"), Question("b", "?")])
    write_questions(folder / "questions" / "test.jsonl", [Question("c", "?")])
    rationales = [
        Rationale("a/0", "a", "one", usage=USAGE),
        Rationale("b/0", "b", "", "refused", usage=USAGE),
        Rationale("c/0", "c", "three", usage=USAGE),
    ]
    write_rationales(folder / "rationales" / "rationales.jsonl", rationales)
    return folder
