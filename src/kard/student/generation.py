"""Writing: prompts in, texts out, in fixed batches of similar length."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from types import MappingProxyType
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from kard.machine.cores import each_on_its_cores
from kard.machine.processes import compute_device
from kard.methods import Writes
from kard.models.at_once import AtOnce
from kard.progress import say
from kard.prompt import (
    extract,
    shown_answer,
    target,
    without_rationale,
)
from kard.student.batching import IGNORED, Batch, Collator, aligned, of_similar_length, prompt_batch
from kard.student.constraint import AnswerConstraint, likeliest
from kard.student.cpu_engine.engine import CpuEngine
from kard.student.cpu_engine.int8 import multiply_in_int8
from kard.student.fitting import fitting_prompt
from kard.student.likelihood import following_scores, keeps_tokens, label_likelihoods, likelihoods
from kard.student.loading import StudentSettings, trained_model
from kard.student.reference import Reference
from kard.student.sampling import Sampling
from kard.student.tokens import answer_paths, question_tokens, text_tokens
from kard.student.vllm import Vllm
from kard.student.writer import OnTokens, Task, Writer

Likelihood = TypeVar("Likelihood", float, list[float])
AnswerBy = Literal["choices", "generate", "likelihood"]
_TOO_LARGE = (
    "Lower student.max_input_tokens, evaluation.samples or evaluation.passages, or take a smaller student.model."
)
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
        confidence: How probable the answer was among the choices; of an open answer the geometric mean of its tokens'
            probabilities, where that was asked for. None otherwise, and of several samples.
        likelihoods: With `Writing.ranks_choices`, of each choice the mean log-probability of its tokens; the text is empty.
    """

    prompt: str
    text: str
    cut: bool
    seconds: float
    samples: Sequence[str] = ()
    confidence: float | None = None
    likelihoods: Sequence[float] = ()

    @property
    def key(self) -> tuple[str, bool]:
        """What tells it from others of its kind: the prompt, and whether choices were ranked."""
        return self.prompt, bool(self.likelihoods)


OnText = Callable[[str], None]
"""Takes all of the text that has been written so far."""


@dataclass(frozen=True)
class Writing:
    """How prompts are continued.

    Attributes:
        writes: What they ask for.
        batch_size: How many texts are written at once.
        answer_by: choices: only a choice can follow ``Answer:``; generate: anything; likelihood: the likeliest whole choice.
        sampling: How several texts are drawn for each prompt; None: one, always the likeliest token.
        share: Which batches are written here: (2, 3) means the third of every three.
        weigh_open: Whether open answers have a confidence.
        ranks_choices: Nothing is written: each prompt has choices, and for each of them its likelihood is found.
    """

    writes: Writes
    batch_size: int
    answer_by: AnswerBy = "choices"
    sampling: Sampling | None = None
    share: tuple[int, int] = (0, 1)
    weigh_open: bool = False
    ranks_choices: bool = False


def local_writer(model: PreTrainedModel, int8: bool = False) -> Writer:
    """What writes with a model in this process: our engine on CPUs where it can, elsewhere transformers' `generate`.

    With `int8` the engine's model multiplies in 8 bits, and all else that it computes is in float32.
    """
    can = model.config.is_encoder_decoder or keeps_tokens(model)
    if not can or model.device.type != "cpu":
        return Reference(model)
    if int8:
        multiply_in_int8(model)
    return CpuEngine(model)


