"""Writing through vLLM's interface: with a module of that name that runs the student itself, and with vLLM where it is installed
(`make test-engines`)."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from kard.errors import UserError
from kard.pipeline import run_recipe
from kard.recipe.file import load_recipe
from kard.recipe.sections import StudentSection
from kard.student.generation import Student, Writing
from kard.student.sampling import Sampling
from kard.student.training import Example, train_student
from kard.student.vllm import Vllm, check_vllm
from tests.conftest import THINGS, byte_level_tokenizer

PROMPTS = [f"Question: {thing}\nExplanation:" for thing in THINGS[:4]]


@dataclass
class SamplingParams:
    """The settings that are used, with vLLM's names."""

    n: int = 1
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int | None = None
    max_tokens: int = 16
    stop: list | None = None
    include_stop_str_in_output: bool = False
    allowed_token_ids: list | None = None
    stop_token_ids: list | None = None


class LLM:
    """Greedy, one prompt at a time."""

    opened: ClassVar[list] = []

    def __init__(self, model, dtype, generation_config, **options):
        if "no_such_option" in options:
            raise TypeError("unexpected keyword argument 'no_such_option'")
        self.options = options
        self.model = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype))
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        self.calls = []
        self.closed = 0
        self.llm_engine = SimpleNamespace(engine_core=SimpleNamespace(shutdown=self.shutdown))
        LLM.opened.append(self)

    def shutdown(self):
        self.closed += 1

    def generate(self, prompts, settings, use_tqdm):
        self.calls.append(len(prompts))
        replies = []
        for prompt, setting in zip(prompts, settings, strict=True):
            ids = self.tokens(prompt["prompt_token_ids"], setting)
            replies.append(SimpleNamespace(outputs=[SimpleNamespace(token_ids=ids)] * setting.n))
        return replies

    @torch.inference_mode()
    def tokens(self, prompt, setting):
        """With the end token, as vLLM's."""
        found = []
        while len(found) < setting.max_tokens:
            scores = self.model(torch.tensor([[*prompt, *found]])).logits[0, -1]
            if setting.allowed_token_ids is not None:
                forbidden = torch.ones(len(scores), dtype=torch.bool)
                forbidden[setting.allowed_token_ids] = False
                scores[forbidden] = -torch.inf
            found.append(int(scores.argmax()))
            text = self.tokenizer.decode(found)
            if found[-1] in setting.stop_token_ids or any(stop in text for stop in setting.stop or []):
                break
        return found


@pytest.fixture
def vllm(monkeypatch):
    module = ModuleType("vllm")
    module.__spec__ = ModuleSpec("vllm", None)
    module.LLM, module.SamplingParams = LLM, SamplingParams
    LLM.opened.clear()
    monkeypatch.setitem(sys.modules, "vllm", module)


def taught(base, folder, told):
    section = StudentSection(
        model=str(base), method="full", dtype="fp32", epochs=25, batch_size=4, lr=4e-3, max_output_tokens=90
    )
    train_student([Example(p, told) for p in PROMPTS], str(base), str(base), section, 0, folder, "train")
    return folder


@pytest.mark.parametrize("told", [" It is so.\nAnswer: red stone", " It is so."])
def test_vllm_writes_what_the_student_writes(vllm, decoder_folder, tmp_path, told):
    folder = taught(decoder_folder, tmp_path, told)
    ours, theirs = Student.load(folder), Student.load(folder, engine="vllm")
    for choices in (["red", "red stone", "blue"], []):
        for writes in ("rationale", "answer"):
            expected = ours.write(dict.fromkeys(PROMPTS, choices), Writing(writes, 4))
            theirs.writer.engine.calls.clear()
            found = theirs.write(dict.fromkeys(PROMPTS, choices), Writing(writes, 2))
            assert theirs.writer.engine.calls[0] == len(PROMPTS)  # one call for all, whatever the batch size
            for prompt in PROMPTS:
                assert found[prompt].text == expected[prompt].text
                assert found[prompt].cut == expected[prompt].cut
                assert found[prompt].confidence is None


def test_vllm_draws_samples_and_answers_at_once(vllm, decoder_folder, tmp_path):
    student = Student.load(taught(decoder_folder, tmp_path, " It is so.\nAnswer: red"), engine="vllm")
    written = student.write({PROMPTS[0]: ["red", "blue"]}, Writing("answer", 4, sampling=Sampling(3)))
    assert written[PROMPTS[0]].samples == ("red", "red", "red")
    long = "old stone house " * 40 + "ship"
    assert student.write({PROMPTS[0]: [long, "blue"]}, Writing("rationale", 4))[PROMPTS[0]].text.endswith(long)


