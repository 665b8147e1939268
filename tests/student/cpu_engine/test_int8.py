"""Products in 8 bits: exact sums of rounded numbers, the same for a row whatever the batch, and texts of trained students."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from kard.errors import UserError
from kard.kard import Kard
from kard.pipeline import run_recipe
from kard.recipe.file import load_recipe
from kard.run import Run
from kard.student.cpu_engine.engine import CpuEngine
from kard.student.cpu_engine.int8 import Int8Linear, multiply_in_int8
from kard.student.generation import Student, Writing, local_writer
from kard.student.loading import base_model
from kard.student.reference import Reference
from kard.student.writer import Task
from tests.student.cpu_engine.test_prompt_lookup import MODELS, constraint_of, prompts
from tests.student.test_kinds import folder_of  # noqa: F401
from tests.student.test_vllm import PROMPTS, taught


def rounded(values: torch.Tensor, most: int) -> torch.Tensor:
    """What is left of each row, in double precision."""
    scale = values.double().abs().amax(dim=-1, keepdim=True).clamp_min(1e-12) / most
    return (values / scale).round() * scale


@pytest.mark.parametrize("values", ["drawn", "largest"])
def test_a_product_is_that_of_the_rounded_numbers(values):
    """The largest weights and inputs of all would not fit into the 16 bits in which processors add two products."""
    torch.manual_seed(0)
    layer, inputs = nn.Linear(96, 40), torch.randn(2, 5, 96)
    if values == "largest":
        layer.weight.data.fill_(0.7)
        inputs = torch.full_like(inputs, 3.0)
    with torch.inference_mode():
        found, plain = Int8Linear(layer)(inputs), layer(inputs)
        expected = rounded(inputs, 127) @ rounded(layer.weight, 63).T + layer.bias
    assert found.shape == plain.shape
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)
    assert (found - plain).norm() < 0.03 * plain.norm()


def test_a_row_does_not_depend_on_the_others():
    torch.manual_seed(0)
    layer, inputs = Int8Linear(nn.Linear(64, 300)), torch.randn(50, 64) * torch.logspace(-3, 3, 50)[:, None]
    inputs[7] = 0.0
    with torch.inference_mode():
        together = layer(inputs)
        assert all(torch.equal(together[row], layer(inputs[row : row + 1])[0]) for row in range(50))


@pytest.mark.parametrize("name", MODELS)
def test_every_linear_layer_is_replaced_and_both_writers_write_with_it(name):
    torch.manual_seed(3)
    model = MODELS[name]().eval()
    inputs, mask = prompts(model, 3)
    pick = lambda rows, places, scores: scores.max(dim=-1).indices  # noqa: E731
    multiply_in_int8(model)
    kinds = {type(one) for one in model.modules()}
    assert Int8Linear in kinds
    assert not kinds & {nn.Linear, Conv1D}
    texts = Reference(model).write(Task(inputs, mask, constraint_of(3, pick)))
    assert CpuEngine(model).write(Task(inputs, mask, constraint_of(3, pick))) == texts


def test_a_student_writes_what_it_learned(decoder_folder, tmp_path):
    folder = taught(decoder_folder, tmp_path, " It is so.\nAnswer: red stone")
    ours = Student.load(folder, engine="int8")
    assert isinstance(ours.model.get_output_embeddings(), Int8Linear)
    asked = {prompt: ["red", "red stone", "blue"] for prompt in PROMPTS}
    found = ours.write(asked, Writing("rationale", 4))
    assert {one.text for one in found.values()} == {"It is so.\nAnswer: red stone"}
    assert found.keys() == asked.keys()
    ranked = ours.write(asked, Writing("answer", 4, ranks_choices=True))
    alone = ours.write({PROMPTS[0]: asked[PROMPTS[0]]}, Writing("answer", 1, ranks_choices=True))
    assert ranked[PROMPTS[0]].likelihoods == pytest.approx(alone[PROMPTS[0]].likelihoods, rel=1e-4)


def test_gpt2_whose_layers_are_turned_is_near_itself(folder_of):  # noqa: F811
    model = base_model(str(folder_of("gpt2")), torch.float32).eval()
    ids = torch.arange(1, 21)[None]
    with torch.inference_mode():
        plain = model(input_ids=ids).logits
        multiply_in_int8(model)
        found = model(input_ids=ids).logits
    assert not torch.equal(found, plain)
    assert (found - plain).norm() < 0.05 * plain.norm()


@pytest.mark.parametrize("kind", ["gemma2", "mamba"])
def test_what_keeps_a_state_is_left_as_it_is_and_all_else_computes_in_float32(kind, folder_of):  # noqa: F811
    model = base_model(str(folder_of(kind)), torch.bfloat16).eval()
    writer = local_writer(model, int8=True)
    assert isinstance(writer, CpuEngine) == (kind == "gemma2")
    assert any(isinstance(one, Int8Linear) for one in model.modules()) == (kind == "gemma2")
    assert {one.dtype for one in model.parameters()} == {torch.float32 if kind == "gemma2" else torch.bfloat16}


def test_a_run_answers_as_it_was_measured(project):
    settings = ["evaluation.engine=int8", "evaluation.methods=[kard_reranker]", "student.dtype=fp32"]
    recipe = load_recipe(str(project), settings)
    results = run_recipe(recipe, recipe.output)
    [row] = results["methods"]
    kard = Kard.load(recipe.output)
    assert isinstance(kard.student.model.get_output_embeddings(), Int8Linear)
    questions = Run(recipe.output, recipe).questions("test")
    answers = [kard.answer(one.question, one.choices) for one in questions]
    right = sum(one.choices.index(found.answer) == one.answer for one, found in zip(questions, answers, strict=True))
    assert right / len(questions) == row["accuracy"]


def test_a_pytorch_without_onednn_is_refused(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    with pytest.raises(UserError, match="engine: int8 needs a PyTorch with oneDNN"):
        multiply_in_int8(MODELS["llama"]().eval())
