"""Samples, votes, likelihood: what is written depends on seed and prompt alone, not on the batch."""

from __future__ import annotations

import math

import pytest
import torch
import transformers

from kard.kard import majority
from kard.prompt import extract, with_rationale
from kard.recipe.sections import StudentSection
from kard.student.constraint import AnswerConstraint
from kard.student.generation import Student, Writing
from kard.student.loading import StudentSettings, base_model, base_tokenizer
from kard.student.sampling import Sampling
from kard.student.tokens import answer_paths
from kard.student.training import Example, train_student
from tests.conftest import THINGS
from tests.student.test_vocabulary import unigram_tokenizer

PROMPTS = [f"Question: {thing}\nExplanation:" for thing in THINGS[:6]]
CHOICES = ["red", "red stone", "the blue house"]


@pytest.fixture(scope="module", params=["t5_folder", "decoder_folder"])
def student(request, tmp_path_factory):
    """Taught to say different things, and not to the end."""
    folder = tmp_path_factory.mktemp("student")
    base = str(request.getfixturevalue(request.param))
    section = StudentSection(
        model=base, method="full", dtype="fp32", epochs=6, batch_size=4, lr=4e-3, max_output_tokens=32
    )
    told = [" It is so.\nAnswer: red", " It is so.\nAnswer: the blue house", " It was the stone.\nAnswer: red stone"]
    examples = [Example(prompt, text) for prompt in PROMPTS for text in told]
    train_student(examples, base, base, section, 0, folder, "train")
    return Student.load(folder)


def test_likelihoods_of_questions_are_those_of_the_model_whoever_is_asked_beside(decoder_folder):
    settings = StudentSettings(str(decoder_folder), False, "text", "float32", 64, 24)
    model, tokenizer = base_model(str(decoder_folder), torch.float32), base_tokenizer(str(decoder_folder))
    student = Student(model.eval(), tokenizer, settings)
    pairs = [
        (f"Which colour has the {thing}?", f"The {thing} of the north." * (1 + n % 3)) for n, thing in enumerate(THINGS)
    ]
    pairs += pairs[:1]  # two that are the same
    found = student.question_likelihoods(pairs)
    assert student.question_likelihoods(pairs[::-1])[::-1] == pytest.approx(found, abs=1e-4)
    assert student.question_likelihoods([]) == []
    for (question, passage), likelihood in zip(pairs[:4], found, strict=False):
        before = tokenizer(f"Passage: {passage}\nQuestion:").input_ids
        asked = tokenizer(f" {question}", add_special_tokens=False).input_ids
        logs = model(torch.tensor([before + asked])).logits[0, len(before) - 1 : -1].log_softmax(dim=-1)
        assert likelihood == pytest.approx(sum(logs[n, token].item() for n, token in enumerate(asked)), abs=1e-3)
        assert student.question_likelihoods([(question, passage)]) == pytest.approx([likelihood], abs=1e-4)


