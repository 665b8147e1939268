"""Students: the loss, the collator, LoRA and full training, T5 and decoders, the vocabulary, writing."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch.nn import functional
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    T5Config,
    T5ForConditionalGeneration,
)

from kard.errors import UserError
from kard.models.training import EpochOrder, training_arguments
from kard.prompt import extract
from kard.recipe.sections import StudentResources, StudentSection
from kard.student.batching import IGNORED, Collator
from kard.student.fitting import fitting_prompt
from kard.student.generation import Student, Writing, Written, batches
from kard.student.loading import base_model, base_tokenizer, quicken
from kard.student.training import Example, StudentTrainer, encode_examples, train_student
from tests.conftest import COLOURS, THINGS, byte_level_tokenizer, project_rows

EXAMPLES = [
    Example("Question: the stone\nAnswer:", " red"),
    Example(
        "Passage: The ship of the north is blue.\nQuestion: Which colour?\nExplanation:", " It is blue.\nAnswer: blue"
    ),
    Example("Question: a\nAnswer:", " yellow stone of the valley"),
]


def first_batch(folder, rows=EXAMPLES):
    tokenizer = base_tokenizer(str(folder))
    model = base_model(str(folder), torch.float32, "eager")
    encoder_decoder = model.config.is_encoder_decoder
    collator = Collator(tokenizer.pad_token_id, encoder_decoder)
    return model.eval(), tokenizer, collator(encode_examples(rows, tokenizer, encoder_decoder))


def loss_of(model, batch, tmp_path):
    trainer = StudentTrainer(
        model=model, args=training_arguments(tmp_path, torch.float32, 0), order=EpochOrder([], 1, 0)
    )
    return trainer.compute_loss(model, dict(batch))


def test_target_only_loss_is_the_full_loss_of_a_decoder(decoder_folder, tmp_path):
    model, tokenizer, batch = first_batch(decoder_folder)
    total, count = 0.0, 0
    for example in EXAMPLES:  # one at a time, without padding, with all logits
        prompt = tokenizer(example.prompt).input_ids
        target = [*tokenizer(example.target, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
        ids = torch.tensor([prompt + target])
        logits = model(ids).logits[0, len(prompt) - 1 : -1]
        total += functional.cross_entropy(logits, torch.tensor(target), reduction="sum")
        count += len(target)
    assert loss_of(model, batch, tmp_path).item() == pytest.approx(total.item() / count, rel=1e-5)


def test_target_only_loss_is_the_models_own_loss_of_a_t5(t5_folder, tmp_path):
    model, _, batch = first_batch(t5_folder)
    own = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=batch["labels"]).loss
    assert loss_of(model, batch, tmp_path).item() == pytest.approx(own.item(), rel=1e-5)


def test_a_learned_question_is_learned_and_its_choices_are_not(decoder_folder, tmp_path):
    prompt = "Passage: The ship of the north is blue.\nQuestion: Which colour?\nChoices:\n- red\n- blue\nExplanation:"
    example = Example(prompt, " It is blue.\nAnswer: blue", question=True)
    model, tokenizer, batch = first_batch(decoder_folder, [EXAMPLES[0], example])
    learned = batch["labels"][1][batch["labels"][1] != IGNORED].tolist()
    assert tokenizer.decode(learned, skip_special_tokens=True) == " Which colour? It is blue.\nAnswer: blue"
    total, count = 0.0, 0
    for text in (EXAMPLES[0], example):
        ids = tokenizer(text.prompt).input_ids
        target = [*tokenizer(text.target, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
        logs = model(torch.tensor([ids + target])).logits[0].log_softmax(dim=-1)
        wanted = list(range(len(ids), len(ids) + len(target)))
        if text.question:
            first = len(tokenizer(text.prompt[: text.prompt.index(" Which colour?")]).input_ids)
            wanted += range(first, len(tokenizer(text.prompt[: text.prompt.index("\nChoices")]).input_ids))
        total -= sum(logs[place - 1, (ids + target)[place]].item() for place in wanted)
        count += len(wanted)
    assert loss_of(model, batch, tmp_path).item() == pytest.approx(total / count, rel=1e-5)


@pytest.mark.parametrize("kind", ["decoder_folder", "t5_folder"])
def test_gradients_do_not_depend_on_who_shares_the_batch(kind, request, tmp_path):
    folder = request.getfixturevalue(kind)
    model, _, batch = first_batch(folder)
    loss_of(model, batch, tmp_path).backward()
    together = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    lengths = [(row != IGNORED).sum().item() for row in batch["labels"]]
    for example, length in zip(EXAMPLES, lengths, strict=True):
        _, _, alone = first_batch(folder, [example])
        (loss_of(model, alone, tmp_path) * length / sum(lengths)).backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, together[name], atol=1e-5, rtol=1e-3)


def test_labels_are_masked_by_length_so_that_the_end_is_learned(decoder_folder):
    tokenizer = base_tokenizer(str(decoder_folder))
    tokenizer.pad_token = tokenizer.eos_token
    batch = Collator(tokenizer.eos_token_id, False)(encode_examples(EXAMPLES, tokenizer, False))
    assert (batch["labels"][:, -1] == tokenizer.eos_token_id).all()
    assert (batch["labels"] == IGNORED).any()


def trained(kind, request, folder, examples, dev=(), **keys):
    """A student that saw every example twice, and its training.json."""
    model = str(request.getfixturevalue(kind))
    section = StudentSection(model=model, method="full", dtype="fp32", **{"epochs": 2, "lr": 1e-3, **keys})
    train_student(examples, model, model, section, 0, folder, "train", dev)
    return Student.load(folder), json.loads((folder / "training.json").read_text(encoding="utf-8"))


def assert_same_training(one, other):
    (student, curve), (twin, twins_curve) = one, other
    assert [row["loss"] for row in curve["loss"]] == pytest.approx(
        [row["loss"] for row in twins_curve["loss"]], rel=1e-4
    )
    for name, value in student.model.state_dict().items():
        torch.testing.assert_close(value, twin.model.state_dict()[name], atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("kind", ["decoder_folder", "t5_folder"])
def test_a_batch_equals_its_pieces(kind, request, tmp_path):
    """Accumulated, and with gradient checkpointing; of some examples a decoder learns the question as well."""
    asked = [replace(example, question=kind == "decoder_folder") for example in lookup_task()[:13]]
    examples = [*asked, *EXAMPLES]
    whole = trained(kind, request, tmp_path / "whole", examples, batch_size=8)
    halves = trained(kind, request, tmp_path / "halves", examples, batch_size=4, gradient_accumulation=2)
    assert_same_training(whole, halves)
    saving = StudentResources(gradient_checkpointing=True)
    again = trained(kind, request, tmp_path / "again", examples, batch_size=8, resources=saving)
    assert_same_training(whole, again)


NO_MEMORY = [torch.OutOfMemoryError("simulated"), RuntimeError("DefaultCPUAllocator: can't allocate memory: simulated")]


@pytest.mark.parametrize("error", NO_MEMORY)
def test_out_of_memory_halves_what_is_computed_at_once(error, decoder_folder, request, tmp_path, monkeypatch, capsys):
    examples = [*lookup_task()[:13], *EXAMPLES]
    whole = trained("decoder_folder", request, tmp_path / "whole", examples, batch_size=8)
    original, sizes = StudentTrainer.compute_loss, []

    def short_of_memory(self, model, inputs, *args, **kwargs):
        sizes.append(len(inputs["labels"]))
        loss = original(self, model, inputs, *args, **kwargs)
        if sizes[-1] > 2 or len(sizes) == 4:  # also in the middle of a step, with gradients of its first pieces there
            raise error
        return loss

    monkeypatch.setattr(StudentTrainer, "compute_loss", short_of_memory)
    halved = trained("decoder_folder", request, tmp_path / "halved", examples, batch_size=8)
    assert sizes[:4] == [8, 4, 2, 2]
    assert set(sizes[4:]) == {1}
    assert_same_training(whole, halved)
    said = capsys.readouterr().err
    assert "out of memory with 8 examples at once: going on with 4" in said
    assert "out of memory with 2 examples at once: going on with 1" in said


@pytest.mark.parametrize("error", NO_MEMORY)
@pytest.mark.parametrize("where", [(StudentTrainer, "compute_loss"), (torch.optim.AdamW, "step")])
def test_no_memory_for_a_single_example_is_an_error(error, where, decoder_folder, request, tmp_path, monkeypatch):
    def no_memory(*args, **kwargs):
        raise error

    monkeypatch.setattr(*where, no_memory)
    with pytest.raises(UserError, match=r"train: out of memory\. Set .*gradient_checkpointing"):
        trained("decoder_folder", request, tmp_path, EXAMPLES)


def test_another_error_of_pytorchs_is_not_taken_for_missing_memory(decoder_folder, request, tmp_path, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(StudentTrainer, "compute_loss", broken)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        trained("decoder_folder", request, tmp_path, EXAMPLES)


@pytest.mark.parametrize("kind", ["decoder_folder", "t5_folder"])
def test_the_dev_loss_is_that_of_all_targets_whatever_fits_into_memory(kind, request, tmp_path, monkeypatch, capsys):
    """Targets are of different length: a mean of means would be another number."""
    keys = {"epochs": 1, "early_stopping": 3}
    kept, alone = trained(kind, request, tmp_path / "a", lookup_task()[:3], EXAMPLES, batch_size=1, **keys)
    model, _, batch = first_batch(request.getfixturevalue(kind))
    model.load_state_dict(kept.model.state_dict())
    assert alone["dev_loss"][0]["loss"] == pytest.approx(loss_of(model, batch, tmp_path).item(), rel=1e-4)
    original = StudentTrainer._total_loss

    def short_of_memory(self, model, inputs):
        if not model.training and len(inputs["labels"]) > 1:
            raise torch.OutOfMemoryError("simulated")
        return original(self, model, inputs)

    monkeypatch.setattr(StudentTrainer, "_total_loss", short_of_memory)
    halved = trained(kind, request, tmp_path / "b", lookup_task()[:3], EXAMPLES, batch_size=3, **keys)[1]
    assert math.isfinite(halved["dev_loss"][0]["loss"])
    assert "going on with 1" in capsys.readouterr().err


def test_training_stops_when_the_dev_loss_does_not_sink(decoder_folder, request, tmp_path):
    """Dev says the opposite of what is taught: the first epoch was the best, and its weights are kept."""
    taught = [Example(f"Question: {thing}\nAnswer:", " red") for thing in THINGS[:8]]
    dev = [Example(f"Question: {thing}\nAnswer:", " the blue house") for thing in THINGS[:8]]
    keys = {"epochs": 30, "batch_size": 8, "lr": 2e-3}
    kept, stopped = trained("decoder_folder", request, tmp_path / "a", taught, dev, early_stopping=2, **keys)
    losses = [row["loss"] for row in stopped["dev_loss"]]
    best = losses.index(min(losses))
    assert len(losses) == best + 3 < 30
    model, _, batch = first_batch(request.getfixturevalue("decoder_folder"), dev)
    model.load_state_dict(kept.model.state_dict())
    assert loss_of(model, batch, tmp_path).item() == pytest.approx(min(losses), rel=1e-3)


def test_patience_goes_on_after_an_interruption(decoder_folder, request, tmp_path, monkeypatch):
    from kard.models.training import _Watch

    taught = [Example(f"Question: {thing}\nAnswer:", " red") for thing in THINGS[:8]]
    dev = [Example(f"Question: {thing}\nAnswer:", " the blue house") for thing in THINGS[:8]]
    keys = {"epochs": 30, "batch_size": 8, "lr": 2e-3, "early_stopping": 3}
    straight = trained("decoder_folder", request, tmp_path / "straight", taught, dev, **keys)[1]
    original, steps = _Watch.on_step_end, []

    def stop_at_the_end(self, *args, **kwargs):  # an epoch is a step
        original(self, *args, **kwargs)
        steps.append(1)
        if len(steps) == len(straight["dev_loss"]):
            raise KeyboardInterrupt

    monkeypatch.setattr(_Watch, "on_step_end", stop_at_the_end)
    with pytest.raises(KeyboardInterrupt):
        trained("decoder_folder", request, tmp_path / "resumed", taught, dev, **keys)
    resumed = trained("decoder_folder", request, tmp_path / "resumed", taught, dev, **keys)[1]
    assert resumed["dev_loss"] == straight["dev_loss"]
    assert resumed["loss"] == straight["loss"]


def test_compiled_training_is_the_same(decoder_folder, request, tmp_path, monkeypatch):
    """Each kind of block is compiled in place (here without generating code, which takes minutes)."""
    compiled = []
    original = torch.nn.Module.compile

    def eager(self, **settings):
        compiled.append(type(self).__name__)
        original(self, backend="eager", **settings)

    monkeypatch.setattr(torch.nn.Module, "compile", eager)
    plain = trained("decoder_folder", request, tmp_path / "plain", EXAMPLES)
    other = trained(
        "decoder_folder", request, tmp_path / "compiled", EXAMPLES, resources=StudentResources(compile=True)
    )
    assert compiled == ["LlamaDecoderLayer", "LlamaDecoderLayer"]
    assert_same_training(plain, other)


def lookup_task() -> list[Example]:
    """The colour stands in the passage: to be copied, not remembered."""
    questions, passages = project_rows(48, 3)
    return [
        Example(
            f"Passage: {passage['text']}\nQuestion: {row['question']}\nAnswer:", f" {row['choices'][row['answer']]}"
        )
        for row, passage in zip(questions, passages, strict=True)
    ]


@pytest.mark.parametrize("kind", ["t5_folder", "decoder_folder"])
def test_a_student_learns_a_small_task(kind, request, tmp_path):
    """From random weights, through the same key for encoder-decoders and decoders."""
    folder = request.getfixturevalue(kind)
    section = StudentSection(
        model=str(folder), method="full", dtype="fp32", epochs=30, batch_size=8, lr=4e-3, max_output_tokens=8,
    )  # fmt: skip
    pairs = zip(THINGS[:4], COLOURS, strict=False)
    examples = [Example(f"Question: {thing}\nAnswer:", f" {colour}") for thing, colour in pairs] * 4
    train_student(examples, str(folder), str(folder), section, 0, tmp_path, "train")
    student = Student.load(tmp_path)
    prompts = list(dict.fromkeys(example.prompt for example in examples))
    written = student.write(dict.fromkeys(prompts, ()), Writing("answer", 2))
    right = sum(written[example.prompt].text == example.target.strip() for example in examples)
    assert right == len(examples)


@pytest.mark.parametrize(("kind", "targets"), [("t5_folder", "all"), ("decoder_folder", "attention")])
def test_adapters_learn_and_are_merged_when_loaded(kind, targets, request, tmp_path):
    folder = request.getfixturevalue(kind)
    section = StudentSection(
        model=str(folder), dtype="fp32", epochs=8, lr=1e-2, lora_targets=targets, max_output_tokens=4
    )
    train_student(lookup_task(), str(folder), str(folder), section, 0, tmp_path, "train")
    loss = [row["loss"] for row in json.loads((tmp_path / "training.json").read_text(encoding="utf-8"))["loss"]]
    assert loss[-1] < 0.97 * loss[0]
    model = Student.load(tmp_path).model
    assert not any("lora" in name for name, _ in model.named_parameters())
    before = base_model(str(folder), torch.float32).state_dict()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all(("mlp" not in name and "Dense" not in name) for name in changed) == (targets == "attention")


@pytest.fixture
def gpt2_folder(tmp_path) -> Path:
    """A GPT-2 of 2 layers: its layers keep their weights the other way round, some of them square."""
    folder = tmp_path / "gpt2"
    tokenizer = byte_level_tokenizer()
    ends = dict.fromkeys(("bos_token_id", "eos_token_id"), tokenizer.eos_token_id)
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=512, n_embd=48, n_layer=2, n_head=4, **ends)
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["t5_folder", "decoder_folder", "gpt2_folder"])
def test_adapters_are_merged_without_rounding_twice(kind, request, tmp_path):
    """As peft merges them in float32 into the weights that they were trained on, which are rounded to the student's format."""
    folder = request.getfixturevalue(kind)
    section = StudentSection(model=str(folder), dtype="bf16", lr=1e-2, max_output_tokens=4)
    train_student(lookup_task(), str(folder), str(folder), section, 0, tmp_path, "train")
    wide = base_model(str(folder), torch.bfloat16).float()
    expected = PeftModel.from_pretrained(wide, tmp_path / "weights").merge_and_unload().to(torch.bfloat16).state_dict()
    loaded = Student.load(tmp_path).model
    assert loaded.dtype == torch.bfloat16
    assert all(torch.equal(value, expected[name]) for name, value in loaded.state_dict().items())


