"""Trimming: same tokens, same scores, any text still encodes, an ordinary model on disk."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from kard.student.loading import base_model, base_tokenizer
from kard.student.vocabulary import trim
from tests.conftest import corpus

QUOTED = "a so-called “text”"  # neither quotation mark is a piece of its own: they stand in larger ones
KEPT = [*corpus()[:40], QUOTED]


def byte_fallback_tokenizer() -> PreTrainedTokenizerFast:
    """Of Gemma's kind: no split at spaces, bytes as a fallback."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    special = ["<pad>", "<eos>", "<unk>", *(f"<0x{number:02X}>" for number in range(256))]
    tokenizer.train_from_iterator(
        [*corpus(), *[QUOTED] * 20, "日本語 текст"], trainers.BpeTrainer(vocab_size=900, special_tokens=special)
    )
    spec = json.loads(tokenizer.to_str())
    # Byte pieces are no added tokens in a real one.
    spec["added_tokens"] = [token for token in spec["added_tokens"] if not token["content"].startswith("<0x")]
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(spec)), pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )


def unigram_tokenizer() -> PreTrainedTokenizerFast:
    """Of T5's kind."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=300, special_tokens=special, unk_token="<unk>")
    tokenizer.train_from_iterator(corpus(), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def small_model(tokenizer, tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, bos_token_id=None,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


@pytest.mark.parametrize("make", [byte_fallback_tokenizer, unigram_tokenizer, None])
def test_texts_that_were_looked_at_keep_their_tokens_and_scores(make, decoder_folder, tmp_path):
    tokenizer = make() if make else base_tokenizer(str(decoder_folder))
    model = small_model(tokenizer, tmp_path)
    before = [(tokenizer.tokenize(text), model(**tokenizer(text, return_tensors="pt")).logits) for text in KEPT]
    size = len(tokenizer)
    smaller = trim(model, tokenizer, KEPT)
    assert len(smaller) == model.config.vocab_size < size
    old_ids = tokenizer.get_vocab()
    for text, (pieces, logits) in zip(KEPT, before, strict=True):
        assert smaller.tokenize(text) == pieces
        assert smaller.decode(smaller(text).input_ids) == tokenizer.decode(tokenizer(text).input_ids)
        now = model(**smaller(text, return_tensors="pt")).logits
        same = [old_ids[piece] for piece in smaller.convert_ids_to_tokens(range(len(smaller)))]
        torch.testing.assert_close(now, logits[..., same])


def test_it_is_an_ordinary_model_on_disk(tmp_path):
    tokenizer = byte_fallback_tokenizer()
    model = small_model(tokenizer, tmp_path)
    smaller = trim(model, tokenizer, KEPT)
    model.save_pretrained(tmp_path)
    smaller.save_pretrained(tmp_path)
    again, loaded = AutoTokenizer.from_pretrained(tmp_path), AutoModelForCausalLM.from_pretrained(tmp_path)
    assert again(KEPT[3]).input_ids == smaller(KEPT[3]).input_ids
    assert again.eos_token_id == loaded.config.eos_token_id == smaller.eos_token_id
    inputs = smaller(KEPT[3], return_tensors="pt")
    torch.testing.assert_close(loaded.eval()(**inputs).logits, model(**inputs).logits)


@pytest.fixture(scope="module")
def trimmed(tmp_path_factory):
    tokenizer = byte_fallback_tokenizer()
    return trim(small_model(tokenizer, tmp_path_factory.mktemp("m")), tokenizer, KEPT)


@given(st.text())
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_text_still_encodes(trimmed, text):
    ids = trimmed(text, add_special_tokens=False).input_ids
    assert trimmed.unk_token_id not in ids
    assert trimmed.decode(ids, skip_special_tokens=False) == text.replace("▁", " ")


def test_t5_stays_whole(t5_folder):
    model, tokenizer = base_model(str(t5_folder), torch.float32).eval(), base_tokenizer(str(t5_folder))
    inputs = tokenizer(KEPT[0], return_tensors="pt")
    before = model.generate(**inputs, max_new_tokens=5, do_sample=False)
    texts = [*KEPT, *tokenizer.batch_decode(before)]
    smaller = trim(model, tokenizer, texts)
    assert model.encoder.embed_tokens.weight is model.decoder.embed_tokens.weight
    after = model.generate(**smaller(KEPT[0], return_tensors="pt"), max_new_tokens=5, do_sample=False)
    assert len(after[0]) == len(before[0])
