"""Questions, passages and sections for the teacher's tests."""

import pytest
from fault_server import FaultServer

from kard.data.passage import Passage
from kard.data.question import Question
from kard.recipe.teacher import TeacherResources, TeacherSection
from kard.teacher import client


@pytest.fixture
def server():
    with FaultServer() as running:
        yield running


@pytest.fixture
def asking(server, monkeypatch):
    """A function that makes an openai section for the test server, with pauses short enough for a test; keys of
    ``teacher.resources`` may be given beside the others."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr(client, "LONGEST_WAIT", 0.01)

    def section(**settings):
        resources = {name: settings.pop(name) for name in TeacherResources.model_fields.keys() & settings}
        defaults = {"kind": "openai", "model": "tester", "base_url": server.url}
        return TeacherSection(**defaults | settings, resources={"timeout": 5.0} | resources)

    return section


@pytest.fixture
def at_openai(server, monkeypatch):
    """The test server in the place of OpenAI's own endpoint."""
    monkeypatch.setattr("kard.teacher.prompting.OPENAI_URL", server.url)
    monkeypatch.setenv("OPENAI_API_KEY", "key")


@pytest.fixture
def questions():
    def make(count):
        return [Question(f"q{i}", f"What is thing number {i}?", ("red", "green", "blue"), i % 3) for i in range(count)]

    return make


@pytest.fixture
def passage():
    def make(text, title="", identity="p"):
        return Passage(identity, title, text, identity, "test")

    return make
