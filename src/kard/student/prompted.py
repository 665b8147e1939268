"""A pretrained language model as it is, prompted: it writes by sampling, and ranks answers by their likelihood."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from kard.models.at_once import AtOnce
from kard.models.weights import model_location
from kard.student.batching import Batch, of_similar_length, prompt_batch
from kard.student.likelihood import likelihoods
from kard.student.loading import base_model, base_tokenizer, model_dtype

# Prompts, and their tokens, padding included: an encoder's attention grows with the square of a prompt's length.
_RANKED_AT_ONCE, _TOKENS_AT_ONCE = 16, 1 << 14


class PromptedModel:
    """Encoder-decoder or decoder.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self._at_once = AtOnce(_RANKED_AT_ONCE, "prompts", "Take a smaller model.")

    @classmethod
    def load(cls, name: str, key: str) -> PromptedModel:
        """Load a model by its name in the recipe; `key` is the recipe's key, for error messages.

        Raises:
            UserError: It cannot be loaded.
        """
        location = model_location(name, key)
        return cls(base_model(location, model_dtype("auto", location, key), key=key), base_tokenizer(location, key))

    def rank(self, prompts: Sequence[str], answers: Sequence[Sequence[str]]) -> list[int]:
        """For each prompt the index of the answer with the highest mean log-probability of its tokens after the prompt."""
        lengths = [len(ids) for ids in self.tokenizer(list(prompts)).input_ids]
        best: dict[int, int] = {}
        for group in of_similar_length(lengths, _RANKED_AT_ONCE, _TOKENS_AT_ONCE):
            found = self._at_once.run(partial(self._in_parts, group, prompts, answers), len(group))
            best |= {place: scores.index(max(scores)) for place, scores in zip(group, found, strict=True)}
        return [best[place] for place in range(len(prompts))]

    def _in_parts(
        self, group: Sequence[int], prompts: Sequence[str], answers: Sequence[Sequence[str]], size: int
    ) -> list[list[float]]:
        parts = [group[begin : begin + size] for begin in range(0, len(group), size)]
        return [row for part in parts for row in self._scores([prompts[p] for p in part], [answers[p] for p in part])]

    def _scores(self, prompts: Sequence[str], answers: Sequence[Sequence[str]]) -> list[list[float]]:
        read = self._read(prompts)
        paths = [self.tokenizer(list(some), add_special_tokens=False).input_ids for some in answers]
        sums = likelihoods(self.model, read["input_ids"], read["attention_mask"], [[] for _ in prompts], paths)
        return [
            [total / len(path) for total, path in zip(row, ways, strict=True)]
            for row, ways in zip(sums, paths, strict=True)
        ]

    @torch.inference_mode()
    def write(self, bodies: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, int, int]]:
        """Answer request bodies in the form of the OpenAI protocol, as one batch sampled with the first one's seed.

        Args:
            bodies: With ``messages`` or ``prompt``, ``max_tokens``, ``temperature``, ``seed``, and ``top_p`` and ``stop``
                where they are wanted; all but the first two and the seed are those of the first body.

        Returns:
            For each body its text, why it ended (``stop`` or ``length``), and the tokens in and out.
        """
        settings = bodies[0]
        texts = [self._prompt(body) for body in bodies]
        chat = "messages" in settings and self.tokenizer.chat_template is not None
        read = self._read(texts, add_special_tokens=not chat)
        stop = list(settings.get("stop", ()))
        temperature = settings.get("temperature", 1.0)
        sampling = {"temperature": temperature, "top_p": settings.get("top_p", 1.0), "top_k": 0}
        torch.manual_seed(settings.get("seed", 0))
        written: Any = self.model.generate(
            **read,
            max_new_tokens=settings["max_tokens"],
            do_sample=temperature > 0,
            pad_token_id=self.tokenizer.pad_token_id,
            **(sampling if temperature > 0 else {}),
            **({"stop_strings": stop, "tokenizer": self.tokenizer} if stop else {}),
        )
        new = written[:, 1 if self.model.config.is_encoder_decoder else read["input_ids"].shape[1] :]
        ends = set(self._end_tokens())
        return [
            self._told(row, ends, stop, settings["max_tokens"], int(mask.sum()))
            for row, mask in zip(new.tolist(), read["attention_mask"], strict=True)
        ]

    def _told(
        self, row: list[int], ends: set[int], stop: Sequence[str], limit: int, tokens_in: int
    ) -> tuple[str, str, int, int]:
        end = next((place for place, token in enumerate(row) if token in ends), None)
        text = self.tokenizer.decode(row[:end], skip_special_tokens=True)
        cuts = [place for one in stop if (place := text.find(one)) >= 0]
        finished = end is not None or bool(cuts) or len(row) < limit
        text = text[: min(cuts)] if cuts else text
        return text.strip(), "stop" if finished else "length", tokens_in, len(row[:end])

    def _end_tokens(self) -> list[int]:
        ends = self.model.generation_config.eos_token_id
        return [self.tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [] if ends is None else [ends])]

    def _prompt(self, body: Mapping[str, Any]) -> str:
        if "prompt" in body:
            return str(body["prompt"])
        if self.tokenizer.chat_template is None:
            return "\n\n".join(message["content"] for message in body["messages"])
        return str(self.tokenizer.apply_chat_template(body["messages"], tokenize=False, add_generation_prompt=True))

    def _read(self, texts: Sequence[str], add_special_tokens: bool = True) -> Batch:
        # What a chat template wrote has its special tokens already.
        ids = self.tokenizer(
            list(texts), add_special_tokens=add_special_tokens, split_special_tokens=add_special_tokens
        ).input_ids
        return prompt_batch(self.model, int(self.tokenizer.pad_token_id), ids)
