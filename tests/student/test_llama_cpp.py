"""Writing with llama.cpp, from files that its own converter wrote of tiny students."""

from __future__ import annotations

import sys

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, processors, trainers
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from kard.errors import UserError
from kard.recipe.sections import StudentSection
from kard.student.generation import Student, Writing
from kard.student.llama_cpp import LlamaCpp, gguf_student
from kard.student.reference import Reference
from kard.student.sampling import Sampling
from kard.student.training import Example, train_student
from tests.conftest import THINGS, byte_level_tokenizer, corpus

pytest.importorskip("cyllama")
pytest.importorskip("conversion")

from kard.tools.gguf import write_gguf

PROMPTS = [f"Question: {thing}\nExplanation:" for thing in THINGS[:4]]
ODD = "Où est  the <eos> ship?\n- 東京 ▁ 12\tred"
SMALL = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def sentencepiece_tokenizer():
    """Byte-pair encoding as Gemma has it: a sign for spaces, bytes for what is rare, and a token at the beginning."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    added = [*special, *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=added, max_token_length=12)
    tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer = Tokenizer.from_str(tokenizer.to_str())
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>", unk_token="<unk>"
    )


def gemma(tokenizer):
    """With as many layers as llama.cpp's Gemma 3 has to one that sees all."""
    sizes = {**SMALL, "num_hidden_layers": 6, "head_dim": 16, "query_pre_attn_scalar": 16}
    layers = {"layer_types": [*["sliding_attention"] * 5, "full_attention"], "sliding_window": 16}
    return Gemma3ForCausalLM(Gemma3TextConfig(vocab_size=len(tokenizer), **sizes, **layers))


KINDS = {
    "llama": (byte_level_tokenizer, lambda own: LlamaForCausalLM(LlamaConfig(vocab_size=len(own), **SMALL))),
    "qwen2": (byte_level_tokenizer, lambda own: Qwen2ForCausalLM(Qwen2Config(vocab_size=len(own), **SMALL))),
    "gemma3": (sentencepiece_tokenizer, gemma),
}


@pytest.fixture(scope="module", params=list(KINDS))
def taught(request, tmp_path_factory):
    """A student that has learned a few texts by heart: as it is, and computed by llama.cpp."""
    folder = tmp_path_factory.mktemp(request.param)
    make_tokenizer, make_model = KINDS[request.param]
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    model = make_model(tokenizer)
    model.config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    section = StudentSection(
        model=str(folder / "base"), method="full", dtype="fp32", epochs=40, batch_size=4, lr=4e-3, max_output_tokens=60
    )
    told = [f" It is so, {thing}.\nAnswer: red {thing}" for thing in THINGS]
    base = str(folder / "base")
    examples = [Example(prompt, text) for prompt, text in zip(PROMPTS, told, strict=False)]
    train_student(examples, base, base, section, 0, folder / "student", "train")
    student = Student.load(folder / "student")
    student = Student(student.model, student.tokenizer, student.settings, Reference(student.model))
    student.model.save_pretrained(folder / "merged")
    student.tokenizer.save_pretrained(folder / "merged")
    path = write_gguf(student, "rationale", folder / "merged", folder / "gguf", "f16")
    return student, gguf_student(folder / "student", path)


@pytest.mark.parametrize("writes", ["rationale", "answer"])
@pytest.mark.parametrize("answer_by", ["choices", "likelihood", "generate"])
def test_it_writes_what_the_reference_writes_with_the_same_confidence(taught, writes, answer_by):
    ours, theirs = taught
    asked = {prompt: ["red", f"red {thing}", "blue"] for prompt, thing in zip(PROMPTS, THINGS, strict=False)}
    for choices in (asked, dict.fromkeys(PROMPTS, ())):
        heard: list[str] = []
        how = Writing(writes, 3, answer_by=answer_by, weigh_open=True)
        expected = ours.write(choices, how)
        found = theirs.write(choices, how, on_text={PROMPTS[0]: heard.append})
        assert len(heard) > (writes == "rationale")
        for prompt, written in expected.items():
            assert (found[prompt].text, found[prompt].cut) == (written.text, written.cut)
            assert found[prompt].confidence == (written.confidence and pytest.approx(written.confidence, abs=0.02))


def test_it_draws_the_same_samples(taught):
    ours, theirs = taught
    how = Writing("rationale", 8, sampling=Sampling(3, 0.3, seed=1))
    asked = {prompt: ["red", "blue"] for prompt in PROMPTS}
    assert [w.samples for w in theirs.write(asked, how).values()] == [
        w.samples for w in ours.write(asked, how).values()
    ]


def test_it_finds_questions_as_likely(taught):
    ours, theirs = taught
    pairs = [(thing, f"The {thing} is red.") for thing in THINGS[:3]]
    expected = ours.question_likelihoods(pairs)
    assert theirs.question_likelihoods(pairs) == pytest.approx(expected, rel=0.02)


def test_the_file_alone_splits_texts_as_the_student_does(taught):
    ours, theirs = taught
    for text in [*PROMPTS, *corpus(), ODD]:
        assert theirs.model.tokens(text) == ours.tokenizer(text).input_ids


@pytest.mark.parametrize("kind", ["q8_0", "q4_k_m"])
def test_weights_of_fewer_bits(tmp_path, kind):
    tokenizer = byte_level_tokenizer()
    torch.manual_seed(0)
    sizes = {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes)).eval()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    from kard.student.loading import StudentSettings

    student = Student(model, tokenizer, StudentSettings("", False, "text", "float32", 64, 24))
    path = write_gguf(student, "rationale", tmp_path, tmp_path / "gguf", kind)
    assert [file.name for file in path.parent.iterdir() if file != path] == ["Modelfile"]
    bits = 8 * path.stat().st_size / sum(weight.numel() for weight in model.parameters())
    assert bits < {"q8_0": 10, "q4_k_m": 7.5}[kind]
    ids = torch.tensor([tokenizer(PROMPTS[0]).input_ids])
    found = LlamaCpp(path)(input_ids=ids, attention_mask=torch.ones_like(ids), logits_to_keep=4).logits
    expected = model(input_ids=ids, logits_to_keep=4).logits
    assert torch.nn.functional.cosine_similarity(found, expected, dim=-1).min() > 0.95


def test_what_is_missing_or_damaged_is_said(tmp_path, monkeypatch):
    path = tmp_path / "student.gguf"
    path.write_bytes(b"GGUF and nothing more")
    with pytest.raises(UserError, match=r"llama\.cpp cannot read it"):
        LlamaCpp(path)
    monkeypatch.setitem(sys.modules, "cyllama.llama", None)
    with pytest.raises(UserError, match=r"not installed\. Run: pip install 'kard\[gguf\]'"):
        LlamaCpp(path)
