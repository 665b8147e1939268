"""Architectures beyond Llama and T5: they train, are loaded and write; adapters reach their attention."""

from __future__ import annotations

import pytest
import torch
import transformers

from kard.errors import UserError
from kard.recipe.sections import StudentSection
from kard.student.generation import Student, Writing
from kard.student.loading import base_model
from kard.student.training import train_student, with_adapters
from tests.conftest import byte_level_tokenizer
from tests.student.test_training import lookup_task

SMALL = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 32}
GROUPED = SMALL | {"num_key_value_heads": 1, "head_dim": 8}


def config_of(kind, **ids):
    made = {
        "gemma2": lambda: transformers.Gemma2Config(**GROUPED, **ids),
        "gpt_neo": lambda: transformers.GPTNeoConfig(
            hidden_size=16, num_layers=2, num_heads=2, attention_types=[[["global", "local"], 1]], **ids
        ),
        "gptj": lambda: transformers.GPTJConfig(n_embd=16, n_layer=2, n_head=2, rotary_dim=4, **ids),
        "bloom": lambda: transformers.BloomConfig(hidden_size=16, n_layer=2, n_head=2, **ids),
        "gpt2": lambda: transformers.GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=64, **ids),
        "gpt_neox": lambda: transformers.GPTNeoXConfig(**SMALL, **ids),
        "falcon": lambda: transformers.FalconConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, **ids),
        "phi": lambda: transformers.PhiConfig(**SMALL, **ids),
        "phi3": lambda: transformers.Phi3Config(**SMALL, **ids),
        "opt": lambda: transformers.OPTConfig(
            hidden_size=16, ffn_dim=32, num_hidden_layers=2, num_attention_heads=2, word_embed_proj_dim=16, **ids
        ),
        "mamba": lambda: transformers.MambaConfig(hidden_size=16, state_size=4, num_hidden_layers=2, **ids),
    }
    return made[kind]()


@pytest.fixture
def folder_of(tmp_path):
    def make(kind):
        tokenizer = byte_level_tokenizer()
        ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
        torch.manual_seed(0)
        config = config_of(kind, vocab_size=len(tokenizer), **ids)
        folder = tmp_path / kind
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return make


@pytest.mark.parametrize("kind", ["gemma2", "gpt_neo", "gptj", "bloom", "mamba"])
def test_models_without_pytorchs_attention_are_trained_and_write(kind, folder_of, tmp_path):
    folder = str(folder_of(kind))
    method = "full" if kind == "mamba" else "lora"  # peft has no adapters for Mamba
    section = StudentSection(model=folder, method=method, dtype="fp32", batch_size=4, max_output_tokens=12)
    train_student(lookup_task()[:8], folder, folder, section, 0, tmp_path / "student", "train")
    student = Student.load(tmp_path / "student")
    prompts = {student.prompt(question, ["red", "blue"], [], "answer"): ["red", "blue"] for question in ("a", "two b")}
    written = student.write(prompts, Writing("answer", 2))
    assert {item.text for item in written.values()} <= {"red", "blue"}


ATTENTION = {
    "gpt2": {"attn.c_attn", "attn.c_proj"},
    "gpt_neox": {"attention.query_key_value", "attention.dense"},
    "falcon": {"self_attention.query_key_value", "self_attention.dense"},
    "bloom": {"self_attention.query_key_value", "self_attention.dense"},
    "phi": {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.dense"},
    "phi3": {"self_attn.qkv_proj", "self_attn.o_proj"},
    "opt": {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"},
    "gpt_neo": {f"attention.{name}" for name in ("q_proj", "k_proj", "v_proj", "out_proj")},
    "gptj": {f"attn.{name}" for name in ("q_proj", "k_proj", "v_proj", "out_proj")},
}


@pytest.mark.parametrize("kind", sorted(ATTENTION))
def test_adapters_reach_every_layer_of_the_attention_and_no_other(kind, folder_of):
    model = base_model(str(folder_of(kind)), torch.float32, "eager")
    adapted = with_adapters(model, StudentSection(lora_targets="attention"))
    found = [name for name, module in adapted.named_modules() if hasattr(module, "lora_A")]
    assert {".".join(name.split(".")[-2:]) for name in found} == ATTENTION[kind]
    assert len(found) == 2 * len(ATTENTION[kind])  # in both layers


def test_a_model_without_attention_is_told_what_to_do(folder_of):
    model = base_model(str(folder_of("mamba")), torch.float32)
    with pytest.raises(UserError, match=r"type 'mamba'\. Set it to all, or student\.method: full\."):
        with_adapters(model, StudentSection(lora_targets="attention"))


def test_an_example_that_the_model_has_no_positions_for_is_an_error(folder_of, tmp_path):
    from kard.student.training import Example

    folder = str(folder_of("gpt2"))
    section = StudentSection(model=folder, dtype="fp32")
    long = [Example("Question: " + "a b " * 40, " red")]
    with pytest.raises(UserError, match=r"at most 64 tokens.*Lower student\.max_input_tokens"):
        train_student(long, folder, folder, section, 0, tmp_path / "student", "train")
