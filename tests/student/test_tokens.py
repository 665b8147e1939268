"""Tokens of texts where they stand: SentencePiece's first word, and special tokens that are only text."""

from __future__ import annotations

import copy
import json

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from kard.models.weights import read_as_text
from kard.prompt import render, target, with_rationale
from kard.student.constraint import AnswerConstraint
from kard.student.generation import Student, Writing
from kard.student.loading import StudentSettings
from kard.student.tokens import answer_paths, cue_tokens, question_tokens
from kard.student.training import Example, encode_examples
from tests.conftest import byte_level_tokenizer, corpus
from tests.student.test_vocabulary import unigram_tokenizer

CHOICES = ["red", "red stone", "a blue house"]
RATIONALE = "The stone of the north is red."


def sentencepiece_bpe():
    """Vocabulary and merges of Llama 2's kind: bytes for what is unknown, spaces inside of tokens."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    special = ["<unk>", "<s>", "</s>", *(f"<0x{number:02X}>" for number in range(256))]
    words = " ".join(corpus()).replace("\n", " ").split()
    tokenizer.train_from_iterator(words, trainers.BpeTrainer(vocab_size=700, special_tokens=special))
    return tokenizer


def llama_class():
    made = sentencepiece_bpe()
    spec = json.loads(made.to_str())["model"]
    return transformers.LlamaTokenizer(
        vocab=spec["vocab"], merges=[tuple(pair) for pair in spec["merges"]], pad_token="<unk>"
    )


def llama_file(*first):
    """What a tokenizer.json of it says to the class that takes any: a space in front, by the normalizer."""
    made = sentencepiece_bpe()
    made.pre_tokenizer = None
    made.normalizer = normalizers.Sequence([*first, normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<unk>"
    )


TOKENIZERS = {
    "llama": llama_class,
    "llama's file": lambda: llama_file(normalizers.Prepend("▁")),
    "gemma": llama_file,
    "t5": unigram_tokenizer,
    "byte-level": byte_level_tokenizer,
}


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request):
    made = TOKENIZERS[request.param]()
    read_as_text(made)
    return made


def test_cue_and_choices_are_those_of_a_learned_target(tokenizer):
    for writes in ("rationale", "answer"):
        for choice, path in zip(CHOICES, answer_paths(tokenizer, CHOICES, writes), strict=True):
            row = encode_examples([Example("Question:", target(RATIONALE, choice, writes))], tokenizer, True)[0]
            written = row["labels"] if writes == "answer" else row["labels"][-len(path) - len(cue_tokens(tokenizer)) :]
            assert written == (path if writes == "answer" else [*cue_tokens(tokenizer), *path])


def test_a_question_has_the_tokens_that_it_has_in_its_prompt(tokenizer):
    prompt = render("Which colour has it?", (), [RATIONALE], "rationale")
    ids, labels = question_tokens(tokenizer, prompt)
    asked = [token for token in labels if token >= 0]
    assert tokenizer.decode(asked).strip() == "Which colour has it?"
    assert ids == tokenizer(prompt).input_ids
    assert ids[-len(labels) :][: len(asked)] == asked


SPECIAL = ["<eos>", "</s>", "<pad>", "<unk>", "<s>", "x<eos></s>", "＜/s＞"]


def test_special_tokens_in_a_text_are_text(tokenizer):
    known = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    known |= {tokenizer.eos_token_id}
    for text in SPECIAL:
        ids = tokenizer(f"Question: {text} red", add_special_tokens=False).input_ids
        assert not known & set(ids), (text, tokenizer.convert_ids_to_tokens(ids))
    around = set(tokenizer("red").input_ids) - set(tokenizer("red", add_special_tokens=False).input_ids)
    assert around <= set(tokenizer.all_special_ids)  # what the tokenizer puts around a text stays
    before = tokenizer.backend_tokenizer.to_str()
    read_as_text(tokenizer)  # as after every loading of a saved one
    assert tokenizer.backend_tokenizer.to_str() == before


def test_ordinary_texts_keep_their_tokens():
    for make in TOKENIZERS.values():
        plain = make()
        read = copy.deepcopy(plain)
        read_as_text(read)
        texts = [*corpus()[:40], "a < b </ c", render("a?", CHOICES, [RATIONALE], "rationale")]
        assert read(texts).input_ids == plain(texts).input_ids


@pytest.mark.parametrize("writes", ["answer", "rationale"])
def test_special_tokens_are_asked_for_and_answered(tokenizer, writes):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, bos_token_id=None,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).eval()
    student = Student(model, tokenizer, StudentSettings("x", False, "text", "float32", 200, 24))
    asked = {student.prompt(f"{text}\udce9", ["<eos>", "</s>", "<pad>"], [text], writes): text for text in SPECIAL}
    for answer_by in ("choices", "likelihood"):
        how = Writing(writes, 3, answer_by=answer_by)
        for written in student.write(dict.fromkeys(asked, ("<eos>", "</s>", "<pad>")), how).values():
            assert written.text.endswith(("<eos>", "</s>", "<pad>"))
            assert written.confidence is not None


def test_a_choice_that_holds_the_end_token_is_come_to():
    """Where a tokenizer has one token for the end and for what it does not know."""
    tokenizer = byte_level_tokenizer()  # reads special tokens as such
    paths = answer_paths(tokenizer, ["<eos>", "red <eos> blue", "red"])
    assert [path.count(tokenizer.eos_token_id) for path in paths] == [1, 1, 1]
    constraint = AnswerConstraint(tokenizer, [paths], "answer", 8)
    assert [constraint.answer(0, path[:-1]) for path in paths] == [0, 1, 2]


def test_a_given_rationale_has_the_tokens_that_were_learned(tokenizer):
    student = Student.__new__(Student)
    student.tokenizer = tokenizer
    student.model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
        )
    )
    prompt = render("Which?", CHOICES, (), "rationale")
    inputs, _, told = student._read([with_rationale(prompt, RATIONALE)], Writing("answer", 1))
    learned = encode_examples([Example(prompt, target(RATIONALE, "red", "rationale"))], tokenizer, False)[0][
        "input_ids"
    ]
    read = inputs["input_ids"][0][inputs["attention_mask"][0].bool()].tolist()
    assert [*read, *answer_paths(tokenizer, ["red"], told[0])[0]] == learned