@pytest.mark.parametrize("answer_by", ["choices", "likelihood"])
@pytest.mark.parametrize("writes", ["answer", "rationale"])
def test_a_choice_of_unknown_characters_is_named_as_it_was_given(answer_by, writes):
    """T5's tokenizer knows no brace, no "<" and no "~": such tokens are no text any more when they are decoded."""
    tokenizer = unigram_tokenizer()
    config = transformers.T5Config(
        vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, pad_token_id=0,
        eos_token_id=1, decoder_start_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.T5ForConditionalGeneration(config).eval()
    student = Student(model, tokenizer, StudentSettings("x", False, "text", "float32", 64, 24))
    choices = ["{red}", "№ 日", "blue"]
    assert student.takes_for_one(["№ 日", "№ 月"])
    assert not student.takes_for_one(choices)
    assert tokenizer.unk_token_id in tokenizer(choices[1]).input_ids
    heard = {prompt: [] for prompt in PROMPTS}
    on_text = {prompt: texts.append for prompt, texts in heard.items()}
    how = Writing(writes, 4, answer_by=answer_by)
    for prompt, item in student.write(dict.fromkeys(PROMPTS, choices), how, on_text=on_text).items():
        assert extract(item.text, choices, writes).answer in (0, 1, 2), (prompt, item.text)
        assert all(item.text.startswith(text) for text in heard[prompt]), (heard[prompt], item.text)


def texts(student, prompts, how, choices=CHOICES):
    return {p: (w.text, tuple(w.samples)) for p, w in student.write(dict.fromkeys(prompts, choices), how).items()}


@pytest.mark.parametrize("answer_by", ["choices", "generate", "likelihood"])
@pytest.mark.parametrize("sampling", [None, Sampling(3, 1.0, 50, 0.95, seed=1)])
def test_writing_depends_neither_on_the_batch_nor_on_the_order(student, answer_by, sampling):
    together = texts(student, PROMPTS, Writing("rationale", 64, answer_by, sampling))
    alone = texts(student, PROMPTS[::-1], Writing("rationale", 1, answer_by, sampling))
    assert together == alone


@pytest.mark.parametrize("writes", ["answer", "rationale"])
@pytest.mark.parametrize("sampling", [None, Sampling(3, 1.0, 50, 0.95, seed=1)])
def test_a_choice_longer_than_all_that_may_be_written_is_written_to_its_end(student, writes, sampling):
    long = [f"the {thing} of the " + "old stone house " * 12 + thing for thing in THINGS[:2]]
    assert len(student.tokenizer(long[0]).input_ids) > student.settings.max_output_tokens
    how = Writing(writes, 8, sampling=sampling)
    mixed = student.write({PROMPTS[0]: long, PROMPTS[1]: CHOICES, PROMPTS[2]: ()}, how)
    for text in mixed[PROMPTS[0]].samples or [mixed[PROMPTS[0]].text]:
        assert text.endswith(tuple(long))
    for prompt, choices in ((PROMPTS[1], CHOICES), (PROMPTS[2], ())):  # others may not write more for it
        alone = student.write({prompt: choices}, how)[prompt]
        assert (mixed[prompt].text, mixed[prompt].samples) == (alone.text, alone.samples)


@pytest.mark.parametrize("writes", ["answer", "rationale"])
@pytest.mark.parametrize("sampling", [None, Sampling(3, 1.0, 50, 0.95, seed=1)])
def test_what_is_certain_is_not_computed(student, monkeypatch, writes, sampling):
    """The rest of a choice that nothing else begins like: the same texts and confidences, with fewer steps."""
    calls, choices = [], ["red things", "the blue house", "stone and sand"]
    hook = student.model.register_forward_hook(lambda *_: calls.append(1))

    def write():
        calls.clear()
        found = student.write(dict.fromkeys(PROMPTS, choices), Writing(writes, 64, sampling=sampling))
        return {p: (w.text, w.samples, w.confidence) for p, w in found.items()}, len(calls)

    (quick, few), _ = write(), monkeypatch.setattr(AnswerConstraint, "rest", lambda *_: [])
    slow, many = write()
    hook.remove()
    assert quick == slow
    assert few < many


def test_samples_follow_the_seed_and_differ(student):
    drawn = [texts(student, PROMPTS, Writing("rationale", 8, "generate", Sampling(4, seed=seed))) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    samples = [set(found) for _, found in drawn[0].values()]
    assert all(len(found) == 4 for _, found in drawn[0].values())
    assert max(map(len, samples)) > 1
    first = texts(student, PROMPTS, Writing("rationale", 8, "generate", Sampling(2, seed=0)))
    assert all(first[prompt][1] == drawn[0][prompt][1][:2] for prompt in PROMPTS)  # more samples leave the first ones


def test_cold_samples_are_the_likeliest_text(student):
    greedy = texts(student, PROMPTS, Writing("rationale", 8))
    cold = texts(student, PROMPTS, Writing("rationale", 8, sampling=Sampling(2, temperature=1e-4)))
    narrow = texts(student, PROMPTS, Writing("rationale", 8, sampling=Sampling(2, top_k=1)))
    for prompt in PROMPTS:
        assert cold[prompt][1] == narrow[prompt][1] == (greedy[prompt][0],) * 2


def test_sampling_draws_with_the_models_probabilities():
    """10,000 draws from one distribution, cut by top_k and top_p."""
    scores = torch.tensor([[1.0, 3.0, 2.0, 0.0]]).expand(10_000, 4)
    pick = Sampling(10_000, temperature=2.0).pick(["prompt"], 1)
    found = pick(range(10_000), [0] * 10_000, scores).bincount(minlength=4) / 10_000
    torch.testing.assert_close(found, (scores[0] / 2).softmax(0), atol=0.02, rtol=0)
    two = Sampling(10_000, top_k=2).pick(["prompt"], 1)(range(10_000), [0] * 10_000, scores).unique()
    assert two.tolist() == [1, 2]
    # 64 %, 24 %, 9 %, 3 %: the first two have 88 % together
    three = Sampling(10_000, top_p=0.9).pick(["prompt"], 1)(range(10_000), [0] * 10_000, scores).unique()
    assert three.tolist() == [0, 1, 2]


@pytest.mark.parametrize("answer_by", ["choices", "likelihood"])
def test_a_rationale_that_is_given_is_answered_as_the_students_own(student, answer_by):
    """As teacher_cot does it, in a decoder's prompt and in an encoder-decoder's decoder."""
    own = student.write(dict.fromkeys(PROMPTS, CHOICES), Writing("rationale", 4, answer_by=answer_by))
    whole = {prompt: written for prompt, written in own.items() if not written.cut}
    assert len(whole) > 2
    told = {
        prompt: with_rationale(prompt, extract(w.text, CHOICES, "rationale").rationale) for prompt, w in whole.items()
    }
    prompts = [*told.values(), with_rationale(PROMPTS[0], "The house is blue, and that says a great deal more.")]
    given = student.write(dict.fromkeys(prompts, CHOICES), Writing("answer", 4, answer_by=answer_by))
    for prompt, written in whole.items():
        assert given[told[prompt]].text == written.text.rpartition("Answer: ")[2]
        assert given[told[prompt]].confidence == pytest.approx(written.confidence, rel=1e-4)
    assert given[prompts[-1]].text in CHOICES


def test_likelihood_ranks_whole_choices(student):
    """Against the model's own loss on prompt, rationale and choice."""
    written = student.write(dict.fromkeys(PROMPTS, CHOICES), Writing("rationale", 8, answer_by="likelihood"))
    for prompt in PROMPTS:
        rationale, _, answer = written[prompt].text.rpartition("Answer:")
        begun = student.write({prompt: CHOICES}, Writing("rationale", 1, answer_by="choices"))[prompt].text
        assert begun.startswith(rationale)
        start = student.tokenizer(
            begun[: len(rationale)] and f" {rationale}Answer:", add_special_tokens=False
        ).input_ids
        scores = [log_probability(student, prompt, start, choice) for choice in CHOICES]
        assert CHOICES[scores.index(max(scores))] == answer.strip()
        share = math.exp(max(scores)) / sum(map(math.exp, scores))
        assert written[prompt].confidence == pytest.approx(share, rel=1e-3)


def test_choices_that_are_ranked_have_the_mean_likelihood_of_their_tokens(student):
    """Against the model's own loss on each choice; nothing is written."""
    asked = {prompt.replace("Explanation:", "Answer:"): ["stone", "house of stones", "north"] for prompt in PROMPTS}
    written = student.write(asked, Writing("answer", 4, ranks_choices=True))
    for prompt, choices in asked.items():
        sizes = [len(path) for path in answer_paths(student.tokenizer, choices, "answer")]
        assert len(set(sizes)) > 1
        own = [log_probability(student, prompt, [], one) / size for one, size in zip(choices, sizes, strict=True)]
        assert written[prompt].likelihoods == pytest.approx(own, rel=1e-3)
        assert (written[prompt].text, written[prompt].key) == ("", (prompt, True))


def test_confidence_is_the_choices_probability_and_counts_each_token_once(student):
    """Rows that have ended stay in the batch for a while, and are not weighed again; samples have no confidence of their own."""
    together = student.write(dict.fromkeys(PROMPTS, CHOICES), Writing("rationale", 8))
    for prompt in PROMPTS:
        alone = student.write({prompt: CHOICES}, Writing("rationale", 1))[prompt]
        assert 0 < alone.confidence <= 1
        assert together[prompt].confidence == pytest.approx(alone.confidence, rel=1e-3)
    sampled = student.write(dict.fromkeys(PROMPTS, CHOICES), Writing("rationale", 8, sampling=Sampling(2)))
    assert {written.confidence for written in sampled.values()} == {None}


def test_an_open_answers_confidence_is_the_mean_probability_of_its_tokens(student):
    """The geometric mean, against the model's own; where nobody asks for it there is none."""
    asked = dict.fromkeys(PROMPTS, ())
    assert {one.confidence for one in student.write(asked, Writing("rationale", 8)).values()} == {None}
    written = student.write(asked, Writing("rationale", 8, weigh_open=True))
    read = {prompt: extract(one.text, (), "rationale") for prompt, one in written.items()}
    assert any(one.answer for one in read.values())
    for prompt, one in read.items():
        if one.answer is None:
            assert written[prompt].confidence is None
            continue
        begun, said = (
            student.tokenizer(text, add_special_tokens=False).input_ids
            for text in (f" {one.rationale}\nAnswer:", f" {one.answer}")
        )
        expected = math.exp(log_probability(student, prompt, begun, one.answer) / (len(said) + 1))
        assert written[prompt].confidence == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("answer_by", ["choices", "likelihood"])
def test_one_text_is_heard_on_the_way_and_samples_are_not(student, answer_by):
    heard: list[str] = []
    on_text = {PROMPTS[0]: heard.append}
    written = student.write(
        dict.fromkeys(PROMPTS, CHOICES), Writing("rationale", 4, answer_by=answer_by), on_text=on_text
    )
    assert len(heard) > 3
    assert written[PROMPTS[0]].text.startswith(heard[-1])
    heard.clear()
    how = Writing("rationale", 4, answer_by=answer_by, sampling=Sampling(2))
    student.write({PROMPTS[0]: CHOICES}, how, on_text=on_text)
    assert heard == []


@torch.no_grad()
def log_probability(student, prompt, begun, choice):
    tokenizer, model = student.tokenizer, student.model
    path = [*tokenizer(f" {choice}", add_special_tokens=False).input_ids, tokenizer.eos_token_id]
    read = tokenizer(prompt, return_tensors="pt").input_ids
    if model.config.is_encoder_decoder:
        fed = torch.tensor([[model.config.decoder_start_token_id, *begun, *path]])
        logits = model(input_ids=read, decoder_input_ids=fed).logits
    else:
        fed = torch.cat([read, torch.tensor([[*begun, *path]])], dim=1)
        logits = model(input_ids=fed).logits
    scores = logits[0, -len(path) - 1 : -1].log_softmax(dim=-1)
    return sum(float(scores[place, token]) for place, token in enumerate(path))


def test_shares_are_the_whole(student):
    how = Writing("rationale", 2)
    whole = texts(student, PROMPTS, how)
    shares = [texts(student, PROMPTS, Writing("rationale", 2, share=(place, 2))) for place in (0, 1)]
    assert shares[0] | shares[1] == whole
    assert not set(shares[0]) & set(shares[1])


@pytest.mark.parametrize(
    ("answers", "place", "votes"),
    [
        ([1, 0, 0], 1, 2),
        ([None, None, 2], 2, 1),
        ([None, None], 0, 0),
        ([2, 1], 0, 1),
        (["The Sea", "a lake", "sea"], 0, 2),
    ],
)
def test_the_majority_decides(answers, place, votes):
    assert majority(answers) == (place, votes)
