"""Questions, passages and sections for the teacher's tests."""

import pytest
from fault_server import FaultServer

from kard.data.passage import Passage
from kard.data.question import Question
from kard.recipe import TeacherSection


@pytest.fixture
def server():
    with FaultServer() as running:
        yield running


@pytest.fixture
def asking(server, monkeypatch):
    """A function that makes an openai section for the test server, with pauses short enough for a test."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)

    def section(**settings):
        defaults = {"kind": "openai", "model": "tester", "base_url": server.url, "timeout": 5.0, "max_wait": 0.01}
        return TeacherSection(**(defaults | settings))

    return section


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
