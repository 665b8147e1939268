"""Teachers on this machine."""

import sys
import types
from collections import Counter

import pytest
from fault_server import no_passages

from kard.errors import UserError
from kard.recipe.teacher import TeacherSection
from kard.teacher.cache import ReplyCache
from kard.teacher.collect import Models, collect_rationales, describe_teacher


def transformers_section(**settings):
    defaults = {"kind": "transformers", "model": "tiny", "rationales": 2, "resources": {"concurrency": 3}}
    return TeacherSection(**defaults | settings)


class Writer:
    """Writes a text for each body; keeps how many it was asked for at once, and dies when it is told to."""

    def __init__(self, dies_at=None):
        self.batches = []
        self.dies_at = dies_at

    def __call__(self, bodies):
        if len(self.batches) == self.dies_at:
            raise KeyboardInterrupt
        self.batches.append(len(bodies))
        return [(f"Things of seed {body['seed']} are as they are.", "stop", 50, 9) for body in bodies]


def test_a_model_in_process_answers_in_batches_and_is_asked_once(questions, tmp_path):
    writer = Writer()
    section = transformers_section()
    first = collect_rationales(questions(4), no_passages, section, 7, tmp_path / "c.sqlite", Models(write=writer))
    assert writer.batches == [3, 3, 2]
    assert Counter(r.status for r in first) == {"kept": 8}
    assert first[0].usage["completion_tokens"] == 9
    again = collect_rationales(questions(4), no_passages, section, 7, tmp_path / "c.sqlite", Models(write=writer))
    assert (again, writer.batches) == (first, [3, 3, 2])


def test_a_killed_run_goes_on_with_the_same_batches(questions, tmp_path):
    section = transformers_section()
    with pytest.raises(KeyboardInterrupt):
        collect_rationales(
            questions(4), no_passages, section, 7, tmp_path / "c.sqlite", Models(write=Writer(dies_at=1))
        )
    assert ReplyCache(tmp_path / "c.sqlite").spent().requests == 3
    writer = Writer()
    collect_rationales(questions(4), no_passages, section, 7, tmp_path / "c.sqlite", Models(write=writer))
    assert writer.batches == [3, 2]


def test_a_tiny_model_writes_and_verifies_through_the_recipe(decoder_folder, t5_folder, questions, tmp_path):
    from kard.student.prompted import PromptedModel

    for folder in (decoder_folder, t5_folder):
        model = PromptedModel.load(str(folder), "teacher.model")
        section = transformers_section(model=str(folder), verifier=str(folder), max_tokens=12)
        models = Models(model.rank, model.write)
        collected = collect_rationales(
            questions(2), no_passages, section, 7, tmp_path / f"{folder.name}.sqlite", models
        )
        assert len(collected) == 4
        assert {r.status for r in collected} <= {"kept", "unverified", "truncated", "error", "duplicate", "too_short"}
        assert all(r.usage["prompt_tokens"] > 100 for r in collected)


@pytest.fixture
def llama(monkeypatch, server, tmp_path):
    """A stand-in for xllamacpp whose server is the test's; returns the section and what was started and stopped."""
    events = []

    class Server:
        def __init__(self, parameters):
            if parameters.model.path.endswith("broken.gguf"):
                raise RuntimeError("no magic")
            events.append((parameters.n_parallel, parameters.n_ctx))
            self.listening_address = server.url.removesuffix("/v1")

        def __del__(self):
            events.append("stopped")

    parameters = lambda: types.SimpleNamespace(model=types.SimpleNamespace(path=""))  # noqa: E731
    module = types.SimpleNamespace(CommonParams=parameters, Server=Server)
    monkeypatch.setitem(sys.modules, "xllamacpp", module)
    monkeypatch.setattr("kard.teacher.local.wait_for", lambda address: events.append("waited"))
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    resources = {"concurrency": 4, "context_tokens": 1000}
    section = TeacherSection(kind="llama_cpp", model=str(file), resources=resources)
    return section, events


def test_llama_cpp_is_started_waited_for_asked_and_stopped(llama, server, questions, tmp_path):
    section, events = llama
    first = collect_rationales(questions(5), no_passages, section, 7, tmp_path / "c.sqlite")
    assert events == [(4, 4000), "waited", "stopped"]
    assert {r.status for r in first} == {"kept"}
    assert {r.source for r in first} == {"model.gguf"}
    assert server.most_at_once <= 4
    assert collect_rationales(questions(5), no_passages, section, 7, tmp_path / "c.sqlite") == first
    assert len(events) == 3, "the model is not loaded where all replies are there"


def test_rewriting_asks_the_same_server(llama, server, questions, tmp_path):
    section, events = llama
    section = section.model_copy(update={"rewrite": "ask"})
    collected = collect_rationales(questions(3), no_passages, section, 7, tmp_path / "c.sqlite")
    assert events == [(4, 4000), "waited", "stopped"]
    assert server.received.total() == 6
    assert all(r.original and r.original != r.text for r in collected)


def test_what_is_missing_for_llama_cpp_is_named(llama, questions, tmp_path, monkeypatch):
    section, _ = llama
    for model, words in ((tmp_path / "none.gguf", "no file"), (tmp_path / "broken.gguf", "cannot load")):
        if words == "cannot load":
            model.write_bytes(b"?")
        with pytest.raises(UserError, match=words):
            collect_rationales(
                questions(1),
                no_passages,
                section.model_copy(update={"model": str(model)}),
                7,
                tmp_path / "c.sqlite",
            )
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(UserError, match=r"kard\[llama\]"):
        collect_rationales(questions(1), no_passages, section, 7, tmp_path / "c.sqlite")


def test_a_local_teacher_says_that_it_is_local():
    assert "tiny (on this machine, transformers)" in describe_teacher(transformers_section())
