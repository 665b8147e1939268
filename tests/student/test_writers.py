"""The writers write the same texts; only the number of steps differs. (vLLM's: `test_vllm`.)"""

from __future__ import annotations

import pytest
import torch

from kard.student.cpu_engine import reading
from kard.student.cpu_engine.engine import CpuEngine, Tricks
from kard.student.generation import Student, Writing
from kard.student.loading import StudentSettings, base_model, base_tokenizer
from kard.student.reference import Reference
from kard.student.sampling import Sampling
from kard.student.writer import Task
from tests.conftest import THINGS
from tests.student.cpu_engine.test_prompt_lookup import LIMIT, MODELS, constraint_of, prompts


@pytest.mark.parametrize("name", MODELS)
def test_both_write_the_same_tokens_for_every_kind_of_model(name):
    sampling = Sampling(2, 1.0, seed=4)
    torch.manual_seed(3)
    model = MODELS[name]().eval()
    model.generation_config.repetition_penalty = 5.0  # what the base model's authors recommend is not what was learned
    inputs, mask = prompts(model, 3)
    heard: list[list[int]] = []

    def task():
        pick = sampling.pick([str(row) for row in range(3)], LIMIT)
        heard.clear()
        lengths = lambda written: heard.append([len(text) for text in written])  # noqa: E731
        return Task(inputs, mask, constraint_of(3 * sampling.samples, pick), sampling, lengths)

    texts = Reference(model).write(task())
    assert model.generation_config.repetition_penalty == 5.0
    assert heard[-1] == [len(text) for text in texts]
    assert CpuEngine(model).write(task()) == texts
    assert heard[-1] == [len(text) for text in texts]


@pytest.mark.parametrize("name", ["llama", "a wide window", "t5"])
@pytest.mark.parametrize("trick", list(Tricks.__dataclass_fields__))
def test_the_engine_writes_the_same_without_any_of_its_tricks(name, trick, monkeypatch):
    monkeypatch.setattr(reading, "_READ_AT_ONCE", 80)
    torch.manual_seed(3)
    model = MODELS[name]().eval()
    inputs, mask = prompts(model, 6)
    texts = []
    for tricks in (Tricks(**{trick: False}), Tricks()):
        pick = Sampling(1, seed=4).pick([str(row) for row in range(6)], LIMIT)
        texts.append(CpuEngine(model, tricks).write(Task(inputs, mask, constraint_of(6, pick))))
    assert texts[0] == texts[1]


@pytest.mark.parametrize("kind", ["t5_folder", "decoder_folder"])
@pytest.mark.parametrize("writes", ["rationale", "answer"])
@pytest.mark.parametrize("answer_by", ["choices", "likelihood", "generate"])
def test_both_come_to_the_same_choice_with_the_same_confidence(kind, writes, answer_by, request):
    folder = str(request.getfixturevalue(kind))
    model, tokenizer = base_model(folder, torch.float32).eval(), base_tokenizer(folder)
    settings = StudentSettings(folder, False, "text", "float32", 64, 24)
    asked = {
        f"Question: {thing}\nExplanation:": ["red", "red stone", "the blue house " * n][: 1 + n]
        for n, thing in enumerate(THINGS[:4])
    }
    how = Writing(writes, 8, answer_by=answer_by)
    plain = Student(model, tokenizer, settings, Reference(model)).write(asked, how)
    ours = Student(model, tokenizer, settings).write(asked, how)
    for prompt, written in ours.items():
        assert (written.text, written.cut) == (plain[prompt].text, plain[prompt].cut)
        expected = plain[prompt].confidence
        assert written.confidence == (None if expected is None else pytest.approx(expected, rel=1e-3))
