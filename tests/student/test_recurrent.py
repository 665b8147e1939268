"""Students whose layers keep a state in place of keys and values: the same texts in any batch, and the model's own scores."""

from __future__ import annotations

import math

import pytest
import torch
import transformers

from kard.recipe.sections import StudentSection
from kard.student.constraint import AnswerConstraint
from kard.student.generation import Student, Writing
from kard.student.loading import StudentSettings
from kard.student.reference import Reference
from kard.student.sampling import Sampling
from kard.student.training import Example, student_trainer
from kard.student.writer import Task
from tests.conftest import THINGS, byte_level_tokenizer

SMALL = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "hidden_size": 16}
SMALL |= {"intermediate_size": 32}
LINEAR = {"linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 2}
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 8, "mamba_chunk_size": 8}
EXPERTS = {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16}
MIXED = ["linear_attention", "full_attention"]
KINDS = {
    "qwen3_5_text": lambda ids: transformers.Qwen3_5TextConfig(**SMALL, **LINEAR, head_dim=8, layer_types=MIXED, **ids),
    "qwen3_next": lambda ids: transformers.Qwen3NextConfig(
        **SMALL, **LINEAR, **EXPERTS, head_dim=8, layer_types=MIXED, shared_expert_intermediate_size=16, **ids
    ),
    "lfm2": lambda ids: transformers.Lfm2Config(**SMALL, layer_types=["conv", "full_attention"], **ids),
    "recurrent_gemma": lambda ids: transformers.RecurrentGemmaConfig(
        **SMALL, lru_width=16, block_types=["recurrent", "attention"], **ids
    ),
    "mamba": lambda ids: transformers.MambaConfig(hidden_size=16, state_size=4, num_hidden_layers=2, **ids),
    "mamba2": lambda ids: transformers.Mamba2Config(
        hidden_size=16, state_size=8, num_hidden_layers=2, num_heads=4, head_dim=8, n_groups=1, chunk_size=8, **ids
    ),
    "falcon_h1": lambda ids: transformers.FalconH1Config(**SMALL, **MAMBA, head_dim=8, mamba_d_ssm=32, **ids),
    "jamba": lambda ids: transformers.JambaConfig(
        **SMALL, attn_layer_period=2, attn_layer_offset=1, num_experts=1, mamba_d_state=4, **ids
    ),
}
PROMPTS = [f"Question: {'which of all ' * (n % 3)}{thing}\nExplanation:" for n, thing in enumerate(THINGS[:4])]
CHOICES = ["red", "red stone", "the blue house"]
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module", params=KINDS)
def student(request):
    tokenizer = byte_level_tokenizer()
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(KINDS[request.param](ids | {"vocab_size": len(tokenizer)}))
    for weights in model.parameters():  # larger than at the start of a training, so that nothing hides behind zeros
        if weights.dim() > 1:
            torch.nn.init.normal_(weights, std=0.3)
    return Student(model.eval(), tokenizer, StudentSettings("x", False, "text", "float32", 64, 8))


@torch.inference_mode()
def log_likelihood(student, ids, path):
    """Of a path's tokens behind others, read at once and alone."""
    logs = student.model(input_ids=torch.tensor([[*ids, *path]]), use_cache=False).logits[0].log_softmax(dim=-1)
    return sum(float(logs[len(ids) - 1 + place, token]) for place, token in enumerate(path))


def write(student, prompts, how):
    """Choices of ever other lengths, so that the rows of a batch end apart."""
    asked = {prompt: [f"{choice} {'and red ' * (n % 3)}" for choice in CHOICES] for n, prompt in enumerate(prompts)}
    return {p: (w.text, tuple(w.samples), w.confidence) for p, w in student.write(asked, how).items()}


@pytest.mark.parametrize(("answer_by", "sampling"), [("choices", Sampling(2, 1.0, seed=1)), ("likelihood", None)])
def test_texts_are_those_of_each_prompt_alone(student, answer_by, sampling):
    together = write(student, PROMPTS, Writing("rationale", 64, answer_by=answer_by, sampling=sampling))
    alone = write(student, PROMPTS, Writing("rationale", 1, answer_by=answer_by, sampling=sampling))
    assert [row[:2] for row in together.values()] == [row[:2] for row in alone.values()]
    for prompt, (_, _, confidence) in together.items():
        assert confidence == (None if sampling else pytest.approx(alone[prompt][2], rel=1e-2))


def test_each_token_is_the_likeliest_after_all_before_it(student):
    """Many more steps than two, against one forward pass over the whole text."""
    assert isinstance(student.writer, Reference)
    inputs = student._encoded(PROMPTS, [[]] * len(PROMPTS))
    constraint = AnswerConstraint(student.tokenizer, [[]] * len(PROMPTS), "rationale", 8)
    texts = student.writer.write(Task(inputs["input_ids"], inputs["attention_mask"], constraint))
    for prompt, text in zip(PROMPTS, texts, strict=True):
        ids = student.tokenizer(prompt).input_ids
        with torch.inference_mode():
            logits = student.model(input_ids=torch.tensor([[*ids, *text]]), use_cache=False).logits[0, len(ids) - 1 :]
        assert logits.argmax(dim=-1).tolist()[: len(text)] == text


def test_likelihoods_are_the_models_own(student):
    pairs = [(f"Which {'of all ' * n}is it?", f"The {thing}.") for n, thing in enumerate(THINGS[:4])]
    for (question, passage), found in zip(pairs, student.question_likelihoods(pairs), strict=True):
        before = student.tokenizer(f"Passage: {passage}\nQuestion:").input_ids
        asked = student.tokenizer(f" {question}").input_ids
        assert found == pytest.approx(log_likelihood(student, before, asked), abs=1e-2)
    how = Writing("answer", 6, answer_by="likelihood")
    for prompt, written in student.write(dict.fromkeys(PROMPTS, CHOICES), how).items():
        paths = [[*student.tokenizer(f" {choice}").input_ids, student.tokenizer.eos_token_id] for choice in CHOICES]
        scores = [log_likelihood(student, student.tokenizer(prompt).input_ids, path) for path in paths]
        assert written.text == CHOICES[scores.index(max(scores))]
        assert written.confidence == pytest.approx(1 / sum(math.exp(one - max(scores)) for one in scores), rel=1e-2)


def test_an_examples_loss_is_its_own_whatever_stands_beside_it(student, tmp_path):
    """Padding must not get into a state."""
    examples = [Example(prompt, f" {thing}.") for prompt, thing in zip(PROMPTS, THINGS, strict=False)]
    section = StudentSection(method="full", dtype="fp32", batch_size=6)
    student.model.train()
    trainer = student_trainer(student.model, student.tokenizer, examples, examples, section, torch.float32, 0, tmp_path)
    found = trainer.evaluate()["eval_loss"]
    student.model.eval()
    total, count = 0.0, 0
    for example in examples:
        path = [*student.tokenizer(example.target).input_ids, student.tokenizer.eos_token_id]
        total, count = (
            total - log_likelihood(student, student.tokenizer(example.prompt).input_ids, path),
            count + len(path),
        )
    assert found == pytest.approx(total / count, rel=1e-3)
