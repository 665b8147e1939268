"""QLoRA: adapters beside weights in 4 bit."""

from __future__ import annotations

import json
from importlib.util import find_spec

import pytest

from kard.errors import UserError
from kard.pipeline import run_recipe
from kard.recipe.file import load_recipe
from kard.recipe.sections import StudentSection
from kard.student import training
from kard.student.generation import Student, Writing
from kard.student.training import Example, train_student
from tests.conftest import THINGS


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed: make test-engines")
@pytest.mark.parametrize("kind", ["decoder_folder", "t5_folder"])
def test_adapters_learn_beside_weights_in_4_bit(kind, request, tmp_path, monkeypatch):
    from bitsandbytes.nn import Linear4bit

    seen, original = [], training.with_adapters

    def adapted(model, section):
        seen.append(sum(isinstance(module, Linear4bit) for module in model.modules()))
        return original(model, section)

    monkeypatch.setattr(training, "with_adapters", adapted)
    base = str(request.getfixturevalue(kind))
    changes = {"epochs": 40, "batch_size": 4, "lr": 2e-2, "max_output_tokens": 12}
    section = StudentSection(model=base, quantized=True, **changes)
    prompts = [f"Question: {thing}\nAnswer:" for thing in THINGS[:4]]
    train_student([Example(prompt, " red stone") for prompt in prompts], base, base, section, 0, tmp_path, "train")
    assert seen[0] >= 14  # all of two layers
    losses = [row["loss"] for row in json.loads((tmp_path / "training.json").read_text(encoding="utf-8"))["loss"]]
    assert losses[-1] < 0.9 * losses[0]
    student = Student.load(tmp_path)
    assert not any(isinstance(module, Linear4bit) for module in student.model.modules())
    written = student.write({prompt: [] for prompt in prompts}, Writing("answer", 4))
    assert all(written[prompt].text for prompt in prompts)


def test_what_it_needs_is_said_at_once(project, monkeypatch):
    with pytest.raises(UserError, match="weights in 4 bit cannot learn"):
        load_recipe(str(project), ["student.quantized=true", "student.method=full"])
    monkeypatch.setattr("kard.preflight.checks.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"student.quantized: bitsandbytes is not installed"):
        run_recipe(load_recipe(str(project), ["student.quantized=true"]), project.parent / "run")
    assert not (project.parent / "run" / "students").exists()
