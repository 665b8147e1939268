"""Trimming: same tokens, same scores, any text still encodes, an ordinary model on disk."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from kard.errors import UserError
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


def other_model(kind, tokenizer):
    """Models that hold more by token than embeddings: a bias of the output layer, or of the scores."""
    size, bos = len(tokenizer), len(tokenizer) - 3  # the model's bos need not be a special token of the tokenizer
    torch.manual_seed(0)
    if kind == "phi":
        config = transformers.PhiConfig(
            vocab_size=size, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
            bos_token_id=bos, eos_token_id=1, pad_token_id=0,
        )  # fmt: skip
        model = transformers.PhiForCausalLM(config)
    else:
        config = transformers.BartConfig(
            vocab_size=size, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
            decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, bos_token_id=bos, eos_token_id=1,
            pad_token_id=0, decoder_start_token_id=1, forced_eos_token_id=bos, max_position_embeddings=64,
        )  # fmt: skip
        model = transformers.BartForConditionalGeneration(config)
        model.final_logits_bias.normal_()
    torch.nn.init.normal_(model.get_output_embeddings().weight)
    if model.get_output_embeddings().bias is not None:
        torch.nn.init.normal_(model.get_output_embeddings().bias)
    return model.eval()


@pytest.mark.parametrize("kind", ["phi", "bart"])
def test_biases_and_named_tokens_are_cut_as_well(kind):
    tokenizer = byte_fallback_tokenizer()
    model, bos = other_model(kind, tokenizer), tokenizer.convert_ids_to_tokens(len(tokenizer) - 3)

    def scores(some):
        inputs = some(KEPT[3], return_tensors="pt", return_token_type_ids=False)
        extra = {"decoder_input_ids": inputs.input_ids} if kind == "bart" else {}
        return model(**inputs, **extra).logits

    before, old = scores(tokenizer), tokenizer.get_vocab()
    smaller = trim(model, tokenizer, KEPT)
    assert len(smaller) < len(tokenizer)
    same = [old[piece] for piece in smaller.convert_ids_to_tokens(range(len(smaller)))]
    torch.testing.assert_close(scores(smaller), before[..., same])
    assert model.config.bos_token_id == smaller.convert_tokens_to_ids(bos)


def test_special_tokens_around_a_text_keep_their_place():
    tokenizer = byte_fallback_tokenizer()
    ends = [(piece, tokenizer.convert_tokens_to_ids(piece)) for piece in ("<unk>", "<eos>")]
    tokenizer.backend_tokenizer.post_processor = processors.Sequence(
        [processors.ByteLevel(trim_offsets=False), processors.RobertaProcessing(ends[0], ends[1])]
    )
    model = small_model(tokenizer, None)
    pieces = tokenizer.convert_ids_to_tokens(tokenizer(KEPT[2]).input_ids)
    smaller = trim(model, tokenizer, KEPT)
    assert smaller.convert_ids_to_tokens(smaller(KEPT[2]).input_ids) == pieces
    assert (pieces[0], pieces[-1]) == ("<eos>", "<unk>")


def test_what_cannot_be_cut_is_named():
    tokenizer = byte_fallback_tokenizer()
    model = small_model(tokenizer, None)
    model.register_buffer("own", torch.zeros(3, len(tokenizer)))
    with pytest.raises(UserError, match=r"student\.trim_vocabulary: 'own'"):
        trim(model, tokenizer, KEPT)


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
