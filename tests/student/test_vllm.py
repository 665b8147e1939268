"""Writing through vLLM's interface, with a module of that name that runs the student itself."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from kard.errors import UserError
from kard.pipeline import run_recipe
from kard.recipe import StudentSection
from kard.recipe_file import load_recipe
from kard.student.generation import Student, Writing
from kard.student.sampling import Sampling
from kard.student.training import Example, train_student
from kard.student.vllm import VllmStudent
from tests.conftest import THINGS

PROMPTS = [f"Question: {thing}\nExplanation:" for thing in THINGS[:4]]


@dataclass
class SamplingParams:
    """The settings that are used, with vLLM's names."""

    n: int = 1
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int | None = None
    max_tokens: int = 16
    stop: list | None = None
    include_stop_str_in_output: bool = False
    structured_outputs: object = None


class LLM:
    """Greedy, one prompt at a time."""

    def __init__(self, model, dtype):
        self.model = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype))
        self.tokenizer = AutoTokenizer.from_pretrained(model)

    def generate(self, prompts, settings, use_tqdm):
        texts = [self.text(prompt, setting) for prompt, setting in zip(prompts, settings, strict=True)]
        return [
            SimpleNamespace(outputs=[SimpleNamespace(text=text)] * setting.n)
            for text, setting in zip(texts, settings, strict=True)
        ]

    def text(self, prompt, setting):
        if setting.structured_outputs is not None:
            return self.tokenizer.decode(
                self.tokenizer(setting.structured_outputs.choice[0]).input_ids[: setting.max_tokens]
            )
        inputs = self.tokenizer(prompt, return_tensors="pt")
        ids = self.model.generate(
            input_ids=inputs.input_ids,
            attention_mask=inputs.attention_mask,
            max_new_tokens=setting.max_tokens,
            do_sample=False,
        )
        text = self.tokenizer.decode(ids[0, inputs.input_ids.shape[1] :], skip_special_tokens=True)
        for stop in setting.stop or []:
            text = text[: text.index(stop) + len(stop)] if stop in text else text
        return text


@pytest.fixture
def vllm(monkeypatch):
    module, parameters = ModuleType("vllm"), ModuleType("vllm.sampling_params")
    module.__spec__ = ModuleSpec("vllm", None)
    module.LLM, module.SamplingParams = LLM, SamplingParams
    parameters.StructuredOutputsParams = lambda choice: SimpleNamespace(choice=choice)
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setitem(sys.modules, "vllm.sampling_params", parameters)


def taught(base, folder, told):
    section = StudentSection(
        model=str(base), method="full", dtype="fp32", epochs=25, batch_size=4, lr=4e-3, max_output_tokens=90
    )
    train_student([Example(p, told) for p in PROMPTS], str(base), str(base), section, 0, folder, "train")
    return folder


@pytest.mark.parametrize("told", [" It is so.\nAnswer: red", " It is so."])
def test_vllm_writes_what_the_student_writes(vllm, decoder_folder, tmp_path, told):
    folder = taught(decoder_folder, tmp_path, told)
    for choices in (["red"], []):
        ours = Student.load(folder).write(dict.fromkeys(PROMPTS, choices), Writing("rationale", 4))
        theirs = VllmStudent.load(folder).write(dict.fromkeys(PROMPTS, choices), Writing("rationale", 4))
        for prompt in PROMPTS:
            assert theirs[prompt].text.split() == ours[prompt].text.split()
            assert theirs[prompt].cut == ours[prompt].cut


def test_vllm_draws_samples_and_answers_at_once(vllm, decoder_folder, tmp_path):
    student = VllmStudent.load(taught(decoder_folder, tmp_path, " It is so.\nAnswer: red"))
    written = student.write({PROMPTS[0]: ["red", "blue"]}, Writing("answer", 4, sampling=Sampling(3)))
    assert written[PROMPTS[0]].samples == ("red", "red", "red")
    long = "old stone house " * 40 + "ship"
    assert student.write({PROMPTS[0]: [long, "blue"]}, Writing("rationale", 4))[PROMPTS[0]].text.endswith(long)


def test_what_vllm_cannot_do_is_said(vllm, t5_folder, tmp_path, monkeypatch):
    folder = taught(t5_folder, tmp_path, " red")
    with pytest.raises(UserError, match="decoders"):
        VllmStudent.load(folder)
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UserError, match="not installed"):
        VllmStudent.load(folder)


def test_what_vllm_cannot_do_is_said_before_anything_is_trained(project, vllm, t5_folder, monkeypatch):
    def run(*settings):
        with pytest.raises(UserError) as error:
            run_recipe(load_recipe(str(project), ["evaluation.engine=vllm", *settings]), project.parent / "run")
        return str(error.value)

    assert "likelihood needs evaluation.engine: transformers" in run("student.answer_by=likelihood")
    assert "vLLM runs decoders" in run(f"student.model={t5_folder}")
    monkeypatch.setitem(sys.modules, "vllm", None)
    assert "not installed" in run()
    assert not (project.parent / "run" / "students").exists()
