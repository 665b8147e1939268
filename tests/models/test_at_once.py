"""Half as many at once where the memory does not suffice: in writing, ranking, reranking and retrieval, with the same results."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from kard.errors import UserError
from kard.models.at_once import AtOnce
from kard.recipe.sections import RerankerSection
from kard.reranker.load import new_reranker
from kard.retrieval.dense import Encoder
from kard.student.generation import Student, Writing
from kard.student.loading import StudentSettings, base_model, base_tokenizer
from kard.student.prompted import PromptedModel
from tests.conftest import THINGS

NO_MEMORY = [torch.OutOfMemoryError("simulated"), RuntimeError("DefaultCPUAllocator: can't allocate memory: simulated")]
TEXTS = [f"The {thing} of the north is red." for thing in THINGS]


@pytest.mark.parametrize("error", NO_MEMORY)
def test_what_does_not_fit_is_halved_once_and_for_all(error, capsys):
    sizes, let_go = [], []

    def compute(size):
        sizes.append(size)
        if size > 2:
            raise error
        return "done"

    at_once = AtOnce(100, "texts")
    assert at_once.run(compute, 11, lambda: let_go.append(1)) == "done"
    assert at_once.run(compute, 11) == at_once.run(compute, 0) == "done"
    assert sizes == [11, 5, 2, 2, 1]
    assert len(let_go) == 2
    assert "out of memory with 11 texts at once: going on with 5" in capsys.readouterr().err


@pytest.mark.parametrize("error", NO_MEMORY)
def test_one_that_does_not_fit_is_an_error_with_advice(error):
    def compute(size):
        raise error

    with pytest.raises(UserError, match=r"out of memory with one of the texts alone\. Buy more"):
        AtOnce(4, "texts", "Buy more.").run(compute, 3)
    with pytest.raises(RuntimeError, match="simulated"):
        AtOnce(4, "texts").run(compute, 3)

    def broken(size):
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        AtOnce(4, "texts", "Buy more.").run(broken, 3)


def short_of_memory(monkeypatch, owner, name, count):
    """Let a method fail for more than two of what `count` finds in its arguments; returns the numbers that it was called with."""
    original, sizes = getattr(owner, name), []

    def limited(*args, **kwargs):
        sizes.append(count(*args, **kwargs))
        if sizes[-1] > 2:
            raise torch.OutOfMemoryError("simulated")
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, limited)
    return sizes


@pytest.mark.parametrize("kind", ["decoder_folder", "t5_folder"])
def test_writing(kind, request, monkeypatch):
    folder = str(request.getfixturevalue(kind))
    model, tokenizer = base_model(folder, torch.float32).eval(), base_tokenizer(folder)
    student = Student(model, tokenizer, StudentSettings(folder, False, "text", "float32", 64, 12))
    asked = {f"Question: {thing}\nExplanation:": ["red", "blue"] for thing in THINGS[:9]}
    whole = student.write(asked, Writing("rationale", 4))
    sizes = short_of_memory(monkeypatch, student.writer, "write", lambda task: len(task.inputs))
    halved = student.write(asked, Writing("rationale", 4))
    assert sizes == [4, 2, 2, 2, 2, 1]
    assert {prompt: one.text for prompt, one in halved.items()} == {prompt: one.text for prompt, one in whole.items()}


def test_ranking(decoder_folder, monkeypatch):
    model = PromptedModel.load(str(decoder_folder), "teacher.verifier")
    prompts, answers = TEXTS[:7], [[" red", " blue stone", " the north"]] * 7
    whole = model.rank(prompts, answers)
    sizes = short_of_memory(monkeypatch, model, "_scores", lambda prompts, answers: len(prompts))
    assert model.rank(prompts, answers) == whole
    assert sizes == [7, 3, 1, 1, 1, 1, 1, 1, 1]


@pytest.mark.parametrize("kind", ["late_interaction", "cross_encoder"])
def test_reranking(kind, encoder_folder, tmp_path, monkeypatch):
    section = RerankerSection(model=str(encoder_folder), kind=kind, question_tokens=24, passage_tokens=32)
    questions, positions = [(text,) for text in TEXTS[:5]], [[0, 1, 2, 3]] * 5
    whole = new_reranker(section, tmp_path / "whole", TEXTS, 0).score(questions, positions)
    reranker = new_reranker(section, tmp_path / "halved", TEXTS, 0)
    sizes = {
        name: short_of_memory(monkeypatch, reranker.encoder, name, lambda texts, batch_size, **more: batch_size)
        for name in (["predict"] if kind == "cross_encoder" else ["encode_document", "encode_query"])
    }
    halved = reranker.score(questions, positions)
    for own in sizes.values():
        assert own[0] > 2
        assert own[-1] in (1, 2)
    np.testing.assert_allclose(np.stack(halved), np.stack(whole), atol=2e-3)


def test_retrieval(encoder_folder, monkeypatch):
    encoder = Encoder(str(encoder_folder))
    whole = encoder.documents(TEXTS)
    sizes = short_of_memory(
        monkeypatch, SentenceTransformer, "encode_document", lambda self, texts, batch_size, **more: batch_size
    )
    np.testing.assert_allclose(encoder.documents(TEXTS), whole, atol=2e-3)
    assert sizes == [12, 6, 3, 1]
    assert encoder.queries([]).shape == (0, encoder.dimension)