@pytest.mark.parametrize("kind", ["t5", "gpt2"])
def test_a_quicker_activation_is_the_same_function(kind):
    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "bos_token_id": 0, "eos_token_id": 0}
    if kind == "gpt2":
        model = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=4, **sizes))
    else:
        model = T5ForConditionalGeneration(
            T5Config(d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu", **sizes)
        )
    ids = torch.arange(24).view(2, 12)
    inputs = {"input_ids": ids} if kind == "gpt2" else {"input_ids": ids, "decoder_input_ids": ids}
    before = model.eval()(**inputs).logits
    quicken(model)
    assert sum(isinstance(module, torch.nn.GELU) for module in model.modules()) == (2 if kind == "gpt2" else 4)
    torch.testing.assert_close(model(**inputs).logits, before, rtol=1e-4, atol=1e-5)


def test_writing_does_not_depend_on_the_batch(decoder_folder, tmp_path):
    section = StudentSection(model=str(decoder_folder), dtype="fp32", epochs=2, lr=5e-3, max_output_tokens=12)
    train_student(lookup_task(), str(decoder_folder), str(decoder_folder), section, 0, tmp_path, "train")
    student = Student.load(tmp_path)
    prompts = [example.prompt for example in lookup_task()][:12]
    together = student.write(dict.fromkeys(prompts, ()), Writing("answer", 12))
    alone = student.write(dict.fromkeys(prompts[::-1], ()), Writing("answer", 1))
    assert {p: w.text for p, w in together.items()} == {p: w.text for p, w in alone.items()}


@pytest.mark.parametrize("kind", ["t5_folder", "decoder_folder"])
def test_decoding_equals_generate(kind, request, tmp_path):
    folder = str(request.getfixturevalue(kind))
    section = StudentSection(model=folder, dtype="fp32", epochs=3, lr=5e-3, max_output_tokens=20)
    examples = [*lookup_task(), *EXAMPLES * 4]
    train_student(examples, folder, folder, section, 0, tmp_path, "train")
    student = Student.load(tmp_path)
    prompts = sorted({example.prompt for example in examples})[:16]
    ours = student.write(dict.fromkeys(prompts, ()), Writing("answer", 16))
    for prompt in prompts:
        inputs = student.tokenizer(prompt, return_tensors="pt")
        output = student.model.generate(
            input_ids=inputs.input_ids, attention_mask=inputs.attention_mask, max_new_tokens=20, do_sample=False
        )
        begin = 0 if student.model.config.is_encoder_decoder else inputs.input_ids.shape[1]
        text = student.tokenizer.decode(output[0, begin:], skip_special_tokens=True).strip()
        assert ours[prompt].text == text


@pytest.mark.parametrize("kind", ["t5_folder", "decoder_folder"])
@pytest.mark.parametrize("writes", ["answer", "rationale"])
def test_answers_are_written_from_the_choices_alone(kind, writes, request, tmp_path):
    """A student that was taught to say 'Answer: purple' says one of the choices, whole, and nothing after it."""
    folder = request.getfixturevalue(kind)
    section = StudentSection(
        model=str(folder), method="full", dtype="fp32", epochs=25, batch_size=4, lr=4e-3, max_output_tokens=24
    )
    asks = "Explanation:" if writes == "rationale" else "Answer:"
    told = " It is so.\nAnswer: purple" if writes == "rationale" else " purple"
    prompts = [f"Question: {thing}\n{asks}" for thing in THINGS[:8]]
    train_student([Example(p, told) for p in prompts], str(folder), str(folder), section, 0, tmp_path, "train")
    student = Student.load(tmp_path)
    free = student.write(dict.fromkeys(prompts, ()), Writing(writes, 4))
    assert all(free[prompt].text.endswith("purple") for prompt in prompts)
    choices = ["red", "red stone", "the blue house"]
    written = student.write(dict.fromkeys(prompts, choices), Writing(writes, 4))
    for prompt in prompts:
        assert (
            written[prompt].text.removeprefix("It is so.\nAnswer:").removeprefix("It is so. Answer:").strip() in choices
        )
        assert not written[prompt].cut


@pytest.mark.parametrize("kind", ["t5_folder", "decoder_folder"])
@pytest.mark.parametrize("told", [" It is so.", " so so so so so so so so so so so so so so so so so"])
def test_a_rationale_that_names_no_answer_comes_to_one(kind, told, request, tmp_path):
    """A student that stops before "Answer:", or repeats itself up to the limit, still answers within the limit."""
    folder = request.getfixturevalue(kind)
    section = StudentSection(
        model=str(folder), method="full", dtype="fp32", epochs=25, batch_size=4, lr=4e-3, max_output_tokens=32
    )
    prompts = [f"Question: {thing}\nExplanation:" for thing in THINGS[:8]]
    train_student([Example(p, told) for p in prompts], str(folder), str(folder), section, 0, tmp_path, "train")
    student = Student.load(tmp_path)
    choices = ["red", "blue"]
    written = student.write(dict.fromkeys(prompts, choices), Writing("rationale", 4))
    free = student.write(dict.fromkeys(prompts, ()), Writing("rationale", 4))
    for prompt in prompts:
        read = extract(written[prompt].text, choices, "rationale")
        assert read.answer in (0, 1)
        assert read.rationale
        assert told.strip().startswith(read.rationale)
        assert written[prompt].cut
        assert extract(free[prompt].text, choices, "rationale").answer is None


def test_known_batches_are_not_written_again(decoder_folder, tmp_path):
    section = StudentSection(model=str(decoder_folder), dtype="fp32", epochs=1, max_output_tokens=4)
    train_student(lookup_task()[:8], str(decoder_folder), str(decoder_folder), section, 0, tmp_path, "train")
    student = Student.load(tmp_path)
    prompts = [example.prompt for example in lookup_task()[:6]]
    lengths = {prompt: len(ids) for prompt, ids in zip(prompts, student.tokenizer(prompts).input_ids, strict=True)}
    plan = list(batches(lengths, 2))
    known = {prompt: Written(prompt, "remembered", False, 1.0) for prompt in [*plan[0], plan[1][0]]}
    written = student.write(dict.fromkeys(prompts, ()), Writing("answer", 2), known=known)
    assert [written[prompt].text for prompt in plan[0]] == ["remembered", "remembered"]
    assert "remembered" not in [written[prompt].text for batch in plan[1:] for prompt in batch]


def test_resumed_training_goes_on_as_if_it_had_not_stopped(decoder_folder, tmp_path, monkeypatch):
    section = StudentSection(model=str(decoder_folder), dtype="fp32", epochs=2, batch_size=4, lr=5e-3)

    def arguments(folder):
        return (lookup_task()[:24], str(decoder_folder), str(decoder_folder), section, 0, folder, "train", (), 0.0)

    train_student(*arguments(tmp_path / "straight"))

    from kard.models.training import _Watch

    original, steps = _Watch.on_step_end, []

    def stop_at_seven(self, *args, **kwargs):
        original(self, *args, **kwargs)
        steps.append(1)
        if len(steps) == 7:
            raise KeyboardInterrupt

    monkeypatch.setattr(_Watch, "on_step_end", stop_at_seven)
    with pytest.raises(KeyboardInterrupt):
        train_student(*arguments(tmp_path / "resumed"))
    monkeypatch.setattr(_Watch, "on_step_end", original)
    train_student(*arguments(tmp_path / "resumed"))
    curves = [
        json.loads((tmp_path / name / "training.json").read_text(encoding="utf-8")) for name in ("straight", "resumed")
    ]
    assert curves[0] == curves[1]
    assert [row["step"] for row in curves[0]["loss"]] == [5, 10, 12]
    straight, resumed = (Student.load(tmp_path / name).model.state_dict() for name in ("straight", "resumed"))
    for name, value in straight.items():
        torch.testing.assert_close(value, resumed[name], atol=0, rtol=0)
    assert len(steps) == 7


def test_a_loss_that_is_not_a_number_stops_with_a_diagnosis(decoder_folder, tmp_path):
    section = StudentSection(model=str(decoder_folder), method="full", dtype="fp32", epochs=40, lr=1e30)
    with pytest.raises(UserError, match=r"Lower student\.lr"):
        train_student(lookup_task(), str(decoder_folder), str(decoder_folder), section, 0, tmp_path, "train")


@pytest.mark.parametrize("keys", [{}, {"early_stopping": 2}])
def test_weights_that_are_no_numbers_at_the_end_are_an_error(keys, decoder_folder, request, tmp_path, monkeypatch):
    """One step: its loss is a number, what it makes of the weights is not."""
    monkeypatch.setattr("kard.student.training._WARMUP", 0.0)
    keys = keys | {"epochs": 1, "lr": 1e39, "batch_size": 8}
    with pytest.raises(UserError, match=r"train: .*Lower student\.lr"):
        trained("decoder_folder", request, tmp_path, lookup_task()[:4], EXAMPLES, **keys)


def test_no_example_is_an_error(decoder_folder):
    with pytest.raises(UserError, match="no training example"):
        encode_examples([], base_tokenizer(str(decoder_folder)), False)


def test_prompts_fit_by_shortening_the_last_passage(decoder_folder):
    tokenizer = base_tokenizer(str(decoder_folder))
    passages = ["first " * 20, "second " * 200]
    prompt = fitting_prompt(
        tokenizer, StudentSection(max_input_tokens=200), "Which colour?", ["red", "blue"], passages, "rationale"
    )
    assert len(tokenizer(prompt).input_ids) <= 200
    assert prompt.count("first") == 20
    assert 0 < prompt.count("second") < 200
    assert "Which colour?" in prompt
    assert prompt.endswith("Explanation:")
    longer = fitting_prompt(
        tokenizer, StudentSection(max_input_tokens=206), "Which colour?", ["red", "blue"], passages, "rationale"
    )
    assert longer.count("second") > prompt.count("second")


def test_a_question_that_does_not_fit_is_cut_at_the_front_or_an_error(decoder_folder):
    tokenizer = base_tokenizer(str(decoder_folder))
    question = "why " * 100 + "is it red?"
    cut = fitting_prompt(tokenizer, StudentSection(max_input_tokens=50), question, ["yes"], ["a passage"], "answer")
    assert re.fullmatch(r"Question: (why )+is it red\?\nChoices:\n- yes\nAnswer:", cut)
    assert 45 <= len(tokenizer(cut).input_ids) <= 50
    for given, choices, long in ((question, [], "stop"), ("why?", ["red " * 50], "cut"), ("why" * 100, [], "cut")):
        section = StudentSection(max_input_tokens=50, long_questions=long)
        with pytest.raises(UserError, match=r"max_input_tokens \(50\)"):
            fitting_prompt(tokenizer, section, given, choices, [], "answer")


def test_an_unknown_model_names_the_key():
    with pytest.raises(UserError, match=r"student\.model: cannot load 'nobody/nothing'"):
        base_tokenizer("nobody/nothing")


def test_batches_depend_on_the_prompts_alone():
    lengths = {f"{number} " * number: number // 3 for number in range(1, 20)}
    plan = list(batches(lengths, 4))
    assert plan == list(batches(dict(reversed(lengths.items())), 4))
    assert sorted(prompt for batch in plan for prompt in batch) == sorted(lengths)