def test_what_vllm_cannot_do_is_said(vllm, t5_folder, tmp_path, monkeypatch):
    folder = taught(t5_folder, tmp_path, " red")
    with pytest.raises(UserError, match="decoders"):
        Student.load(folder, engine="vllm")
    config = LlamaConfig()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="without the launcher"):
        check_vllm(config)
    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.setattr("kard.student.vllm.version", lambda name: "0.31.9")
    with pytest.raises(UserError, match=r"vllm 0.31.9 is too old. Install 0.32"):
        check_vllm(config)
    monkeypatch.setattr("kard.student.vllm.version", lambda name: "0.32.0+cpu")
    check_vllm(config)
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UserError, match="not installed"):
        Student.load(folder, engine="vllm")


def test_the_options_are_handed_on_and_what_vllm_says_of_them(vllm, decoder_folder, tmp_path):
    folder = taught(decoder_folder, tmp_path, " It is so.\nAnswer: red")
    options = {"gpu_memory_utilization": 0.5, "tensor_parallel_size": 2}
    student = Student.load(folder, engine="vllm", options=options)
    assert student.writer.engine.options == options
    assert student.model.device.type == "cpu"
    with pytest.raises(UserError, match=r"vLLM does not start: unexpected keyword argument 'no_such_option' Give it"):
        Student.load(folder, engine="vllm", options={"no_such_option": 1})


def test_options_in_a_recipe(project):
    recipe = load_recipe(str(project), ["evaluation.engine=vllm", "evaluation.vllm={max_model_len: 256}"])
    assert recipe.evaluation.vllm == {"max_model_len": 256}
    with pytest.raises(UserError, match="only vLLM takes its options"):
        load_recipe(str(project), ["evaluation.vllm={max_model_len: 256}"])
    with pytest.raises(UserError, match="vllm cannot set dtype"):
        load_recipe(str(project), ["evaluation.engine=vllm", "evaluation.vllm={dtype: auto}"])


def test_what_vllm_cannot_do_is_said_before_anything_is_trained(project, vllm, t5_folder, monkeypatch):
    def run(*settings):
        with pytest.raises(UserError) as error:
            run_recipe(load_recipe(str(project), ["evaluation.engine=vllm", *settings]), project.parent / "run")
        return str(error.value)

    assert "likelihood needs evaluation.engine: transformers" in run("student.answer_by=likelihood")
    assert "kard_plus compares whole choices" in run("evaluation.methods=[finetune, kard_plus]")
    assert "vLLM runs decoders" in run(f"student.model={t5_folder}")
    monkeypatch.setitem(sys.modules, "vllm", None)
    assert "not installed" in run()
    assert not (project.parent / "run" / "students").exists()


def test_vllm_ends_before_the_next_student_and_with_the_program(project, vllm, decoder_folder, tmp_path, monkeypatch):
    """Its memory is the next one's, and Python waits for its processes for ever."""
    at_exit = []
    monkeypatch.setattr("kard.student.vllm.atexit", SimpleNamespace(register=at_exit.append, unregister=at_exit.remove))
    settings = ["evaluation.engine=vllm", "evaluation.methods=[distill,kard_reranker]"]
    run_recipe(load_recipe(str(project), settings), project.parent / "run")
    assert [engine.closed for engine in LLM.opened] == [1, 1]
    assert at_exit == []
    student = Student.load(taught(decoder_folder, tmp_path, " It is so.\nAnswer: red stone"), engine="vllm")
    [close] = at_exit
    close()
    assert student.writer.engine.closed == 1


@pytest.fixture(scope="module")
def wide_folder(tmp_path_factory):
    """A decoder whose heads are as wide as vLLM's kernels for CPUs ask for."""
    torch.manual_seed(0)
    folder, tokenizer = tmp_path_factory.mktemp("wide"), byte_level_tokenizer()
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), num_key_value_heads=2, **shape, **ends)).save_pretrained(
        folder
    )
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed: make test-engines")
def test_the_real_vllm_writes_what_the_student_writes(wide_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    folder = taught(wide_folder, tmp_path, " It is so.\nAnswer: red stone")
    options = {"max_model_len": 256, "enforce_eager": True}
    ours, theirs = Student.load(folder), Student.load(folder, engine="vllm", options=options)
    assert isinstance(theirs.writer, Vllm)
    for choices in (["red", "red stone", "blue"], ["black ship", "a white bird"], []):
        for writes in ("rationale", "answer"):
            asked = dict.fromkeys(PROMPTS, choices)
            expected, found = ours.write(asked, Writing(writes, 4)), theirs.write(asked, Writing(writes, 4))
            for prompt in PROMPTS:
                assert (found[prompt].text, found[prompt].cut) == (expected[prompt].text, expected[prompt].cut)
                assert not choices or found[prompt].text.endswith(tuple(choices))
    drawn = theirs.write(
        {prompt: ["red", "blue"] for prompt in PROMPTS}, Writing("rationale", 4, sampling=Sampling(3, 1.5))
    )
    for written in drawn.values():
        assert len(written.samples) == 3
        assert all(text.endswith(("Answer: red", "Answer: blue")) for text in written.samples)