class Student:
    """A trained student.

    Args:
        model: Encoder-decoder or decoder.
        tokenizer: Its tokenizer.
        settings: How it was trained to read and write.
        writer: What writes; None: `local_writer`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerFast,
        settings: StudentSettings,
        writer: Writer | None = None,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.settings = settings
        self.writer = writer or local_writer(model)
        self._at_once = AtOnce(sys.maxsize, "texts", _TOO_LARGE)

    @classmethod
    def load(
        cls,
        folder: Path,
        online: bool = False,
        engine: str = "transformers",
        options: Mapping[str, Any] = MappingProxyType({}),
    ) -> Student:
        """Read a student that `train_student` wrote.

        Args:
            folder: Its folder.
            online: Whether what lies under it may be fetched from the hub.
            engine: ``transformers``, ``int8`` or ``vllm``, as the recipe's ``evaluation.engine``.
            options: Its ``evaluation.vllm``.

        Raises:
            UserError: vLLM is asked for and cannot write here.
        """
        model, tokenizer, settings = trained_model(folder, online, "cpu" if engine == "vllm" else compute_device())
        if engine == "vllm":
            return cls(model, tokenizer, settings, Vllm(model, tokenizer, options))
        student = cls(model, tokenizer, settings, local_writer(model, engine == "int8"))
        if model.device.type == "cpu" and isinstance(student.writer, Reference):
            kind = model.config.model_type
            how = "not in 8 bits and " if engine == "int8" else ""
            say(
                f"  transformers' generate writes, {how}more slowly than the CPU engine: layers of '{kind}' keep a state"
            )
        return student

    def close(self) -> None:
        """Give back what an engine beside this process holds; the student writes no more then."""
        if isinstance(self.writer, Vllm):
            self.writer.close()

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
        examples = [one.shown(with_passages, writes, self.settings.answer_as) for one in self.settings.examples]
        return fitting_prompt(self.tokenizer, self.settings, question, choices, passages, writes, examples)

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
        on_text: Mapping[str, OnText] = MappingProxyType({}),
    ) -> dict[str, Written]:
        """Continue each prompt until the end token.

        Args:
            prompts: Texts from `prompt`, each with the answers that may be written (none where any may).
            how: What they ask for, and how they are continued.
            done: Called with each finished batch.
            known: What an interrupted call has written already; a batch that is known as a whole is not written again, so
                that batches, and with them rounding, do not depend on the interruption.
            on_text: By prompt, what is called after each token with all that has been written so far.

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
                written = self._written(batch, prompts, how, on_text)
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
        groups = list(of_similar_length([len(row["input_ids"]) for row in rows], _LOOKS_AT_ONCE))

        def read(places: Sequence[int]) -> list[float]:
            return label_likelihoods(self.model, collate([rows[place] for place in places]))

        parts = self._of_each(read, groups)
        found = {p: one for group, part in zip(groups, parts, strict=True) for p, one in zip(group, part, strict=True)}
        return [found[place] for place in range(len(pairs))]

    def following(self, prompt: str, rationale: str, writes: Writes, tokens: Sequence[int]) -> Tensor:
        """How likely each token is where an answer stands, after a rationale, and behind each of `tokens` there; see
        `following_scores`."""
        begun = _before_answer(self.tokenizer, rationale, writes)
        read = torch.tensor([self.tokenizer(prompt).input_ids], device=self.model.device)
        return following_scores(self.model, read, begun, tokens)

    def _batches(self, prompts: list[str], how: Writing) -> list[list[str]]:
        size = max(1, how.batch_size // (how.sampling.samples if how.sampling else 1))
        if self.writer.takes_all:
            size = max(1, -(-len(prompts) // how.share[1]))
        widths = [aligned(len(ids)) for ids in self.tokenizer(prompts).input_ids] if prompts else []
        return list(batches(dict(zip(prompts, widths, strict=True)), size))

    def _written(
        self, batch: list[str], prompts: Mapping[str, Sequence[str]], how: Writing, on_text: Mapping[str, OnText]
    ) -> list[Written]:
        """What is written of a batch, in parts where it does not fit into the memory."""

        def in_parts(size: int) -> list[Written]:
            parts = (batch[begin : begin + size] for begin in range(0, len(batch), size))
            return [one for part in parts for one in self._continue(part, [prompts[p] for p in part], how, on_text)]

        return self._at_once.run(in_parts, len(batch))

    def _continue(
        self, prompts: list[str], answers: list[Sequence[str]], how: Writing, on_text: Mapping[str, OnText]
    ) -> list[Written]:
        if how.ranks_choices:
            return self._ranked(prompts, answers, how)
        samples = how.sampling.samples if how.sampling else 1
        owner = [row for row in range(len(prompts)) for _ in range(samples)]
        inputs, given, writes = self._read(prompts, how)
        constraint = AnswerConstraint(
            self.tokenizer,
            [self._paths(answers[row], writes[row], how) for row in owner],
            how.writes,
            self.settings.max_output_tokens,
            likeliest,
            [given[row] for row in owner],
        )
        if how.sampling:
            constraint.pick = how.sampling.pick(prompts, max(constraint.limits))
        on_tokens = self._on_tokens(prompts, constraint, on_text if not how.sampling else {})
        task = Task(inputs["input_ids"], inputs["attention_mask"], constraint, how.sampling, on_tokens)
        tokens = self.writer.write(task)
        if how.answer_by == "likelihood":
            scores = self._choice_likelihoods(inputs, tokens, [answers[row] for row in owner], writes, owner)
            chosen, confidence = _likeliest_choices(scores)
        else:
            chosen, confidence = (
                [constraint.answer(row, text) for row, text in enumerate(tokens)],
                constraint.confidences(),
            )
        texts = []
        for place, (row, which) in enumerate(zip(owner, chosen, strict=True)):
            upto = constraint.begins[place] if which is not None else None
            own = tokens[place][len(constraint.given[place]) : upto]
            # A choice stands as it was given: its tokens may be unknown ones, or those of another spelling.
            answer = f" {answers[row][which]}" if which is not None else ""
            texts.append((self.tokenizer.decode(own, skip_special_tokens=True) + answer).strip())
        cut = {owner[place] for place in constraint.cut}
        if how.weigh_open and not how.sampling:
            self._weigh_open(inputs, texts, writes, confidence)
        if how.sampling:
            drawn = [tuple(texts[place : place + samples]) for place in range(0, len(texts), samples)]
            return [Written(p, drawn[row][0], row in cut, 0.0, drawn[row]) for row, p in enumerate(prompts)]
        return [Written(p, texts[row], row in cut, 0.0, (), confidence[row]) for row, p in enumerate(prompts)]

    def _ranked(self, prompts: list[str], answers: list[Sequence[str]], how: Writing) -> list[Written]:
        inputs, _, writes = self._read(prompts, how)
        rows = range(len(prompts))
        scores = self._choice_likelihoods(inputs, [[] for _ in rows], answers, writes, rows)
        lengths = [map(len, answer_paths(self.tokenizer, answers[row], writes[row])) for row in rows]
        means = [[sum_ / size for sum_, size in zip(*pair, strict=True)] for pair in zip(scores, lengths, strict=True)]
        return [Written(prompt, "", False, 0.0, likelihoods=row) for prompt, row in zip(prompts, means, strict=True)]

    def _on_tokens(self, prompts: list[str], constraint: AnswerConstraint, on_text: Mapping[str, OnText]) -> OnTokens:
        """Hands the texts on. A choice is there when it is certain, as it was given: its tokens may read otherwise."""
        wanted = [(row, on_text[prompt]) for row, prompt in enumerate(prompts) if prompt in on_text]

        def hand_on(written: list[list[int]]) -> None:
            for row, take in wanted:
                upto = constraint.begins[row] if constraint.paths[row] else None
                take(self.tokenizer.decode(written[row][:upto], skip_special_tokens=True).rstrip("\ufffd").strip())

        return hand_on

    def _read(self, prompts: list[str], how: Writing) -> tuple[Batch, list[list[int]], list[Writes]]:
        """What is read; the tokens that each text begins with; and what stands before each answer.

        A rationale that is given was learned as the student's own writing: its tokens are those of a target, and in an
        encoder-decoder they stand in the decoder.
        """
        none: list[list[int]] = [[] for _ in prompts]
        if how.writes == "rationale":
            return self._encoded(prompts, none), none, ["rationale" for _ in prompts]
        parts = [without_rationale(prompt) for prompt in prompts]
        writes: list[Writes] = ["rationale" if given else "answer" for _, given in parts]
        given = text_tokens(self.tokenizer, [text for _, text in parts])
        asked = [prompt for prompt, _ in parts]
        if self.model.config.is_encoder_decoder:
            return self._encoded(asked, none), given, writes
        return self._encoded(asked, given), none, writes

    def _encoded(self, prompts: list[str], behind: list[list[int]]) -> Batch:
        """Prompts with more tokens behind each, padded."""
        ids = [row + more for row, more in zip(self.tokenizer(prompts).input_ids, behind, strict=True)]
        return prompt_batch(self.model, int(self.tokenizer.pad_token_id), ids)

    def _paths(self, answers: Sequence[str], writes: Writes, how: Writing) -> list[list[int]]:
        if not answers or how.answer_by == "generate":
            return []
        if how.answer_by == "likelihood":  # the text ends after "Answer:", and its choice is put behind it
            return [[int(self.tokenizer.eos_token_id)]]
        return answer_paths(self.tokenizer, answers, writes)

    def _choice_likelihoods(
        self,
        inputs: Batch,
        tokens: list[list[int]],
        answers: list[Sequence[str]],
        writes: list[Writes],
        owner: Sequence[int],
    ) -> list[list[float]]:
        """log p of each choice after each text; none where there are no choices."""
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        places = [place for place in range(len(tokens)) if answers[place]]
        paths = {place: answer_paths(self.tokenizer, answers[place], writes[owner[place]]) for place in places}

        def read(group: Sequence[int]) -> list[list[float]]:
            block = [places[one] for one in group]
            rows = [owner[place] for place in block]
            there = mask[rows].any(dim=0)  # the longest of these may be shorter than that of all
            begun = [tokens[place] for place in block]
            return likelihoods(self.model, ids[rows][:, there], mask[rows][:, there], begun, [paths[p] for p in block])

        groups = of_similar_length([int(mask[owner[place]].sum()) for place in places], _RANKED_AT_ONCE)
        scores: list[list[float]] = [[] for _ in tokens]
        for group, found in zip(groups, self._of_each(read, groups), strict=True):
            for one, row in zip(group, found, strict=True):
                scores[places[one]] = row
        return scores

    def _of_each(
        self, read: Callable[[list[int]], list[Likelihood]], groups: list[list[int]]
    ) -> list[list[Likelihood]]:
        """What is read of each group: side by side where a model keeps nothing of one for another."""
        return each_on_its_cores(read, groups) if isinstance(self.writer, CpuEngine) else list(map(read, groups))

    def _weigh_open(
        self,
        inputs: Batch,
        texts: list[str],
        writes: list[Writes],
        confidence: list[float | None],
    ) -> None:
        """Give each answer a confidence that has none: any might have followed."""
        for row, text in enumerate(texts):
            read = extract(text, (), writes[row])
            if confidence[row] is not None or not isinstance(read.answer, str):
                continue
            begun = _before_answer(self.tokenizer, read.rationale, writes[row])
            path = answer_paths(self.tokenizer, [read.answer], writes[row])
            own = slice(row, row + 1)
            [[score]] = likelihoods(
                self.model, inputs["input_ids"][own], inputs["attention_mask"][own], [begun], [path]
            )
            confidence[row] = math.exp(score / len(path[0]))


def _likeliest_choices(scores: Sequence[Sequence[float]]) -> tuple[list[int | None], list[float | None]]:
    """The best choice of each text, and its probability among the choices; None where there are none."""
    chosen = [max(range(len(row)), key=row.__getitem__) if row else None for row in scores]
    sure = [
        1 / sum(math.exp(score - row[best]) for score in row) if best is not None else None
        for row, best in zip(scores, chosen, strict=True)
    ]
    return chosen, sure


def _before_answer(tokenizer: PreTrainedTokenizerFast, rationale: str, writes: Writes) -> list[int]:
    """The tokens that a student writes up to its answer."""
    return text_tokens(tokenizer, [target(rationale, "", writes).rstrip()])[0] if writes == "rationale" else []


def batches(lengths: Mapping[str, int], size: int) -> Iterator[list[str]]:
    """Prompts in batches of similar length, longest first; the same prompts always give the same batches.

    Args:
        lengths: Distinct texts and how many tokens each has.
        size: Most prompts of a batch.
    """
    prompts = sorted(lengths)
    for group in of_similar_length([lengths[prompt] for prompt in prompts], size):
        yield [prompts[place] for place in group]
