"""Writing with llama.cpp from a GGUF file (``--engine llama_cpp``; decoders only).

llama.cpp computes scores and nothing else: tokenizer, prompt, choices and sampling are the student's own, as with every writer.
So answers are kept to the choices by the same constraint, and have the same confidences.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from kard.errors import UserError, missing_package
from kard.student.generation import Student
from kard.student.loading import StudentSettings, base_tokenizer
from kard.student.writer import Task

_AT_ONCE = 16  # texts; each has a cache of its own


def llama_cpp() -> Any:
    """The bindings of llama.cpp, which say nothing of their own.

    Raises:
        UserError: They are not installed.
    """
    try:
        from cyllama.llama import llama_cpp as library
    except ImportError as error:
        raise missing_package(error, "llama.cpp", "gguf") from error
    library.disable_logging()
    return library


class LlamaCpp:
    """Writes with llama.cpp; see `kard.student.writer.Writer`. It is the student's model as well: called, it returns scores as a
    model of transformers does.

    Args:
        path: The GGUF file.

    Raises:
        UserError: llama.cpp is not installed, or cannot read the file.
    """

    takes_all = False
    config = SimpleNamespace(is_encoder_decoder=False, model_type="gguf")
    device = torch.device("cpu")

    def __init__(self, path: Path) -> None:
        self._library = llama_cpp()
        try:
            self._model = _opened(path)
        except (OSError, RuntimeError, ValueError) as error:
            raise UserError(f"{path}: llama.cpp cannot read it ({error}). Export the run again.") from error
        self._vocabulary = self._model.get_vocab()

    def tokens(self, text: str) -> list[int]:
        """A text's tokens as the file alone gives them, to whoever has no other tokenizer."""
        return list(self._vocabulary.tokenize(text, True, False))

    def write(self, task: Task) -> list[list[int]]:
        """Continue each row."""
        prompts = _unpadded(task.inputs, task.mask)
        written: list[list[int]] = [[] for _ in task.constraint.paths]
        for first in range(0, len(written), _AT_ONCE):
            rows = list(range(first, min(first + _AT_ONCE, len(written))))
            self._continue(task, rows, [prompts[row // task.samples] for row in rows], written)
        return written

    def __call__(self, input_ids: Tensor, attention_mask: Tensor, logits_to_keep: int, **_: Any) -> SimpleNamespace:
        """Scores behind the last tokens of each row, which is padded on the left: (rows, tokens, vocabulary)."""
        texts = _unpadded(input_ids, attention_mask)
        context = self._context(1, max(map(len, texts)))
        rows = []
        for text in texts:
            context.kv_cache_clear()
            scores = self._read(context, [(0, 0, text)], logits_to_keep)
            rows.append(torch.nn.functional.pad(scores, (0, 0, logits_to_keep - len(scores), 0)))
        return SimpleNamespace(logits=torch.stack(rows))

    def _continue(self, task: Task, rows: list[int], prompts: list[list[int]], written: list[list[int]]) -> None:
        """Continue some rows behind their prompts; what they write is put into `written`."""
        constraint = task.constraint
        longest = max(len(prompt) + constraint.limits[row] for prompt, row in zip(prompts, rows, strict=True))
        context = self._context(len(rows), longest)
        scores = torch.cat([self._read(context, [(place, 0, prompt)]) for place, prompt in enumerate(prompts)])
        going = rows
        while going:
            chosen = constraint.choose(going, [written[row] for row in going], scores).tolist()
            still = []
            for row, token in zip(going, chosen, strict=True):
                if token == constraint.end:
                    continue
                written[row].append(token)
                rest = constraint.rest(row, written[row])  # of a choice that is certain nothing more need be computed
                written[row] += rest[:-1]
                if not rest and len(written[row]) < constraint.limits[row]:
                    still.append(row)
            task.on_tokens(written)
            going = still
            places = [(row - rows[0], written[row]) for row in going]
            scores = self._read(context, [(p, len(prompts[p]) + len(text) - 1, text[-1:]) for p, text in places])

    def _context(self, texts: int, tokens: int) -> Any:
        """An empty cache for a number of texts, and of tokens in each."""
        settings = self._library.LlamaContextParams()
        settings.n_seq_max = texts
        settings.n_ctx = texts * tokens
        settings.n_batch = max(texts, tokens)
        settings.n_threads = settings.n_threads_batch = torch.get_num_threads()
        return self._library.LlamaContext(self._model, settings, verbose=False)

    def _read(self, context: Any, texts: Sequence[tuple[int, int, list[int]]], kept: int = 1) -> Tensor:
        """Read more of some texts (which, how much of it was read before, its next tokens); returns the scores behind the last
        `kept` tokens of each."""
        batch = self._library.LlamaBatch(n_tokens=sum(len(tokens) for _, _, tokens in texts) or 1, embd=0, n_seq_max=1)
        wanted = []
        for text, begin, tokens in texts:
            for place, token in enumerate(tokens):
                if last := place >= len(tokens) - kept:
                    wanted.append(batch.n_tokens)
                batch.add(token, begin + place, [text], last)
        if wanted:
            context.decode(batch)
        return torch.tensor([context.get_logits_ith(place) for place in wanted])


def _opened(path: Path) -> Any:
    from cyllama.llama.llama_cpp import LlamaModel, ggml_backend_load_all

    class Model(LlamaModel):
        """A model with the size of its vocabulary, which the bindings ask it for and do not give it."""

        @property
        def n_vocab(self) -> int:
            return int(self.get_vocab().n_vocab)

    ggml_backend_load_all()
    return Model(str(path), verbose=False)


def gguf_student(folder: Path, path: Path) -> Student:
    """A student that llama.cpp computes.

    Args:
        folder: Its folder, for tokenizer and settings; its weights are not loaded.
        path: Its GGUF file.

    Raises:
        UserError: llama.cpp is not installed, or cannot read the file.
    """
    settings, tokenizer = StudentSettings.read(folder / "student.json"), base_tokenizer(str(folder / "tokenizer"))
    engine = LlamaCpp(path)
    return Student(engine, tokenizer, settings, engine)


def _unpadded(inputs: Tensor, mask: Tensor) -> list[list[int]]:
    return [ids[there].tolist() for ids, there in zip(inputs, mask.bool(), strict=True)]
