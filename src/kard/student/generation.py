"""Writing: prompts in, texts out, in fixed batches of similar length."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from types import MappingProxyType
from typing import Literal

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from kard.errors import UserError
from kard.machine.cores import each_on_its_cores
from kard.methods import Writes
from kard.prompt import (
    AnswerAs,
    render,
    shorten_passages,
    shorten_question,
    shown_answer,
    with_examples,
    without_rationale,
)
from kard.student.activation import gelu_by_sigmoid
from kard.student.attention import attend_by_group
from kard.student.batching import IGNORED, Batch, Collator, aligned, of_similar_length, reads_alone
from kard.student.cache import Buffers
from kard.student.decoding import continuations, label_likelihoods, likelihoods
from kard.student.guide import AnswerGuide, likeliest
from kard.student.loading import StudentSettings, trained_model
from kard.student.reference import generated
from kard.student.sampling import Sampling
from kard.student.tokens import answer_paths, question_tokens, text_tokens

AnswerBy = Literal["choices", "generate", "likelihood"]
_RANKED_AT_ONCE = 8  # prompts; each of their choices has scores over the whole vocabulary for every token
_LOOKS_AT_ONCE = 16  # passages; each token of their questions has such scores


@dataclass(frozen=True)
class Written:
    """A prompt's continuation.

    Attributes:
        prompt: What was read.
        text: What was written; of several samples the first.
        cut: The rationale ended without ``Answer:`` (most often at ``max_output_tokens``), which was written for it.
        seconds: Its share of the batch's time.
        samples: All that was written, where several samples were drawn.
        confidence: How probable the answer was among the choices; None where any may follow, and of several samples.
    """

    prompt: str
    text: str
    cut: bool
    seconds: float
    samples: Sequence[str] = ()
    confidence: float | None = None


Hear = Callable[[str], None]
"""Takes all of the text that has been written so far."""


@dataclass(frozen=True)
class Writing:
    """How prompts are continued.

    Attributes:
        writes: What they ask for.
        batch_size: How many texts are written at once.
        batch_tokens: How many tokens are read at once at most, padding included; None: any.
        answer_by: choices: only a choice can follow ``Answer:``; generate: anything; likelihood: the likeliest whole choice.
        sampling: How several texts are drawn for each prompt; None: one, always the likeliest token.
        share: Which batches are written here: (2, 3) means the third of every three.
    """

    writes: Writes
    batch_size: int
    batch_tokens: int | None = None
    answer_by: AnswerBy = "choices"
    sampling: Sampling | None = None
    share: tuple[int, int] = (0, 1)


class Student:
    """A trained student.

    Args:
        model: Encoder-decoder or decoder.
        tokenizer: Its tokenizer.
        settings: How it was trained to read and write.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, settings: StudentSettings) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.settings = settings
        self.buffers = Buffers()
        attend_by_group(model)
        if model.device.type == "cpu":
            gelu_by_sigmoid(model)
        # The last position's hidden states are a strided view; without a copy of them, PyTorch copies the output layer's
        # weights once for each row of the batch.
        model.get_output_embeddings().register_forward_pre_hook(lambda head, inputs: (inputs[0].contiguous(),))

    @classmethod
    def load(cls, folder: Path, online: bool = False) -> Student:
        """Read a student that `train_student` wrote; `online`: what lies under it may be fetched from the hub."""
        return cls(*trained_model(folder, online))

    def prompt(
        self,
        question: str,
        choices: Sequence[str],
        passages: Sequence[str],
        writes: Writes,
        with_passages: bool = False,
    ) -> str:
        """The prompt, its passages shortened where it would be longer than the student was trained to read; in front of it as
        many worked examples as there is room for, `with_passages` or without, where the student has any."""
        settings = self.settings
        form, limit, long = settings.answer_as, settings.max_input_tokens, settings.long_questions
        examples = [one.shown(with_passages, writes, form) for one in settings.examples]
        return fitting_prompt(self.tokenizer, limit, question, choices, passages, writes, form, examples, long)

    def takes_for_one(self, choices: Sequence[str]) -> bool:
        """Whether two of a question's choices are the same tokens, for want of a character in the vocabulary."""
        forms = [shown_answer(choices, index, self.settings.answer_as) for index in range(len(choices))]
        return len(set(map(tuple, answer_paths(self.tokenizer, forms)))) < len(set(forms))

    def write(
        self,
        prompts: Mapping[str, Sequence[str]],
        how: Writing,
        done: Callable[[list[Written]], None] = lambda written: None,
        known: Mapping[str, Written] = MappingProxyType({}),
        hear: Mapping[str, Hear] = MappingProxyType({}),
    ) -> dict[str, Written]:
        """Continue each prompt until the end token.

        Args:
            prompts: Texts from `prompt`, each with the answers that may be written (none where any may).
            how: What they ask for, and how they are continued.
            done: Called with each finished batch.
            known: What an interrupted call has written already; a batch that is known as a whole is not written again, so
                that batches, and with them rounding, do not depend on the interruption.
            hear: By prompt, who is told after each token what has been written so far.

        Returns:
            What was written, by prompt.
        """
        found: dict[str, Written] = {}
        first, every = how.share
        for batch in self._batches(list(prompts), how)[first::every]:
            if all(prompt in known for prompt in batch):
                written = [known[prompt] for prompt in batch]
            else:
                start = monotonic()
                written = self._continue(batch, [prompts[prompt] for prompt in batch], how, hear)
                seconds = (monotonic() - start) / len(batch)
                written = [replace(item, seconds=seconds) for item in written]
            found |= {item.prompt: item for item in written}
            done(written)
        return found

    def question_likelihoods(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """log p(question | passage) of questions (without choices) and full texts of passages: how well each passage explains
        that just this was asked (Sachan et al. 2022), in the words of the student's own prompt.

        Returns:
            Natural logarithms, summed over the question's tokens.
        """
        prompts = [self.prompt(question, (), [passage], "rationale", with_passages=True) for question, passage in pairs]
        rows = []
        for prompt in prompts:
            ids, labels = question_tokens(self.tokenizer, prompt)
            behind = next(place for place, token in enumerate(reversed(labels)) if token != IGNORED)
            rows.append({"input_ids": ids[: len(ids) - behind], "labels": labels[: len(labels) - behind]})
        collate = Collator(int(self.tokenizer.pad_token_id), False)
        groups = list(of_similar_length([len(row["input_ids"]) for row in rows], _LOOKS_AT_ONCE, None))

        def read(places: Sequence[int]) -> dict[int, float]:
            likelihoods = label_likelihoods(self.model, collate([rows[place] for place in places]))
            return dict(zip(places, likelihoods, strict=True))

        parts = (
            each_on_its_cores(read, groups) if self.model.device.type == "cpu" else [read(group) for group in groups]
        )
        found = {place: likelihood for part in parts for place, likelihood in part.items()}
        return [found[place] for place in range(len(pairs))]

    def _batches(self, prompts: list[str], how: Writing) -> list[list[str]]:
        size = max(1, how.batch_size // (how.sampling.samples if how.sampling else 1))
        widths = [aligned(len(ids)) for ids in self.tokenizer(prompts).input_ids] if prompts else []
        return list(batches(dict(zip(prompts, widths, strict=True)), size, how.batch_tokens))

    def _continue(
        self, prompts: list[str], answers: list[Sequence[str]], how: Writing, hear: Mapping[str, Hear]
    ) -> list[Written]:
        inputs, given, told = self._read(prompts, how)
        samples = how.sampling.samples if how.sampling else 1
        end = int(self.tokenizer.eos_token_id)
        guide = AnswerGuide(
            self.tokenizer,
            [self._paths(*row, how) for row in zip(answers, told, strict=True) for _ in range(samples)],
            how.writes,
            self.settings.max_output_tokens,
            likeliest,
            [tokens for tokens in given for _ in range(samples)],
        )
        if how.sampling:
            guide.pick = how.sampling.pick(prompts, max(guide.limits))
        # Of several samples none is the answer yet, so there is nothing to tell on the way.
        heard = [(row, hear[prompt]) for row, prompt in enumerate(prompts) if prompt in hear and not how.sampling]

        def step(written: list[list[int]]) -> None:
            for row, tell in heard:
                # A choice is told when it is certain, as it was given: its tokens may read otherwise.
                upto = guide.begins[row] if guide.paths[row] else None
                text = self.tokenizer.decode(written[row][:upto], skip_special_tokens=True)
                tell(text.rstrip("\ufffd").strip())

        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        if reads_alone(self.model.config):
            tokens = generated(self.model, ids, mask, end, guide, samples, step)
        else:
            tokens = continuations(self.model, ids, mask, end, guide, samples, step, self.buffers)
        if how.answer_by == "likelihood":
            chosen, confidence = self._ranked(inputs, tokens, answers, told, samples)
        else:
            chosen, confidence = [guide.answer(row, text) for row, text in enumerate(tokens)], guide.confidences()
            tokens = [text[: guide.begins[row]] if chosen[row] is not None else text for row, text in enumerate(tokens)]
        tokens = [row[len(begun) :] for row, begun in zip(tokens, guide.given, strict=True)]
        # A choice stands as it was given: its tokens may be unknown ones, or those of another spelling.
        named = [f" {answers[row // samples][which]}" if which is not None else "" for row, which in enumerate(chosen)]
        begun = self.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        texts = [(text + answer).strip() for text, answer in zip(begun, named, strict=True)]
        return [
            Written(
                prompt,
                texts[row * samples],
                any(place in guide.cut for place in range(row * samples, (row + 1) * samples)),
                0.0,
                tuple(texts[row * samples : (row + 1) * samples]) if how.sampling else (),
                None if how.sampling else confidence[row],
            )
            for row, prompt in enumerate(prompts)
        ]

    def _read(self, prompts: list[str], how: Writing) -> tuple[Batch, list[list[int]], list[Writes]]:
        """What is read; the tokens that each text begins with; and what stands before each answer.

        A rationale that is given was learned as the student's own writing: its tokens are those of a target, and in an
        encoder-decoder they stand in the decoder.
        """
        none: list[list[int]] = [[] for _ in prompts]
        if how.writes == "rationale":
            return self._encoded(prompts, none), none, ["rationale" for _ in prompts]
        parts = [without_rationale(prompt) for prompt in prompts]
        told: list[Writes] = ["rationale" if given else "answer" for _, given in parts]
        given = text_tokens(self.tokenizer, [text for _, text in parts])
        asked = [prompt for prompt, _ in parts]
        if self.model.config.is_encoder_decoder:
            return self._encoded(asked, none), given, told
        return self._encoded(asked, given), none, told

    def _encoded(self, prompts: list[str], behind: list[list[int]]) -> Batch:
        """Prompts with more tokens behind each, padded."""
        ids = [row + more for row, more in zip(self.tokenizer(prompts).input_ids, behind, strict=True)]
        collate = Collator(int(self.tokenizer.pad_token_id), self.model.config.is_encoder_decoder)
        batch = collate([{"input_ids": row, "labels": []} for row in ids])
        return {name: batch[name].to(self.model.device) for name in ("input_ids", "attention_mask")}

    def _paths(self, answers: Sequence[str], told: Writes, how: Writing) -> list[list[int]]:
        if not answers or how.answer_by == "generate":
            return []
        if how.answer_by == "likelihood":  # the text ends after "Answer:", and is ended by `_ranked`
            return [[int(self.tokenizer.eos_token_id)]]
        return answer_paths(self.tokenizer, answers, told)

    def _ranked(
        self, inputs: Batch, tokens: list[list[int]], answers: list[Sequence[str]], told: list[Writes], samples: int
    ) -> tuple[list[int | None], list[float | None]]:
        """The likeliest choice after each text, and its probability among the choices; None where there are none."""
        chosen: list[int | None] = [None] * len(tokens)
        confidence: list[float | None] = [None] * len(tokens)
        rows = [row for row in range(len(tokens)) if answers[row // samples]]
        for begin in range(0, len(rows), _RANKED_AT_ONCE):
            block = rows[begin : begin + _RANKED_AT_ONCE]
            asked = [row // samples for row in block]
            paths = [answer_paths(self.tokenizer, answers[row], told[row]) for row in asked]
            begun = [tokens[row] for row in block]
            found = likelihoods(self.model, inputs["input_ids"][asked], inputs["attention_mask"][asked], begun, paths)
            for row, scores in zip(block, found, strict=True):
                best = max(range(len(scores)), key=scores.__getitem__)
                chosen[row] = best
                confidence[row] = 1 / sum(math.exp(score - scores[best]) for score in scores)
        return chosen, confidence


def batches(lengths: Mapping[str, int], size: int, tokens: int | None = None) -> Iterator[list[str]]:
    """Prompts in batches of similar length, longest first; the same prompts always give the same batches.

    Args:
        lengths: Distinct texts and how many tokens each has.
        size: Most prompts of a batch.
        tokens: Most tokens of a batch, padding included (a longer prompt is a batch of its own); None: any.
    """
    prompts = sorted(lengths)
    for group in of_similar_length([lengths[prompt] for prompt in prompts], size, tokens):
        yield [prompts[place] for place in group]


def fitting_prompt(
    tokenizer: PreTrainedTokenizerFast,
    limit: int,
    question: str,
    choices: Sequence[str],
    passages: Sequence[str],
    writes: Writes,
    answer_as: AnswerAs,
    examples: Sequence[str] = (),
    long_questions: Literal["cut", "stop"] = "cut",
) -> str:
    """`prompt.render` with as many worked examples as fit into `limit` tokens, then as many words of the passages; of a question
    that does not fit alone, as many of its last words.

    Raises:
        UserError: The question is too long and must not be cut, or its choices alone are too long.
    """

    def fits(text: str) -> bool:
        # No tokenizer makes more tokens than bytes (and a few special ones): most prompts need no counting.
        return len(text.encode("utf-8")) + 2 <= limit or len(tokenizer(text).input_ids) <= limit

    def most(rendered: Callable[[int], str], least: int, words: int) -> str:
        low, high = least, words  # rendered(low) always fits
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(rendered(middle)) else (low, middle)
        return rendered(low)

    def with_words(words: int) -> str:
        return render(question, choices, shorten_passages(passages, words), writes, answer_as)

    def with_end(words: int) -> str:
        return render(shorten_question(question, words), choices, (), writes, answer_as)

    whole = render(question, choices, passages, writes, answer_as)
    for shown in range(len(examples), -1, -1):
        if fits(text := with_examples(examples[:shown], whole)):
            return text
    if fits(with_words(0)):
        return most(with_words, 0, sum(len(passage.split()) for passage in passages))
    if long_questions == "stop" or not fits(with_end(1)):
        key = "evaluation.prompt_tokens" if examples else "student.max_input_tokens"
        raise UserError(
            f"question '{question[:60]}…': longer than {key} ({limit}) even without passages. "
            f"Raise {key}, shorten the question, or set student.long_questions: cut."
        )
    return most(with_end, 1, len(question.split()))
